//! What a hub answers, over a real connection: a model that is not whole is never left where it would be found. The input is the
//! answers to the three questions for JSON, each after a zero byte; files are never there.
#![no_main]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use libfuzzer_sys::fuzz_target;
use reranker_sources::{Hub, Looks};

#[path = "../src/folder.rs"]
mod folder;

type Answers = Arc<Mutex<[Vec<u8>; 3]>>;

struct Served {
    answers: Answers,
    hub: Hub,
    folder: PathBuf,
}

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answers = Answers::default();
    let told = Arc::clone(&answers);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let told = Arc::clone(&told);
            std::thread::spawn(move || serve(&stream, &told));
        }
    });
    let folder = folder::in_memory();
    Served {
        answers,
        hub: Hub {
            endpoint: format!("http://{address}"),
            token: None,
            cache: folder.join("cache"),
            connections: 1,
        },
        folder,
    }
});

fn serve(stream: &TcpStream, told: &Answers) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let mut stream = stream;
    loop {
        let first = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        let path = first.split(' ').nth(1)?;
        let answers = told.lock().ok()?.clone();
        let (status, body) = if path.contains("/revision/") {
            (200, &answers[0])
        } else if path.contains("/tree/") {
            (200, &answers[1])
        } else if path.ends_with(".index.json") {
            (200, &answers[2])
        } else {
            (404, &answers[2])
        };
        let length = body.len();
        let mut answer =
            format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.extend_from_slice(body);
        stream.write_all(&answer).ok()?;
    }
}

fuzz_target!(|data: &[u8]| {
    let served = &*SERVED;
    {
        let mut answers = served.answers.lock().expect("no panic");
        let mut parts = data.splitn(3, |&byte| byte == 0);
        for answer in answers.iter_mut() {
            *answer = parts.next().unwrap_or_default().to_vec();
        }
    }
    let looks = Looks::default();
    let fetched = served
        .hub
        .fetch("owner/model", "main", None, false, &looks, &|_| {});
    // Nothing can have come whole, as no file is there.
    let error = fetched.expect_err("no model").to_string();
    assert!(!error.is_empty());
    let made: Vec<_> = std::fs::read_dir(&served.folder)
        .expect("our folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(made.iter().all(|name| name == "cache"), "{made:?}");
    let repository = served.folder.join("cache/models--owner--model");
    assert!(!repository.join("refs").exists() && !repository.join("snapshots").exists());
    clear(&repository);
});

fn clear(folder: &Path) {
    if folder.exists() {
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
