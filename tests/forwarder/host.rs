//! The machine that the tests run on: ports, programs, namespaces, waiting.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

/// A port of the loopback interface that no program listens on. It lies below the range from which the
/// kernel takes ports for outgoing connections, and no other test of this process gets it.
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

/// An address where no program listens.
pub fn unused_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Waits until `condition` returns a value.
pub fn wait_for<T>(awaited: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{awaited}: not within a minute");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The path of the first of these programs that is installed.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&path).collect();
    let mut paths = names.iter().flat_map(|name| directories.iter().map(move |dir| dir.join(name)));
    paths.find(|path| path.is_file())
}

/// The same, for programs that every test machine has.
pub fn program(names: &[&str]) -> PathBuf {
    find_program(names)
        .unwrap_or_else(|| panic!("none of {names:?} is installed: tests/run.sh does that"))
}

/// The path of a program that a script puts into the target directory.
pub fn fetched_program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name)
}

/// Whether a test can use a newer Pushgateway than the distribution's.
pub fn has_newer_pushgateway() -> bool {
    let program = fetched_program("pushgateway-newer");
    require(program.is_file(), "Pushgateway 1.11.1 or newer: tests/newer-programs.sh gets it")
}

pub fn has_victoria_metrics() -> bool {
    let are_there =
        ["victoria-metrics", "vmagent", "vmalert"].map(|name| fetched_program(name).is_file());
    require(
        are_there == [true; 3],
        "VictoriaMetrics 1.84 or newer: tests/newer-programs.sh gets it",
    )
}

/// Whether a test can have its own namespaces on this machine.
pub fn has_namespaces() -> bool {
    let kinds = ["--mount", "--net", "ip", "link"];
    let output = Command::new("unshare").args(kinds).output();
    output.is_ok_and(|output| output.status.success())
}

/// Runs the test of this full name again, in its own network and mount namespaces. Returns whether this is
/// already that run.
pub fn enter_own_namespaces(test: &str) -> bool {
    const INSIDE: &str = "PGW_FORWARDER_TEST_NAMESPACES";
    if env::var_os(INSIDE).is_none() {
        let output = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "yes")
            .output()
            .unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
        // With a wrong name, none would run, and none would fail.
        let has_passed = output.status.success() && stdout.contains("1 passed");
        assert!(has_passed, "{test} in its namespaces: {stdout}{stderr}");
        return false;
    }
    run_command("ip link set lo up");
    true
}

/// Runs a command line without quotes, and returns its output.
pub fn run_command(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a test can run. If it cannot, a line says what it needs; in CI, that is a failure.
pub fn require(can: bool, needs: &str) -> bool {
    assert!(can || env::var_os("CI").is_none_or(|ci| ci != "true"), "{needs}");
    if !can {
        eprintln!("skipped: {needs}");
    }
    can
}
