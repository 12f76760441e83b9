//! Models in S3: `s3://bucket/key` of a packed file, or `s3://bucket/folder/` of a model folder,
//! downloaded into a local folder.
//!
//! Owns the way from a bucket to a file that can be mapped. Every range is asked for under the ETag
//! that the object had at first, so parts of two objects never make one file; a packed file is held
//! to its own digests, any other to the checksum that S3 keeps for it. A model has its name only
//! once all of it is there and right. What is there already, of the same ETag, is not asked for
//! again. Refuses a key that is not there, a disk without space, a folder that belongs to somebody
//! else.
//!
//! The SDK works on a runtime of its own, which ends with the download: no connection outlives it,
//! and none is copied with a snapshot of the process.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use aws_smithy_checksums::ChecksumAlgorithm;
use aws_smithy_http_client::tls;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::ranges::{
    DiskError, DownloadCounter, PartialFile, Progress, RangeWriter, create_folder, discard, lock,
    room_for,
};
use reranker_engine::weights::{
    INDEX_FILE, ListedModule, MODULES_FILE, PACKED_FILE, SINGLE_FILE, check_payload, hex, is_plain,
    parse_index, parse_modules,
};
use reranker_engine::{Download, ModelError};

/// Requests at a time: one connection to S3 brings some 90 MB a second.
const CONNECTIONS: usize = 8;
/// How often the SDK sends a request that fails or is refused for now, and how often in a row a
/// connection may break without having brought a byte; the pause after the first failure, which
/// doubles each time.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);
/// A server that sends nothing for so long has been lost.
const STALL: Duration = Duration::from_secs(20);
/// Maximum bytes of a list of shards.
const INDEX_LIMIT: usize = 16 << 20;
/// S3-compatible stores at an endpoint of their own accept any region, but need one.
const ANY_REGION: &str = "us-east-1";
/// Files that a folder must have beside its weights, and files that it may have.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 2] = ["tokenizer_config.json", "scores.json"];

/// Why a model could not be brought from S3.
#[allow(missing_docs, reason = "each variant's message says it")]
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    #[error(
        "{0:?} is not s3://bucket/key of a packed file (….safetensors), nor s3://bucket/folder/ of a model folder"
    )]
    Address(String),
    #[error("{object}: no region is known: set AWS_REGION")]
    NoRegion { object: String },
    #[error("{object}: there is no such object{}", aside(.said))]
    Missing { object: String, said: String },
    #[error(
        "{object}: S3 denies access{}; reading it takes s3:GetObject on {arn}, and kms:Decrypt where a key of your own encrypts it. Without s3:ListBucket, S3 gives the same answer for a missing object",
        aside(.said)
    )]
    Denied {
        object: String,
        arn: String,
        said: String,
    },
    #[error("{object}: the bucket is in another region: set AWS_REGION={region}")]
    Elsewhere { object: String, region: String },
    #[error("{object}: S3 answers {status}{}", aside(.said))]
    Refused {
        object: String,
        status: u16,
        said: String,
    },
    #[error(
        "{object}: no credentials ({reason}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, give this process a role, or set S3_ANONYMOUS=true for a public bucket"
    )]
    NoCredentials { object: String, reason: String },
    #[error("{object}: {reason}")]
    Lost { object: String, reason: String },
    #[error("{object}: it was replaced while it was downloaded: start again")]
    Replaced { object: String },
    #[error("{object}: unexpected answer of S3: {reason}")]
    Protocol { object: String, reason: String },
    #[error(
        "{object}: the download has the {algorithm} {found}, S3 says {expected}; it is deleted, try again"
    )]
    Checksum {
        object: String,
        algorithm: String,
        found: String,
        expected: String,
    },
    #[error("{object}: the download is damaged, and deleted: {reason}")]
    Damaged {
        object: String,
        reason: Box<ModelError>,
    },
    #[error("{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there{}", aside(.said))]
    NoWeights { folder: String, said: String },
    #[error(
        "{}: this folder belongs to user {owner}, who could replace the model: name another folder",
        path.display()
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error("cannot start the download: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn aside(what: &str) -> String {
    match what {
        "" => String::new(),
        what => format!(" ({what})"),
    }
}

