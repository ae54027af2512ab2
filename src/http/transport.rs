//! The connection below ureq. It differs from ureq's own in two promises: a time limit holds however
//! slowly a peer sends or reads, and a gateway that refuses a push before it has read all of it is heard.

use std::fmt::Debug;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, LazyBuffers, NextTimeout, Transport};

/// Pause before a peer that has sent only interim responses, and reads nothing, is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// A time limit, and the option that sets it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limit(pub Duration, pub &'static str);

/// What a connection and its client know of one request.
#[derive(Debug, Default)]
pub struct RequestState(Mutex<Request>);

#[derive(Debug, Default)]
struct Request {
    end: Option<Instant>,
    limit: Limit,
    /// What is said to be missing when the limit has passed.
    awaited: &'static str,
    is_cut: bool,
}

impl RequestState {
    fn lock(&self) -> MutexGuard<'_, Request> {
        self.0.lock().expect("a panic ends the process")
    }

    /// Begins a time limit, and forgets the request before.
    pub fn begin(&self, limit: Limit) {
        let end = Instant::now().checked_add(limit.0);
        *self.lock() = Request { end, limit, ..Request::default() };
    }

    /// Sets what is said to be missing if the limit passes from now on.
    pub fn expect(&self, awaited: &'static str) {
        self.lock().awaited = awaited;
    }

    /// The time left, never zero.
    pub fn time_left(&self) -> io::Result<Duration> {
        let Request { end, limit: Limit(length, option), awaited, .. } = *self.lock();
        let left = end.and_then(|end| end.checked_duration_since(Instant::now()));
        left.filter(|left| !left.is_zero()).ok_or_else(|| {
            let why = format!("{awaited} within {} s, see {option}", length.as_secs_f64());
            io::Error::new(ErrorKind::TimedOut, why)
        })
    }

    /// Whether the peer stopped reading before everything was sent.
    pub fn is_cut(&self) -> bool {
        self.lock().is_cut
    }
}

/// A connected, non-blocking socket whose reads and writes wait until the deadline of the request.
#[derive(Debug)]
pub struct Socket {
    /// Non-blocking.
    pub fd: OwnedFd,
    /// Whether the peer's bytes are HTTP as they are. Otherwise they are TLS.
    pub is_plain: bool,
    /// Has the deadline.
    pub state: Arc<RequestState>,
}

impl Socket {
    /// Waits at most `limit` for one of `flags`, an error, or the end of the connection.
    fn wait(&self, flags: PollFlags, limit: Duration) -> io::Result<PollFlags> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.fd, flags)];
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(fds[0].revents()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until more can be written, or the peer has begun its final response and reads no further.
    fn wait_to_write(&self) -> io::Result<()> {
        // A peer may say more about TLS itself at any time.
        let flags = if self.is_plain { PollFlags::OUT | PollFlags::IN } else { PollFlags::OUT };
        if self.wait(flags, self.state.time_left()?)? != PollFlags::IN {
            return Ok(());
        }
        let mut seen = [0; 4096];
        match recv(&self.fd, &mut seen, RecvFlags::PEEK) {
            Ok((1.., length)) if is_interim(&seen[..length]) => {
                self.wait(PollFlags::OUT, PAUSE)?;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            _ => self.state.lock().is_cut = true,
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN, self.state.time_left()?)?;
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while !self.state.is_cut() {
            match rustix::io::write(&self.fd, bytes).map_err(io::Error::from) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.wait_to_write()?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if is_gone(&e) => self.state.lock().is_cut = true,
                result => return result,
            }
        }
        // The rest is dropped, so that the peer's response, if there is one, can be read.
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether these bytes are interim responses (1xx), the last of which may be incomplete.
fn is_interim(mut seen: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.1 1";
    while seen.starts_with(START) {
        match seen.windows(4).position(|end| end == b"\r\n\r\n") {
            Some(end) => seen = &seen[end + 4..],
            None => return true,
        }
    }
    START.starts_with(seen)
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

/// What HTTP is spoken over: a socket, or TLS on it.
pub trait Stream: Read + Write + Debug + Send + Sync {}

impl<T: Read + Write + Debug + Send + Sync> Stream for T {}

/// A connection for one request.
#[derive(Debug)]
pub struct Connection {
    /// What HTTP is spoken over.
    pub stream: Box<dyn Stream>,
    /// Whether that is TLS.
    pub is_tls: bool,
    /// ureq's.
    pub buffers: LazyBuffers,
    /// Goes before the path in the request line: a proxy wants the whole URL.
    pub origin: Option<String>,
}

/// The request's own deadline is the only one, so ureq's is not looked at.
impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let output = &self.buffers.output()[..amount];
        match self.origin.take() {
            None => self.stream.write_all(output)?,
            Some(origin) => {
                let path = output.iter().position(|b| *b == b'/').unwrap_or(0);
                let (method, rest) = output.split_at(path);
                self.stream.write_all(&[method, origin.as_bytes(), rest].concat())?;
            }
        }
        Ok(self.stream.flush()?)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let amount =
            self.stream.read(self.buffers.input_append_buf()).map_err(|e| match is_gone(&e) {
                // ureq takes some of these for the regular end of a body without framing.
                true => io::Error::new(ErrorKind::BrokenPipe, e),
                false => e,
            })?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        // It is not used again.
        false
    }

    fn is_tls(&self) -> bool {
        self.is_tls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_responses_are_known_wherever_they_are_split() {
        let hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        for end in 0..=hints.len() {
            assert!(is_interim(&hints[..end]), "{end}");
        }
        for last in ["HTTP/1.1 2", "HTTP/1.1 400 No", "HTTP/1.0", "HTTP/2", "SSH-2.0"] {
            assert!(!is_interim(last.as_bytes()), "{last}");
            assert!(!is_interim(&[hints, last.as_bytes()].concat()), "{last}");
        }
    }
}
