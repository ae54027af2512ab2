//! The floor of tests/bench.sh: the least that a run has to do. One GET and one POST over raw
//! sockets, with the whole response in memory. No lock, no time limit, no validation. Dynamically
//! linked, as `rustc` does by default.

use std::env;
use std::io::{self, Read, Write};
use std::net::TcpStream;

fn main() -> io::Result<()> {
    let variable = |name| env::var(name).expect(name);
    let metric = format!("/{}", variable("EXPORTER_METRIC"));
    let response = send("GET", &variable("EXPORTER_ADDR"), &metric, b"")?;
    let end = response.windows(4).position(|w| w == b"\r\n\r\n");
    let (head, body) = response.split_at(end.expect("the end of the head") + 4);
    let payload = if String::from_utf8_lossy(head).contains("Transfer-Encoding: chunked") {
        &decode_chunks(body)
    } else {
        body
    };
    let (job, instance) = (variable("PGW_JOB"), variable("PGW_INSTANCE"));
    let group = format!("/metrics/job/{job}/instance/{instance}");
    send("POST", &variable("PGW_ADDR"), &group, payload).map(drop)
}

/// Sends a request and returns the response, head included.
fn send(method: &str, addr: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(addr)?;
    // Otherwise the body, which follows the head, would wait for an acknowledgement.
    server.set_nodelay(true)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    server.write_all(head.as_bytes())?;
    server.write_all(body)?;
    let mut response = Vec::new();
    server.read_to_end(&mut response)?;
    Ok(response)
}

fn decode_chunks(mut chunks: &[u8]) -> Vec<u8> {
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