impl S3Error {
    /// Whether it may succeed later without anybody doing anything here: networks mend, roles and
    /// objects come a little late.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. }
                | Self::Refused { .. }
                | Self::Denied { .. }
                | Self::Missing { .. }
                | Self::Replaced { .. }
        )
    }
}

impl From<S3Error> for ModelError {
    fn from(error: S3Error) -> Self {
        let message = error.to_string();
        match error {
            S3Error::Disk(_) | S3Error::Foreign { .. } => Self::Storage(message),
            S3Error::Checksum { .. } | S3Error::Damaged { .. } => Self::Damaged(message),
            error if error.may_pass() => Self::Unreachable(message),
            _ => Self::NotFound(message),
        }
    }
}

/// A model in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Model {
    bucket: String,
    /// A folder's key ends with `/` or is empty.
    key: String,
}

/// Settings of downloads from S3 that the SDK's own variables lack.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Local folder for models; it must belong to this user, and is made if it is missing.
    pub cache: PathBuf,
    /// The bucket's name goes into the path instead of the host's name.
    pub path_style: bool,
    /// Requests are not signed.
    pub anonymous: bool,
    /// Whether an endpoint is named in the environment, which needs no region.
    pub own_endpoint: bool,
    /// Whether the local folder outlives the machine, so that writes must reach the disk.
    pub durable: bool,
    /// Whether to prefer a folder's packed form.
    pub packed: bool,
}

/// A downloaded model.
#[derive(Debug)]
pub struct S3Fetched {
    /// The packed file, or the model's folder.
    pub path: PathBuf,
    /// Times and bytes of the download.
    pub download: Download,
}

/// One object as it was found.
#[derive(Debug, Clone)]
struct Object {
    key: String,
    /// Its name in the local folder.
    file: String,
    size: u64,
    etag: String,
    /// Of the whole object: the algorithm's name, and the value in base64.
    checksum: Option<(ChecksumAlgorithm, String)>,
}

