//! Downloads from the Hugging Face hub into its usual local cache, where `locate` and Hugging Face's own tools find them.
//!
//! A snapshot appears only when every file of it is there and has been checked against the hub's digest (SHA-256 of what is in large
//! file storage, Git's SHA-1 of the rest). Large files come in ranges over several connections; what has come is noted beside the
//! unfinished file, so that a later run goes on from there. The token goes to the hub itself and to no address that it sends us on to.
//!
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::locate::{is_hub_id, is_plain, repository_folder};
use super::packed::hex;

/// Bytes of one ranged request.
const RANGE: u64 = 16 << 20;
/// How often a request is tried before it counts as failed, and the pause after the first failure, which doubles each time.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);
/// Hops from an address to where its bytes are.
const REDIRECTS: usize = 5;
/// A server that sends nothing for so long has been lost.
const STALL: Duration = Duration::from_secs(30);
/// Most bytes of a list of files.
const LIST_LIMIT: u64 = 16 << 20;

/// Why a model could not be downloaded. What has come so far is kept, unless it is wrong.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is not a hub id of the form owner/name")]
    Name(String),
    #[error("{0:?} is not a revision")]
    Revision(String),
    #[error("{url}: the hub answers {status}{}", hint(*.status))]
    Refused { url: String, status: u16 },
    #[error("{url}: {reason}")]
    Lost { url: String, reason: String },
    #[error("{url}: {reason}, which is not what a hub answers")]
    Protocol { url: String, reason: String },
    #[error("{name} at {revision} has no {what}")]
    Lacks {
        name: String,
        revision: String,
        what: &'static str,
    },
    #[error(
        "{file}: what came has the digest {found}, the hub says {expected}; it is deleted, try again"
    )]
    Digest {
        file: String,
        found: String,
        expected: String,
    },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": it wants a token (HF_TOKEN), or its conditions accepted",
        404 => ": there is no such model, revision or file",
        _ => "",
    }
}

/// A hub and the cache to fill from it.
pub struct Hub {
    /// `https://huggingface.co`, or whatever stands in for it.
    pub endpoint: String,
    pub token: Option<String>,
    pub cache: PathBuf,
    /// Requests at a time.
    pub connections: usize,
}

/// What is in the cache now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub folder: PathBuf,
    pub commit: String,
    /// Bytes that came over the network for it.
    pub downloaded: u64,
}

/// Bytes of all files, and how many of them are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// `GET /api/models/{name}/revision/{revision}`.
#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
}

/// One of `GET /api/models/{name}/tree/{commit}`.
#[derive(Debug, Clone, Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    size: u64,
    /// Git's SHA-1 of the file, or of the pointer to it.
    oid: String,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Clone, Deserialize)]
struct LargeFile {
    /// SHA-256 of the file.
    oid: String,
    size: u64,
}

impl Entry {
    fn size(&self) -> u64 {
        self.lfs.as_ref().map_or(self.size, |large| large.size)
    }

    /// What the file is called in the cache: by its digest.
    fn digest(&self) -> &str {
        self.lfs.as_ref().map_or(&self.oid, |large| &large.oid)
    }
}

