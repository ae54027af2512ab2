//! The TCP connection below ureq. It differs from ureq's own in what the forwarder promises:
//! a time limit holds however slowly a peer drips or drinks, and a gateway that refuses a push
//! before it has read all of it is still heard.

use std::fmt::Debug;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustls::ClientConfig;
use ureq::http::Uri;
use ureq::unversioned::transport::{self, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

use crate::body::Body;
use crate::buffers::Buffers;
use crate::exposition::excerpt;
use crate::http::MOST_HEAD;
use crate::proxy::Proxy;
use crate::tls::TlsStream;

/// Bytes of a body that are sent at a time, at most.
const MOST: usize = 128 * 1024;

/// Opens [`Socket`]s.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The proxy at the other end. For http it wants the whole URL in the request line; through
    /// it goes a tunnel for https.
    pub proxy: Option<Arc<Proxy>>,
    /// How to speak TLS, for https.
    pub tls: Option<Arc<ClientConfig>>,
    /// The request that is next or under way.
    pub request: Arc<Sending>,
    /// Bytes of a head to send at a time; each line of it but the first has to fit in.
    pub output: usize,
}

/// What ureq does not know of a request.
#[derive(Debug, Default)]
pub struct Sending {
    body: Mutex<Option<Arc<Body>>>,
    /// Set when the peer stopped reading before all was sent.
    pub cut: AtomicBool,
}

impl Sending {
    /// Says what the next connection is to send: from where it is, while ureq only counts its bytes.
    /// Returns what was said before.
    pub fn replace_body(&self, body: Option<Arc<Body>>) -> Option<Arc<Body>> {
        let mut next = self.body.lock().expect("a panic has ended the process");
        mem::replace(&mut *next, body)
    }
}

impl Connector for Sockets {
    type Out = Socket;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Socket>, Error> {
        let deadline = Deadline::new(details.timeout);
        let mut last = Error::HostNotFound;
        for (index, addr) in details.addrs.iter().enumerate() {
            // Half of the time left for each but the last, so that a silent one is not the end.
            let left = deadline
                .left()
                .map_err(|_| Error::Timeout(Timeout::Connect))?;
            let is_last = index + 1 == details.addrs.len();
            let share = if is_last { left } else { left / 2 };
            match TcpStream::connect_timeout(addr, share.max(Duration::from_millis(1))) {
                Ok(tcp) => {
                    tcp.set_nonblocking(true)?;
                    tcp.set_nodelay(true)?;
                    let proxied = self.proxy.is_some() && !details.needs_tls();
                    let stream: Box<dyn Stream> = match (details.needs_tls(), &self.tls) {
                        (true, Some(tls)) => {
                            if let Some(proxy) = &self.proxy {
                                tunnel(&tcp, details.uri, proxy, &deadline)?;
                            }
                            Box::new(secure(tcp, details.uri, Arc::clone(tls), &deadline)?)
                        }
                        _ => Box::new(tcp),
                    };
                    let path = details.uri.path_and_query().map_or(0, |p| p.as_str().len());
                    return Ok(Some(Socket {
                        stream,
                        // The first line holds the path.
                        buffers: Buffers::new(self.output.max(path + 1024)),
                        is_tls: details.needs_tls(),
                        origin: proxied.then(|| origin(details.uri)),
                        head: Vec::new(),
                        body: self.request.replace_body(None),
                        counted: 0,
                        sent: 0,
                        request: Arc::clone(&self.request),
                    }));
                }
                Err(e) if e.kind() == ErrorKind::TimedOut => {
                    last = Error::Timeout(Timeout::Connect);
                }
                Err(e) => last = e.into(),
            }
        }
        Err(last)
    }
}

/// A non-blocking connection, TCP or TLS on it.
pub trait Stream: Read + Write + Debug + Send + Sync {
    /// The TCP connection, to wait for.
    fn tcp(&self) -> &TcpStream;

    /// Copies what has come without taking it.
    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Reads into the free capacity of `bytes`, of which there is some.
    fn append(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let start = bytes.len();
        bytes.resize(bytes.capacity(), 0);
        let result = self.read(&mut bytes[start..]);
        bytes.truncate(start + result.as_ref().unwrap_or(&0));
        result
    }
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        TcpStream::peek(self, buffer)
    }

    fn append(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        Ok(rustix::io::read(self, spare_capacity(bytes))?)
    }
}