impl S3Model {
    /// Parses `s3://bucket/key`; `None` for a text with another beginning.
    pub fn parse(text: &str) -> Option<Result<Self, S3Error>> {
        let address = text.strip_prefix("s3://")?;
        let wrong = || Err(S3Error::Address(text.to_owned()));
        let Some((bucket, key)) = address.split_once('/') else {
            return Some(wrong());
        };
        let fits = (3..=255).contains(&bucket.len()) && is_plain(bucket);
        let control = key.chars().any(char::is_control);
        let packed = Path::new(key)
            .extension()
            .is_some_and(|end| end == "safetensors");
        let folder = key.is_empty() || key.ends_with('/');
        if !fits || control || key.len() > 1024 || !(folder || packed) {
            return Some(wrong());
        }
        Some(Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }))
    }

    fn is_folder(&self) -> bool {
        self.key.is_empty() || self.key.ends_with('/')
    }

    /// The last part of the key, or the bucket: a name for a model that has no other.
    pub fn name(&self) -> &str {
        let last = self.key.trim_end_matches('/').rsplit('/').next();
        last.filter(|name| !name.is_empty()).unwrap_or(&self.bucket)
    }

    /// Downloads the model into the local folder, unless it is there.
    pub fn fetch(
        &self,
        settings: &S3Settings,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<S3Fetched, S3Error> {
        let began = Instant::now();
        own_folder(&settings.cache)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(S3Error::Runtime)?;
        let bucket = Bucket {
            client: runtime.block_on(self.client(settings))?,
            runtime,
            name: &self.bucket,
        };
        let objects = if self.is_folder() {
            bucket.folder(&self.key, settings.packed)?
        } else {
            vec![bucket.object(&self.key)?]
        };
        let fetched = self.bring(&bucket, &objects, settings, began, progress);
        // Whatever still hangs there is of no use to anybody.
        bucket.runtime.shutdown_background();
        fetched
    }

    async fn client(&self, settings: &S3Settings) -> Result<Client, S3Error> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(TRIES)
                    .with_initial_backoff(PAUSE)
                    .with_max_backoff(LONGEST_PAUSE),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT)
                    .read_timeout(STALL)
                    .build(),
            )
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled()
                    .grace_period(STALL)
                    .build(),
            );
        if settings.anonymous {
            loader = loader.no_credentials();
        }
        let shared = loader.load().await;
        let mut config =
            aws_sdk_s3::config::Builder::from(&shared).force_path_style(settings.path_style);
        if shared.region().is_none() {
            if !settings.own_endpoint {
                return Err(S3Error::NoRegion {
                    object: self.to_string(),
                });
            }
            config = config.region(Region::from_static(ANY_REGION));
        }
        Ok(Client::from_conf(config.build()))
    }

    /// Downloads the missing objects.
    fn bring(
        &self,
        bucket: &Bucket,
        objects: &[Object],
        settings: &S3Settings,
        began: Instant,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<S3Fetched, S3Error> {
        let home = settings.cache.join(self.folder_name(settings.packed));
        create_folder(&home)?;
        // Held to the end of this function: another process waits, and then finds what this one
        // brought.
        let _lock = lock(&home.join("lock"))?;
        let snapshot = snapshot_name(objects);
        let (whole, unfinished) = (home.join(&snapshot), home.join(snapshot + ".incomplete"));
        let total = objects.iter().map(|object| object.size).sum();
        let counter = DownloadCounter::new(total, progress);
        let mut check = Duration::ZERO;
        if has(&whole, objects) {
            counter.found(total);
        } else {
            // Of other versions of the same model; who has mapped one keeps it until it ends.
            clear(&home, &unfinished)?;
            create_folder(&unfinished)?;
            let absent = objects
                .iter()
                .filter(|object| !unfinished.join(&object.file).exists());
            room_for(&unfinished, absent.map(|object| object.size).sum())?;
            for object in objects {
                let path = unfinished.join(&object.file);
                // A module's files are in its own folder.
                path.parent().map_or(Ok(()), create_folder)?;
                let file = PartialFile::open(&path, object.size, settings.durable, &counter)?;
                let range = |writer: &mut RangeWriter| bucket.range(object, writer);
                let checked = |path: &Path| {
                    let checking = Instant::now();
                    let right = bucket.check(object, path, self.is_packed(object));
                    check += checking.elapsed();
                    Ok(right.err())
                };
                let came = file.complete(CONNECTIONS, &range, checked, &path);
                if let Err(S3Error::Replaced { .. }) = came {
                    // What came of it belongs to nothing that is still there.
                    fs::remove_dir_all(&unfinished).map_err(DiskError::at(&unfinished))?;
                }
                came?;
            }
            fs::rename(&unfinished, &whole).map_err(DiskError::at(&whole))?;
        }
        let path = if self.is_folder() {
            whole
        } else {
            whole.join(&objects[0].file)
        };
        Ok(S3Fetched {
            path,
            download: Download {
                began,
                time: began.elapsed().saturating_sub(check),
                check,
                bytes: total,
                downloaded: counter.downloaded(),
            },
        })
    }

    /// Whether an object is a packed model, which tells its own digests.
    fn is_packed(&self, object: &Object) -> bool {
        !self.is_folder() || object.file == PACKED_FILE
    }

    /// The model's name in the local folder: a hash, because a key may hold any character.
    fn folder_name(&self, packed: bool) -> String {
        let digest = Sha256::digest(format!("{}\n{}\n{packed}", self.bucket, self.key));
        format!("{}-{}", self.bucket, &hex(&digest)[..16])
    }
}

impl std::fmt::Display for S3Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// One name for exactly these objects.
fn snapshot_name(objects: &[Object]) -> String {
    let mut digest = Sha256::new();
    for Object {
        file, size, etag, ..
    } in objects
    {
        digest.update(format!("{file}\n{size}\n{etag}\n"));
    }
    hex(&digest.finalize())[..32].to_owned()
}

fn has(folder: &Path, objects: &[Object]) -> bool {
    objects.iter().all(|object| {
        fs::metadata(folder.join(&object.file)).is_ok_and(|found| found.len() == object.size)
    })
}

