//! Random responses to the whole program: whatever an exporter or a gateway sends, a run ends as documented,
//! and it believes only responses that an independent reader believes, too.
//!
//! A failure prints its seed and case: `FUZZ_SEED=1 FUZZ_FIRST=123 FUZZ_CASES=1` repeats case 123 alone.
//! For a million cases:
//!
//! `FUZZ_PROGRAM=target/release/pgw-forwarder FUZZ_CASES=1000000 cargo test --release --test forwarder
//! client_fuzz -- --nocapture`
//!
//! Run them as root in a network of their own (`unshare --net`, then `ip link set lo up`). Elsewhere, two
//! million connections may use up the ports, or fill a firewall's table of connections.

use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, thread};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::read::GzDecoder;
use percent_encoding::percent_decode_str;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::fake::{Request, date, read_head, reset};
use crate::host::Complete;
use crate::http_reader::{Response, is_exposition};
use crate::run::FORWARDER;

/// A time limit in seconds that no run comes near, unless it hangs.
const LONG: &str = "30";

/// When a run counts as hanging.
const HANG: Duration = Duration::from_secs(60);

/// Limits of the response's size. Some responses are larger, and valid up to there.
const MAX_BYTES: [usize; 6] = [21, 40, 9000, 9000, 9000, 9000];

/// Age of the groups to prune, in seconds.
const STALE: f64 = 3600.0;

/// The path of the group that a run pushes or deletes.
const GROUP: &str = "/metrics/job/node/instance/n";

/// The path of the group of its reports.
const REPORT: &str = "/metrics/job/pgw_forwarder/instance/n/forwarded_job/node";

const SCRAPE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
    Date: Sun, 22 Nov 2026 12:00:00 GMT\r\nContent-Length: 83\r\n\r\n\
    # HELP up b\n# TYPE up gauge\nup{a=\"b\"} 1\nload 0.5\n\nnan NaN\n inf +Inf\n{\"a.b\",c=\"d\"} 2";

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n\
    1c\r\n# HELP up b\n# TYPE up gauge\n\r\n19;x=y\r\nup{a=\"b\"} 1\nload 0.5\nc 2\n\r\n0\r\nX-Trailer: a\r\n\r\n";

const HINTED: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
    HTTP/1.0 200 OK\r\nContent-Length: 9\r\nConnection: keep-alive\r\n\r\nup 1\nc 2\n";

const UNFRAMED: &str =
    "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n# TYPE up gauge\nup 1\nload 0.5\n";

const HTML: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
    Content-Length: 31\r\n\r\n<html><h1>Node Exporter</h1>\r\n\n";

const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\nX-Server-Hostname: v\r\n\r\n";

