//! What else goes on at a machine: other users, full disks, signals, and names with dead addresses.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::fake::{Fake, exposition, hang, response};
use crate::host::{enter_own_namespaces, has_namespaces, require, run_command, wait_for};
use crate::run::{Ended, FORWARDER, Run, copy_program};
use crate::servers::{Server, count_pushes, families};

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
    State(path.into(), content, mode, owner, found.mtime(), found.mtime_nsec())
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
}

#[test]
fn whoever_swaps_the_lock_file_for_another_harms_no_file_and_stops_no_run() {
    let gateway = Fake::answering(|_| response(200, "", ""));
    let exporter = Fake::answering(|_| exposition("a 1\n"));
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
    let run = || Run::new(&exporter.addr, &gateway.addr).env("FORWARDER_LOCK_FILE", &lock).start();
    raced(run, swap);
    assert_eq!(untouched(), before);
}

#[test]
fn whoever_swaps_the_default_directory_for_another_gets_no_file_made_elsewhere() {
    if !require(geteuid().is_root(), "the default directory of another user needs root") {
        return;
    }
    let user = 300_000 + std::process::id() % 100_000;
    let gateway = Fake::answering(|_| response(200, "", ""));
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let program = copy_program(place.path());
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

/// Asserts one of the documented ends: success in silence, or a failure on one line.
#[track_caller]
fn documented(ended: &Ended) {
    match ended.status {
        Some(0) => ended.succeeded(),
        Some(status @ 1..=7) => ended.failed(status, &[]),
        _ => panic!("{ended:?}"),
    }
    assert!(!ended.stderr.contains("bug"), "{ended:?}");
}

#[test]
fn a_full_or_read_only_file_system_is_told_and_changes_no_file() {
    if !require(has_namespaces(), "file systems of its own need root")
        || !enter_own_namespaces(
            "host_conditions::a_full_or_read_only_file_system_is_told_and_changes_no_file",
        )
    {
        return;
    }
    let gateway = Fake::answering(|_| response(200, "", ""));
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let run = || Run::new(&exporter.addr, &gateway.addr);
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    let (lock, other) = (directory.path().join("lock"), directory.path().join("other"));
    let locked = || run().env("FORWARDER_LOCK_FILE", &lock).end();
    let untouched = || {
        assert!(fs::read(&other).unwrap().iter().all(|&b| b == b'x'));
        assert_eq!(gateway.requests().len(), 0);
    };
    // Else the lock may lie in one of the machine's own directories there.
    run_command("mount -t tmpfs tmpfs /run");

    // No space left.
    run_command(&format!("mount -t tmpfs -o size=64k tmpfs {place}"));
    let filled = fs::write(&other, [b'x'; 100_000]);
    assert!(filled.is_err());
    locked().failed(1, &["PID", lock.to_str().unwrap(), "No space left"]);
    // Nor any for a PID in place of another one's.
    fs::remove_file(&lock).unwrap();
    untouched();
    fs::write(&other, "x").unwrap();
    locked().succeeded();
    run_command(&format!("umount {place}"));
    assert_eq!(gateway.requests().len(), 1);

    // No inode left, for the file or the default directory.
    let gateway = Fake::answering(|_| response(200, "", ""));
    let run = || Run::new(&exporter.addr, &gateway.addr);
    let locked = || run().env("FORWARDER_LOCK_FILE", &lock).end();
    let in_default = || run().env("TMPDIR", directory.path()).end();
    run_command(&format!("mount -t tmpfs -o nr_inodes=2 tmpfs {place}"));
    fs::write(&other, "x").unwrap();
    locked().failed(1, &["lock file", "No space left", "FORWARDER_LOCK_FILE"]);
    in_default().failed(1, &["directory", "No space left", "FORWARDER_LOCK_FILE"]);

    // Nothing can be written.
    run_command(&format!("mount -o remount,ro {place}"));
    locked().failed(1, &["lock file", "Read-only", "FORWARDER_LOCK_FILE"]);
    in_default().failed(1, &["directory", "Read-only", "FORWARDER_LOCK_FILE"]);
    run().env("FORWARDER_LOCK_FILE", &other).end().failed(1, &["lock file", "Read-only"]);
    assert_eq!(fs::read(&other).unwrap(), b"x");
    assert_eq!(gateway.requests().len(), 0);

    // There is no such directory at all.
    run()
        .env("TMPDIR", directory.path().join("tmp"))
        .end()
        .failed(1, &["directory", "tmp/pgw-forwarder-", "No such file"]);

    // What needs no lock needs no disk.
    let dry = run().env("TMPDIR", directory.path()).arg("--dry-run").end();
    assert_eq!((dry.status, &dry.stdout[..]), (Some(0), &b"a 1\n"[..]));
    run_command(&format!("umount {place}"));
}

#[test]
fn a_run_that_gets_too_few_file_descriptors_says_so() {
    let gateway = Fake::answering(|_| response(200, "", ""));
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let directory = tempfile::tempdir().unwrap();
    let run = |limit: u32| {
        Run::new(&exporter.addr, &gateway.addr)
            .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
            .after(&format!("ulimit -n {limit} &&"))
            .end()
    };
    let mut pushed = 0;
    for limit in 3..=16 {
        let ended = run(limit);
        if ended.stderr.contains("loading shared libraries") {
            // It takes one more for a program to be loaded.
            assert_eq!(limit, 3);
            continue;
        }
        documented(&ended);
        match ended.status {
            Some(0) => pushed += 1,
            _ => ended.failed(ended.status.unwrap(), &["Too many open files"]),
        }
        assert_eq!(gateway.requests().len(), pushed);
    }
    // The three of each program, the lock, and a connection to each side.
    assert!(pushed >= 16 - 6, "{pushed}");
}

#[test]
fn a_run_that_gets_too_little_memory_says_so() {
    let body = format!("# {}\na 1\n", "x".repeat(1_000)).repeat(4_000);
    let size = body.len();
    let chunks = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
    );
    let (body, chunks) = (exposition(&body), chunks.into_bytes());
    let directory = tempfile::tempdir().unwrap();
    for (body, host) in [(&body, "127.0.0.1"), (&chunks, "127.0.0.1"), (&chunks, "localhost")] {
        let body = body.clone();
        let exporter = Fake::after_request(move |stream| {
            let _ = stream.write_all(&body);
        });
        let gateway = Fake::answering(|_| response(200, "", ""));
        let at = |fake: &Fake| fake.addr.replace("127.0.0.1", host);
        let run = |kilobytes: u32| {
            Run::new(&at(&exporter), &at(&gateway))
                .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
                .within(kilobytes)
                .end()
        };
        // With less than some megabytes, the program cannot be loaded, or ends before its first
        // line. But once it has said anything, it does so with each larger limit.
        let mut statuses = Vec::new();
        for kilobytes in (3_000..30_000).step_by(300) {
            let ended = run(kilobytes);
            if !statuses.is_empty() || ended.stderr.starts_with("pgw-forwarder: error: ") {
                documented(&ended);
                statuses.extend(ended.status);
            }
        }
        let pushed = statuses.iter().filter(|&&status| status == 0).count();
        assert_eq!(gateway.requests().len(), pushed);
        assert!(statuses.len() > 50 && statuses[0] == 1, "{statuses:?}");
        if host == "127.0.0.1" {
            assert_eq!(statuses.last(), Some(&0), "{statuses:?}");
        }
    }
}

