//! Downloads from the Hugging Face hub into its usual local cache, where `locate` and Hugging
//! Face's own tools find them.
//!
//! A snapshot appears only when every file of it is there and has been checked against the hub's
//! digest (SHA-256 of what is in large file storage, Git's SHA-1 of the rest). Large files come in
//! ranges over several connections; what has come is noted beside the unfinished file, so that a
//! later run goes on from there. The token goes to the hub itself and to no address that it sends
//! us on to.
//!
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::locate::{is_hub_id, repository_folder};
use crate::pins::{Pin, PinError};
use crate::ranges::{
    DiskError, DownloadCounter, PartialFile, Progress, RangeWriter, create_folder, discard, lock,
    room_for,
};
use reranker_engine::ModelError;
use reranker_engine::weights::{
    INDEX_FILE, ListedModule, MODULES_FILE, SINGLE_FILE, hex, is_plain, is_plain_path,
    other_tokenizer, other_weights, parse_index, parse_modules,
};

/// How often a request is tried before it counts as failed, and the pause after the first failure,
/// which doubles each time.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);
/// Maximum number of redirections of one request.
const REDIRECTS: usize = 5;
/// A server that sends nothing for so long has been lost.
const STALL: Duration = Duration::from_secs(30);
/// Maximum bytes of a list of files.
const LIST_LIMIT: u64 = 16 << 20;
/// Files for sentence-transformers, beside the configuration.
const OF_LIBRARY: [&str; 2] = [MODULES_FILE, "config_sentence_transformers.json"];
/// Files that describe a model are smaller than this.
const DESCRIPTION: u64 = 1 << 20;

/// Why a model could not be downloaded. The received bytes stay on disk for the next try, unless
/// they are wrong.
#[allow(missing_docs, reason = "each variant's message says it")]
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
    #[error("{url}: unexpected answer of the hub: {reason}")]
    Protocol { url: String, reason: String },
    #[error("{name} at {revision} has no {what}")]
    Lacks {
        name: String,
        revision: String,
        what: String,
    },
    #[error("{name} at {revision}: {reason}")]
    NotServed {
        name: String,
        revision: String,
        reason: String,
    },
    #[error(
        "{file}: the download has the digest {found}, the hub says {expected}; it is deleted, try again"
    )]
    Digest {
        file: String,
        found: String,
        expected: String,
    },
    #[error(transparent)]
    Pinned(#[from] PinError),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => ": set HF_TOKEN to a token, and accept the model's conditions on its page",
        404 => ": there is no such model, revision or file",
        _ => "",
    }
}

/// A hub and the cache to fill from it.
pub struct Hub {
    /// `https://huggingface.co`, or whatever stands in for it.
    pub endpoint: String,
    /// Sent to the endpoint's own host alone.
    pub token: Option<String>,
    /// Hugging Face's folder of models, `…/hub`.
    pub cache: PathBuf,
    /// Requests at a time.
    pub connections: usize,
}

impl FetchError {
    fn lacks(name: &str, revision: &str, what: &str) -> Self {
        Self::Lacks {
            name: name.to_owned(),
            revision: revision.to_owned(),
            what: what.to_owned(),
        }
    }
}

/// A downloaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The snapshot's folder.
    pub folder: PathBuf,
    /// The commit, and each file's digest.
    pub pin: Pin,
    /// Bytes that came over the network for it.
    pub downloaded: u64,
}

/// Checks of a model during its download; an error ends the download.
pub struct Looks<'a> {
    /// Checks a folder of the small files, before the large ones are requested.
    pub small: &'a dyn Fn(&Path) -> Result<(), ModelError>,
    /// Checks all digests, before the snapshot gets its name.
    pub whole: &'a dyn Fn(&Pin) -> Result<(), PinError>,
}

impl Default for Looks<'_> {
    fn default() -> Self {
        Self {
            small: &|_| Ok(()),
            whole: &|_| Ok(()),
        }
    }
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

    fn is_weights(&self) -> bool {
        self.path.ends_with(".safetensors")
    }

    /// The file's name in the cache: its digest.
    fn digest(&self) -> &str {
        self.lfs.as_ref().map_or(&self.oid, |large| &large.oid)
    }
}

