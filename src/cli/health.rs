//! `reranker health`: asks the server on this machine whether requests should be sent to it. For
//! the health checks of containers, which have neither a shell nor curl.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use super::output::say;
use super::serve;
use crate::config::Config;

/// For each step; a server that takes longer for one line is not well.
const PATIENCE: Duration = Duration::from_secs(3);
/// No status line is longer.
const LINE_BYTES: u64 = 256;

pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let address = reachable(serve::address(config));
    let status = ask(address).with_context(|| format!("http://{address}/ready"))?;
    say!("{status}")?;
    Ok(if status.starts_with("200") {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A server that listens everywhere is asked on the loopback interface.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Status code and reason of `GET /ready`.
fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /ready HTTP/1.1\r\nhost: {address}\r\nuser-agent: reranker-health\r\nconnection: close\r\n\r\n"
    )?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES)).read_line(&mut line)?;
    match line.trim_end().split_once(' ') {
        Some((version, status)) if version.starts_with("HTTP/1.") => Ok(status.to_owned()),
        _ => bail!("the port's answer is not HTTP: {line:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_to_ask_is_one_that_can_be_connected_to() {
        for (listening, asked) in [
            ("0.0.0.0:8000", "127.0.0.1:8000"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.7:9000", "10.0.0.7:9000"),
        ] {
            let listening: SocketAddr = listening.parse().expect("an address");
            assert_eq!(reachable(listening).to_string(), asked);
        }
    }
}