#[test]
fn a_look_up_for_which_there_is_no_thread_is_told() {
    if !require(geteuid().is_root(), "a user of its own needs root") {
        return;
    }
    // Root may always have one more.
    let user = 400_000 + std::process::id() % 100_000;
    let place = tempfile::tempdir().unwrap();
    let program = copy_program(place.path());
    fs::set_permissions(place.path(), Permissions::from_mode(0o777)).unwrap();
    let run = |variable: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid", &user.to_string(), "--clear-groups"])
            .args(["prlimit", "--nproc=1"])
            .arg(&program)
            .env_clear()
            .env("FORWARDER_LOCK_FILE", place.path().join("lock"))
            .env(variable, "localhost:1")
            .output()
            .unwrap();
        Ended::new(output, Duration::ZERO)
    };
    run("EXPORTER_ADDR").failed(4, &["exporter http://localhost:1/", "look up its name"]);
}

#[test]
fn a_run_needs_no_environment_and_no_input() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(FORWARDER)
        .env_clear()
        .args(["--exporter-addr", &exporter.addr, "--pgw-addr", &gateway.addr])
        .arg("--lock-file")
        .arg(directory.path().join("lock"))
        // Which cannot be read from its beginning.
        .stdin(File::open("/proc/self/mem").unwrap())
        .output()
        .unwrap();
    Ended::new(output, Duration::ZERO).succeeded();
    assert_eq!(count_pushes(&gateway.addr), 1);
}

