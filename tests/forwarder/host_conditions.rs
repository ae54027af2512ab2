//! Runs on a host in trouble: full disks, too little memory, closed descriptors, hostile users, signals.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::fake::{Fake, exposition, hang, response};
use crate::host::{enter_own_namespaces, kill, run_command, wait_for};
use crate::run::{Ended, FORWARDER, Run};
use crate::servers::{Server, count_pushes, families};

/// A user other than the one that runs the tests.
const OTHER_USER: u32 = 65534;

fn exporter() -> Fake {
    Fake::answering(|_| exposition("a 1\n"))
}

fn gateway() -> Fake {
    Fake::answering(|_| response(200, "", ""))
}

/// Everything about a file that a run could change.
#[derive(Debug, PartialEq)]
struct State(PathBuf, Vec<u8>, u32, u32, i64, i64);

fn state(path: &Path) -> State {
    let found = fs::symlink_metadata(path).unwrap();
    let (mode, owner) = (found.mode(), found.uid());
    State(path.into(), fs::read(path).unwrap(), mode, owner, found.mtime(), found.mtime_nsec())
}

/// Sets a flag when it is dropped, also by a panic.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn lock_file_that_is_swapped_during_runs_changes_no_foreign_file() {
    let (exporter, gateway) = (exporter(), gateway());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (lock, fifo, of_other_user) = (path("lock"), path("fifo"), path("of another user"));

    let victims = ["of a symbolic link", "of a hard link", "moved"].map(&path);
    for victim in &victims {
        fs::write(victim, "precious\n").unwrap();
        fs::set_permissions(victim, Permissions::from_mode(0o640)).unwrap();
    }
    fs::write(&of_other_user, "1\n").unwrap();
    if geteuid().is_root() {
        chown(&of_other_user, Some(OTHER_USER), Some(OTHER_USER)).unwrap();
    }
    let states =
        || victims.iter().chain([&of_other_user]).map(|file| state(file)).collect::<Vec<_>>();
    let before = states();

    let [of_symlink, of_hard_link, moved] = &victims;
    let remove = || {
        let _ = fs::remove_file(&lock);
        let _ = fs::remove_dir(&lock);
    };
    let move_there_and_back = |file: &Path| {
        if fs::rename(file, &lock).is_ok() {
            fs::rename(&lock, file).unwrap();
        }
    };
    let swap = || {
        remove();
        File::create_new(&lock).map(drop).unwrap_or_default();
        remove();
        let _ = symlink(of_symlink, &lock);
        remove();
        // Some are gone when their number of names is checked.
        for _ in 0..10 {
            let _ = fs::hard_link(of_hard_link, &lock);
            remove();
        }
        move_there_and_back(moved);
        if geteuid().is_root() {
            move_there_and_back(&of_other_user);
        }
        let _ = fs::create_dir(&lock);
        remove();
        if !lock.exists() {
            mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
            fs::rename(&fifo, &lock).unwrap();
        }
    };

    let is_over = AtomicBool::new(false);
    let mut counts = [0; 4];
    thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                swap();
            }
        });
        let _guard = SetWhenDropped(&is_over);
        // Until both have happened: otherwise there was no race.
        while counts.iter().sum::<u32>() < 400 || counts[0] == 0 || counts[1] == 0 {
            assert!(!swapper.is_finished(), "the swapper has failed: {counts:?}");
            let run = || Run::new(&exporter.addr, &gateway.addr).env("FORWARDER_LOCK_FILE", &lock);
            for ended in [run().start(), run().start()].map(Ended::of) {
                match ended.status {
                    Some(0) => ended.succeeded(),
                    Some(3) => ended.failed(3, &["another run"]),
                    _ => ended.failed(1, &["lock file"]),
                }
                counts[ended.status.unwrap() as usize] += 1;
            }
        }
    });
    println!("runs by their status: {counts:?}");
    assert_eq!(states(), before);
}