impl Hub {
    /// Sees to it that the model is in the cache, and tells where. `revision` is a branch, a tag or a commit.
    pub fn fetch(
        &self,
        name: &str,
        revision: &str,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Fetched, FetchError> {
        if !is_hub_id(name) {
            return Err(FetchError::Name(name.to_owned()));
        }
        if !is_plain(revision) {
            return Err(FetchError::Revision(revision.to_owned()));
        }
        let agent = agent();
        let endpoint = self.endpoint.trim_end_matches('/');
        let api = format!("{endpoint}/api/models/{name}");
        let info: ModelInfo = self.json(&agent, &format!("{api}/revision/{revision}"))?;
        let tree = format!("{api}/tree/{}?recursive=true", info.sha);
        if !is_plain(&info.sha) {
            let reason = format!("the commit {:?}", info.sha);
            return Err(FetchError::Protocol { url: api, reason });
        }
        let entries: Vec<Entry> = self.json(&agent, &tree)?;
        let wanted = self.wanted(&agent, name, revision, &info.sha, entries)?;

        let repository = repository_folder(&self.cache, name);
        let blobs = repository.join("blobs");
        create_folder(&blobs)?;
        let tally = Tally {
            done: AtomicU64::new(0),
            total: wanted.iter().map(Entry::size).sum(),
            downloaded: AtomicU64::new(0),
            report: progress,
        };
        for entry in &wanted {
            let from = format!("{endpoint}/{name}/resolve/{}/{}", info.sha, entry.path);
            let download = Download {
                hub: self,
                agent: &agent,
                entry,
                url: from,
                blobs: &blobs,
                tally: &tally,
            };
            download.run()?;
        }
        let folder = snapshot(&repository, &info.sha, &wanted)?;
        if revision != info.sha {
            let refs = repository.join("refs");
            create_folder(&refs)?;
            write_whole(&refs.join(revision), info.sha.as_bytes())?;
        }
        Ok(Fetched {
            folder,
            commit: info.sha,
            downloaded: tally.downloaded.into_inner(),
        })
    }

    /// The files that serving takes: configuration, tokenizer, and the weights in whichever form there is.
    fn wanted(
        &self,
        agent: &ureq::Agent,
        name: &str,
        revision: &str,
        commit: &str,
        entries: Vec<Entry>,
    ) -> Result<Vec<Entry>, FetchError> {
        const SINGLE: &str = "model.safetensors";
        const INDEX: &str = "model.safetensors.index.json";
        #[derive(Deserialize)]
        struct Index {
            weight_map: std::collections::BTreeMap<String, String>,
        }
        let has = |path: &str| entries.iter().any(|entry| entry.path == path);
        let lacks = |what| FetchError::Lacks {
            name: name.to_owned(),
            revision: revision.to_owned(),
            what,
        };
        let mut paths: BTreeSet<String> =
            ["config.json", "tokenizer.json"].map(str::to_owned).into();
        if has(SINGLE) {
            paths.insert(SINGLE.to_owned());
        } else if has(INDEX) {
            let endpoint = self.endpoint.trim_end_matches('/');
            let url = format!("{endpoint}/{name}/resolve/{commit}/{INDEX}");
            let index: Index = self.json(agent, &url)?;
            paths.insert(INDEX.to_owned());
            paths.extend(index.weight_map.into_values());
        } else {
            return Err(lacks("model.safetensors, alone or in shards"));
        }
        for (path, what) in [
            ("config.json", "config.json"),
            ("tokenizer.json", "tokenizer.json"),
        ] {
            if !has(path) {
                return Err(lacks(what));
            }
        }
        if has("tokenizer_config.json") {
            paths.insert("tokenizer_config.json".to_owned());
        }
        let wanted: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| paths.contains(&entry.path))
            .collect();
        if wanted.len() < paths.len() {
            return Err(lacks("every shard that its index names"));
        }
        let hex = |digest: &str| digest.bytes().all(|b| b.is_ascii_hexdigit());
        for entry in &wanted {
            // Names and digests become paths below the cache.
            if !is_plain(&entry.path) || !hex(entry.digest()) || entry.digest().len() < 40 {
                let url = format!("{}/{name}", self.endpoint);
                let reason = format!("the file {:?} with digest {:?}", entry.path, entry.digest());
                return Err(FetchError::Protocol { url, reason });
            }
        }
        Ok(wanted)
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        agent: &ureq::Agent,
        url: &str,
    ) -> Result<T, FetchError> {
        tried(|| {
            let mut response = self.get(agent, url, None)?;
            let body = response.body_mut().with_config().limit(LIST_LIMIT);
            let text = body.read_to_vec().map_err(|error| lost(url, &error))?;
            serde_json::from_slice(&text).map_err(|error| FetchError::Protocol {
                url: url.to_owned(),
                reason: format!("no JSON of the expected form ({error})"),
            })
        })
    }

    /// Follows redirections; the token goes along only as long as they stay with the hub.
    fn get(
        &self,
        agent: &ureq::Agent,
        url: &str,
        range: Option<(u64, u64)>,
    ) -> Result<http::Response<ureq::Body>, FetchError> {
        let mut address: http::Uri = url.parse().map_err(|_| FetchError::Protocol {
            url: url.to_owned(),
            reason: "no address".into(),
        })?;
        let home = address.authority().cloned();
        for _ in 0..=REDIRECTS {
            let mut request = agent.get(&address);
            if let Some(token) = &self.token
                && address.authority() == home.as_ref()
            {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some((start, end)) = range {
                request = request.header("range", format!("bytes={start}-{}", end - 1));
            }
            let response = request.call().map_err(|error| lost(url, &error))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(FetchError::Refused {
                    url: url.to_owned(),
                    status: status.as_u16(),
                });
            }
            let location = response.headers().get("location");
            let next = location.and_then(|location| resolve(&address, location.to_str().ok()?));
            address = next.ok_or_else(|| FetchError::Protocol {
                url: url.to_owned(),
                reason: format!("{status} without a usable location"),
            })?;
        }
        Err(FetchError::Protocol {
            url: url.to_owned(),
            reason: format!("more than {REDIRECTS} redirections"),
        })
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(STALL))
        .timeout_recv_response(Some(STALL))
        .timeout_per_read(Some(STALL))
        .user_agent(concat!("serverless-reranker/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// A redirection's target; it may leave scheme and host out.
fn resolve(from: &http::Uri, location: &str) -> Option<http::Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    if !location.starts_with('/') {
        return None;
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(location.parse().ok()?);
    http::Uri::from_parts(parts).ok()
}

fn lost(url: &str, error: &dyn std::fmt::Display) -> FetchError {
    FetchError::Lost {
        url: url.to_owned(),
        reason: error.to_string(),
    }
}

/// Tries again where that can help: after a lost connection, and where the server is at fault or busy.
fn tried<T>(mut work: impl FnMut() -> Result<T, FetchError>) -> Result<T, FetchError> {
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        match work() {
            Err(
                FetchError::Lost { .. }
                | FetchError::Refused {
                    status: 408 | 429 | 500..,
                    ..
                },
            ) => std::thread::sleep(pause),
            ended => return ended,
        }
        pause *= 2;
    }
    work()
}

struct Tally<'a> {
    done: AtomicU64,
    total: u64,
    downloaded: AtomicU64,
    report: &'a (dyn Fn(Progress) + Sync),
}

impl Tally<'_> {
    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.report)(Progress {
            done,
            total: self.total,
        });
    }
}