#[test]
fn no_message_and_no_payload_goes_where_a_closed_descriptor_was() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let mut pushed = 0;
    for closed in 1..8 {
        let close = |fd: u32, how: &str| {
            if closed & 1 << fd != 0 { how.to_owned() } else { String::new() }
        };
        let closing = [close(0, "<&-"), close(1, ">&-"), close(2, "2>&-")].join(" ");
        let run = |exporter: &str| {
            // What is pushed and what is told passes a watch.
            let watch = Fake::in_front_of(&gateway.addr);
            let ended = Run::new(exporter, &watch.addr)
                .instance(&closing)
                .env("FORWARDER_LOCK_FILE", &lock)
                .arg("-vv")
                .after(&format!("exec {closing};"))
                .end();
            assert_eq!(fs::read_to_string(&lock).unwrap(), "", "{closing}");
            assert!(ended.stdout.is_empty());
            (ended, watch.requests())
        };
        let (failed, requests) = run("127.0.0.1:1");
        assert_eq!((failed.status, requests.len()), (Some(4), 0), "{closing}");
        assert_eq!(failed.stderr.is_empty(), closed & 4 != 0);

        let (ended, requests) = run(&exporter.addr);
        assert_eq!(ended.status, Some(0), "{closing}: {ended:?}");
        pushed += 1;
        let [request] = &requests[..] else { panic!("{closing}: {requests:?}") };
        assert_eq!(request.body.len(), request.length());
        assert!(!String::from_utf8_lossy(&request.body).contains("pgw-forwarder: "));
        let group = gateway.group(&closing).unwrap();
        assert!(families(&group).contains(&"node_load1".into()), "{closing}");
        assert_eq!(count_pushes(&gateway.addr), pushed);
    }
}

#[test]
fn readers_that_have_gone_change_no_status() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = |exporter: &str, args: &[&str]| {
        let mut child = Run::new(exporter, &gateway.addr).args(args).start();
        drop((child.stdout.take(), child.stderr.take()));
        child.wait().unwrap().code()
    };
    assert_eq!(run(&exporter.addr, &["-vv"]), Some(0));
    assert_eq!(run(&exporter.addr, &["-vv", "--dry-run"]), Some(0));
    assert_eq!(run("127.0.0.1:1", &["-vv"]), Some(4));
    assert_eq!(run(&exporter.addr, &["--nonsense"]), Some(2));
    assert_eq!(run(&exporter.addr, &["--help"]), Some(0));
    assert_eq!(count_pushes(&gateway.addr), 1);
}

