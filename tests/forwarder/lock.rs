//! The lock: one run at a time for each group, and the lock files that a run accepts.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, FileType, FlockOperation, flock, mknodat};
use rustix::process::geteuid;

use crate::fake::{Fake, exposition, hang, response};
use crate::host::{Complete, kill, require, wait_for};
use crate::run::{Ended, Run, copy_program};

/// A user other than the one that runs the tests.
const OTHER_USER: u32 = 65534;

fn exporter() -> Fake {
    Fake::answering(|_| exposition("a 1\n"))
}

fn gateway() -> Fake {
    Fake::answering(|_| response(200, "", ""))
}

/// An exporter that never responds, so that a run keeps its lock.
fn stuck_exporter() -> Fake {
    Fake::after_request(hang)
}

fn with_lock(run: Run, lock: &Path) -> Run {
    run.env("FORWARDER_LOCK_FILE", lock)
}

/// Starts a run that keeps its lock, and waits until it has it.
fn start_holder(run: Run, exporter: &Fake) -> Child {
    let child = run.start();
    wait_for("the scrape", || (exporter.requests().len() == 1).then_some(()));
    child
}

#[test]
fn second_run_of_a_group_exits_with_3_and_names_the_first() {
    let (stuck, exporter, gateway) = (stuck_exporter(), exporter(), gateway());
    let run = |exporter: &Fake| Run::new(&exporter.addr, &gateway.addr).instance("one");
    let mut first = start_holder(run(&stuck), &stuck);
    let pid = format!("another run (PID {})", first.id());
    run(&stuck).end().failed(3, &[&pid]);
    assert_eq!(stuck.requests().len(), 1, "the second run has contacted the exporter");

    // Other groups are not affected.
    run(&exporter).instance("two").end().succeeded();
    run(&exporter).env("PGW_LABELS", "a=b").end().succeeded();
    assert_eq!(gateway.requests().len(), 2);

    // A killed run leaves no lock.
    kill(&mut first);
    run(&exporter).end().succeeded();
    assert_eq!(gateway.requests().len(), 3);
}

#[test]
fn simultaneous_runs_of_a_group_push_one_at_a_time_or_exit_with_3() {
    // Runs that have scraped, and have not pushed.
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let exporter = Fake::answering({
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |_| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            exposition("a 1\n")
        }
    });
    let gateway = Fake::answering(move |_| {
        running.fetch_sub(1, Ordering::SeqCst);
        response(200, "", "")
    });
    let runs: Vec<_> = (0..50).map(|_| Run::new(&exporter.addr, &gateway.addr).start()).collect();
    let mut pushed = 0;
    for ended in runs.into_iter().map(Ended::of) {
        match ended.status {
            Some(0) => {
                ended.succeeded();
                pushed += 1;
            }
            _ => ended.failed(3, &["another run (PID "]),
        }
    }
    assert_eq!(gateway.requests().len(), pushed);
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn delete_exits_with_3_while_a_push_runs() {
    let (stuck, gateway) = (stuck_exporter(), gateway());
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let mut first = start_holder(with_lock(Run::new(&stuck.addr, &gateway.addr), &lock), &stuck);
    let delete = || with_lock(Run::new("127.0.0.1:1", &gateway.addr), &lock).arg("--delete").end();
    delete().failed(3, &["another run"]);
    kill(&mut first);
    delete().succeeded();
    // The group, and that of its reports.
    assert_eq!(gateway.requests().len(), 2);
}

#[test]
fn run_that_sleeps_its_splay_holds_the_lock() {
    let (exporter, gateway) = (exporter(), gateway());
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let run =
        || with_lock(Run::new(&exporter.addr, &gateway.addr).instance("node1.example"), &lock);
    let mut first = run().env("FORWARDER_SPLAY", "3600").start();
    let pid = first.id().to_string();
    let holder = || fs::read_to_string(&lock).unwrap_or_default();
    wait_for("the lock", || (holder().trim() == pid).then_some(()));
    run().end().failed(3, &[&format!("PID {pid}")]);
    assert!(exporter.requests().is_empty());
    kill(&mut first);
    run().end().succeeded();
}

#[test]
fn lock_file_has_the_pid_of_its_holder_and_is_never_deleted() {
    let (stuck, exporter, gateway) = (stuck_exporter(), exporter(), gateway());
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let run = |exporter: &Fake| with_lock(Run::new(&exporter.addr, &gateway.addr), &lock);
    // From a run that was killed, after a crash of the machine.
    fs::write(&lock, "\0 0004194304\n").unwrap();
    let mut first = start_holder(run(&stuck), &stuck);
    assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", first.id()));
    kill(&mut first);

    run(&exporter).end().succeeded();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "", "a released lock has no PID");
}

#[test]
fn holder_whose_pid_is_not_in_the_file_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let holder = File::create(&lock).unwrap();
    flock(&holder, FlockOperation::NonBlockingLockExclusive).unwrap();
    for (content, shown) in
        [("", "unknown"), ("\n", "unknown"), ("\0\0", "unknown"), ("4711\n", "4711")]
    {
        fs::write(&lock, content).unwrap();
        let ended = with_lock(Run::new("127.0.0.1:1", "127.0.0.1:1"), &lock).end();
        ended.failed(3, &[&format!("another run (PID {shown})"), lock.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&lock).unwrap(), content);
    }
}