const REFUSED: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Length: 22\r\n\r\npushed metrics: no\x1b[2J";

const MOVED: &str = "HTTP/1.1 301 Moved\r\nLocation: http://push.example/\u{9b}\r\n\
    Transfer-Encoding: chunked\r\n\r\n5\r\n<html\r\n0\r\n\r\n";

/// Metrics of a gateway with two stale groups and a fresh one.
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nDATE\
    Content-Length: 256\r\n\r\n\
    push_failure_time_seconds{instance=\"n\",job=\"j\"} 0\n\
    push_time_seconds{instance=\"\",job=\"j\"} 1.7e+09\n\
    push_time_seconds{instance=\"m\",job=\"j\"} 9e+99\n\
    push_time_seconds{instance=\"n\\n\\\"\",job=\"j\"} 0\n\
    # HELP x y\npushgateway_build_info{version=\"1.4.2\",goversion=\"g\"} 1\n";

/// Texts that mutations insert, separated by bars.
const TOKENS: &str = "\r\n|\n|\r|\r\n\r\n|\0|\x1b[2J|\u{9b}|\u{202e}| |\t|\r\n |:|;|,|\"|{|}|#|0|1|-1|+1|0x1|7f|\
    ffffffffffffffff|18446744073709551616|99999999|0\r\n\r\n|1\r\n\n\r\n|a 1\n|a{b=\"c\"} 1\n|{\"a\"} 1\n|\
    <html>\n|# EOF\n|HTTP/1.1 200 OK\r\n|HTTP/1.1 100 Continue\r\n\r\n|HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n|\
    HTTP/1.1 101 Switching Protocols\r\n\r\n|HTTP/1.1 204 No Content\r\n\r\n|HTTP/1.0|HTTP/1.1|HTTP/2.0|\
    099|204|206|302|304|503|999|é|\u{feff}|push_time_seconds{job=\"k\"} 1\n|push_time_seconds{job=\"\\x\"} 1\n";

/// Headers that mutations insert among others.
const HEADERS: &str = "Content-Length: 5\r\n|Content-Length: 0\r\n|Content-Length: 97, 97\r\n|\
    Transfer-Encoding: chunked\r\n|Transfer-Encoding: gzip\r\n|Content-Encoding: gzip\r\n|\
    Content-Encoding: identity\r\n|Content-Encoding: x, deflate\r\n|Content-Type: text/html\r\n|\
    Content-Type: application/openmetrics-text\r\n|Connection: close\r\n|Location: file:///etc/passwd\r\n|\
    Date: yesterday\r\n|X: a\r\n b\r\n";

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

    fn token(&mut self, tokens: &str) -> Vec<u8> {
        self.pick(&tokens.split('|').collect::<Vec<_>>()).into()
    }

    /// A part of `len` bytes, mostly a short one.
    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len + 1);
        let most = if self.one_in(4) { len - start } else { (len - start).min(8) };
        start..start + self.below(most + 1)
    }

    /// An index below `end` that `is_right`; without one, `end`.
    fn index(&mut self, end: usize, is_right: impl Fn(usize) -> bool) -> usize {
        let found: Vec<_> = (0..end).filter(|at| is_right(*at)).collect();
        if found.is_empty() { end } else { self.pick(&found) }
    }

    /// Changes a response in a few ways, mostly in one only: what is nearly right passes most checks.
    fn mutate(&mut self, response: impl AsRef<[u8]>) -> Vec<u8> {
        let mut bytes = response.as_ref().to_vec();
        for _ in 0..self.pick(&[0, 1, 1, 1, 1, 2, 2, 3, 5, 9]) {
            let (at, part) = (self.below(bytes.len() + 1), self.range(bytes.len()));
            let byte = at..bytes.len().min(at + 1);
            let is_start = |at: usize| at > 0 && bytes[at - 1] == b'\n';
            let (range, new) = match self.below(11) {
                0 => (byte.clone(), bytes[byte].iter().map(|b| b ^ (1 << self.below(8))).collect()),
                1 => (byte, vec![self.next() as u8]),
                2 => (at..bytes.len(), vec![]),
                3 => (part, vec![]),
                4 => (at..at, bytes[part].to_vec()),
                5 => (part, self.token(TOKENS)),
                6 => {
                    let at = self.index(bytes.len(), |at| bytes[at].is_ascii_hexdigit());
                    (at..bytes.len().min(at + 1), vec![self.pick(b"0123456789abcdefF")])
                }
                7 => (at..at, vec![self.next() as u8; self.pick(&[2, 400, 9000])]),
                8 => {
                    let at = self.index(bytes.len(), is_start);
                    (at..at, self.token(TOKENS))
                }
                9 => {
                    let head = bytes.windows(4).rposition(|end| end == b"\r\n\r\n");
                    let at = self.index(head.map_or(0, |end| end + 3), is_start);
                    (at..at, self.token(HEADERS))
                }
                _ => (at..at, self.token(TOKENS)),
            };
            bytes.splice(range, new);
        }
        bytes
    }
}

/// How a server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Close,
    Reset,
    Silence,
}

/// How a server treats a connection.
struct Script {
    response: Vec<u8>,
    /// Bytes that it sends at a time.
    slice: usize,
    /// Whether it reads the body of the request first.
    reads: bool,
    end: End,
}