#[test]
fn full_or_read_only_disk_stops_only_a_run_that_cannot_have_a_lock_file() {
    if !enter_own_namespaces(
        "host_conditions::full_or_read_only_disk_stops_only_a_run_that_cannot_have_a_lock_file",
        "its own file systems need root",
    ) {
        return;
    }
    let (exporter, gateway, stuck) = (exporter(), gateway(), Fake::after_request(hang));
    let directory = tempfile::tempdir().unwrap();
    let mount = |options: &str| {
        run_command(&format!("mount -t tmpfs -o {options} tmpfs {}", directory.path().display()));
    };
    let unmount = || run_command(&format!("umount {}", directory.path().display()));
    let (lock, other) = (directory.path().join("lock"), directory.path().join("other"));
    // By the option and by default.
    let variants = [("FORWARDER_LOCK_FILE", lock.as_path()), ("TMPDIR", directory.path())];
    let run = |exporter: &Fake, (variable, value): (&str, &Path)| {
        Run::new(&exporter.addr, &gateway.addr).env(variable, value)
    };
    let pushed = || gateway.requests().len();
    let works_and_turns_a_second_run_away = |variant: (&str, &Path), pid: &str| {
        let before = (pushed(), stuck.requests().len());
        run(&exporter, variant).end().succeeded();
        let mut first = run(&stuck, variant).start();
        wait_for("the scrape", || (stuck.requests().len() > before.1).then_some(()));
        run(&exporter, variant).end().failed(3, &[&format!("another run (PID {pid})")]);
        kill(&mut first);
        run(&exporter, variant).end().succeeded();
        assert_eq!(pushed(), before.0 + 2);
    };
    // Otherwise a default lock may be in one of the host's own directories there.
    run_command("mount -t tmpfs tmpfs /run");

    // No space: the lock needs none, only its PID does.
    mount("size=64k");
    fs::write(&other, [b'x'; 100_000]).unwrap_err();
    for variant in variants {
        works_and_turns_a_second_run_away(variant, "unknown");
    }
    assert!(fs::read(&other).unwrap().iter().all(|&b| b == b'x'));

    // Read-only, with a lock file: that of a killed run names its PID.
    let default = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let default = default.filter(|path| path.is_dir()).flat_map(|path| fs::read_dir(path).unwrap());
    let default = default.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    fs::write(&other, "x").unwrap();
    fs::write(&default[0], "4711\n").unwrap();
    run_command(&format!("mount -o remount,ro {}", directory.path().display()));
    works_and_turns_a_second_run_away(variants[0], "unknown");
    works_and_turns_a_second_run_away(variants[1], "4711");
    assert_eq!(fs::read_to_string(&default[0]).unwrap(), "4711\n");
    // A file that is none.
    run(&exporter, ("FORWARDER_LOCK_FILE", &other)).end().failed(1, &["lock file", "PID"]);
    assert_eq!(fs::read_to_string(&other).unwrap(), "x");
    unmount();

    // No inode, or read-only, and no lock file.
    let before = pushed();
    mount("nr_inodes=2");
    fs::write(&other, "x").unwrap();
    for cause in ["No space left", "Read-only"] {
        for (variant, part) in variants.into_iter().zip(["lock file", "directory"]) {
            run(&exporter, variant).end().failed(1, &[part, cause, "FORWARDER_LOCK_FILE"]);
        }
        run_command(&format!("mount -o remount,ro {}", directory.path().display()));
    }
    let missing = directory.path().join("missing");
    run(&exporter, ("TMPDIR", &missing))
        .end()
        .failed(1, &["directory", "missing/pgw-forwarder-", "No such file", "FORWARDER_LOCK_FILE"]);
    assert_eq!(pushed(), before);

    // A dry run needs no lock.
    let dry = run(&exporter, variants[1]).arg("--dry-run").end();
    assert_eq!((dry.status, &dry.stdout[..]), (Some(0), &b"a 1\n"[..]));
    unmount();
}

#[test]
fn too_few_file_descriptors_are_reported() {
    let (exporter, gateway) = (exporter(), gateway());
    let directory = tempfile::tempdir().unwrap();
    let mut pushed = 0;
    for limit in 3..=16 {
        let ended = Run::new(&exporter.addr, &gateway.addr)
            .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
            .after(&format!("ulimit -n {limit} &&"))
            .end();
        match ended.status {
            Some(0) => {
                ended.succeeded();
                pushed += 1;
            }
            // Without a fourth one, no program is loaded.
            _ if limit == 3 && ended.stderr.contains("loading shared libraries") => {}
            Some(status @ 1..=7) => ended.failed(status, &["Too many open files"]),
            _ => panic!("{ended:?}"),
        }
        assert_eq!(gateway.requests().len(), pushed);
    }
    // Those of each program, the lock, and a connection: 5.
    assert!(pushed >= 16 - 4, "{pushed}");
}

