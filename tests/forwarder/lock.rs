//! One run at a time for each group, whatever happened to the one before.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::geteuid;

use crate::fake::{Fake, exposition, hang, response};
use crate::host::{require, wait_for};
use crate::run::{Ended, Run, copy_program};
use crate::servers::{Server, count_pushes};

/// A user that is not the one that runs the tests.
const NOBODY: u32 = 65534;

/// An exporter that is alive and never says more, so that a run holds its lock.
fn stuck() -> Fake {
    Fake::after_request(hang)
}

/// A run that holds the lock at `lock`, once it does.
fn holder(exporter: &Fake, gateway: &str, lock: &Path) -> Child {
    let child = locked(Run::new(&exporter.addr, gateway), lock).start();
    wait_for("the scrape", || exporter.requests().iter().find(|r| r.path() == "/metrics").cloned());
    child
}

fn locked(run: Run, lock: &Path) -> Run {
    run.env("FORWARDER_LOCK_FILE", lock.to_str().unwrap())
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_second_run_for_the_group_leaves_at_once_and_names_the_first() {
    let (exporter, gateway) = (stuck(), Fake::answering(|_| response(200, "", "")));
    let run = |addr: &str| Run::new(addr, &gateway.addr).instance("one");
    let first = run(&exporter.addr).start();
    wait_for("the scrape", || (exporter.requests().len() == 2).then_some(()));

    let second = run(&exporter.addr).end();
    second.failed(3, &["another run", &format!("PID {}", first.id())]);
    assert_eq!(exporter.requests().len(), 2, "the second run has contacted the exporter");

    // Another group's run goes its way, and pushes.
    let alive = Fake::answering(|_| exposition("a 1\n"));
    run(&alive.addr).instance("two").end().succeeded();
    run(&alive.addr).env("PGW_LABELS", "a=b").end().succeeded();
    assert_eq!(gateway.requests().len(), 2);

    // And so does the next run after a holder that was killed.
    kill(first);
    run(&alive.addr).end().succeeded();
    assert_eq!(gateway.requests().len(), 3);
}

#[test]
fn two_runs_at_once_for_two_groups_both_push() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let runs = ["a", "b"].map(|i| Run::new(&exporter.addr, &gateway.addr).instance(i).start());
    for run in runs {
        Ended::new(run.wait_with_output().unwrap(), Duration::ZERO).succeeded();
    }
    assert!(gateway.group("a").is_some() && gateway.group("b").is_some());
}

#[test]
fn of_fifty_runs_started_together_those_that_did_not_overlap_push() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let runs: Vec<Child> =
        (0..50).map(|_| Run::new(&exporter.addr, &gateway.addr).start()).collect();
    let mut pushed = 0;
    for run in runs {
        let ended = Ended::new(run.wait_with_output().unwrap(), Duration::ZERO);
        match ended.status {
            Some(0) => {
                ended.succeeded();
                pushed += 1;
            }
            _ => ended.failed(3, &["another run (PID "]),
        }
    }
    assert!(pushed > 0);
    assert_eq!(count_pushes(&gateway.addr), pushed);
}

#[test]
fn a_delete_waits_for_no_push() {
    let (exporter, gateway) = (stuck(), Fake::answering(|_| response(202, "", "")));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let first = holder(&exporter, &gateway.addr, &lock);
    let delete = || locked(Run::new("127.0.0.1:1", &gateway.addr), &lock).arg("--delete").end();
    delete().failed(3, &["another run"]);
    kill(first);
    delete().succeeded();
    assert_eq!(gateway.requests().len(), 1);
}

#[test]
fn the_lock_file_holds_the_pid_and_stays() {
    let (exporter, gateway) = (stuck(), Fake::answering(|_| response(200, "", "")));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    fs::write(&lock, "\0 0004194304\n").unwrap();
    let first = holder(&exporter, &gateway.addr, &lock);
    assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", first.id()));
    kill(first);

    let alive = Fake::answering(|_| exposition("a 1\n"));
    locked(Run::new(&alive.addr, &gateway.addr), &lock).end().succeeded();
    assert_eq!(fs::read_to_string(&lock).unwrap(), "", "a released lock names nobody");
}

/// Runs that must be refused by the lock alone: nothing is at either address.
fn refused(lock: &Path, words: &[&str]) {
    let ended = locked(Run::new("127.0.0.1:1", "127.0.0.1:1"), lock).end();
    ended.failed(
        1,
        &[&["lock file", lock.to_str().unwrap(), "FORWARDER_LOCK_FILE"], words].concat(),
    );
}

