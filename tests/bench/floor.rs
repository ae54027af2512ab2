//! The floor under tests/bench.sh: what copying a page costs at the very least. Raw sockets, one
//! GET, one POST, all in memory; no lock, no probe, no time limit, no look at what came.
//! `PGW_ENCODING` is `text`, or it asks for protobuf+gzip and passes that on.

use std::env;
use std::io::{self, Read, Write};
use std::net::TcpStream;

const PROTOBUF: &str = "application/vnd.google.protobuf; \
    proto=io.prometheus.client.MetricFamily; encoding=delimited";

fn main() -> io::Result<()> {
    let variable = |name| env::var(name).expect(name);
    let path = format!("/{}", variable("EXPORTER_METRIC"));
    let (accept, form) = match variable("PGW_ENCODING").as_str() {
        "text" => (
            "".into(),
            "Content-Type: text/plain; version=0.0.4\r\n".into(),
        ),
        _ => (
            format!("Accept: {PROTOBUF}\r\nAccept-Encoding: gzip\r\n"),
            format!("Content-Type: {PROTOBUF}\r\nContent-Encoding: gzip\r\n"),
        ),
    };
    let (head, answer) = ask("GET", &variable("EXPORTER_ADDR"), &path, &accept, b"")?;
    let mut page = &answer[head.len()..];
    let whole;
    if head.contains("transfer-encoding: chunked") {
        whole = dechunk(page);
        page = &whole;
    }
    let (job, instance) = (variable("PGW_JOB"), variable("PGW_INSTANCE"));
    let path = format!("/metrics/job/{job}/instance/{instance}");
    ask("POST", &variable("PGW_ADDR"), &path, &form, page).map(drop)
}

/// Sends a request; gives the head of the answer in lower case, and all of the answer.
fn ask(
    method: &str,
    addr: &str,
    path: &str,
    lines: &str,
    body: &[u8],
) -> io::Result<(String, Vec<u8>)> {
    let mut server = TcpStream::connect(addr)?;
    // Or the body, which follows the head, would wait for an acknowledgement.
    server.set_nodelay(true)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
         {lines}Content-Length: {length}\r\n\r\n"
    );
    server.write_all(head.as_bytes())?;
    server.write_all(body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::InvalidData)?;
    let head = String::from_utf8_lossy(&answer[..end + 4]);
    Ok((head.to_ascii_lowercase(), answer))
}

fn dechunk(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(chunks.len());
    loop {
        let end = chunks.iter().position(|&b| b == b'\r').expect("a size");
        let size = str::from_utf8(&chunks[..end]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return body;
        }
        let chunk = &chunks[end + 2..];
        body.extend(&chunk[..size]);
        chunks = &chunk[size + 2..];
    }
}