/// Begins to speak TLS.
fn secure(
    tcp: TcpStream,
    url: &Uri,
    config: Arc<ClientConfig>,
    deadline: &Deadline,
) -> Result<TlsStream, Error> {
    let mut stream = TlsStream::new(tcp, config, url.host().unwrap_or_default())?;
    let hangs = |_| io::Error::new(ErrorKind::TimedOut, "its TLS handshake hangs");
    loop {
        match stream.handshake() {
            Ok(true) => return Ok(stream),
            Ok(false) => {
                deadline.left().map_err(hangs)?;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let awaited = match stream.wants_write() {
                    true => PollFlags::IN | PollFlags::OUT,
                    false => PollFlags::IN,
                };
                deadline.wait(stream.tcp(), awaited).map_err(hangs)?;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Asks a proxy for a connection to the host of `url`.
fn tunnel(tcp: &TcpStream, url: &Uri, proxy: &Proxy, deadline: &Deadline) -> Result<(), Error> {
    let target = format!(
        "{}:{}",
        url.host().unwrap_or_default(),
        url.port_u16().unwrap_or(443)
    );
    let authorization = match &proxy.authorization {
        Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        None => String::new(),
    };
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    let mut stream: &TcpStream = tcp;
    // A new connection takes this much at once.
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    // A byte at a time: what follows the head is not the proxy's.
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) if head.len() < MOST_HEAD => head.push(byte[0]),
            Ok(_) => return Err(io::Error::other("the proxy does not answer").into()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                deadline.wait(tcp, PollFlags::IN)?;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => {
            let line = excerpt(line.as_bytes());
            Err(io::Error::other(format!("the proxy answered {line}")).into())
        }
    }
}

/// A connection below HTTP.
#[derive(Debug)]
pub struct Socket {
    stream: Box<dyn Stream>,
    buffers: Buffers,
    is_tls: bool,
    /// What goes before the path in the next request line.
    origin: Option<String>,
    /// A head that waits for the beginning of its body: the server is not to be woken for less.
    head: Vec<u8>,
    body: Option<Arc<Body>>,
    /// How much of the body ureq has counted, and how much was sent.
    counted: usize,
    sent: usize,
    request: Arc<Sending>,
}

/// Sends all of both, unless the peer gives its final answer and reads no further, or is gone: then
/// what is left is dropped and the answer, if there is one, can be read.
fn send(
    stream: &mut dyn Stream,
    cut: &AtomicBool,
    (mut head, mut body): (&[u8], &[u8]),
    deadline: &Deadline,
) -> Result<(), Error> {
    let mut awaited = PollFlags::OUT | PollFlags::IN;
    while !cut.load(Ordering::Relaxed) {
        let step = match (head, body) {
            ([], []) => stream.flush().map(|()| None),
            (head, body) => {
                let both = [IoSlice::new(head), IoSlice::new(body)];
                stream.write_vectored(&both).map(Some)
            }
        };
        match step {
            Ok(None) => break,
            Ok(Some(sent)) => {
                let of_head = sent.min(head.len());
                (head, body) = (&head[of_head..], &body[sent - of_head..]);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if deadline.wait(stream.tcp(), awaited)? == PollFlags::IN {
                    let mut line = [0; 10];
                    match stream.peek(&mut line) {
                        Ok(seen) if line[..seen].starts_with(b"HTTP/1.1 1") => {
                            // "Go on", at a time of its own choice. It stays to be read later.
                            awaited = PollFlags::OUT;
                        }
                        // TLS has something to say to itself.
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        Err(e) if !is_gone(&e) => return Err(e.into()),
                        _ => cut.store(true, Ordering::Relaxed),
                    }
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if is_gone(&e) => cut.store(true, Ordering::Relaxed),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn transport::Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let deadline = Deadline::new(timeout);
        let piece = match (&self.body, self.buffers.is_body) {
            (Some(body), true) => {
                self.counted += amount;
                if self.counted < body.len().min(self.sent + MOST) {
                    return Ok(());
                }
                let piece = &body[self.sent..self.counted];
                self.sent = self.counted;
                piece
            }
            // What ureq counts is not what is to be sent.
            (None, true) => return Err(io::Error::other("a body of nobody").into()),
            (body, false) => {
                let output = &transport::Buffers::output(&mut self.buffers)[..amount];
                // The first bytes of a request are METHOD, a space, and the path.
                let path = output.iter().position(|&b| b == b'/').unwrap_or(0);
                let origin = self.origin.take().unwrap_or_default();
                for part in [&output[..path], origin.as_bytes(), &output[path..]] {
                    self.head.extend_from_slice(part);
                }
                if body.is_some() {
                    return Ok(());
                }
                &[]
            }
        };
        let head = mem::take(&mut self.head);
        send(
            &mut *self.stream,
            &self.request.cut,
            (&head, piece),
            &deadline,
        )
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let deadline = Deadline::new(timeout);
        // An exporter sends what it has so far; to look for more at once would be in vain. (TLS may
        // have something that it has received already.)
        if self.buffers.is_drained && !self.is_tls {
            deadline.wait(self.stream.tcp(), PollFlags::IN)?;
        }
        loop {
            match self.buffers.fill(&mut *self.stream) {
                Ok(amount) => return Ok(amount > 0),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    deadline.wait(self.stream.tcp(), PollFlags::IN)?;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Neither ended nor with bytes that nobody asked for.
        matches!(self.stream.peek(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// The `scheme://host:port` of a URL.
fn origin(url: &Uri) -> String {
    url.to_string()
        .split('/')
        .take(3)
        .collect::<Vec<_>>()
        .join("/")
}

/// Whether an error says that the peer has closed the connection.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::UnexpectedEof
    )
}

/// The end of a time limit.
struct Deadline {
    at: Instant,
    reason: Timeout,
}

impl Deadline {
    fn new(timeout: NextTimeout) -> Deadline {
        // A limit is at most a day (see cli.rs); this keeps "no limit" from overflowing.
        let after = (*timeout.after).min(Duration::from_secs(86_400));
        Deadline {
            at: Instant::now() + after,
            reason: timeout.reason,
        }
    }

    /// The time left, never zero.
    fn left(&self) -> Result<Duration, Error> {
        match self.at.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Error::Timeout(self.reason)),
            left => Ok(left),
        }
    }

    /// Waits until one of `flags`, or an error or the end of the connection, is there.
    fn wait(&self, stream: &TcpStream, flags: PollFlags) -> Result<PollFlags, Error> {
        loop {
            let left = self.left()?;
            let left = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), flags)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(fds[0].revents()),
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
    }
}