impl Hub {
    /// Downloads the files of a model that the cache lacks. `revision` is a branch, a tag or
    /// a commit. Of a pinned commit every file must be the pinned one; another commit than the
    /// pinned is refused where it `must_be` that.
    pub fn fetch(
        &self,
        name: &str,
        revision: &str,
        pin: Option<&Pin>,
        must_be: bool,
        looks: &Looks<'_>,
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
        let pin = pin.filter(|pin| must_be || pin.revision == info.sha);
        if let Some(pin) = pin
            && pin.revision != info.sha
        {
            return Err(PinError::Commit {
                what: format!("{name}: {revision} is"),
                found: info.sha,
                expected: pin.revision.clone(),
            }
            .into());
        }
        let entries: Vec<Entry> = self.json(&agent, &tree)?;
        let (mut wanted, lacking) = self.wanted(&agent, name, revision, &info.sha, entries)?;
        if let Some(pin) = pin {
            // Pins of earlier versions do not have them, and none of them changes a score.
            wanted.retain(|Entry { path, .. }| {
                let of_library = OF_LIBRARY.contains(&path.as_str()) || path.contains('/');
                pin.files.contains_key(path) || !of_library
            });
            pinned(pin, &wanted)?;
        }
        wanted.sort_by_key(|entry| (entry.is_weights(), entry.size()));
        let repository = repository_folder(&self.cache, name);
        let blobs = repository.join("blobs");
        create_folder(&blobs)?;
        let absent = wanted.iter().filter(|entry| {
            let blob = blobs.join(entry.digest());
            !blob.exists() && !blob.with_extension("incomplete").exists()
        });
        room_for(&blobs, absent.map(Entry::size).sum())?;
        let counter = DownloadCounter::new(wanted.iter().map(Entry::size).sum(), progress);
        let mut digests = BTreeMap::new();
        let mut bring = |entries: &[Entry]| -> Result<(), FetchError> {
            for entry in entries {
                let from = format!("{endpoint}/{name}/resolve/{}/{}", info.sha, entry.path);
                let download = Download {
                    hub: self,
                    agent: &agent,
                    entry,
                    url: from,
                    blobs: &blobs,
                    counter: &counter,
                };
                download.run()?;
                let digest = match &entry.lfs {
                    Some(large) => large.oid.clone(),
                    None => sha256(&blobs.join(entry.digest()))?,
                };
                if let Some(pin) = pin {
                    pin.check(&entry.path, &digest)?;
                }
                digests.insert(entry.path.clone(), digest);
            }
            Ok(())
        };
        let described =
            wanted.partition_point(|entry| !entry.is_weights() && entry.size() < DESCRIPTION);
        let (small, large) = wanted.split_at(described);
        bring(small)?;
        let described = linked(&repository, &info.sha, small)?;
        let served = (looks.small)(&described).map_err(|reason| FetchError::NotServed {
            name: name.to_owned(),
            revision: revision.to_owned(),
            // The folder is gone when this is read.
            reason: reason
                .to_string()
                .replace(&format!("{}/", described.display()), ""),
        });
        fs::remove_dir_all(&described).map_err(DiskError::at(&described))?;
        served?;
        if let Some(file) = lacking {
            return Err(FetchError::lacks(name, revision, &file));
        }
        bring(large)?;
        let whole = Pin {
            name: name.to_owned(),
            revision: info.sha.clone(),
            files: digests,
        };
        (looks.whole)(&whole)?;
        let folder = snapshot(&repository, &info.sha, &wanted)?;
        if revision != info.sha {
            let refs = repository.join("refs");
            create_folder(&refs)?;
            write_whole(&refs.join(revision), info.sha.as_bytes())?;
        }
        Ok(Fetched {
            folder,
            pin: whole,
            downloaded: counter.downloaded(),
        })
    }

