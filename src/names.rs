//! The look-up of the names of hosts.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::thread;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Error, Timeout};

use crate::proxy::Proxy;

/// Looks up the name to connect to: the proxy's where there is one.
#[derive(Debug, Default)]
pub struct Names {
    /// The proxy.
    pub proxy: Option<Arc<Proxy>>,
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let uri = self.proxy.as_ref().map_or(uri, |proxy| &proxy.url);
        let host = uri.host().unwrap_or_default();
        let no_limit = NextTimeout::default();
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return DefaultResolver::default().resolve(uri, config, no_limit);
        }
        use_files_and_dns();
        // A thread keeps a look-up within its limit. ureq's own would panic where there is none.
        let (uri, config) = (uri.clone(), config.clone());
        let look_up = move || DefaultResolver::default().resolve(&uri, &config, no_limit);
        let (sender, receiver) = mpsc::sync_channel(1);
        thread::Builder::new()
            .spawn(move || sender.send(look_up()).unwrap_or_default())
            .map_err(|e| io::Error::new(e.kind(), format!("no thread to look up its name: {e}")))?;
        match receiver.recv_timeout(*timeout.after) {
            Ok(found) => found,
            Err(_) => Err(Error::Timeout(Timeout::Resolve)),
        }
    }
}

/// Keeps the C library, where it is part of the program, to its own two ways to look up a name. Others
/// that `/etc/nsswitch.conf` may list are libraries of the system's, made for the system's C library.
#[cfg(static_libc)]
#[allow(unsafe_code)]
fn use_files_and_dns() {
    use std::ffi::{c_char, c_int};
    use std::sync::Once;

    // From glibc's <nss.h>: overrides what the file says of a database.
    unsafe extern "C" {
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    static ONCE: Once = Once::new();
    // SAFETY: both are strings that end in NUL and live for ever; it is done once, and before any look-up.
    ONCE.call_once(|| unsafe {
        __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr());
    });
}

#[cfg(not(static_libc))]
fn use_files_and_dns() {}
