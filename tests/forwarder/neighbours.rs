//! What else goes on at a machine: other users, full disks, signals, and names with dead addresses.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::geteuid;

use crate::fake::{Fake, answer, text};
use crate::stage::{Ended, Run, can_or_skips, copy_of_the_program, wait_for};

/// A user that is not the one that runs the tests.
const NOBODY: u32 = 65534;

/// Runs the forwarder some hundreds of times, two at a time, while `swap` changes without a pause
/// what is at the lock's place. Asserts that each run pushes, or says on one line why it does not.
fn raced(run: impl Fn() -> Child, swap: impl FnMut() + Send) {
    let stop = AtomicBool::new(false);
    let mut seen = [0; 4];
    thread::scope(|scope| {
        let mut swap = swap;
        let stop = &stop;
        let swapper = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                swap();
            }
        });
        // A failed run must not leave the swapper to go on for ever.
        let stops = StopsWhenDropped(stop);
        // Until both were seen: otherwise there was no race.
        while seen.iter().sum::<u32>() < 400 || seen[0] == 0 || seen[1] == 0 {
            assert!(!swapper.is_finished(), "the swapper has failed: {seen:?}");
            for child in [run(), run()] {
                let ended = ends(child);
                match ended.status {
                    Some(0) => ended.succeeded(),
                    Some(3) => ended.failed(3, &["another run"]),
                    _ => ended.failed(1, &["lock"]),
                }
                seen[ended.status.unwrap() as usize] += 1;
            }
        }
        drop(stops);
    });
    println!("of the raced runs ended with the statuses 0 to 3: {seen:?}");
}

struct StopsWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a run ends, which it must, whatever happens to it.
#[track_caller]
fn ends(mut child: Child) -> Ended {
    wait_for("the end of the run", || child.try_wait().unwrap());
    Ended::new(child.wait_with_output().unwrap(), Duration::ZERO)
}

/// All of a file that a run could change.
#[derive(Debug, PartialEq)]
struct State(PathBuf, Vec<u8>, u32, u32, i64, i64);

fn state(path: &Path) -> State {
    let found = fs::symlink_metadata(path).unwrap();
    let content = match found.is_dir() {
        true => fs::read_dir(path).unwrap().count().to_ne_bytes().into(),
        false => fs::read(path).unwrap(),
    };
    let (mode, owner) = (found.mode(), found.uid());
    State(
        path.into(),
        content,
        mode,
        owner,
        found.mtime(),
        found.mtime_nsec(),
    )
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
}

#[test]
fn whoever_swaps_the_lock_file_for_another_harms_no_file_and_stops_no_run() {
    let gateway = Fake::answering(|_| answer(200, "", ""));
    let exporter = Fake::answering(|_| text("a 1\n"));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let lock = path("lock");

    let victims = ["of a symbolic link", "of a hard link", "moved"].map(&path);
    for victim in &victims {
        fs::write(victim, "precious\n").unwrap();
        fs::set_permissions(victim, Permissions::from_mode(0o640)).unwrap();
    }
    let theirs = path("another user's");
    fs::write(&theirs, "1\n").unwrap();
    if geteuid().is_root() {
        chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let untouched = || {
        let files = victims.iter().chain([&theirs]);
        files.map(|file| state(file)).collect::<Vec<_>>()
    };
    let before = untouched();

    let [of_symlink, of_hard_link, moved] = &victims;
    let remove = || {
        let _ = fs::remove_file(&lock);
        let _ = fs::remove_dir(&lock);
    };
    let swap = || {
        remove();
        File::create_new(&lock).map(drop).unwrap_or_default();
        remove();
        let _ = symlink(of_symlink, &lock);
        remove();
        // One that is gone before it can be looked at.
        for _ in 0..10 {
            let _ = fs::hard_link(of_hard_link, &lock);
            remove();
        }
        if fs::rename(moved, &lock).is_ok() {
            fs::rename(&lock, moved).unwrap();
        }
        if geteuid().is_root() && fs::rename(&theirs, &lock).is_ok() {
            fs::rename(&lock, &theirs).unwrap();
        }
        let _ = fs::create_dir(&lock);
        remove();
        if !lock.exists() {
            let fifo = path("fifo");
            make_fifo(&fifo);
            fs::rename(&fifo, &lock).unwrap();
        }
    };
    let run = || {
        Run::new(&exporter.addr, &gateway.addr)
            .env("FORWARDER_LOCK_FILE", &lock)
            .start()
    };
    raced(run, swap);
    assert_eq!(untouched(), before);
}

#[test]
fn whoever_swaps_the_default_directory_for_another_gets_no_file_made_elsewhere() {
    if !can_or_skips(
        geteuid().is_root(),
        "the default directory of another user needs root",
    ) {
        return;
    }
    let user = 300_000 + std::process::id() % 100_000;
    let gateway = Fake::answering(|_| answer(200, "", ""));
    let exporter = Fake::answering(|_| text("a 1\n"));
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let program = copy_of_the_program(place.path());
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    // As /tmp is, where root alone can take another's directory away; so root is who does it.
    let temporary = path("tmp");
    fs::create_dir(&temporary).unwrap();
    fs::set_permissions(&temporary, Permissions::from_mode(0o1777)).unwrap();
    let run = || {
        Command::new(&program)
            .env_clear()
            .env("EXPORTER_ADDR", &exporter.addr)
            .env("PGW_ADDR", &gateway.addr)
            .env("TMPDIR", &temporary)
            .uid(user)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    ends(run()).succeeded();

    let own = temporary.join(format!("pgw-forwarder-{user}"));
    let lock = fs::read_dir(&own).unwrap().next().unwrap().unwrap();
    // A directory of the user's with a file of the lock's name, and one without.
    let (full, empty, theirs) = (path("full"), path("empty"), path("another user's"));
    for (directory, owner) in [(&full, user), (&empty, user), (&theirs, NOBODY)] {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(owner), None).unwrap();
    }
    let precious = full.join(lock.file_name());
    fs::write(&precious, "12\n").unwrap();
    chown(&precious, Some(user), None).unwrap();
    let untouched = || [&full, &precious, &empty, &theirs].map(|path| state(path));
    let before = untouched();

    let aside = path("aside");
    let clear = |path: &Path| {
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir_all(path);
    };
    let (good, link, fifo) = (path("good"), path("link"), path("fifo"));
    make_fifo(&fifo);
    // Puts one of these there, and what was there, which a run may have made, away.
    let put = |new: &Path| {
        while fs::rename(new, &own).is_err() {
            clear(&aside);
            let _ = fs::rename(&own, &aside);
        }
    };
    let swap = || {
        for target in [&full, &empty] {
            clear(&good);
            fs::create_dir(&good).unwrap();
            fs::set_permissions(&good, Permissions::from_mode(0o700)).unwrap();
            chown(&good, Some(user), None).unwrap();
            put(&good);
            clear(&link);
            symlink(target, &link).unwrap();
            // Good when it is looked at, and a link when it is used.
            for _ in 0..20 {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &own, CWD, &link, exchange).unwrap();
            }
        }
        for other in [&theirs, &fifo] {
            put(other);
            fs::rename(&own, other).unwrap();
        }
    };
    raced(run, swap);
    assert_eq!(untouched(), before);
}