    /// The files that serving takes: configuration, tokenizer, and the weights in whichever form
    /// there is. With them a module's file that is not there, of which the configuration may tell
    /// more.
    fn wanted(
        &self,
        agent: &ureq::Agent,
        name: &str,
        revision: &str,
        commit: &str,
        entries: Vec<Entry>,
    ) -> Result<(Vec<Entry>, Option<String>), FetchError> {
        let url = |file: &str| {
            let endpoint = self.endpoint.trim_end_matches('/');
            format!("{endpoint}/{name}/resolve/{commit}/{file}")
        };
        let has = |path: &str| entries.iter().any(|entry| entry.path == path);
        let lacks = |what: &str| FetchError::lacks(name, revision, what);
        let with = |what: &str, instead: Option<String>| match instead {
            Some(instead) => {
                format!("{what}: {instead}; then serve DIR with the repository's other files in it")
            }
            None => what.to_owned(),
        };
        // Of what is in folders the folders.
        let names = entries.iter().map(|entry| entry.path.split('/').next());
        let names: Vec<String> = names.flatten().map(str::to_owned).collect();
        let mut paths: BTreeSet<String> =
            ["config.json", "tokenizer.json"].map(str::to_owned).into();
        if has(SINGLE_FILE) {
            paths.insert(SINGLE_FILE.to_owned());
        } else if has(INDEX_FILE) {
            let files = self.read(agent, &url(INDEX_FILE), |json| {
                parse_index(json).map_err(|reason| format!("the list of shards: {reason}"))
            })?;
            paths.insert(INDEX_FILE.to_owned());
            paths.extend(files.into_values());
        } else {
            let what = format!("{SINGLE_FILE}, alone or in shards");
            return Err(lacks(&with(&what, other_weights(&names, name))));
        }
        if !has("config.json") {
            return Err(lacks("config.json"));
        }
        if !has("tokenizer.json") {
            return Err(lacks(&with(
                "tokenizer.json",
                other_tokenizer(&names, name),
            )));
        }
        let optional = ["tokenizer_config.json"].into_iter().chain(OF_LIBRARY);
        paths.extend(optional.filter(|path| has(path)).map(str::to_owned));
        let mut absent = None;
        if has(MODULES_FILE) {
            let modules = self.read(agent, &url(MODULES_FILE), |json| {
                parse_modules(json).map_err(|reason| format!("no list of modules ({reason})"))
            })?;
            for (path, needed) in modules.iter().flat_map(ListedModule::files) {
                if has(&path) {
                    paths.insert(path);
                } else if needed {
                    absent.get_or_insert(path);
                }
            }
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
            if !is_plain_path(&entry.path) || !hex(entry.digest()) || entry.digest().len() < 40 {
                let url = format!("{}/{name}", self.endpoint);
                let reason = format!("the file {:?} with digest {:?}", entry.path, entry.digest());
                return Err(FetchError::Protocol { url, reason });
            }
        }
        Ok((wanted, absent))
    }

    fn json<T: serde::de::DeserializeOwned>(
        &self,
        agent: &ureq::Agent,
        url: &str,
    ) -> Result<T, FetchError> {
        self.read(agent, url, |json| {
            serde_json::from_slice(json)
                .map_err(|error| format!("no JSON of the expected form ({error})"))
        })
    }

