//! A hub on loopback with the real one's layout of addresses: the API, `resolve` that sends on to another host, ranges. It can be made
//! to drop connections in mid-body, to lie, and to refuse.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const NAME: &str = "owner/model";

#[derive(Default)]
pub struct State {
    /// Content by path; those of more than a few bytes are in large file storage.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Content that is sent in place of what the digest says.
    pub lies: BTreeMap<String, Vec<u8>>,
    /// Sizes that are told in place of the contents' own.
    pub sizes: BTreeMap<String, u64>,
    /// Answers of the storage that break off after so many bytes.
    pub drops: AtomicUsize,
    pub drop_after: usize,
    /// The key that the hub wants, and the requests for bytes that it has seen, with their `Range` and whether they had a key.
    pub token: Option<String>,
    pub seen: Mutex<Vec<(String, Option<String>, bool)>>,
}

pub struct Hub {
    pub endpoint: String,
    pub state: Arc<State>,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    pub fn start(state: State) -> Self {
        let state = Arc::new(state);
        let listen = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = format!("http://{}", listener.local_addr().expect("an address"));
            (listener, address)
        };
        let ((hub, endpoint), (storage, storage_address)) = (listen(), listen());
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let (state, storage) = (Arc::clone(&state), storage_address.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let (state, storage) = (Arc::clone(&state), storage.clone());
                    std::thread::spawn(move || serve(stream, &state, &storage, is_storage));
                }
            });
        }
        Self { endpoint, state }
    }

    /// Requests for the bytes of this file so far.
    pub fn requests(&self, path: &str) -> Vec<(Option<String>, bool)> {
        let seen = self.state.seen.lock().expect("no panic");
        let of_path = seen.iter().filter(|(of, ..)| of == path);
        of_path
            .map(|(_, range, key)| (range.clone(), *key))
            .collect()
    }
}

/// One request for each connection.
fn serve(stream: TcpStream, state: &State, storage: &str, is_storage: bool) {
    let mut reader = BufReader::new(&stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let path = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
    let header = |name: &str| {
        let mut found = lines[1..].iter().filter_map(|line| line.split_once(':'));
        let value = found.find(|(found, _)| found.eq_ignore_ascii_case(name));
        value.map(|(_, value)| value.trim().to_owned())
    };
    // Whoever hangs up does not read what is left; that is its right.
    let _ = answer(&stream, state, storage, is_storage, &path, &header);
}

fn answer(
    mut stream: &TcpStream,
    state: &State,
    storage: &str,
    is_storage: bool,
    path: &str,
    header: &dyn Fn(&str) -> Option<String>,
) -> std::io::Result<()> {
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        )?;
        stream.write_all(body)
    };
    let key = header("authorization");
    if is_storage {
        let file = path.trim_start_matches("/storage/");
        let range = header("range");
        let seen = (file.to_owned(), range.clone(), key.is_some());
        state.seen.lock().expect("no panic").push(seen);
        let content = state.lies.get(file).or_else(|| state.files.get(file));
        let Some(content) = content else {
            return send("404 Not Found", "", b"");
        };
        let range = range.and_then(|range| {
            let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()? + 1))
        });
        let (start, end) = range.unwrap_or((0, content.len()));
        let end = end.min(content.len());
        let part = &content[start.min(end)..end];
        let headers = format!(
            "content-range: bytes {start}-{}/{}\r\n",
            end.max(1) - 1,
            content.len()
        );
        let drop = state
            .drops
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if drop {
            let length = part.len();
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\n{headers}\r\n"
            )?;
            return stream.write_all(&part[..length.min(state.drop_after)]);
        }
        return send("206 Partial Content", &headers, part);
    }
    if state
        .token
        .as_ref()
        .is_some_and(|token| key != Some(format!("Bearer {token}")))
    {
        return send("401 Unauthorized", "", b"{}");
    }
    let api = format!("/api/models/{NAME}");
    if path == format!("{api}/revision/main") || path == format!("{api}/revision/{COMMIT}") {
        return send("200 OK", "", json!({"sha": COMMIT}).to_string().as_bytes());
    }
    if path == format!("{api}/tree/{COMMIT}?recursive=true") {
        let entry = |(path, content): (&String, &Vec<u8>)| {
            let size = state
                .sizes
                .get(path)
                .map_or(content.len(), |size| *size as usize);
            let blob = [format!("blob {size}\0").as_bytes(), content].concat();
            let mut entry = json!({"type": "file", "path": path, "size": size, "oid": hex(&Sha1::digest(blob))});
            if size > 100 {
                entry["lfs"] = json!({"oid": hex(&Sha256::digest(content)), "size": size});
            }
            entry
        };
        let entries: Vec<_> = state.files.iter().map(entry).collect();
        return send("200 OK", "", json!(entries).to_string().as_bytes());
    }
    match path.strip_prefix(&format!("/{NAME}/resolve/{COMMIT}/")) {
        Some(file) if state.files.contains_key(file) => {
            let location = format!("location: {storage}/storage/{file}\r\n");
            send("302 Found", &location, b"")
        }
        _ => send("404 Not Found", "", b"{}"),
    }
}