#[test]
fn response_that_does_not_fit_into_memory_is_not_pushed() {
    let gateway = gateway();
    let directory = tempfile::tempdir().unwrap();
    let line = format!("# {}\na 1\n", "x".repeat(1_000));
    let (small, large) = (line.repeat(1_000), line.repeat(40_000));
    // In kilobytes: less than the large response, enough for the program and the small one.
    let limit = 39_000;
    for is_chunked in [false, true] {
        let run = |body: &str| {
            let size = body.len();
            let response = match is_chunked {
                false => exposition(body),
                true => format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
                )
                .into(),
            };
            let exporter = Fake::after_request(move |stream| {
                let _ = stream.write_all(&response);
            });
            Run::new(&exporter.addr, &gateway.addr)
                .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
        };
        let before = gateway.requests().len();
        run(&small).within(limit).end().succeeded();
        assert_eq!(gateway.requests().len(), before + 1);
        run(&large).within(limit).end().failed(1, &["no memory for the response of http://"]);
        assert_eq!(gateway.requests().len(), before + 1);
        // Only the memory was missing.
        run(&large).end().succeeded();
    }
}

#[test]
fn run_needs_no_variables_and_no_input() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let directory = tempfile::tempdir().unwrap();
    let child = Command::new(FORWARDER)
        .env_clear()
        .args(["--exporter-addr", &exporter.addr, "--pgw-addr", &gateway.addr])
        .arg("--lock-file")
        .arg(directory.path().join("lock"))
        // A file that cannot be read from its beginning.
        .stdin(File::open("/proc/self/mem").unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Ended::of(child).succeeded();
    assert_eq!(count_pushes(&gateway.addr), 1);
}

#[test]
fn closed_standard_descriptors_mix_no_message_into_the_lock_or_the_push() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    for closed in 1..8 {
        let streams = ["<&-", ">&-", "2>&-"].into_iter().enumerate();
        let closing = streams.filter(|(fd, _)| closed & 1 << fd != 0);
        let closing = closing.map(|(_, closing)| closing).collect::<Vec<_>>().join(" ");
        let run = |exporter: &str| {
            let recorder = Fake::in_front_of(&gateway.addr);
            let ended = Run::new(exporter, &recorder.addr)
                .instance(&closing)
                .env("FORWARDER_LOCK_FILE", &lock)
                .arg("-vv")
                .after(&format!("exec {closing};"))
                .end();
            assert_eq!(fs::read_to_string(&lock).unwrap(), "", "{closing}");
            assert!(ended.stdout.is_empty());
            (ended, recorder.requests())
        };
        let (failed, requests) = run("127.0.0.1:1");
        assert_eq!((failed.status, requests.len()), (Some(4), 0), "{closing}");
        assert_eq!(failed.stderr.is_empty(), closed & 4 != 0);

        let (ended, requests) = run(&exporter.addr);
        assert_eq!(ended.status, Some(0), "{closing}: {ended:?}");
        let [request] = &requests[..] else { panic!("{closing}: {requests:?}") };
        assert_eq!(request.body.len(), request.length());
        assert!(!String::from_utf8_lossy(&request.body).contains("pgw-forwarder: "));
        let group = gateway.group(&closing).unwrap();
        assert!(families(&group).contains(&"node_load1".into()), "{closing}");
    }
    assert_eq!(count_pushes(&gateway.addr), 7);
}

#[test]
fn closed_pipes_change_no_status() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = |exporter: &str, args: &[&str]| {
        let mut child = Run::new(exporter, &gateway.addr).args(args).start();
        drop((child.stdout.take(), child.stderr.take()));
        Ended::of(child).status
    };
    assert_eq!(run(&exporter.addr, &["-vv"]), Some(0));
    assert_eq!(run(&exporter.addr, &["-vv", "--dry-run"]), Some(0));
    assert_eq!(run("127.0.0.1:1", &["-vv"]), Some(4));
    assert_eq!(run(&exporter.addr, &["--nonsense"]), Some(2));
    assert_eq!(run(&exporter.addr, &["--help"]), Some(0));
    assert_eq!(count_pushes(&gateway.addr), 1);
}

/// A TCP socket of this host, as `/proc/net/tcp` shows it.
struct Socket {
    state: String,
    bytes_to_send: usize,
    bytes_to_read: usize,
}

const ESTABLISHED: &str = "01";
const CONNECTING: &str = "02";

/// The sockets with the port of `addr` at the local or the remote end.
fn sockets(addr: &str, is_local: bool) -> Vec<Socket> {
    let (_, port) = addr.rsplit_once(':').unwrap();
    let end = format!(":{:04X}", port.parse::<u16>().unwrap());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[if is_local { 1 } else { 2 }].ends_with(&end))
        .map(|row| {
            let (to_send, to_read) = row[4].split_once(':').unwrap();
            let number = |hex| usize::from_str_radix(hex, 16).unwrap();
            Socket {
                state: row[3].into(),
                bytes_to_send: number(to_send),
                bytes_to_read: number(to_read),
            }
        })
        .collect()
}