    /// Downloads and parses a small file; the error of `parse` gives the reason.
    fn read<T>(
        &self,
        agent: &ureq::Agent,
        url: &str,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, FetchError> {
        let text = tried(|| {
            let mut response = self.get(agent, url, None)?;
            let body = response.body_mut().with_config().limit(LIST_LIMIT);
            body.read_to_vec().map_err(|error| lost(url, &error))
        })?;
        parse(&text).map_err(|reason| FetchError::Protocol {
            url: url.to_owned(),
            reason,
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

/// Retries if that can help: after a lost connection, and if the server is at fault or
/// busy.
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

/// One file on its way into the cache.
struct Download<'a> {
    hub: &'a Hub,
    agent: &'a ureq::Agent,
    entry: &'a Entry,
    url: String,
    blobs: &'a Path,
    counter: &'a DownloadCounter<'a>,
}

impl Download<'_> {
    fn run(&self) -> Result<(), FetchError> {
        let size = self.entry.size();
        let path = self.blobs.join(self.entry.digest());
        // Held to the end of this function.
        let _lock = lock(&path.with_extension("lock"))?;
        // Another process may have brought it meanwhile.
        if fs::metadata(&path).is_ok_and(|found| found.len() == size) {
            self.counter.found(size);
            return Ok(());
        }
        let unfinished = path.with_extension("incomplete");
        let file = PartialFile::open(&unfinished, size, true, self.counter)?;
        let range = |writer: &mut RangeWriter| self.range(writer);
        file.complete(self.hub.connections, &range, |file| self.check(file), &path)
    }

    /// What is wrong with the content.
    fn check(&self, path: &Path) -> Result<Option<FetchError>, FetchError> {
        let found = self.digest_of(path)?;
        let wrong = found != self.entry.digest();
        Ok(wrong.then(|| FetchError::Digest {
            file: self.entry.path.clone(),
            found,
            expected: self.entry.digest().to_owned(),
        }))
    }

    /// Requests the missing part of the range again if the connection breaks.
    fn range(&self, writer: &mut RangeWriter) -> Result<(), FetchError> {
        while writer.missing().0 < writer.missing().1 {
            tried(|| {
                let before = writer.missing();
                match self.some_of_range(writer) {
                    // Something came: the connection is bad, but not hopeless.
                    Err(FetchError::Lost { .. }) if writer.missing() != before => Ok(()),
                    ended => ended,
                }
            })?;
        }
        Ok(())
    }

    /// One request for the missing part.
    fn some_of_range(&self, writer: &mut RangeWriter) -> Result<(), FetchError> {
        let (at, end) = writer.missing();
        let response = self.hub.get(self.agent, &self.url, Some((at, end)))?;
        let whole = at == 0 && end == self.entry.size();
        let is_range = response.status() == http::StatusCode::PARTIAL_CONTENT
            && begins_at(&response) == Some(at);
        if !(is_range || whole) {
            return Err(FetchError::Protocol {
                url: self.url.clone(),
                reason: format!("{} to a request for a range", response.status()),
            });
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let (at, end) = writer.missing();
            // At most a buffer's length.
            let room = buffer
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            if room == 0 {
                return Ok(());
            }
            let read = body
                .read(&mut buffer[..room])
                .map_err(|error| lost(&self.url, &error))?;
            if read == 0 {
                return Err(lost(&self.url, &"the connection ended early"));
            }
            writer.write(&buffer[..read])?;
        }
    }

    /// As the hub writes it: SHA-256, or Git's SHA-1 of a blob.
    fn digest_of(&self, path: &Path) -> Result<String, FetchError> {
        let file = File::open(path).map_err(DiskError::at(path))?;
        let digest = if self.entry.lfs.is_some() {
            hashed(file, Sha256::new())
        } else {
            let head = format!("blob {}\0", self.entry.size());
            hashed(file, Sha1::new_with_prefix(head))
        };
        Ok(digest.map_err(DiskError::at(path))?)
    }
}

/// Refuses a file of another digest than the pinned one, before its download.
fn pinned(pin: &Pin, wanted: &[Entry]) -> Result<(), PinError> {
    for file in pin.files.keys() {
        if !wanted.iter().any(|entry| entry.path == *file) {
            return Err(PinError::Absent { file: file.clone() });
        }
    }
    let large = wanted.iter().filter_map(|entry| {
        let large = entry.lfs.as_ref()?;
        Some(pin.check(&entry.path, &large.oid))
    });
    large.collect()
}

fn sha256(path: &Path) -> Result<String, DiskError> {
    let file = File::open(path).map_err(DiskError::at(path))?;
    hashed(file, Sha256::new()).map_err(DiskError::at(path))
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

/// A folder of links to the files in `blobs`, beside the snapshots and under a name that none of
/// them has.
fn linked(repository: &Path, commit: &str, entries: &[Entry]) -> Result<PathBuf, FetchError> {
    let folder = repository
        .join("snapshots")
        .join(format!(".{commit}.{}", std::process::id()));
    create_folder(&folder)?;
    for entry in entries {
        let link = folder.join(&entry.path);
        let mut target = PathBuf::from("../../blobs");
        if let Some(inner) = link.parent().filter(|inner| *inner != folder) {
            create_folder(inner)?;
            target = Path::new("..").join(target);
        }
        discard(&link)?;
        symlink(target.join(entry.digest()), &link).map_err(DiskError::at(&link))?;
    }
    Ok(folder)
}

/// The snapshot's folder. It gets its name once it is whole.
fn snapshot(repository: &Path, commit: &str, entries: &[Entry]) -> Result<PathBuf, FetchError> {
    let folder = repository.join("snapshots").join(commit);
    let new = linked(repository, commit, entries)?;
    if folder.is_dir() {
        // Some of it was there: Hugging Face's tools may have brought it, and other files beside
        // ours.
        for entry in entries {
            let (from, to) = (new.join(&entry.path), folder.join(&entry.path));
            if let Some(inner) = to.parent() {
                create_folder(inner)?;
            }
            fs::rename(&from, &to).map_err(DiskError::at(&to))?;
        }
        fs::remove_dir_all(&new).map_err(DiskError::at(&new))?;
    } else {
        fs::rename(&new, &folder).map_err(DiskError::at(&folder))?;
    }
    Ok(folder)
}

fn write_whole(path: &Path, text: &[u8]) -> Result<(), FetchError> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, text).map_err(DiskError::at(&new))?;
    Ok(fs::rename(&new, path).map_err(DiskError::at(path))?)
}