/// The sockets of this machine's TCP over IPv4 with `port` at the local or the remote end: their
/// state, and how many bytes wait to be sent and to be read.
fn sockets(port: &str, is_local: bool) -> Vec<(String, usize, usize)> {
    let end = format!(":{:04X}", port.parse::<u16>().unwrap());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[if is_local { 1 } else { 2 }].ends_with(&end))
        .map(|row| {
            let (sending, reading) = row[4].split_once(':').unwrap();
            let number = |hex| usize::from_str_radix(hex, 16).unwrap();
            (row[3].to_owned(), number(sending), number(reading))
        })
        .collect()
}

/// A place that takes no further connection and refuses none, with what keeps it so.
fn silent() -> (String, impl Sized) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, 0).unwrap();
    let addr: SocketAddr = getsockname(&socket).unwrap().try_into().unwrap();
    // The one that the queue has a place for.
    let first = TcpStream::connect(addr).unwrap();
    (addr.to_string(), (socket, first))
}

#[test]
fn a_signal_ends_a_run_in_each_phase_and_leaves_no_lock_and_no_part_of_a_push() {
    const PATIENT: &str = "86400";
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let port = |addr: &str| addr.rsplit_once(':').unwrap().1.to_owned();
    // More than the buffers of a connection hold, in lines that are whole wherever they are cut.
    let large = exposition(&"a_metric 1\n".repeat(1_500_000));
    let large = Fake::after_request(move |stream| stream.write_all(&large).unwrap_or_default());
    let small =
        Fake::after_request(|stream| stream.write_all(&exposition("a_metric 1\n")).unwrap());

    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::HUP, 1)] {
        let run = |exporter: &str, gateway: &str| {
            Run::new(exporter, gateway).instance("interrupted").env("FORWARDER_LOCK_FILE", &lock)
        };
        let patient = |exporter: &str, gateway: &str| {
            let limits = ["EXPORTER_PROBE_TIMEOUT", "EXPORTER_SCRAPE_TIMEOUT", "PGW_PUSH_TIMEOUT"];
            let run =
                limits.iter().fold(run(exporter, gateway), |run, limit| run.env(limit, PATIENT));
            // Whoever starts the tests may have some of the signals ignored.
            run.by(&["env", "--default-signal=TERM,INT,HUP"])
        };
        let interrupt = |child: Child, phase: &str| {
            kill_process(Pid::from_child(&child), signal).unwrap();
            let mut child = child;
            let status = wait_for(phase, || child.try_wait().unwrap());
            assert_eq!(status.signal(), Some(number), "{phase}: {status:?}");
        };
        let next_run_works = |phase: &str| {
            let group = gateway.group("interrupted");
            assert!(group.is_none(), "{phase}: {group:?}");
            let next = run(&exporter.addr, &gateway.addr).end();
            assert_eq!((next.status, next.stderr.as_str()), (Some(0), ""), "{phase}");
            let delete = run(&exporter.addr, &gateway.addr).arg("--delete").end();
            delete.succeeded();
        };

        let phase = "the splay";
        let child = run(&exporter.addr, &gateway.addr)
            .env("FORWARDER_SPLAY", PATIENT)
            .by(&["env", "--default-signal=TERM,INT,HUP"])
            .start();
        let pid = format!("{}\n", child.id());
        wait_for(phase, || (fs::read_to_string(&lock).ok()? == pid).then_some(()));
        interrupt(child, phase);
        next_run_works(phase);

        let phase = "the probe";
        let mute = Fake::raw(hang);
        let child = patient(&mute.addr, &gateway.addr).start();
        wait_for(phase, || (mute.requests().len() == 1).then_some(()));
        interrupt(child, phase);
        next_run_works(phase);

        let phase = "the scrape";
        let stuck = Fake::after_request(hang);
        let child = patient(&stuck.addr, &gateway.addr).start();
        wait_for(phase, || (stuck.requests().len() == 2).then_some(()));
        interrupt(child, phase);
        next_run_works(phase);

        let phase = "the connection to the gateway";
        let (addr, _keep) = silent();
        let child = patient(&small.addr, &addr).start();
        wait_for(phase, || {
            let mut found = sockets(&port(&addr), false).into_iter();
            found.find(|(state, ..)| state == "02")
        });
        interrupt(child, phase);
        next_run_works(phase);

        // A gateway that is stopped reads nothing; afterwards it gets all that was sent.
        let phase = "the body";
        gateway.pause(true);
        let child = patient(&large.addr, &gateway.addr).start();
        wait_for(phase, || {
            let mut found = sockets(&port(&gateway.addr), false).into_iter();
            found.find(|(state, sending, _)| state == "01" && *sending > 0)
        });
        interrupt(child, phase);
        gateway.pause(false);
        // The gateway has seen the end of what there was.
        wait_for(phase, || {
            let found = sockets(&port(&gateway.addr), true);
            found.iter().all(|(_, _, reading)| *reading == 0).then_some(())
        });
        next_run_works(phase);

        let phase = "the answer";
        gateway.pause(true);
        let child = patient(&small.addr, &gateway.addr).start();
        wait_for(phase, || {
            let mut found = sockets(&port(&gateway.addr), true).into_iter();
            found.find(|(state, _, reading)| state == "01" && *reading > 0)
        });
        interrupt(child, phase);
        gateway.pause(false);
        // That is a whole push.
        let group = wait_for(phase, || gateway.group("interrupted"));
        assert_eq!(families(&group), ["a_metric"], "{phase}");
        run(&exporter.addr, &gateway.addr).arg("--delete").end().succeeded();
        next_run_works(phase);
    }
}