/// One file on its way into the cache.
struct Download<'a> {
    hub: &'a Hub,
    agent: &'a ureq::Agent,
    entry: &'a Entry,
    url: String,
    blobs: &'a Path,
    tally: &'a Tally<'a>,
}

impl Download<'_> {
    fn run(&self) -> Result<(), FetchError> {
        let size = self.entry.size();
        let path = self.blobs.join(self.entry.digest());
        let _lock = self.lock()?;
        // Another process may have brought it meanwhile.
        if fs::metadata(&path).is_ok_and(|found| found.len() == size) {
            self.tally.add(size);
            return Ok(());
        }
        let unfinished = path.with_extension("incomplete");
        let notes = path.with_extension("incomplete.ranges");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&unfinished)
            .map_err(io_error(&unfinished))?;
        reserve(&file, size).map_err(io_error(&unfinished))?;
        self.ranges(&file, &unfinished, &notes)?;
        file.sync_all().map_err(io_error(&unfinished))?;
        let found = self.digest_of(&unfinished)?;
        if found != self.entry.digest() {
            remove(&unfinished)?;
            remove(&notes)?;
            return Err(FetchError::Digest {
                file: self.entry.path.clone(),
                found,
                expected: self.entry.digest().to_owned(),
            });
        }
        fs::rename(&unfinished, &path).map_err(io_error(&path))?;
        remove(&notes)
    }

    /// Held while this file is written: two processes at once would write over each other's notes.
    fn lock(&self) -> Result<File, FetchError> {
        let path = self.blobs.join(self.entry.digest()).with_extension("lock");
        let file = File::create(&path).map_err(io_error(&path))?;
        file.lock().map_err(io_error(&path))?;
        Ok(file)
    }

    /// Every range that the notes do not have, over several connections.
    fn ranges(&self, file: &File, path: &Path, notes: &Path) -> Result<(), FetchError> {
        let size = self.entry.size();
        let count = size.div_ceil(RANGE) as usize;
        let range = |number: usize| {
            let start = number as u64 * RANGE;
            (start, size.min(start + RANGE))
        };
        let done = noted(notes)?;
        for &number in done.iter().filter(|&&number| number < count) {
            let (start, end) = range(number);
            self.tally.add(end - start);
        }
        let log = OpenOptions::new().create(true).append(true).open(notes);
        let log = Mutex::new(log.map_err(io_error(notes))?);
        let missing: Vec<usize> = (0..count).filter(|number| !done.contains(number)).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || -> Result<(), FetchError> {
            while !failed.load(Ordering::Relaxed) {
                let Some(&number) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return Ok(());
                };
                let (start, end) = range(number);
                self.range(file, path, start, end)?;
                // The bytes first: a note of what is not on the disk would be a lie after a crash.
                file.sync_data().map_err(io_error(path))?;
                let mut log = log
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                // In one piece: half a line counts for nothing.
                log.write_all(
                    format!(
                        "{number}
"
                    )
                    .as_bytes(),
                )
                .map_err(io_error(notes))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let connections = self.hub.connections.clamp(1, missing.len().max(1));
            let workers: Vec<_> = (0..connections)
                .map(|_| {
                    scope.spawn(|| {
                        let ended = work();
                        if ended.is_err() {
                            failed.store(true, Ordering::Relaxed);
                        }
                        ended
                    })
                })
                .collect();
            let ended = workers.into_iter().map(|worker| {
                let lost = |_| FetchError::Lost {
                    url: self.url.clone(),
                    reason: "a download thread panicked".into(),
                };
                worker.join().map_err(lost)?
            });
            // All are joined before the first error is looked at.
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Bytes from `start` to before `end`; where the connection breaks, what is missing of them is asked for again.
    fn range(&self, file: &File, path: &Path, start: u64, end: u64) -> Result<(), FetchError> {
        let mut at = start;
        while at < end {
            tried(|| {
                let before = at;
                match self.some_of_range(file, path, &mut at, end) {
                    // Something came: the connection is bad, but not hopeless.
                    Err(FetchError::Lost { .. }) if at > before => Ok(()),
                    ended => ended,
                }
            })?;
        }
        Ok(())
    }

    /// One request for what is missing; `at` moves on with each byte that is written.
    fn some_of_range(
        &self,
        file: &File,
        path: &Path,
        at: &mut u64,
        end: u64,
    ) -> Result<(), FetchError> {
        let response = self.hub.get(self.agent, &self.url, Some((*at, end)))?;
        let whole = *at == 0 && end == self.entry.size();
        let is_range = response.status() == http::StatusCode::PARTIAL_CONTENT
            && begins_at(&response) == Some(*at);
        if !(is_range || whole) {
            return Err(FetchError::Protocol {
                url: self.url.clone(),
                reason: format!("{} to a request for a range", response.status()),
            });
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        while *at < end {
            let room = buffer.len().min((end - *at) as usize);
            let read = body
                .read(&mut buffer[..room])
                .map_err(|error| lost(&self.url, &error))?;
            if read == 0 {
                return Err(lost(&self.url, &"the connection ended early"));
            }
            file.write_all_at(&buffer[..read], *at)
                .map_err(io_error(path))?;
            *at += read as u64;
            self.tally
                .downloaded
                .fetch_add(read as u64, Ordering::Relaxed);
            self.tally.add(read as u64);
        }
        Ok(())
    }

    /// As the hub writes it: SHA-256, or Git's SHA-1 of a blob.
    fn digest_of(&self, path: &Path) -> Result<String, FetchError> {
        let file = File::open(path).map_err(io_error(path))?;
        let digest = if self.entry.lfs.is_some() {
            hashed(file, Sha256::new())
        } else {
            let head = format!("blob {}\0", self.entry.size());
            hashed(file, Sha1::new_with_prefix(head))
        };
        digest.map_err(io_error(path))
    }
}

/// Takes the room on the disk, so that one that is too small says so before anything is downloaded.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    if size > 0 {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            // Some file systems cannot promise it: those fail when they are full.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(size)
}

/// Where a partial answer begins, by its `Content-Range`.
fn begins_at(response: &http::Response<ureq::Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

fn hashed(mut file: File, mut digest: impl Digest + Write) -> io::Result<String> {
    io::copy(&mut file, &mut digest)?;
    Ok(hex(&digest.finalize()))
}

/// Numbers of the ranges that are there already. A last line that was cut off counts for nothing.
fn noted(notes: &Path) -> Result<BTreeSet<usize>, FetchError> {
    let text = match fs::read_to_string(notes) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(io_error(notes)(error)),
    };
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok(whole.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The snapshot's folder, made of links to the files in `blobs`. It gets its name once it is whole.
fn snapshot(repository: &Path, commit: &str, entries: &[Entry]) -> Result<PathBuf, FetchError> {
    let snapshots = repository.join("snapshots");
    let folder = snapshots.join(commit);
    let new = snapshots.join(format!(".{commit}.{}", std::process::id()));
    create_folder(&new)?;
    for entry in entries {
        let link = new.join(&entry.path);
        remove(&link)?;
        let target = Path::new("../../blobs").join(entry.digest());
        symlink(target, &link).map_err(io_error(&link))?;
    }
    if folder.is_dir() {
        // Some of it was there: Hugging Face's tools may have brought it, and other files beside ours.
        for entry in entries {
            let (from, to) = (new.join(&entry.path), folder.join(&entry.path));
            fs::rename(&from, &to).map_err(io_error(&to))?;
        }
        fs::remove_dir(&new).map_err(io_error(&new))?;
    } else {
        fs::rename(&new, &folder).map_err(io_error(&folder))?;
    }
    Ok(folder)
}

fn write_whole(path: &Path, text: &[u8]) -> Result<(), FetchError> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, text).map_err(io_error(&new))?;
    fs::rename(&new, path).map_err(io_error(path))
}

fn create_folder(path: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(path).map_err(io_error(path))
}

fn remove(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> FetchError {
    let path = path.to_owned();
    move |source| FetchError::Io {
        path: path.clone(),
        source,
    }
}