/// An address that neither accepts nor refuses a connection, as long as the second value lives.
fn full_listener() -> (String, impl Sized) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, 0).unwrap();
    let addr: SocketAddr = getsockname(&socket).unwrap().try_into().unwrap();
    // It fills the queue.
    let first = TcpStream::connect(addr).unwrap();
    (addr.to_string(), (socket, first))
}

/// Whether a process waits for something.
fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

#[test]
fn signal_in_any_phase_ends_the_run_and_leaves_no_lock_and_no_partial_push() {
    const PATIENT: &str = "86400";
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let run = |exporter: &str, gateway: &str| {
        Run::new(exporter, gateway).instance("interrupted").env("FORWARDER_LOCK_FILE", &lock)
    };
    let patient = |exporter: &str, gateway: &str| {
        let limits = ["EXPORTER_PROBE_TIMEOUT", "EXPORTER_SCRAPE_TIMEOUT", "PGW_PUSH_TIMEOUT"];
        limits.iter().fold(run(exporter, gateway), |run, limit| run.env(limit, PATIENT))
    };
    // More than the buffers of a connection hold.
    let comment = format!("# {}\n", "x".repeat(997));
    let large = exposition(&format!("a_metric 1\n{}", comment.repeat(16_000)));
    let large = Fake::after_request(move |stream| stream.write_all(&large).unwrap_or_default());
    let small = Fake::answering(|_| exposition("a_metric 1\n"));
    let (full, _keep) = full_listener();

    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let interrupt = |phase: &str, run: Run, is_reached: &dyn Fn(&Child) -> bool| {
            // The tests may be started with some signals ignored.
            let mut child = run.by(&["env", "--default-signal=TERM,INT,HUP"]).start();
            wait_for(phase, || is_reached(&child).then_some(()));
            kill_process(Pid::from_child(&child), signal).unwrap();
            let status = wait_for(phase, || child.try_wait().unwrap());
            assert_eq!(status.signal(), Some(signal.as_raw()), "{phase}: {status:?}");
        };
        let push_and_delete = |phase: &str| {
            assert!(gateway.group("interrupted").is_none(), "{phase}");
            let next = run(&exporter.addr, &gateway.addr).end();
            assert_eq!((next.status, next.stderr.as_str()), (Some(0), ""), "{phase}");
            run(&exporter.addr, &gateway.addr).arg("--delete").end().succeeded();
        };
        let is_connecting =
            |_: &Child| sockets(&full, false).iter().any(|socket| socket.state == CONNECTING);

        let splay = run(&exporter.addr, &gateway.addr).env("FORWARDER_SPLAY", PATIENT);
        interrupt("splay", splay, &|child| {
            fs::read_to_string(&lock).is_ok_and(|pid| pid == format!("{}\n", child.id()))
        });
        push_and_delete("splay");

        interrupt("connection to the exporter", patient(&full, &gateway.addr), &is_connecting);
        push_and_delete("connection to the exporter");

        let stuck = Fake::after_request(hang);
        interrupt("scrape", patient(&stuck.addr, &gateway.addr), &|_| !stuck.requests().is_empty());
        push_and_delete("scrape");

        interrupt("connection to the gateway", patient(&small.addr, &full), &is_connecting);
        push_and_delete("connection to the gateway");

        // A stopped gateway reads nothing. Later it gets what was sent.
        gateway.pause(true);
        interrupt("body", patient(&large.addr, &gateway.addr), &|_| {
            let sockets = sockets(&gateway.addr, false);
            sockets.iter().any(|s| s.state == ESTABLISHED && s.bytes_to_send > 0)
        });
        gateway.pause(false);
        wait_for("the end of the partial push", || {
            let sockets = sockets(&gateway.addr, true);
            sockets.iter().all(|socket| socket.bytes_to_read == 0).then_some(())
        });
        push_and_delete("body");

        gateway.pause(true);
        interrupt("response", patient(&small.addr, &gateway.addr), &|child| {
            let sockets = sockets(&gateway.addr, true);
            let is_sending = sockets.iter().any(|s| s.state == ESTABLISHED && s.bytes_to_read > 0);
            // It does not sleep between the head and so small a body.
            is_sending && is_asleep(child.id())
        });
        gateway.pause(false);
        // That push was complete.
        let group = wait_for("the push", || gateway.group("interrupted"));
        assert_eq!(families(&group), ["a_metric"]);
        run(&exporter.addr, &gateway.addr).arg("--delete").end().succeeded();
        push_and_delete("response");
    }
}