impl Script {
    fn good(response: impl Into<Vec<u8>>) -> Script {
        Script { response: response.into(), slice: usize::MAX, reads: true, end: End::Close }
    }

    /// Serves a connection. The request counts as soon as its head has been read.
    fn follow(&self, stream: &mut TcpStream, requests: &mut Vec<Request>) -> io::Result<()> {
        let Some(request) = read_head(stream) else {
            return Ok(());
        };
        requests.push(request);
        if let (true, Some(request)) = (self.reads, requests.last_mut()) {
            stream.take(request.length() as u64).read_to_end(&mut request.body)?;
        }
        for slice in self.response.chunks(self.slice) {
            stream.write_all(slice)?;
        }
        if self.end == End::Reset {
            reset(stream);
        }
        Ok(())
    }
}

impl Debug for Script {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let start = &self.response[..self.response.len().min(1000)];
        write!(f, "{:?}, {}, {}, ", self.end, self.slice, self.reads)?;
        write!(f, "\"{}\"", start.escape_ascii())
    }
}

/// The action of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    /// Scrapes a hostile exporter. In the other cases, the gateway is hostile.
    Scrape,
    Push,
    Delete,
    Prune,
}

/// One run, and the servers that it meets.
#[derive(Debug)]
struct Case {
    action: Action,
    exporter: Script,
    gateway: Script,
    is_unix: bool,
    allow_unframed: bool,
    compression: &'static str,
    /// Seconds that the hostile server has.
    limit: &'static str,
    max_bytes: usize,
    /// Whether the hostile server is a good one: nothing was mutated.
    is_intact: bool,
}

/// How a run ended.
struct Ended {
    status: Option<i32>,
    stderr: String,
    /// The gateway's requests.
    requests: Vec<Request>,
}

