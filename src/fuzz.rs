//! From the bytes on a socket to the status, at random: whatever a server sends, nothing panics
//! or hangs, each phase ends as it may, and what is believed is what another reader, which knows
//! nothing of this crate's client, reads too. A seed and a number of cases of one's own:
//!
//! `FUZZ_SEED=7 FUZZ_CASES=1000000 cargo test --release fuzz`
//!
//! A million connections are more than a firewall keeps track of; it drops the rest, also those of
//! others, and cases end with "no connection". In a network of their own (`unshare -n` as root,
//! then `ip link set lo up`) they pass.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};
use std::{env, iter, thread};

use anyhow::Result;
use clap::ValueEnum as _;
use ureq::http::{HeaderValue, Method, Uri};

use crate::access::Access;
use crate::encoding::{Encoding, TEXT};
use crate::exit::Status;
use crate::exporter::Exporter;
use crate::exposition::Exposition;
use crate::gateway::Gateway;
use crate::http::Client;
use crate::logging::printable;
use crate::prune::{self, Rule};
use crate::text::Samples;

/// Seconds that no case comes near, unless it hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// What a phase has of a server that falls silent.
const SHORT: Duration = Duration::from_millis(20);

/// Few, so that the answers can be larger.
const MAX_BYTES: u64 = 600;

const PROBE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
    Content-Length: 31\r\n\r\n<html><h1>Node Exporter</h1>\r\n\n";

const SCRAPE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
    Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Length: 81\r\n\r\n\
    # HELP up b\n# TYPE up gauge\nup{a=\"b\"} 1\nload 0.5 1700000000000\n\nnan NaN\n inf +Inf";

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
    Transfer-Encoding: chunked\r\n\r\n\
    1c\r\n# HELP up b\n# TYPE up gauge\n\r\n19;x=y\r\nup{a=\"b\"} 1\nload 0.5\nc 2\n\r\n\
    0\r\nX-Trailer: a\r\n\r\n";

const HINTED: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
    HTTP/1.0 200 OK\r\nContent-Length: 9\r\nConnection: keep-alive\r\n\r\nup 1\nc 2\n";

/// The four forms: the head, metrics, and a body that is whole, too, but of none.
const FORMS: [(&str, &[u8], &[u8]); 4] = [
    (
        "Content-Type: text/plain; version=0.0.4\r\n",
        b"# HELP up b\nup{a=\"b\"} 1\nload 0.5\n",
        b"# HELP up b\n# TYPE up gauge\n\n",
    ),
    (
        "Content-Type: text/plain; version=0.0.4\r\nContent-Encoding: gzip\r\n",
        b"\x1f\x8b\x08\0\0\0\0\0\x02\x03SV\xf0p\xf5\x09P(-PH\xe2*-\xa8N\xb4UJR\xaaU0\xe4\
          \xca\xc9OLQ0\xd03\xe5\x02\0<\x12j\xfd!\0\0\0",
        b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x03\0\0\0\0\0\0\0\0\0",
    ),
    (
        "Content-Type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
         encoding=delimited\r\n",
        b"!\n\x02up\x12\x04help\x18\x01\"\x13\n\x06\n\x01a\x12\x01b\x12\x09\x09\0\0\0\0\0\0\xf0?\
          1\n\x04load\x18\x01\"\x0b\x12\x09\x09\0\0\0\0\0\0\xe0?\
          \"\x1a\n\x06\n\x01a\x12\x01b\x12\x09\x09\0\0\0\0\0\0\0@0\x80\xd0\x95\xff\xbc1",
        b"\x0c\n\x02up\x12\x04help\x18\x01\x06\n\x04load",
    ),
    (
        "Content-Type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
         encoding=delimited\r\nContent-Encoding: gzip\r\n",
        b"\x1f\x8b\x08\0\0\0\0\0\x02\x03S\xe4b*-\x10b\xc9H\xcd)\x90`T\x12\xe6b\xe3bL\x14bL\x12\
          \xe2\xe4d\0\x83\x0f\xf6\x86\\,9\xf9\x89)@Yn\xb8\xe8\x03{%)\x0c\xa5\x0c\x0e\x06\x0d\
          \x17\xa6\xfe\xdfc\x08\0\x8b+e\xeeT\0\0\0",
        b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x03\0\0\0\0\0\0\0\0\0",
    ),
];

