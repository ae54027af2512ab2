//! The machine that the tests run on: ports, programs, namespaces, waiting.

use std::net::TcpListener;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};

/// The longest time that a test waits for one thing.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// The same for what is made once, or runs a whole test.
pub const MAX_LONG_WAIT: Duration = Duration::from_secs(1200);

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
        assert!(start.elapsed() < MAX_WAIT, "{awaited}: not within {MAX_WAIT:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Programs that end, which a test waits for in no other way: if one hangs, only that test fails.
pub trait Complete: Sized {
    /// Waits for the end of the program, and returns its output. After [`MAX_WAIT`], kills it and panics.
    #[track_caller]
    fn complete(self) -> Output {
        self.complete_within(MAX_WAIT)
    }

    /// The same with another limit.
    #[track_caller]
    fn complete_within(self, limit: Duration) -> Output;
}

impl Complete for Child {
    #[track_caller]
    fn complete_within(self, limit: Duration) -> Output {
        let pid = Pid::from_child(&self);
        let (sender, output) = mpsc::channel();
        #[allow(clippy::disallowed_methods, reason = "another thread has the limit")]
        thread::spawn(move || sender.send(self.wait_with_output().unwrap()));
        output.recv_timeout(limit).unwrap_or_else(|_| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let _ = kill_process(pid, Signal::KILL);
            panic!(
                "the end of \"{}\": not within {limit:?}",
                command.replace('\0', " ").trim_end()
            );
        })
    }
}

impl Complete for &mut Command {
    #[track_caller]
    fn complete_within(self, limit: Duration) -> Output {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn().unwrap_or_else(|e| panic!("{self:?}: {e}"));
        child.complete_within(limit)
    }
}

/// Kills a program, and waits until it has ended.
#[track_caller]
pub fn kill(child: &mut Child) {
    child.kill().unwrap();
    wait_for("the end of a killed program", || child.try_wait().unwrap());
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

/// Whether a test can use these programs, which are newer than the distribution's.
pub fn has_fetched(names: &[&str]) -> bool {
    let is_missing = |name: &&&str| !fetched_program(name).is_file();
    let missing: Vec<_> = names.iter().filter(is_missing).collect();
    require(missing.is_empty(), &format!("{missing:?}: tests/newer-programs.sh gets them"))
}

pub fn has_victoria_metrics() -> bool {
    has_fetched(&["victoria-metrics", "vmagent", "vmalert"])
}

/// Whether a test can have its own namespaces on this machine.
pub fn has_namespaces() -> bool {
    let kinds = ["--mount", "--net", "ip", "link"];
    find_program(&["unshare"]).is_some()
        && Command::new("unshare").args(kinds).complete().status.success()
}

/// Runs the test of this full name again, in its own network and mount namespaces, where this machine allows
/// that; `needs` says why the test needs them. Returns whether this is already that run.
pub fn enter_own_namespaces(test: &str, needs: &str) -> bool {
    const INSIDE: &str = "PGW_FORWARDER_TEST_NAMESPACES";
    if env::var_os(INSIDE).is_none() {
        if !require(has_namespaces(), needs) {
            return false;
        }
        let output = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "yes")
            .complete_within(MAX_LONG_WAIT);
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
#[track_caller]
pub fn run_command(line: &str) -> String {
    run_command_within(MAX_WAIT, line)
}

/// The same with another limit.
#[track_caller]
pub fn run_command_within(limit: Duration, line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).complete_within(limit);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn program_that_hangs_fails_its_test_and_is_named() {
    let run = || Command::new("sleep").arg("86400").complete_within(Duration::from_millis(200));
    let message = catch_unwind(run).unwrap_err().downcast::<String>().unwrap();
    assert_eq!(*message, "the end of \"sleep 86400\": not within 200ms");
}

/// Whether a test can run. If it cannot, a line says what it needs; in CI, that is a failure.
pub fn require(can: bool, needs: &str) -> bool {
    assert!(can || env::var_os("CI").is_none_or(|ci| ci != "true"), "{needs}");
    if !can {
        eprintln!("skipped: {needs}");
    }
    can
}