impl Case {
    fn new(seed: u64, number: usize) -> Case {
        use Action::{Delete, Prune, Push, Scrape};
        let mut random = Random(seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        let page = &PAGE.replace("DATE", &date(0))[..];
        let (action, responses) = match random.below(16) {
            0..=8 => (Scrape, [SCRAPE, SCRAPE, CHUNKED, HINTED, UNFRAMED, HTML, REFUSED, MOVED]),
            9..=13 => {
                let action = random.pick(&[Push, Push, Push, Delete]);
                (action, [ACCEPTED, ACCEPTED, ACCEPTED, NO_CONTENT, REFUSED, MOVED, HTML, SCRAPE])
            }
            _ => (Prune, [page, page, page, page, page, page, SCRAPE, REFUSED]),
        };
        let original = random.pick(&responses);
        let response = match original.split_once("\r\n\r\n") {
            // With the right length, the body decides.
            Some((_, body)) if action == Scrape && random.one_in(4) => {
                let body = random.mutate(body);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                [head.as_bytes(), &body].concat()
            }
            _ => random.mutate(original),
        };
        // Silence takes time.
        let end = match random.below(500) {
            0 => End::Silence,
            1..=50 => End::Reset,
            _ => End::Close,
        };
        let limit = match end {
            End::Silence => "0.05",
            _ if random.one_in(50) => random.pick(&["0.001", "0.003"]),
            _ => LONG,
        };
        let slice = random.pick(&[1, 9, 80, 900, usize::MAX, usize::MAX, usize::MAX]);
        let reads = !random.one_in(16);
        let is_intact = response == original.as_bytes();
        let is_intact = is_intact && reads && end == End::Close && limit == LONG;
        let hostile = Script { response, slice, reads, end };

        let large = "a 1\n".repeat(2000);
        let large = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{large}", large.len());
        let (exporter, gateway) = match action {
            Scrape => (hostile, Script::good(ACCEPTED)),
            _ => (Script::good(random.pick(&[SCRAPE, SCRAPE, CHUNKED, &large])), hostile),
        };
        Case {
            action,
            exporter,
            gateway,
            is_unix: random.one_in(4),
            allow_unframed: random.one_in(4),
            compression: random.pick(&["none", "gzip"]),
            limit,
            max_bytes: if action == Scrape { random.pick(&MAX_BYTES) } else { MAX_BYTES[5] },
            is_intact,
        }
    }

    fn command(&self, servers: &Servers) -> Command {
        let path = |name| servers.directory.path().join(name).display().to_string();
        let exporter = match self.is_unix {
            true => format!("unix:{}", path("socket")),
            false => servers.exporter.local_addr().unwrap().to_string(),
        };
        let (scrape_limit, push_limit) = match self.action {
            Action::Scrape => (self.limit, LONG),
            _ => (LONG, self.limit),
        };
        let args: &[_] = match self.action {
            Action::Scrape | Action::Push => &[],
            Action::Delete => &["--delete".into()],
            Action::Prune => &["--prune".into(), STALE.to_string()],
        };
        let mut command = Command::new(env::var("FUZZ_PROGRAM").unwrap_or(FORWARDER.into()));
        command
            .args(args)
            .env_clear()
            .env("EXPORTER_ADDR", exporter)
            .env("EXPORTER_ALLOW_UNFRAMED", self.allow_unframed.to_string())
            .env("EXPORTER_PROBE_TIMEOUT", scrape_limit)
            .env("EXPORTER_SCRAPE_TIMEOUT", scrape_limit)
            .env("EXPORTER_MAX_BYTES", self.max_bytes.to_string())
            .env("PGW_ADDR", servers.gateway.local_addr().unwrap().to_string())
            .env("PGW_INSTANCE", "n")
            .env("PGW_COMPRESSION", self.compression)
            .env("PGW_PUSH_TIMEOUT", push_limit)
            .env("FORWARDER_LOCK_FILE", path("lock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program; the servers follow their scripts until it has ended.
    fn run(&self, servers: &Servers) -> Ended {
        let mut child = self.command(servers).spawn().unwrap();
        let mut pipe = child.stderr.take().unwrap();
        let (mut stderr, mut requests, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let Servers { exporter, socket, gateway, .. } = servers;
            let fds = [exporter.as_fd(), socket.as_fd(), gateway.as_fd(), pipe.as_fd()];
            let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            let limit = Timespec::try_from(HANG).unwrap();
            assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "the run hangs");
            let ready = fds.iter().position(|fd| !fd.revents().is_empty());
            let stream: OwnedFd = match ready {
                Some(0) => exporter.accept().unwrap().0.into(),
                Some(1) => socket.accept().unwrap().0.into(),
                Some(2) => gateway.accept().unwrap().0.into(),
                // The end of the program is seen after its last connection.
                _ => {
                    let mut buffer = [0; 4096];
                    match pipe.read(&mut buffer).unwrap() {
                        0 => break,
                        amount => stderr.extend(&buffer[..amount]),
                    }
                    continue;
                }
            };
            let mut stream = TcpStream::from(stream);
            stream.set_read_timeout(Some(HANG)).unwrap();
            stream.set_write_timeout(Some(HANG)).unwrap();
            let is_gateway = ready == Some(2);
            let (deletion, mut scrapes) = (Script::good(ACCEPTED), Vec::new());
            let script = match (is_gateway, self.action) {
                (false, _) => &self.exporter,
                (true, Action::Prune) if !requests.is_empty() => &deletion,
                (true, _) => &self.gateway,
            };
            let seen = if is_gateway { &mut requests } else { &mut scrapes };
            let served = script.follow(&mut stream, seen);
            let hangs = served.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
            assert!(!hangs, "the run neither goes on nor ends");
            if script.end == End::Silence {
                silent.push(stream);
            }
        }
        let status = child.complete().status.code();
        Ended { status, stderr: String::from_utf8(stderr).unwrap(), requests }
    }

    /// The exposition that a run may push.
    fn exposition(&self) -> Option<Vec<u8>> {
        let response = Response::read(&self.exporter.response)?;
        let codings = response.header("content-encoding");
        let is_refused = codings.split(',').any(|c| ["gzip", "deflate"].contains(&c.trim()))
            || response.header("content-type").contains("application/openmetrics-text");
        let mut body = response.body.clone()?;
        let is_end = match self.exporter.end {
            End::Close => true,
            // A Unix socket knows no reset.
            End::Reset => self.is_unix,
            End::Silence => false,
        };
        let is_unframed = self.allow_unframed && response.header("transfer-encoding").is_empty();
        let is_complete = response.is_framed || is_unframed && is_end && body.ends_with(b"\n");
        let fits = body.len() <= self.max_bytes;
        let is_good = response.status == 200 && !is_refused && is_complete && fits;
        let is_good = is_good && is_exposition(&body);
        if !body.ends_with(b"\n") {
            body.push(b'\n');
        }
        is_good.then_some(body)
    }

    /// Checks how a run ended; returns its status.
    fn judge(&self, ended: &Ended) -> usize {
        let status = ended.status.expect("it was killed");
        let statuses = if self.action == Action::Scrape { [0, 4, 5] } else { [0, 6, 7] };
        assert!(statuses.contains(&status), "status {status}");
        let mut errors = 0;
        for line in ended.stderr.lines() {
            assert!(line.len() < 1500 && !line.contains(char::is_control), "{line:?}");
            assert!(!line.contains("this is a bug") && !line.contains(&format!("within {LONG} s")));
            if line.starts_with("pgw-forwarder: error: ") {
                assert!(line.ends_with(&format!(". (exit status {status})")));
                errors += 1;
            } else {
                assert!(line.starts_with("pgw-forwarder: warn: not deleted: {"));
                assert_eq!(self.action, Action::Prune);
            }
        }
        assert_eq!(errors, usize::from(status != 0));

        let response = Response::read(&self.gateway.response);
        let may_succeed = match self.action {
            Action::Prune => self.judge_prune(ended, response),
            Action::Scrape | Action::Push => self.judge_push(ended) && is_done(response),
            Action::Delete => {
                // The report is a group of its own.
                let requests = [GROUP, REPORT].map(|path| format!("DELETE {path} "));
                let is_delete = |head: &str| requests.iter().any(|start| head.starts_with(start));
                assert!(ended.requests.iter().all(|found| is_delete(&found.head)));
                is_done(response)
            }
        };
        assert!(status != 0 || may_succeed, "success, though the response is not good");
        assert!(
            status == 0 || !may_succeed || !self.is_intact,
            "failure, though the response is good"
        );
        status as usize
    }

    /// Checks what was pushed; returns whether anything may be.
    fn judge_push(&self, ended: &Ended) -> bool {
        let exposition = self.exposition();
        for request in &ended.requests {
            let wanted = exposition.as_ref().expect("pushed, though the response is not good");
            assert!(request.head.starts_with(&format!("POST {GROUP} ")));
            assert_eq!(request.header("content-type"), Some("text/plain; version=0.0.4"));
            let coding = request.header("content-encoding").unwrap_or("none");
            assert_eq!(coding, self.compression);
            let mut body = request.body.clone();
            if body.len() < request.length() {
                // The gateway did not read all of it.
                continue;
            }
            if coding == "gzip" {
                body.clear();
                GzDecoder::new(&request.body[..]).read_to_end(&mut body).unwrap();
            }
            assert!(body == *wanted, "pushed: {}", body.escape_ascii());
        }
        match ended.status {
            Some(4 | 5) => assert_eq!(ended.requests.len(), 0),
            Some(0) => assert_eq!(ended.requests.len(), 1),
            _ => assert!(ended.requests.len() <= 1),
        }
        exposition.is_some()
    }

    /// Checks what was deleted; returns whether the gateway's metrics can be read.
    fn judge_prune(&self, ended: &Ended, response: Option<Response>) -> bool {
        let response = response.filter(|found| found.status == 200 && found.is_framed);
        let body = response.and_then(|found| found.body).unwrap_or_default();
        let page = String::from_utf8_lossy(&body);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        // The label sets of the stale groups, and the clocks may differ by a minute.
        let stale = page.lines().filter_map(|line| {
            let (labels, time) = line.strip_prefix("push_time_seconds{")?.rsplit_once("} ")?;
            let is_stale = time.parse::<f64>().is_ok_and(|time| time < now - STALE + 120.0);
            is_stale.then(|| labels.trim_end_matches(','))
        });
        let stale: Vec<_> = stale.collect();
        for (index, request) in ended.requests.iter().enumerate() {
            if index == 0 {
                assert!(request.head.starts_with("GET /metrics "));
                continue;
            }
            assert_eq!(request.method(), "DELETE");
            let key = read_key(request.path());
            let length = key.iter().map(|label| label.len() + 1).sum::<usize>() - 1;
            let is_shown = |labels: &&str| {
                let is_all = labels.len() == length
                    // The gateway shows an empty instance for none.
                    || labels.len() == length + ",instance=\"\"".len();
                is_all && key.iter().all(|label| labels.contains(label))
            };
            assert!(stale.iter().any(is_shown), "deleted: {key:?}");
        }
        if self.is_intact && !stale.is_empty() {
            // Two for the group that may have no instance.
            assert_eq!(ended.requests.len(), 1 + 3);
        }
        page.contains("pushgateway_build_info{")
    }
}

/// Whether a gateway says that it has done what it was asked.
fn is_done(response: Option<Response>) -> bool {
    let response = response.filter(|found| (200..300).contains(&found.status));
    response.and_then(|found| found.body).is_some_and(|body| body.is_empty())
}

/// The labels in the path of a group, each as the gateway shows it.
fn read_key(path: &str) -> Vec<String> {
    let parts: Vec<_> = path.split('/').skip(2).collect();
    let label = |pair: &[&str]| {
        let (name, value) = match pair[0].strip_suffix("@base64") {
            Some(name) => (name, URL_SAFE_NO_PAD.decode(pair[1].trim_end_matches('=')).unwrap()),
            None => (pair[0], percent_decode_str(pair[1]).collect()),
        };
        let value = String::from_utf8(value).unwrap();
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    parts.chunks(2).map(label).collect()
}

/// The servers of a worker, which serve all of its cases.
struct Servers {
    directory: TempDir,
    exporter: TcpListener,
    socket: UnixListener,
    gateway: TcpListener,
}

#[test]
fn random_response_is_believed_only_if_it_is_complete_and_right() {
    let number = |name: &str, default| {
        env::var(name).map_or(default, |number| number.parse::<usize>().unwrap())
    };
    let (seed, first) = (number("FUZZ_SEED", 1), number("FUZZ_FIRST", 0));
    let end = first + number("FUZZ_CASES", 4000);
    let (next, statuses) = (AtomicUsize::new(first), <[AtomicUsize; 8]>::default());
    let worker = || {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixListener::bind(directory.path().join("socket")).unwrap();
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let servers = Servers { directory, exporter: listen(), socket, gateway: listen() };
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return;
            }
            let (case, mut ended) = (Case::new(seed as u64, number), None);
            let run = || case.judge(ended.insert(case.run(&servers)));
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(status) => statuses[status].fetch_add(1, Ordering::Relaxed),
                Err(failure) => {
                    let ended = ended.map(|ended| (ended.status, ended.stderr));
                    eprintln!("case {number} of seed {seed}: {case:#?}\n{ended:?}");
                    // The other worker ends, too.
                    next.store(end, Ordering::Relaxed);
                    resume_unwind(failure);
                }
            };
        }
    };
    thread::scope(|scope| {
        scope.spawn(worker);
        scope.spawn(worker);
    });
    println!("seed {seed}, cases {first} to {end}: runs by their status {statuses:?}");
}