#[test]
fn a_name_with_dead_addresses_leads_to_the_one_that_lives() {
    if !require(has_namespaces(), "a network of its own needs root")
        || !enter_own_namespaces(
            "host_conditions::a_name_with_dead_addresses_leads_to_the_one_that_lives",
        )
    {
        return;
    }
    names_of_its_own();
    // One answers, one refuses, one is silent, nobody is at one, and to one there is no way.
    let (alive, refuses, silent, nobody, no_way) =
        ("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5");
    run_command("ip link add one type veth peer other");
    run_command("ip link set one up");
    run_command("ip link set other up");
    run_command(&format!("ip address add {alive}/24 dev one"));
    run_command(&format!("ip address add {refuses}/24 dev one"));
    // The one that answers would come first, since it is this host's own.
    let last = format!("precedence ::ffff:0:0/96 50\nprecedence ::ffff:{alive}/128 10\n");
    fs::write("/etc/gai.conf", last).unwrap();
    run_command(&format!(
        "ip neighbour add {silent} lladdr 02:00:00:00:00:03 dev one nud permanent"
    ));
    run_command(&format!("ip route add unreachable {no_way}"));
    // It takes the kernel three seconds to see that nobody is there.
    fs::write("/proc/sys/net/ipv4/neigh/one/mcast_solicit", "1").unwrap();
    let (exporter, gateway) = (Server::node_exporter_on(alive), Server::pushgateway_on(alive, &[]));
    let at = |server: &Server, host: &str| server.addr.replace(alive, host);

    for (index, dead) in [
        vec![refuses],
        vec![silent],
        vec![nobody],
        vec![no_way],
        vec![refuses, silent, no_way, nobody],
    ]
    .iter()
    .enumerate()
    {
        let lines = dead.iter().chain([&alive]);
        let lines = lines.map(|addr| format!("{addr} many.example\n"));
        fs::write("/etc/hosts", lines.collect::<String>()).unwrap();
        let order = run_command("getent ahostsv4 many.example");
        // A way that is known not to be one comes last by itself.
        assert!(order.starts_with(dead[0]) || dead[0] == no_way, "{order}");

        let instance = format!("{index}");
        let run = |exporter: &str, gateway: &str| {
            Run::new(exporter, gateway)
                .instance(&instance)
                .env("EXPORTER_PROBE_TIMEOUT", "6")
                .env("PGW_PUSH_TIMEOUT", "6")
                .end()
        };
        let many = (at(&exporter, "many.example"), at(&gateway, "many.example"));
        run(&many.0, &many.1).succeeded();
        assert!(gateway.group(&instance).is_some(), "{dead:?}");
    }

    // And where none lives, the limit is kept.
    fs::write("/etc/hosts", format!("{silent} many.example\n{nobody} many.example\n")).unwrap();
    Run::new(&exporter.addr, &at(&gateway, "many.example"))
        .env("PGW_PUSH_TIMEOUT", "1")
        .end()
        .failed(6, &["gateway", "many.example", "unreachable", "no connection within 1 s"]);
}