const TAKEN: &str = "HTTP/1.1 202 Accepted\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n\
    Content-Length: 0\r\n\r\n";

const REFUSED: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Length: 22\r\n\r\npushed metrics: no\x1b[2J";

const MOVED: &str = "HTTP/1.1 301 Moved\r\nLocation: http://push.example/\u{9b}\r\n\
    Transfer-Encoding: chunked\r\n\r\n5\r\n<html\r\n0\r\n\r\n";

const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n\
    Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Length: 210\r\n\r\n\
    push_failure_time_seconds{instance=\"n\",job=\"j\"} 0\n\
    push_time_seconds{instance=\"\",job=\"j\"} 1.7e+09\n\
    push_time_seconds{instance=\"n\\n\\\"\",job=\"j\"} 0\n\
    # HELP x y\npushgateway_build_info{version=\"1.4.2\",goversion=\"g\"} 1\n";

/// What mutations put in.
const TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    "\0",
    "\x1b[2J",
    "\u{9b}",
    "\u{202e}",
    " ",
    "\t",
    "\r\n ",
    ":",
    ";",
    ",",
    "\"",
    "{",
    "}",
    "#",
    "0",
    "1",
    "-1",
    "+1",
    "0x1",
    "7f",
    "ffffffffffffffff",
    "18446744073709551616",
    "99999999",
    "0\r\n\r\n",
    "1\r\n\n\r\n",
    "a 1\n",
    "a{b=\"c\"} 1\n",
    "<html>\n",
    "# EOF\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/2.0",
    "099",
    "204",
    "206",
    "302",
    "304",
    "503",
    "999",
    "version=1.0.0",
    "charset=utf-16",
    "encoding=text",
    "proto=a.B",
    "é",
    "\u{feff}",
    "push_time_seconds{job=\"k\"} 1\n",
    "push_time_seconds{job=\"\\x\"} 1\n",
];

/// And among the headers.
const HEADERS: &[&str] = &[
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 75, 75\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip\r\n",
    "Content-Encoding: gzip\r\n",
    "Content-Encoding: identity\r\n",
    "Content-Encoding: deflate\r\n",
    "Content-Type: text/html\r\n",
    "Content-Type: Text/HTML\r\n",
    "Content-Type: text/plain\r\n",
    "Content-Type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
     encoding=delimited\r\n",
    "Connection: close\r\n",
    "Location: file:///etc/passwd\r\n",
    "Date: yesterday\r\n",
    "X: a\r\n b\r\n",
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A part of what is `len` long, more often a short one.
    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len + 1);
        let most = match self.one_in(4) {
            true => len - start,
            false => (len - start).min(8),
        };
        start..start + self.below(most + 1)
    }

    /// What an answer may become on its way through bad hands.
    fn mutate(&mut self, answer: impl AsRef<[u8]>) -> Vec<u8> {
        let mut bytes = answer.as_ref().to_vec();
        // Often one only: most of what comes through is nearly right.
        let times = self.pick(&[0, 1, 1, 1, 1, 2, 2, 3, 5, 9]);
        for _ in 0..times {
            let at = self.below(bytes.len() + 1);
            let part = self.range(bytes.len());
            match self.below(11) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(part)),
                4 => {
                    let copy = bytes[part].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
                5 => drop(bytes.splice(part, self.pick(TOKENS).bytes())),
                6 => self.digit(&mut bytes),
                7 => {
                    let some = iter::repeat_n(self.next() as u8, self.pick(&[2, 400, 9000]));
                    drop(bytes.splice(at..at, some));
                }
                // Where it is likely to be looked at: at the start of a line.
                op @ (8 | 9) => {
                    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n");
                    let (most, tokens) = match op {
                        8 => (bytes.len(), TOKENS),
                        _ => (head.map_or(0, |end| end + 2), HEADERS),
                    };
                    let ends = bytes[..most].iter().enumerate();
                    let ends = ends.filter(|(_, b)| **b == b'\n');
                    let starts: Vec<_> = ends.map(|(end, _)| end + 1).collect();
                    if !starts.is_empty() {
                        let at = self.pick(&starts);
                        drop(bytes.splice(at..at, self.pick(tokens).bytes()));
                    }
                }
                _ => drop(bytes.splice(at..at, self.pick(TOKENS).bytes())),
            }
        }
        bytes
    }

    /// Makes another digit of one.
    fn digit(&mut self, bytes: &mut [u8]) {
        let digits = bytes.iter_mut().filter(|b| b.is_ascii_hexdigit());
        let mut digits: Vec<_> = digits.collect();
        if !digits.is_empty() {
            let at = self.below(digits.len());
            *digits[at] = self.pick(b"0123456789abcdefF");
        }
    }
}