/// Asserts that a run refuses the lock file before it contacts anything.
#[track_caller]
fn refused(lock: &Path, cause: &str) {
    let ended = with_lock(Run::new("127.0.0.1:1", "127.0.0.1:1"), lock).end();
    let shown = format!("lock file {} cannot be used: ", lock.display());
    ended.failed(1, &[&shown, cause, "--lock-file (FORWARDER_LOCK_FILE)"]);
}

#[test]
fn file_that_is_no_lock_file_is_refused_and_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let target = path("target");
    for content in [&b"precious"[..], b"12 x\n", b"-1\n", b"1.5\n", b"0123456789012345", b"\xff"] {
        fs::write(&target, content).unwrap();
        refused(&target, "something else than a PID");
        assert_eq!(fs::read(&target).unwrap(), content);
    }

    // A PID would fit into these.
    fs::write(&target, "12\n").unwrap();
    symlink(&target, path("link")).unwrap();
    refused(&path("link"), "symbolic link");
    symlink(path("nowhere"), path("dangling link")).unwrap();
    refused(&path("dangling link"), "symbolic link");
    assert!(!path("nowhere").exists());
    fs::hard_link(&target, path("second name")).unwrap();
    refused(&path("second name"), "hard link");
    assert_eq!(fs::read_to_string(&target).unwrap(), "12\n");

    mknodat(CWD, path("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
    refused(&path("fifo"), "not a regular file");
    refused(directory.path(), "directory");
    refused(Path::new("/dev/null"), "not a regular file");
    refused(&path("missing/lock"), "No such file");
}

#[test]
fn lock_file_of_another_user_is_refused_and_unchanged() {
    if !require(geteuid().is_root(), "a lock file of another user needs root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    fs::write(&lock, "12\n").unwrap();
    chown(&lock, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    refused(&lock, "belongs to user 65534");
    assert_eq!(fs::read_to_string(&lock).unwrap(), "12\n");
}

#[test]
fn directory_without_write_permission_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let program = copy_program(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o555)).unwrap();
    // Root can write everywhere.
    let user = if geteuid().is_root() { OTHER_USER } else { geteuid().as_raw() };
    let output = Command::new(&program)
        .env_clear()
        .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
        .uid(user)
        .complete();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    Ended::new(output).failed(1, &["lock file", "Permission denied"]);
}

#[test]
fn default_directory_must_belong_to_the_user_alone() {
    if !require(geteuid().is_root(), "the default directories of another user need root") {
        return;
    }
    // No user has this number.
    let user = 200_000 + std::process::id() % 100_000;
    let (exporter, gateway) = (exporter(), gateway());
    let temporary = tempfile::tempdir().unwrap();
    let temporary = temporary.path();
    let program = copy_program(temporary);
    fs::set_permissions(temporary, Permissions::from_mode(0o777)).unwrap();
    let run = |tmpdir: &Path| {
        let output = Command::new(&program)
            .env_clear()
            .envs([("EXPORTER_ADDR", &exporter.addr), ("PGW_ADDR", &gateway.addr)])
            .env("TMPDIR", tmpdir)
            // A login shell has it and cron has not, so it must not matter.
            .env("XDG_RUNTIME_DIR", temporary)
            .current_dir(temporary)
            .uid(user)
            .complete();
        Ended::new(output)
    };
    let own = temporary.join(format!("pgw-forwarder-{user}"));
    let refused = || {
        let shown = format!(
            "the directory {} for the lock cannot be used: it is a link, or",
            own.display()
        );
        run(temporary).failed(1, &[&shown, "--lock-file (FORWARDER_LOCK_FILE)"]);
    };

    run(temporary).succeeded();
    assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
    let lock = fs::read_dir(&own).unwrap().next().unwrap().unwrap();
    assert_eq!(lock.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
    refused();
    fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
    chown(&own, Some(OTHER_USER), None).unwrap();
    refused();
    chown(&own, Some(user), None).unwrap();
    fs::rename(&own, temporary.join("elsewhere")).unwrap();
    symlink("elsewhere", &own).unwrap();
    refused();
    let file = temporary.join("file");
    fs::write(&file, "").unwrap();
    run(&file).failed(1, &["file/pgw-forwarder-", "Not a directory", "FORWARDER_LOCK_FILE"]);

    // A relative directory depends on the working directory, so /tmp is used.
    let in_tmp = PathBuf::from(format!("/tmp/pgw-forwarder-{user}"));
    run(Path::new("")).succeeded();
    assert_eq!(fs::read_dir(&in_tmp).unwrap().count(), 1);
    fs::remove_dir_all(&in_tmp).unwrap();

    // The directory of the user's sessions comes first, if it is the user's alone.
    let session = PathBuf::from(format!("/run/user/{user}"));
    fs::create_dir_all(&session).unwrap();
    refused();
    chown(&session, Some(user), None).unwrap();
    run(temporary).succeeded();
    assert_eq!(fs::read_dir(&session).unwrap().count(), 1);
    fs::remove_dir_all(&session).unwrap();
}
