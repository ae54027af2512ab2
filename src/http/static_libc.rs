//! What a program that contains its own C library needs: the one call that is not safe Rust.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::sync::Once;

// From glibc's <nss.h>: overrides what /etc/nsswitch.conf says about a database.
unsafe extern "C" {
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Keeps glibc to its two built-in ways to look up a host. Others that `/etc/nsswitch.conf` may list are
/// the system's libraries, which were made for the system's C library, and would be loaded.
pub fn use_files_and_dns() {
    static ONCE: Once = Once::new();
    // SAFETY: both are NUL-terminated and live for ever; this runs once, before any lookup.
    ONCE.call_once(|| unsafe {
        __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr());
    });
}