/// How a server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Close,
    Reset,
    Silence,
}

/// What a server does with the next connections.
#[derive(Debug, Clone)]
struct Script {
    /// To a request for `/`, at one time.
    first: Vec<u8>,
    /// Whether the connection goes on after that.
    goes_on: bool,
    /// To each other request, in slices of at most so many bytes.
    answer: Vec<u8>,
    slice: usize,
    /// Whether the body of a request is read before it is answered.
    reads: bool,
    end: End,
}

/// A server that follows a script.
struct Server {
    addr: SocketAddr,
    script: Arc<Mutex<Option<Script>>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(None));
        let shared: Arc<Mutex<Option<Script>>> = Arc::clone(&script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(script) = shared.lock().unwrap().clone() else {
                    return;
                };
                // A client may have seen enough, and be gone.
                let _ = script.follow(&mut stream.unwrap());
            }
        });
        Server { addr, script }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *self.script.lock().unwrap() = None;
        let _ = TcpStream::connect(self.addr);
    }
}

impl Script {
    fn follow(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let (mut head, mut bytes) = (Vec::new(), [0; 4096]);
            let end = loop {
                let amount = stream.read(&mut bytes)?;
                if amount == 0 {
                    return Ok(());
                }
                head.extend(&bytes[..amount]);
                if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
                    break end + 4;
                }
            };
            if head.starts_with(b"GET / ") {
                stream.write_all(&self.first)?;
                if self.goes_on {
                    continue;
                }
            } else {
                let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let length = text.split("content-length: ").nth(1);
                let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
                let missing = length.unwrap_or(0usize).saturating_sub(head.len() - end);
                if self.reads {
                    stream.read_exact(&mut vec![0; missing])?;
                }
                for slice in self.answer.chunks(self.slice) {
                    stream.write_all(slice)?;
                }
            }
            match self.end {
                End::Close => {}
                End::Reset => {
                    rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?;
                }
                End::Silence => drop(stream.read_to_end(&mut Vec::new())),
            }
            return Ok(());
        }
    }
}

/// An answer as the other reader has it: RFC 9112, and no more tolerance than is said here.
struct Answer {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    /// What there is of it, if all of it is there.
    body: Option<Vec<u8>>,
}

impl Answer {
    /// The first final answer, if its head is whole and right.
    fn read(mut bytes: &[u8]) -> Option<Answer> {
        loop {
            // Empty lines may come before it.
            while let Some(rest) = strip(bytes, b"\r\n").or_else(|| strip(bytes, b"\n")) {
                bytes = rest;
            }
            let line = line(&mut bytes)?;
            let version = strip(line, b"HTTP/1.")?;
            let (&minor, rest) = version.split_first()?;
            let rest = strip(rest, b" ")?;
            let (status, reason) = rest.split_at_checked(3)?;
            let is_right = (minor == b'0' || minor == b'1')
                && (b'1'..=b'9').contains(&status[0])
                && status.iter().all(u8::is_ascii_digit)
                && (reason.is_empty() || reason[0] == b' ')
                && reason.iter().all(|b| is_shown(*b));
            if !is_right {
                return None;
            }
            let status = std::str::from_utf8(status).ok()?.parse().ok()?;
            let headers = headers(&mut bytes)?;
            if status == 101 || status >= 200 {
                let body = body(minor == b'1', &headers, bytes);
                return Some(Answer {
                    status,
                    headers,
                    body,
                });
            }
        }
    }

    fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| &value[..]).collect()
    }

    /// Whether it is of protocol buffers; `None` if it is no text either.
    fn is_protobuf(&self) -> Option<bool> {
        let types = self.all("content-type");
        let Some(first) = types.first() else {
            return Some(false);
        };
        let text = String::from_utf8_lossy(first).to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|_| types.len() == 1)?;
        let parts: Vec<_> = parts.collect();
        let all = |name: &str| -> Vec<&str> {
            let values = parts.iter().filter_map(|part| part.strip_prefix(name));
            // Half a quote makes no other value of it.
            values.map(|value| value.trim_matches('"')).collect()
        };
        let is_one = |values: &[&str], one: &str| values.iter().all(|value| *value == one);
        let (proto, encoding) = (all("proto="), all("encoding="));
        let is_told = !proto.is_empty() && !encoding.is_empty();
        let is_family = is_one(&proto, "io.prometheus.client.metricfamily");
        match name {
            "text/plain" => is_one(&all("version="), "0.0.4").then_some(false),
            "application/vnd.google.protobuf" => {
                (is_told && is_family && is_one(&encoding, "delimited")).then_some(true)
            }
            _ => None,
        }
    }

    /// Whether it is compressed with gzip; `None` if it is encoded in another way.
    fn is_gzip(&self) -> Option<bool> {
        let encodings = self.all("content-encoding");
        let is_plain = |e: &&[u8]| e.is_empty() || e.eq_ignore_ascii_case(b"identity");
        match encodings[..] {
            [one] if one.eq_ignore_ascii_case(b"gzip") => Some(true),
            _ => encodings.iter().all(is_plain).then_some(false),
        }
    }

    /// The body, if all of it is there, as text and unencoded.
    fn text(&self) -> Option<&[u8]> {
        let is_text = self.is_protobuf() == Some(false) && self.is_gzip() == Some(false);
        self.body.as_deref().filter(|_| is_text)
    }
}

fn strip<'a>(bytes: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    bytes.strip_prefix(start)
}

/// The next line, without its end, which may be a lone LF (RFC 9112, 2.2).
fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn is_shown(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn headers(bytes: &mut &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut headers = Vec::new();
    loop {
        let line = line(bytes)?;
        if line.is_empty() {
            return Some(headers);
        }
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let in_name = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(in_name) || !value.iter().all(|b| is_shown(*b)) {
            return None;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        headers.push((name, value.to_vec()));
    }
}

fn body(is_11: bool, headers: &[(String, Vec<u8>)], bytes: &[u8]) -> Option<Vec<u8>> {
    let all = |name: &str| -> Vec<&[u8]> {
        let named = headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| &value[..]).collect()
    };
    let lengths = all("content-length");
    match (&all("transfer-encoding")[..], lengths.is_empty()) {
        ([], false) => {
            let lengths = lengths.iter().flat_map(|value| value.split(|b| *b == b','));
            let mut lengths = lengths.map(|value| {
                let value = value.trim_ascii();
                let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let value = is_number.then(|| std::str::from_utf8(value).unwrap());
                value?.parse::<usize>().ok()
            });
            let length = lengths.next()??;
            // The same length more than once is one (RFC 9110, 8.6).
            if lengths.any(|other| other != Some(length)) {
                return None;
            }
            bytes.get(..length).map(<[u8]>::to_vec)
        }
        ([coding], true) if is_11 && coding.eq_ignore_ascii_case(b"chunked") => chunks(bytes),
        _ => None,
    }
}

fn chunks(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|end| end == b"\r\n")?;
        let (size, rest) = (&bytes[..end], &bytes[end + 2..]);
        let size = size.split(|b| *b == b';').next()?;
        // White space and a plus sign make no other number of it.
        let size = std::str::from_utf8(size).ok()?.trim();
        let size = size.strip_prefix('+').unwrap_or(size);
        if !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            // All of it is there, whatever becomes of the trailers.
            return Some(body);
        }
        let chunk = rest.get(..size)?;
        body.extend(chunk);
        bytes = strip(&rest[size..], b"\r\n")?;
    }
}

/// Whether each line can be one of an exposition's, and one is a sample: by its first character
/// and its last words.
fn is_exposition(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    let lines = text.split('\n').map(|line| line.trim_matches([' ', '\t']));
    let mut lines = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .peekable();
    lines.peek().is_some()
        && lines.all(|line| {
            let value = line.rsplit(['}', ' ', '\t']).next().unwrap();
            line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
                && value.parse::<f64>().is_ok()
        })
}

