//! Looks up host names within a time limit.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The addresses of `host`, which may be an IP address, IPv6 in brackets.
pub fn resolve(host: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    #[cfg(target_feature = "crt-static")]
    super::static_libc::use_files_and_dns();
    // The C library has no time limit that a caller could set. A thread can be left behind.
    let name = host.to_owned();
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
            sender.send(found).unwrap_or_default()
        })
        .map_err(|e| io::Error::other(format!("no thread to look up its name: {e}")))?;
    receiver.recv_timeout(limit).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
