//! Fake servers, for behaviour that no real program shows.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

/// A request that a fake received: its head, and its body if the fake read it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
    /// The response of the server that the fake is in front of.
    pub reply: Vec<u8>,
}

impl Request {
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn length(&self) -> usize {
        self.header("content-length").map_or(0, |length| length.parse().unwrap())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// The value of a header in the head of a request or response.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A server with the behaviour that a test needs. It ends with the process.
pub struct Fake {
    pub addr: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// Reads each request completely, and sends the bytes that `answer` returns for its path. If there are
    /// none, it closes the connection.
    pub fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Fake {
        Fake::new(move |stream, seen| {
            while let Some(mut request) = read_head(stream) {
                read_body(stream, &mut request);
                let reply = answer(request.path());
                seen.lock().unwrap().push(request);
                if reply.is_empty() || stream.write_all(&reply).is_err() {
                    return;
                }
            }
        })
    }

    /// Reads the head of one request on each connection, then calls `behave`.
    pub fn after_request(behave: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Fake {
        Fake::new(read_first(behave))
    }

    /// The same, on a Unix socket at `path`.
    pub fn on_socket(path: &Path, behave: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Fake {
        let listener = UnixListener::bind(path).unwrap();
        // Neither reading nor writing depends on the kind of socket.
        let accept = move || OwnedFd::from(listener.accept().unwrap().0).into();
        Fake::accepting(format!("unix:{}", path.display()), accept, read_first(behave))
    }

    /// Calls `behave` with each connection, before it has read anything.
    pub fn raw(behave: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Fake {
        Fake::new(move |stream, seen| {
            seen.lock().unwrap().push(Request::default());
            behave(stream);
        })
    }

    fn new(serve: impl Fn(&mut TcpStream, &Mutex<Vec<Request>>) + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        Fake::accepting(addr, move || listener.accept().unwrap().0, serve)
    }

    fn accepting(
        addr: String,
        accept: impl Fn() -> TcpStream + Send + 'static,
        serve: impl Fn(&mut TcpStream, &Mutex<Vec<Request>>) + Send + Sync + 'static,
    ) -> Fake {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            loop {
                let mut stream = accept();
                let (serve, seen) = (Arc::clone(&serve), Arc::clone(&seen));
                thread::spawn(move || serve(&mut stream, &seen));
            }
        });
        Fake { addr, requests }
    }

    /// Passes requests on to the server at `addr`, and records them with their responses.
    pub fn in_front_of(addr: &str) -> Fake {
        Fake::meddling(addr, |_| None)
    }

    /// The same, but a request for which `answer` returns bytes does not reach the server: the fake sends
    /// these. If they are empty, it closes the connection.
    pub fn meddling(
        addr: &str,
        answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Fake {
        let addr = addr.to_owned();
        Fake::new(move |stream, seen| {
            while let Some(mut request) = read_head(stream) {
                read_body(stream, &mut request);
                if let Some(reply) = answer(&request) {
                    seen.lock().unwrap().push(request);
                    if reply.is_empty() || stream.write_all(&reply).is_err() {
                        return;
                    }
                    continue;
                }
                let mut server = TcpStream::connect(&addr).unwrap();
                let head = request.head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
                server.write_all(head.as_bytes()).unwrap();
                server.write_all(&request.body).unwrap();
                let mut reply = Vec::new();
                server.read_to_end(&mut reply).unwrap();
                request.reply.clone_from(&reply);
                seen.lock().unwrap().push(request);
                if reply.is_empty() || stream.write_all(&reply).is_err() {
                    return;
                }
            }
        })
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// A response with a Content-Length. Each of `headers` ends in CRLF.
pub fn response(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Fake\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into()
}

/// The response of an exporter.
pub fn exposition(body: &str) -> Vec<u8> {
    response(200, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", body)
}

/// The header `Date`, so many seconds from now.
pub fn date(seconds: u64) -> String {
    let time = SystemTime::now() + Duration::from_secs(seconds);
    format!("Date: {}\r\n", httpdate::fmt_http_date(time))
}

/// Reads the head of one request, remembers it, and leaves all the rest to `behave`.
fn read_first(
    behave: impl Fn(&mut TcpStream) + Send + Sync + 'static,
) -> impl Fn(&mut TcpStream, &Mutex<Vec<Request>>) + Send + Sync + 'static {
    move |stream, seen| {
        if let Some(request) = read_head(stream) {
            seen.lock().unwrap().push(request);
            behave(stream);
        }
    }
}

/// Reads the head of a request. `None` is the end of the connection.
pub fn read_head(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    Some(Request { head, ..Request::default() })
}

fn read_body(stream: &mut TcpStream, request: &mut Request) {
    let length = request.length() as u64;
    let _ = stream.take(length).read_to_end(&mut request.body);
}

/// Writes `bytes` slowly, one at a time, until the peer closes the connection.
pub fn drip(stream: &mut TcpStream, bytes: impl IntoIterator<Item = u8>) {
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Sends nothing until the peer closes the connection.
pub fn hang(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Makes the end of a connection a reset.
pub fn reset(stream: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
}