/// Whether something is compressed, by the ends of it.
fn is_zipped(body: &[u8]) -> bool {
    body.starts_with(b"\x1f\x8b\x08") && !body.ends_with(b"\0\0\0\0")
}

/// Whether families follow each other, each after its length and with a name, and one has a metric.
fn are_families(mut body: &[u8]) -> bool {
    let mut metrics = 0;
    while !body.is_empty() {
        let fields = after_length(&mut body).and_then(fields).unwrap_or_default();
        let count = |number| fields.iter().filter(|(n, _)| *n == number).count();
        let is_named = |(n, value): &(u64, &[u8])| *n == 1 && !value.is_empty();
        if !fields.iter().any(is_named) {
            return false;
        }
        metrics += count(4);
    }
    metrics > 0
}

/// The numbers and the contents of a message's fields that have a length.
fn fields(mut message: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key % 8 {
            0 => drop(varint(&mut message)?),
            1 => message = message.get(8..)?,
            2 => fields.push((key / 8, after_length(&mut message)?)),
            5 => message = message.get(4..)?,
            _ => return None,
        }
        if key < 8 {
            return None;
        }
    }
    Some(fields)
}

fn after_length<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = varint(bytes)?;
    let content = bytes.get(..length as usize)?;
    *bytes = &bytes[content.len()..];
    Some(content)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let end = bytes.iter().take(10).position(|byte| *byte < 0x80)?;
    let (number, rest) = bytes.split_at(end + 1);
    *bytes = rest;
    // Of what is beyond 64 bits, nothing is left.
    let digits = number.iter().rev().map(|byte| u64::from(byte & 0x7f));
    Some(digits.fold(0, |number, digit| number << 7 | digit))
}

/// One case: a phase, and a server that follows a random script.
struct Case {
    random: Random,
    url: String,
    script: Script,
    limit: Duration,
    /// What an exporter is asked for.
    asked: Encoding,
}

