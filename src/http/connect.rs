//! Opens connections within a time limit: host name or Unix socket, proxy, TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustls::ClientConfig;
use ureq::http::Uri;
use ureq::unversioned::transport::LazyBuffers;

use super::address::Address;
use super::proxy::Proxy;
use super::transport::{Connection, RequestState, Socket, Stream};
use super::{resolver, tls};
use crate::logging::quote;

/// Largest head of a response, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;

/// Size of ureq's buffers for input and output, in bytes. They are zeroed, so larger ones are slower.
const BUFFER: usize = 16 * 1024;

/// The way to a server.
pub struct Route {
    /// The server.
    pub address: Address,
    /// On the way to it. An https connection goes through it by a tunnel.
    pub proxy: Option<Proxy>,
    /// How to speak TLS, if the address is an https one.
    pub tls: Option<Arc<ClientConfig>>,
    /// Has the deadline.
    pub state: Arc<RequestState>,
}

impl Route {
    /// The proxy, if it sees the requests.
    pub fn request_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    /// Opens a connection for a request for `url`.
    pub fn connect(&self, url: &Uri) -> io::Result<Connection> {
        let nearest = self.proxy.as_ref().map_or(&self.address, |proxy| &proxy.address);
        let fd = match &nearest.socket {
            Some(path) => self.connect_unix(path)?,
            None => self.connect_tcp(nearest)?,
        };
        let state = Arc::clone(&self.state);
        let mut socket = Socket { fd, is_plain: self.tls.is_none(), state };
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some(config) => {
                if let Some(proxy) = &self.proxy {
                    self.state.expect("no response from the proxy");
                    open_tunnel(&mut socket, &self.address, proxy)?;
                }
                self.state.expect("its TLS handshake was not finished");
                Box::new(tls::handshake(socket, Arc::clone(config), &self.address.host)?)
            }
        };
        let origin = self.request_proxy().map(|_| self.address.origin());
        // ureq writes each line of a request in one piece, and the first holds the path.
        let path = url.path_and_query().map_or(0, |path| path.as_str().len());
        let buffers = LazyBuffers::new(BUFFER, BUFFER.max(path + 1024));
        Ok(Connection { stream, is_tls: self.tls.is_some(), buffers, origin })
    }

    fn connect_tcp(&self, address: &Address) -> io::Result<OwnedFd> {
        self.state.expect("its name was not resolved");
        let addresses = resolver::resolve(&address.host, address.port, self.state.time_left()?)?;
        self.state.expect("no connection");
        let mut last = io::Error::other("its name has no address");
        for (index, addr) in addresses.iter().enumerate() {
            // Each but the last gets half of the time left, so that one silent address does not end the run.
            let left = self.state.time_left()?;
            let share = if index + 1 == addresses.len() { left } else { left / 2 };
            match TcpStream::connect_timeout(addr, share) {
                Ok(stream) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    return Ok(stream.into());
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn connect_unix(&self, path: &Path) -> io::Result<OwnedFd> {
        self.state.expect("no connection");
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // It bounds the wait for room in the listener's queue, too.
        set_socket_timeout(&fd, Timeout::Send, Some(self.state.time_left()?))?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(fd)
    }
}

/// Asks a proxy for a connection to the server.
fn open_tunnel(socket: &mut Socket, server: &Address, proxy: &Proxy) -> io::Result<()> {
    let target = format!("{}:{}", server.host, server.port);
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend([b"Proxy-Authorization: ", authorization.as_bytes(), b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    socket.write_all(&request)?;
    let mut head = Vec::new();
    // Byte by byte: what follows the head comes from the server.
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read(&mut byte)? == 0 || head.len() == MAX_HEAD {
            return Err(io::Error::other("the proxy does not answer as a proxy"));
        }
        head.push(byte[0]);
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    match line.split(|b| *b == b' ').nth(1) {
        Some([b'2', ..]) => Ok(()),
        _ => Err(io::Error::other(format!("the proxy answered {}", quote(line)))),
    }
}
