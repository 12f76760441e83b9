//! HTTP/2 frame by frame, for what no library would send. Headers are written without compression, and read only as far as the status.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::client::connect;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
}

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    /// A request's head, whole, without a body where `flags` says so.
    pub fn head(stream: u32, method: &str, path: &str, more: &[(&str, &str)], flags: u8) -> Self {
        let mut block = Vec::new();
        let own = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "reranker.test"),
        ];
        for (name, value) in own.iter().chain(more) {
            block.push(0);
            text(&mut block, name);
            text(&mut block, value);
        }
        Self::new(kind::HEADERS, flags | END_HEADERS, stream, &block)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("fits");
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// Of RST_STREAM and GOAWAY.
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        let code = self.payload[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(code)
    }
}

/// A string literal without Huffman's code.
fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(text.as_bytes());
}

/// The bytes that the block of a status is: an indexed field of the static table, or a literal with its name from there.
pub fn status(block: &[u8]) -> Option<u16> {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first.
    let block = match block {
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        _ => block,
    };
    match block {
        [first, ..] if (0x88..=0x8e).contains(first) => Some(INDEXED[usize::from(first - 0x88)]),
        [0x48, 0x03, digits @ ..] => std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok(),
        // Three digits in Huffman's code, where each of 0, 1 and 2 has five bits and the others six.
        [0x48, length, rest @ ..] if length & 0x80 != 0 => {
            let coded = rest.get(..usize::from(length & 0x7f))?;
            let mut bits = coded
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
            let mut number = 0;
            for _ in 0..3 {
                let mut value = 0u8;
                for _ in 0..5 {
                    value = value << 1 | bits.next()?;
                }
                let digit = if value < 3 {
                    value
                } else {
                    (value << 1 | bits.next()?) - 0x19 + 3
                };
                number = number * 10 + u16::from(digit);
            }
            Some(number)
        }
        _ => None,
    }
}

pub struct Http2(pub TcpStream);

impl Http2 {
    /// Connects, and says that this is HTTP/2 without having asked.
    pub fn connect(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        stream.write_all(PREFACE).expect("sent");
        let mut this = Self(stream);
        this.send(&[Frame::new(kind::SETTINGS, 0, 0, &[])]);
        this
    }

    /// The same of one that takes nothing of any answer, and says so; it may send as much as the server allows.
    pub fn deaf(address: SocketAddr) -> Self {
        const INITIAL_WINDOW_SIZE: u8 = 4;
        const ACK: u8 = 1;
        let mut this = Self::connect(address);
        let settings = this.until(|frame| frame.kind == kind::SETTINGS);
        assert!(settings.is_some(), "the connection has ended");
        this.send(&[
            Frame::new(kind::SETTINGS, ACK, 0, &[]),
            Frame::new(kind::SETTINGS, 0, 0, &[0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0]),
        ]);
        this
    }

    pub fn send(&mut self, frames: &[Frame]) {
        assert!(self.try_send(frames), "the connection has ended");
    }

    /// False where the other side has ended the connection already.
    pub fn try_send(&mut self, frames: &[Frame]) -> bool {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
        self.0.write_all(&bytes).is_ok()
    }

    /// The next frame, or nothing where the connection has ended.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.fill(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream,
            payload,
        })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.0.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads until a frame that `wanted` takes, or to the end.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        std::iter::from_fn(|| self.receive()).find(wanted)
    }

    /// The status of the answer on this stream.
    pub fn status(&mut self, stream: u32) -> Option<u16> {
        let head = self.until(|frame| frame.stream == stream && frame.kind == kind::HEADERS)?;
        status(&head.payload)
    }
}