#[test]
fn what_is_not_a_lock_file_of_this_user_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let target = path("target");
    fs::write(&target, "precious").unwrap();

    symlink(&target, path("link")).unwrap();
    refused(&path("link"), &["symbolic link"]);
    symlink(path("nowhere"), path("dangling")).unwrap();
    refused(&path("dangling"), &["symbolic link"]);
    assert!(!path("nowhere").exists());

    // A slip in the options.
    refused(&target, &["something else than a PID"]);
    fs::hard_link(&target, path("second name")).unwrap();
    refused(&path("second name"), &["hard link"]);

    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    refused(&path("fifo"), &["not a regular file"]);
    refused(directory.path(), &["directory"]);
    refused(Path::new("/dev/null"), &[]);
    refused(&path("no such directory/lock"), &["No such file"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
}

#[test]
fn a_lock_file_of_another_user_is_refused_and_untouched() {
    if !require(geteuid().is_root(), "a lock file of another user needs root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    fs::write(&lock, "theirs").unwrap();
    chown(&lock, Some(NOBODY), Some(NOBODY)).unwrap();
    refused(&lock, &["belongs to user 65534"]);
    assert_eq!(fs::read_to_string(&lock).unwrap(), "theirs");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let program = copy_program(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o555)).unwrap();

    // Root can write everywhere.
    let unprivileged = match geteuid().is_root() {
        true => NOBODY,
        false => geteuid().as_raw(),
    };
    let output = Command::new(&program)
        .env_clear()
        .env("FORWARDER_LOCK_FILE", &lock)
        .uid(unprivileged)
        .output()
        .unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    Ended::new(output, Duration::ZERO).failed(1, &["lock file", "Permission denied"]);
}

/// The default directories of a user that nobody is, made by root.
#[test]
fn the_default_directory_has_to_be_this_users_alone() {
    if !require(geteuid().is_root(), "the default directories of another user need root") {
        return;
    }
    let user = 200_000 + std::process::id() % 100_000;
    let gateway = Fake::answering(|_| response(200, "", ""));
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let place = tempfile::tempdir().unwrap();
    let program = copy_program(place.path());
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
    let run = |temporary: &Path| {
        let output = Command::new(&program)
            .env_clear()
            .envs([("EXPORTER_ADDR", &exporter.addr), ("PGW_ADDR", &gateway.addr)])
            .env("TMPDIR", temporary)
            // A login shell has it and cron has not: it must not make a difference.
            .env("XDG_RUNTIME_DIR", place.path())
            .current_dir(place.path())
            .uid(user)
            .output()
            .unwrap();
        Ended::new(output, Duration::ZERO)
    };
    let own = place.path().join(format!("pgw-forwarder-{user}"));
    let words = ["directory", own.to_str().unwrap(), "FORWARDER_LOCK_FILE"];

    run(place.path()).succeeded();
    assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
    let lock = fs::read_dir(&own).unwrap().next().unwrap().unwrap();
    assert_eq!(lock.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
    run(place.path()).failed(1, &words);
    fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
    chown(&own, Some(NOBODY), None).unwrap();
    run(place.path()).failed(1, &words);
    chown(&own, Some(user), None).unwrap();
    fs::rename(&own, place.path().join("elsewhere")).unwrap();
    symlink("elsewhere", &own).unwrap();
    run(place.path()).failed(1, &words);
    fs::write(place.path().join("file"), "").unwrap();
    run(&place.path().join("file")).failed(1, &["directory", "file/pgw-forwarder-"]);

    // A directory that would be another one in each working directory is none.
    let in_tmp = PathBuf::from(format!("/tmp/pgw-forwarder-{user}"));
    run(Path::new("")).succeeded();
    assert_eq!(fs::read_dir(&in_tmp).unwrap().count(), 1);
    fs::remove_dir_all(&in_tmp).unwrap();

    // The session's directory comes first, if it is this user's alone.
    let session = PathBuf::from(format!("/run/user/{user}"));
    fs::create_dir_all(&session).unwrap();
    run(place.path()).failed(1, &words);
    chown(&session, Some(user), None).unwrap();
    run(place.path()).succeeded();
    assert_eq!(fs::read_dir(&session).unwrap().count(), 1);
    fs::remove_dir_all(&session).unwrap();
}

#[test]
fn a_run_that_sleeps_its_splay_holds_the_lock() {
    let gateway = Fake::answering(|_| response(200, "", ""));
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let run = || {
        let run = Run::new(&exporter.addr, &gateway.addr);
        locked(run.instance("node1.example"), &lock)
    };
    let first = run().env("FORWARDER_SPLAY", "3600").start();
    let pid = first.id().to_string();
    wait_for("the lock", || {
        let holder = fs::read_to_string(&lock).ok()?;
        (holder.trim() == pid).then_some(())
    });
    run().end().failed(3, &[&format!("PID {pid}")]);
    kill(first);
    run().end().succeeded();
}