/// Removes everything from a model's local folder but its lock and `keep`.
fn clear(home: &Path, keep: &Path) -> Result<(), S3Error> {
    for entry in fs::read_dir(home).map_err(DiskError::at(home))? {
        let path = entry.map_err(DiskError::at(home))?.path();
        if path == keep {
            continue;
        }
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(DiskError::at(&path))?;
        } else if path.file_name().is_some_and(|name| name != "lock") {
            discard(&path)?;
        }
    }
    Ok(())
}

/// Makes the folder for nobody else, or takes one that is ours or root's: in `/tmp` anybody could
/// have made it.
fn own_folder(path: &Path) -> Result<(), S3Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(DiskError::at(path))?;
    let owner = fs::metadata(path).map_err(DiskError::at(path))?.uid();
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Err(S3Error::Foreign {
            path: path.to_owned(),
            owner,
        });
    }
    Ok(())
}

struct Bucket<'a> {
    client: Client,
    runtime: Runtime,
    name: &'a str,
}

impl Bucket<'_> {
    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// The object's size, ETag and checksum.
    fn object(&self, key: &str) -> Result<Object, S3Error> {
        let head = self.runtime.block_on(
            self.client
                .head_object()
                .bucket(self.name)
                .key(key)
                .checksum_mode(ChecksumMode::Enabled)
                .send(),
        );
        let head = head.map_err(|error| self.explained(key, error))?;
        let lacks = |what: &str| S3Error::Protocol {
            object: self.uri(key),
            reason: format!("an answer without {what}"),
        };
        let size = head.content_length().and_then(|n| u64::try_from(n).ok());
        Ok(Object {
            key: key.to_owned(),
            file: key.rsplit('/').next().unwrap_or_default().to_owned(),
            size: size.ok_or_else(|| lacks("a length"))?,
            etag: head.e_tag().ok_or_else(|| lacks("an ETag"))?.to_owned(),
            checksum: whole_checksum(&head),
        })
    }

    /// One that there need not be. A denial counts as absence: that is how S3 tells it to those who
    /// may not list the bucket.
    fn optional(&self, key: &str) -> Result<Result<Object, S3Error>, S3Error> {
        match self.object(key) {
            Err(absent @ (S3Error::Missing { .. } | S3Error::Denied { .. })) => Ok(Err(absent)),
            Err(error) => Err(error),
            Ok(object) => Ok(Ok(object)),
        }
    }

    /// What of a folder is needed for serving it.
    fn folder(&self, prefix: &str, packed: bool) -> Result<Vec<Object>, S3Error> {
        let key = |file: &str| format!("{prefix}{file}");
        let mut objects = Vec::new();
        if packed && let Ok(object) = self.optional(&key(PACKED_FILE))? {
            objects.push(object);
        } else {
            for file in NEEDED {
                objects.push(self.object(&key(file))?);
            }
            match self.optional(&key(SINGLE_FILE))? {
                Ok(object) => objects.push(object),
                Err(absent) => {
                    let Ok(index) = self.optional(&key(INDEX_FILE))? else {
                        return Err(S3Error::NoWeights {
                            folder: self.uri(prefix),
                            said: absent.to_string(),
                        });
                    };
                    let files =
                        parse_index(&self.text(&index)?).map_err(|reason| S3Error::Protocol {
                            object: self.uri(&index.key),
                            reason: format!("the list of shards: {reason}"),
                        })?;
                    objects.push(index);
                    let shards: BTreeSet<String> = files.into_values().collect();
                    for shard in &shards {
                        objects.push(self.object(&key(shard))?);
                    }
                }
            }
            objects.extend(self.modules(prefix)?);
        }
        for file in OPTIONAL {
            objects.extend(self.optional(&key(file))?.ok());
        }
        Ok(objects)
    }

    /// The list of sentence-transformers' modules, if there is one, and their files.
    fn modules(&self, prefix: &str) -> Result<Vec<Object>, S3Error> {
        let Ok(list) = self.optional(&format!("{prefix}{MODULES_FILE}"))? else {
            return Ok(Vec::new());
        };
        let modules = parse_modules(&self.text(&list)?).map_err(|reason| S3Error::Protocol {
            object: self.uri(&list.key),
            reason,
        })?;
        let mut objects = vec![list];
        for (file, needed) in modules.iter().flat_map(ListedModule::files) {
            match self.optional(&format!("{prefix}{file}"))? {
                Ok(object) => objects.push(Object { file, ..object }),
                Err(absent) if needed => return Err(absent),
                Err(_) => {}
            }
        }
        Ok(objects)
    }

    /// A small object's content.
    fn text(&self, object: &Object) -> Result<Vec<u8>, S3Error> {
        if object.size > INDEX_LIMIT as u64 {
            return Err(S3Error::Protocol {
                object: self.uri(&object.key),
                reason: format!("{} bytes, the limit is {INDEX_LIMIT}", object.size),
            });
        }
        self.runtime.block_on(async {
            let get = self.client.get_object().bucket(self.name).key(&object.key);
            let answer = get.if_match(&object.etag).send().await;
            let answer = answer.map_err(|error| self.failed(&object.key, &error))?;
            let lost = |error: aws_sdk_s3::primitives::ByteStreamError| S3Error::Lost {
                object: self.uri(&object.key),
                reason: reasons(&error),
            };
            Ok(answer.body.collect().await.map_err(lost)?.to_vec())
        })
    }

    /// Requests the missing part of the range again if the connection breaks.
    fn range(&self, object: &Object, writer: &mut RangeWriter) -> Result<(), S3Error> {
        let (mut pause, mut failures) = (PAUSE, 0);
        while writer.missing().0 < writer.missing().1 {
            let before = writer.missing();
            match self.runtime.block_on(self.some_of_range(object, writer)) {
                // Something came: the connection is bad, but not hopeless.
                Err(S3Error::Lost { .. }) if writer.missing() != before => {
                    (pause, failures) = (PAUSE, 0);
                }
                Err(S3Error::Lost { .. }) if failures + 1 < TRIES => {
                    std::thread::sleep(pause);
                    (pause, failures) = (pause * 2, failures + 1);
                }
                ended => ended?,
            }
        }
        Ok(())
    }

    /// One request for the missing part, on the thread that writes it.
    async fn some_of_range(
        &self,
        object: &Object,
        writer: &mut RangeWriter<'_>,
    ) -> Result<(), S3Error> {
        let (at, end) = writer.missing();
        let get = self.client.get_object().bucket(self.name).key(&object.key);
        let get = get
            .if_match(&object.etag)
            .range(format!("bytes={at}-{}", end - 1));
        let answer = get.send().await;
        let mut answer = answer.map_err(|error| self.failed(&object.key, &error))?;
        let protocol = |reason: String| S3Error::Protocol {
            object: self.uri(&object.key),
            reason,
        };
        // The request's `If-Match` is a wish; a store that does not know it would answer with
        // another object.
        if answer.e_tag() != Some(object.etag.as_str()) {
            return Err(S3Error::Replaced {
                object: self.uri(&object.key),
            });
        }
        let expected = format!("bytes {at}-{}/{}", end - 1, object.size);
        if answer.content_range() != Some(expected.as_str()) {
            let found = answer.content_range().unwrap_or("none").to_owned();
            return Err(protocol(format!("the range {found} instead of {expected}")));
        }
        while let Some(piece) = answer.body.next().await {
            let piece = piece.map_err(|error| S3Error::Lost {
                object: self.uri(&object.key),
                reason: reasons(&error),
            })?;
            if !writer.write(&piece)? {
                return Err(protocol(format!("more than the range {expected}")));
            }
        }
        if writer.missing().0 < end {
            return Err(S3Error::Lost {
                object: self.uri(&object.key),
                reason: "the connection ended early".into(),
            });
        }
        Ok(())
    }

    /// Checks a downloaded file: a packed one by its own digests, others by S3's checksum, if it
    /// has one.
    fn check(&self, object: &Object, path: &Path, packed: bool) -> Result<(), S3Error> {
        if packed {
            return check_payload(path).map_err(|reason| S3Error::Damaged {
                object: self.uri(&object.key),
                reason: Box::new(reason),
            });
        }
        let Some((algorithm, expected)) = &object.checksum else {
            return Ok(());
        };
        let mut checksum = algorithm.into_impl();
        let mut file = fs::File::open(path).map_err(DiskError::at(path))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).map_err(DiskError::at(path))?;
            if read == 0 {
                break;
            }
            checksum.update(&buffer[..read]);
        }
        let found = checksum.header_value();
        let found = found.to_str().unwrap_or_default();
        if found != expected {
            return Err(S3Error::Checksum {
                object: self.uri(&object.key),
                algorithm: algorithm.as_str().to_owned(),
                found: found.to_owned(),
                expected: expected.clone(),
            });
        }
        Ok(())
    }

    /// Why asking for the head failed. Its answer has no body, so S3's own words are asked for with
    /// the first byte.
    fn explained<E>(&self, key: &str, error: SdkError<E, HttpResponse>) -> S3Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let first = self.failed(key, &error);
        if error.raw_response().is_none() || matches!(first, S3Error::Elsewhere { .. }) {
            return first;
        }
        let get = self.client.get_object().bucket(self.name).key(key);
        match self.runtime.block_on(get.range("bytes=0-0").send()) {
            Err(error) => self.failed(key, &error),
            Ok(_) => first,
        }
    }

    fn failed<E>(&self, key: &str, error: &SdkError<E, HttpResponse>) -> S3Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let object = self.uri(key);
        let Some(response) = error.raw_response() else {
            let reason = reasons(error);
            // The SDK has no kind of its own for it.
            return if reason.contains("no providers in chain") {
                S3Error::NoCredentials { object, reason }
            } else {
                S3Error::Lost { object, reason }
            };
        };
        let status = response.status().as_u16();
        let said = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => String::new(),
        };
        let region = response.headers().get("x-amz-bucket-region");
        let here = self.client.config().region().map(|region| region.as_ref());
        match status {
            300..=400 if region.is_some() && region != here => S3Error::Elsewhere {
                object,
                region: region.unwrap_or_default().to_owned(),
            },
            401 | 403 => S3Error::Denied {
                object,
                arn: format!("arn:aws:s3:::{}/{key}", self.name),
                said,
            },
            404 => S3Error::Missing { object, said },
            412 => S3Error::Replaced { object },
            // The answer was begun and not ended.
            200..300 => S3Error::Lost {
                object,
                reason: reasons(error),
            },
            status => S3Error::Refused {
                object,
                status,
                said,
            },
        }
    }
}