#[test]
fn a_name_that_is_not_resolved_in_time_ends_the_run() {
    if !require(has_namespaces(), "a network of its own needs root")
        || !enter_own_namespaces(
            "host_conditions::a_name_that_is_not_resolved_in_time_ends_the_run",
        )
    {
        return;
    }
    names_of_its_own();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let resolver = UdpSocket::bind("127.0.0.1:53").unwrap();
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").unwrap();
    let asked = || {
        let mut question = [0; 512];
        let length = resolver.recv(&mut question).unwrap();
        String::from_utf8_lossy(&question[..length]).contains("slow")
    };

    Run::new(&exporter.addr, "slow.example:9091")
        .env("PGW_PUSH_TIMEOUT", "1")
        .end()
        .failed(6, &["gateway http://slow.example:9091/", "its name was not resolved within 1 s"]);
    assert!(asked());
    Run::new("slow.example:9014", &gateway.addr)
        .env("EXPORTER_PROBE_TIMEOUT", "1")
        .end()
        .failed(4, &["exporter http://slow.example:9014/", "its name was not resolved within 1 s"]);
    assert_eq!(count_pushes(&gateway.addr), 0);

    // A resolver that gives up before the limit is told of, too.
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    Run::new(&exporter.addr, "slow.example:9091")
        .end()
        .failed(6, &["gateway http://slow.example:9091/", "failure in name resolution"]);
}

const STATIC: &str = "it is not linked statically here: a libc.a of glibc 2.34 or newer is missing";

#[test]
fn a_program_with_its_own_c_library_asks_files_and_dns_for_a_name_and_nobody_else() {
    if !require(cfg!(static_libc), STATIC)
        || !require(has_namespaces(), "a network of its own needs root")
        || !enter_own_namespaces(
            "host_conditions::a_program_with_its_own_c_library_asks_files_and_dns_for_a_name_and_nobody_else",
        )
    {
        return;
    }
    names_of_its_own();
    fs::write("/etc/nsswitch.conf", "hosts: other [NOTFOUND=return UNAVAIL=return] files\n")
        .unwrap();
    fs::write("/etc/hosts", "127.0.0.1 push.example\n").unwrap();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let named = gateway.addr.replace("127.0.0.1", "push.example");
    Run::new(&exporter.addr, &named).end().succeeded();
    assert_eq!(count_pushes(&gateway.addr), 1);
}

#[test]
fn a_program_with_its_own_c_library_needs_nothing_of_the_system() {
    if !require(cfg!(static_libc), STATIC)
        || !require(geteuid().is_root(), "a root of its own needs root")
    {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    copy_program(root.path());
    let line = format!("chroot {} /pgw-forwarder --version", root.path().display());
    assert!(run_command(&line).starts_with("pgw-forwarder "));
}

/// Gives this test's own mounts an /etc that resolves names by itself.
fn names_of_its_own() {
    run_command("mount -t tmpfs tmpfs /etc");
    // A cache of names would be asked there.
    run_command("mount -t tmpfs tmpfs /run");
    fs::write("/etc/nsswitch.conf", "hosts: files dns\n").unwrap();
    fs::write("/etc/host.conf", "multi on\n").unwrap();
    fs::write("/etc/hosts", "").unwrap();
}
