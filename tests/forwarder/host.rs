//! The machine that the tests run on: ports, programs, namespaces, waiting.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

/// A port of the loopback interface that nothing listens on. It lies below the range from which
/// the kernel takes ports for outgoing connections, and no other test of this process gets it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = process::id() as u16 % 100 * 100;
    loop {
        let port = 15_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An address where nothing listens.
pub fn unused_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Waits until `condition` returns something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Where the first of these programs is that is installed.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&path).collect();
    let places = names.iter().flat_map(|name| directories.iter().map(move |dir| dir.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// The same, of those that have to be there.
pub fn program(names: &[&str]) -> PathBuf {
    find_program(names)
        .unwrap_or_else(|| panic!("none of {names:?} is installed: tests/run.sh does that"))
}

/// A program that a script has put beside what is built.
pub fn fetched_program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name)
}

/// Whether this machine lets a test have namespaces of its own, with the tools for that.
pub fn has_namespaces() -> bool {
    let kinds = ["--mount", "--net", "ip", "link"];
    let output = Command::new("unshare").args(kinds).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs a test of this program again, in a network and with mounts of its own; there, returns.
pub fn enter_own_namespaces(test: &str) -> bool {
    const INSIDE_ALREADY: &str = "PGW_FORWARDER_TEST_NAMESPACES";
    if env::var_os(INSIDE_ALREADY).is_none() {
        let status = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE_ALREADY, "yes")
            .status()
            .unwrap();
        assert!(status.success(), "see above");
        return false;
    }
    run_command("ip link set lo up");
    true
}

/// Runs a command line without quotes, and returns what it says.
pub fn run_command(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Skips a test on a machine that cannot run it, with one line that says what it needs; but not
/// in CI, where nothing is skipped.
pub fn require(can: bool, needs: &str) -> bool {
    assert!(can || env::var_os("CI").is_none_or(|ci| ci != "true"), "{needs}");
    if !can {
        eprintln!("skipped: {needs}");
    }
    can
}