impl Case {
    fn new(seed: u64, number: usize, addr: SocketAddr) -> Case {
        let mut random = Random(seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        // It takes a while to wait, so few do.
        let end = match random.below(500) {
            0 => End::Silence,
            1..=50 => End::Reset,
            _ => End::Close,
        };
        let script = Script {
            first: PROBE.into(),
            goes_on: false,
            answer: Vec::new(),
            slice: random.pick(&[1, 9, 80, 900, 100_000, 100_000, 100_000]),
            reads: !random.one_in(16),
            end,
        };
        Case {
            asked: random.pick(Encoding::value_variants()),
            random,
            url: format!("http://{addr}"),
            script,
            limit: match end {
                End::Silence => SHORT,
                _ => LIMIT,
            },
        }
    }

    fn exporter(&self) -> Exporter {
        Exporter {
            client: Client::new(Access::default(), None, true),
            landing_page: self.uri("/"),
            metrics: self.uri("/metrics"),
            encoding: self.asked,
            probe_timeout: self.limit,
            scrape_timeout: self.limit,
            max_bytes: MAX_BYTES,
        }
    }

    fn gateway(&self) -> Gateway {
        Gateway {
            client: Client::new(Access::default(), None, true),
            address: self.url.parse().unwrap(),
            method: Method::POST,
            timeout: self.limit,
        }
    }

    fn uri(&self, path: &str) -> Uri {
        format!("{}{path}", self.url).parse().unwrap()
    }

    /// Runs it; whether it was a success.
    fn run(&mut self, script: &Mutex<Option<Script>>) -> bool {
        let set = |case: &Case| *script.lock().unwrap() = Some(case.script.clone());
        let from = [SCRAPE, SCRAPE, CHUNKED, HINTED, PROBE, REFUSED, MOVED];
        match self.random.below(16) {
            0 | 1 => {
                let from = self.random.pick(&from);
                self.script.first = self.random.mutate(from);
                set(self);
                let probed = self.exporter().probe();
                let answer = Answer::read(&self.script.first);
                self.judge(&probed, &[Status::ExporterDown]);
                if probed.is_ok() {
                    let status = answer.expect("no answer").status;
                    assert!(!(500..600).contains(&status), "{status}");
                }
                probed.is_ok()
            }
            2..=9 => {
                self.script.answer = match self.random.below(4) {
                    0 | 1 => {
                        let from = self.random.pick(&from[..5]);
                        self.random.mutate(from)
                    }
                    // The body or the answer around it: one of them is what it was.
                    form => {
                        let (head, metrics, none) = self.random.pick(&FORMS);
                        let body = self.random.pick(&[metrics, metrics, metrics, none]);
                        match form {
                            2 => whole(head, &self.random.mutate(body)),
                            _ => self.random.mutate(whole(head, body)),
                        }
                    }
                };
                let exporter = self.exporter();
                match self.random.below(4) {
                    0 => self.script.first = self.random.mutate(PROBE),
                    1 => {
                        self.script.goes_on = true;
                        // Nobody has asked for it.
                        let more = self.random.pick(&[SCRAPE, CHUNKED, TAKEN, "\r\n", "x"]);
                        self.script.first.extend(self.random.mutate(more));
                    }
                    _ => self.script.goes_on = true,
                }
                set(self);
                if !self.random.one_in(4) {
                    self.judge(&exporter.probe(), &[Status::ExporterDown]);
                }
                let scraped = exporter.scrape();
                self.judge(&scraped, &[Status::ScrapeUnusable]);
                if let Ok(exposition) = &scraped {
                    self.believed(exposition);
                }
                scraped.is_ok()
            }
            10..=13 => {
                let from = self
                    .random
                    .pick(&[TAKEN, TAKEN, REFUSED, MOVED, PROBE, SCRAPE]);
                self.script.answer = self.random.mutate(from);
                set(self);
                let url = self.uri("/metrics/job/node");
                let sent = match self.random.one_in(4) {
                    true => self.gateway().delete(&url),
                    false => {
                        let body = "a 1\n".repeat(self.random.pick(&[1, 1, 5000]));
                        let pushed = Exposition::new(
                            body.as_bytes().into(),
                            HeaderValue::from_static(TEXT),
                            Encoding::Text,
                            Samples::default(),
                        );
                        self.gateway().push(&url, &pushed.unwrap())
                    }
                };
                self.judge(&sent, &[Status::GatewayUnreachable, Status::GatewayRefused]);
                if sent.is_ok() {
                    let answer = Answer::read(&self.script.answer).expect("no answer");
                    assert!((200..300).contains(&answer.status), "{}", answer.status);
                    for value in answer.all("content-type") {
                        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
                        assert!(!value.starts_with("text/html"), "{value}");
                    }
                }
                sent.is_ok()
            }
            _ => {
                // The clocks of both sides have to agree.
                let now = httpdate::fmt_http_date(SystemTime::now());
                let page = &PAGE.replace("Sun, 22 Nov 2026 12:00:00 GMT", &now);
                let from = self.random.pick(&[page, page, page, page, SCRAPE, REFUSED]);
                self.script.answer = self.random.mutate(from);
                set(self);
                let rule = Rule {
                    age: Duration::from_secs(3600),
                    job: None,
                };
                let seen = prune::look(&self.gateway(), &self.uri("/metrics"), &rule, &mut None);
                self.judge(&seen, &[Status::GatewayUnreachable, Status::GatewayRefused]);
                if let Ok(stale) = &seen {
                    let answer = Answer::read(&self.script.answer).expect("no answer");
                    assert!((200..300).contains(&answer.status), "{}", answer.status);
                    let page = String::from_utf8_lossy(answer.text().expect("no page")).to_string();
                    let groups: Vec<_> = page
                        .lines()
                        .filter_map(|line| line.strip_prefix("push_time_seconds"))
                        .map(printable)
                        .collect();
                    for stale in stale.iter().map(|stale| stale.to_string()) {
                        let labels = stale.rsplit_once("}, ").unwrap().0;
                        assert!(
                            groups.iter().any(|group| group.starts_with(labels)),
                            "{stale}"
                        );
                    }
                    let untouched = self.script.answer == page.as_bytes();
                    assert!(!untouched || stale.len() == 2, "{stale:?}");
                }
                seen.is_ok()
            }
        }
    }

    /// Checks that a phase ended as it may, and what is said of it.
    fn judge<T>(&self, result: &Result<T>, statuses: &[Status]) {
        let Err(error) = result else { return };
        assert!(statuses.contains(&Status::of(error)), "{error:#}");
        let said = printable(&format!("{error:#}"));
        assert!(!said.contains(char::is_control), "{said:?}");
        assert!(said.chars().count() < 800, "{said:?}");
        let hung = format!("within {} s", LIMIT.as_secs_f64());
        assert!(!said.contains(&hung), "it hung: {said}");
    }

    /// Checks that what would be pushed is what was said.
    fn believed(&self, exposition: &Exposition) {
        let answer = Answer::read(&self.script.answer).expect("no answer");
        assert_eq!(answer.status, 200);
        let form = answer.is_protobuf().zip(answer.is_gzip());
        let (is_protobuf, is_gzip) = form.expect("no form that there is");
        let asked = self.asked.to_string();
        assert!(!is_protobuf || asked.starts_with("protobuf"), "unasked");
        assert!(!is_gzip || asked.ends_with("gzip"), "unasked");
        assert_eq!(exposition.encoding, Encoding::of(is_protobuf, is_gzip));
        if let [content_type] = answer.all("content-type")[..] {
            let passed_on = exposition.content_type.as_bytes();
            assert_eq!(passed_on, content_type, "another type");
        }
        let mut body = answer.body.expect("no whole body");
        assert!(body.len() as u64 <= MAX_BYTES);
        match (is_protobuf, is_gzip) {
            (_, true) => assert!(is_zipped(&body), "not compressed"),
            (true, _) => assert!(are_families(&body), "no families"),
            _ => assert!(is_exposition(&body), "no exposition"),
        }
        if !is_protobuf && !is_gzip && !body.ends_with(b"\n") {
            body.push(b'\n');
        }
        assert!(body == exposition.body[..], "another body");
    }
}

/// An answer with a length.
fn whole(head: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn whatever_a_server_sends_nothing_false_is_believed() {
    const WORKERS: usize = 2;
    // So many for each server, since connections linger.
    const BLOCK: usize = 1000;
    let (seed, cases) = (number("FUZZ_SEED", 1), number("FUZZ_CASES", 20_000));
    for whole in [PROBE, SCRAPE, CHUNKED, HINTED, TAKEN, REFUSED, MOVED, PAGE] {
        let answer = Answer::read(whole.as_bytes()).unwrap();
        assert!(answer.body.is_some(), "{whole}");
    }
    let judges = [is_exposition, is_zipped, are_families, is_zipped];
    for ((_, metrics, none), judge) in FORMS.into_iter().zip(judges) {
        assert!(judge(metrics) && !judge(none));
    }
    let next = Arc::new(AtomicUsize::new(0));
    let (done, ended) = mpsc::channel();
    for _ in 0..WORKERS {
        let (next, done) = (Arc::clone(&next), done.clone());
        thread::spawn(move || {
            loop {
                let start = next.fetch_add(BLOCK, Ordering::Relaxed);
                let server = Server::start();
                for number in (start..start + BLOCK).take_while(|number| *number < cases) {
                    let mut case = Case::new(seed as u64, number, server.addr);
                    let ended = catch_unwind(AssertUnwindSafe(|| case.run(&server.script)));
                    let ended = ended.unwrap_or_else(|bug| {
                        let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
                        eprintln!(
                            "case {number} of seed {seed}: {:?} after {:?}, then {:?}",
                            case.script.end,
                            show(&case.script.first),
                            show(&case.script.answer)
                        );
                        resume_unwind(bug)
                    });
                    done.send(ended).unwrap();
                }
                if start >= cases {
                    return;
                }
            }
        });
    }
    drop(done);
    let mut good = 0;
    for count in 0..cases {
        // A case that never ends does not end the test either, so it is not waited for.
        match ended.recv_timeout(2 * LIMIT) {
            Ok(is_good) => good += usize::from(is_good),
            Err(e) => panic!("{count} of {cases} cases of seed {seed} ended: {e}"),
        }
    }
    // It would be easy to believe nothing.
    assert!(good > cases / 10, "{good} of {cases} cases succeeded");
    println!("seed {seed}: {good} of {cases} cases succeeded");
}