/// The object's checksum, where S3 keeps one of the whole and not of its parts' checksums.
fn whole_checksum(head: &HeadObjectOutput) -> Option<(ChecksumAlgorithm, String)> {
    if head.checksum_type() == Some(&ChecksumType::Composite) {
        return None;
    }
    let known = [
        (ChecksumAlgorithm::Sha256, head.checksum_sha256()),
        (ChecksumAlgorithm::Crc64Nvme, head.checksum_crc64_nvme()),
        (ChecksumAlgorithm::Crc32c, head.checksum_crc32_c()),
        (ChecksumAlgorithm::Crc32, head.checksum_crc32()),
    ];
    known.into_iter().find_map(|(algorithm, value)| {
        // One of parts says how many there were: `value-3`.
        let value = value.filter(|value| !value.contains('-'))?;
        Some((algorithm, value.to_owned()))
    })
}

/// An error and what caused it, each once: the SDK's own message is only the outermost.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut all: Vec<String> = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if all.last() != Some(&said) {
            all.push(said);
        }
        cause = error.source();
    }
    all.join(": ")
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn parsed(text: &str) -> S3Model {
        S3Model::parse(text).expect("S3").expect(text)
    }

    #[test]
    fn an_address_is_a_packed_file_or_a_folder() {
        for (text, folder, name) in [
            (
                "s3://models/bge/packed.safetensors",
                false,
                "packed.safetensors",
            ),
            (
                "s3://models/bge-reranker-v2-m3/",
                true,
                "bge-reranker-v2-m3",
            ),
            ("s3://my.models-1/a/b c/ü/", true, "ü"),
            ("s3://models/", true, "models"),
        ] {
            let model = parsed(text);
            assert_eq!(model.is_folder(), folder, "{text}");
            assert_eq!(model.name(), name, "{text}");
            assert_eq!(model.to_string(), text);
        }
        for text in [
            "s3://",
            "s3://models",
            "s3://models/bge",
            "s3://../bge/",
            "s3://a/bge/",
            "s3:///packed.safetensors",
            "s3://models/a\nb/",
        ] {
            let error = S3Model::parse(text).expect("S3").expect_err(text);
            assert!(
                error.to_string().contains("is not s3://bucket/key"),
                "{text}"
            );
        }
        assert!(S3Model::parse("models/demo").is_none());
    }

    #[test]
    fn another_etag_or_size_is_another_snapshot_and_a_key_cannot_leave_the_folder() {
        let object = |size, etag: &str| Object {
            key: "k".into(),
            file: "packed.safetensors".into(),
            size,
            etag: etag.into(),
            checksum: None,
        };
        let names = [
            snapshot_name(&[object(1, "\"a\"")]),
            snapshot_name(&[object(1, "\"b\"")]),
            snapshot_name(&[object(2, "\"a\"")]),
            snapshot_name(&[object(1, "\"a\""), object(1, "\"a\"")]),
        ];
        for (n, name) in names.iter().enumerate() {
            assert!(is_plain(name));
            assert!(!names[n + 1..].contains(name));
        }
        let folder = parsed("s3://models/../../etc/").folder_name(true);
        assert!(is_plain(&folder), "{folder}");
    }

    #[test]
    fn a_checksum_of_parts_says_nothing_of_the_whole() {
        let head = HeadObjectOutput::builder();
        let parts = head.clone().checksum_sha256("abc=-3").build();
        assert!(whole_checksum(&parts).is_none());
        let composite = head
            .clone()
            .checksum_crc32("abc=")
            .checksum_type(ChecksumType::Composite)
            .build();
        assert!(whole_checksum(&composite).is_none());
        let whole = head.checksum_crc64_nvme("abc=").build();
        let (algorithm, value) = whole_checksum(&whole).expect("of the whole");
        assert_eq!((algorithm.as_str(), value.as_str()), ("crc64nvme", "abc="));
    }

    #[test]
    fn what_ails_a_download_is_told_by_its_kind() {
        let object = || "s3://bucket/key".to_owned();
        let kind = |error: S3Error| {
            let message = error.to_string();
            let (kind, said) = match ModelError::from(error) {
                ModelError::Storage(said) => ("storage", said),
                ModelError::Damaged(said) => ("damaged", said),
                ModelError::Unreachable(said) => ("unreachable", said),
                ModelError::NotFound(said) => ("not found", said),
                other => panic!("{other}"),
            };
            assert_eq!(said, message);
            kind
        };
        let (path, reason) = (PathBuf::from("/models"), "it ends early".to_owned());
        for (error, expected) in [
            (
                S3Error::Disk(DiskError::Full {
                    path: path.clone(),
                    needed: 2,
                    free: 1,
                }),
                "storage",
            ),
            (
                S3Error::Disk(DiskError::at(&path)(ErrorKind::PermissionDenied.into())),
                "storage",
            ),
            (
                S3Error::Foreign {
                    path: path.clone(),
                    owner: 7,
                },
                "storage",
            ),
            (
                S3Error::Checksum {
                    object: object(),
                    algorithm: "crc32".into(),
                    found: "AAAAAA==".into(),
                    expected: "AAAAAQ==".into(),
                },
                "damaged",
            ),
            (
                S3Error::Damaged {
                    object: object(),
                    reason: Box::new(ModelError::Compute(reason.clone())),
                },
                "damaged",
            ),
            (
                S3Error::Lost {
                    object: object(),
                    reason: reason.clone(),
                },
                "unreachable",
            ),
            (S3Error::Address(object()), "not found"),
            (
                S3Error::Protocol {
                    object: object(),
                    reason,
                },
                "not found",
            ),
        ] {
            assert_eq!(kind(error), expected);
        }
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("models");
        own_folder(&path).expect("made");
        let mode = fs::metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o700);
        own_folder(&path).expect("still ours");
        // Only root can give a folder away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).expect("given away");
            let error = own_folder(&path).expect_err("not ours");
            assert!(error.to_string().contains("belongs to user 12345"));
        }
    }
}
