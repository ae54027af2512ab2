//! An exporter on a Unix socket: a real node_exporter that systemd's socket activation starts, and fakes for
//! its failures.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use rustix::process::geteuid;
use serde_json::Value;
use tempfile::TempDir;

use crate::fake::{Fake, drip, exposition, hang, response};
use crate::host::{Complete, kill, program, require, unused_address, wait_for};
use crate::run::{Ended, Run, copy_program};
use crate::servers::Server;

/// A node_exporter that exposes `t.prom` of its directory. The first connection to its socket starts it.
pub struct ActivatedExporter {
    pub addr: String,
    process: Child,
    pub directory: TempDir,
}

impl ActivatedExporter {
    pub fn start() -> ActivatedExporter {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("t.prom"), "# TYPE t gauge\nt{x=\"ü\"} 21.5\n").unwrap();
        let socket = path("node exporter.sock");
        let log = path("log");
        let process = Command::new(program(&["systemd-socket-activate"]))
            .arg("-l")
            .arg(&socket)
            .arg(program(&["prometheus-node-exporter", "node_exporter"]))
            .args(["--web.systemd-socket", "--web.disable-exporter-metrics"])
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg(format!("--collector.textfile.directory={}", directory.path().display()))
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        wait_for("the socket", || {
            fs::read_to_string(&log).unwrap().contains("Listening").then_some(())
        });
        ActivatedExporter { addr: format!("unix:{}", socket.display()), process, directory }
    }

    /// The name of the program that this process runs now.
    fn program(&self) -> String {
        let link = fs::read_link(format!("/proc/{}/exe", self.process.id())).unwrap();
        link.file_name().unwrap().to_str().unwrap().into()
    }
}

impl Drop for ActivatedExporter {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}

/// The samples of a group, without those that differ from scrape to scrape.
pub fn samples(group: &Value) -> Vec<(String, String)> {
    let families = group.as_object().unwrap().iter();
    let families =
        families.filter(|(name, _)| !name.contains("_time") && !name.contains("duration"));
    let samples = families.flat_map(|(name, family)| {
        let metrics = family["metrics"].as_array().into_iter().flatten();
        metrics.map(move |metric| {
            let mut labels = metric["labels"].clone();
            labels.as_object_mut().unwrap().remove("instance");
            (name.clone(), format!("{labels} {}", metric["value"]))
        })
    });
    samples.collect()
}

#[test]
fn connection_starts_exporter_and_its_values_equal_those_over_tcp() {
    let (exporter, gateway) = (ActivatedExporter::start(), Server::pushgateway(&[]));
    let over_tcp = Server::textfile_exporter(exporter.directory.path());
    assert_eq!(exporter.program(), "systemd-socket-activate");
    Run::new(&exporter.addr, &gateway.addr).instance("none").end().succeeded();
    assert!(exporter.program().contains("node"), "{}", exporter.program());
    let run = Run::new(&exporter.addr, &gateway.addr).instance("gzip");
    run.env("PGW_COMPRESSION", "gzip").end().succeeded();

    Run::new(&over_tcp.addr, &gateway.addr).instance("tcp").end().succeeded();
    let expected = samples(&gateway.group("tcp").unwrap());
    let labels = r#"{"job":"node","x":"ü"} "21.5""#;
    assert!(expected.contains(&("t".into(), labels.into())), "{expected:?}");
    for instance in ["none", "gzip"] {
        assert_eq!(samples(&gateway.group(instance).unwrap()), expected, "{instance}");
    }
}

#[test]
fn query_and_dry_run_work_and_proxies_are_ignored() {
    let exporter = ActivatedExporter::start();
    let run = || {
        let run = Run::new(&exporter.addr, &unused_address()).arg("--dry-run");
        let proxy = format!("http://{}", unused_address());
        run.env("http_proxy", &proxy).env("all_proxy", &proxy)
    };
    let ended = run().env("EXPORTER_METRIC", "metrics?collect[]=textfile").arg("-v").end();
    let name = format!("{}:/metrics?collect[]=textfile", exporter.addr);
    assert!(ended.stderr.contains(&format!("exporter {name} is alive")), "{ended:?}");
    let shown = String::from_utf8(ended.stdout).unwrap();
    assert!(shown.contains("\nt{x=\"ü\"} 21.5\n"), "{shown}");

    let missing = run().env("EXPORTER_METRIC", "/metrics?collect[]=nothing").end();
    missing.failed(5, &[&exporter.addr, "400 Bad Request", "nothing"]);
}

#[test]
fn lock_and_delete_do_not_depend_on_the_exporters_address() {
    let (exporter, gateway) = (ActivatedExporter::start(), Server::pushgateway(&[]));
    let run = |exporter: &str| Run::new(exporter, &gateway.addr).instance("n");
    run(&exporter.addr).end().succeeded();
    assert!(gateway.group("n").is_some());

    let hanging = Fake::after_request(hang);
    let mut first = run(&hanging.addr).start();
    wait_for("the first run", || hanging.requests().pop());
    let pid = format!("PID {}", first.id());
    run(&exporter.addr).end().failed(3, &["another run", &pid]);
    kill(&mut first);

    run("unix:/nothing/here").arg("--delete").end().succeeded();
    assert!(gateway.groups().is_empty());
}

#[test]
fn socket_that_cannot_be_connected_to_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    drop(UnixListener::bind(path("dead")).unwrap());
    File::create(path("file")).unwrap();
    for (name, why) in [("missing", "No such file"), ("dead", "refused"), ("file", "refused")] {
        let addr = format!("unix:{}", path(name).display());
        let words = ["exporter", &addr, "is down", why, "--exporter-addr (EXPORTER_ADDR)"];
        let run = || Run::new(&addr, &unused_address());
        run().end().failed(4, &words);
        run().arg("--dry-run").end().failed(4, &words);
    }
}

#[test]
fn socket_of_another_user_is_down() {
    if !require(geteuid().is_root(), "a run as another user needs root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let socket = directory.path().join("socket");
    let exporter = Fake::on_socket(&socket, |stream| {
        stream.write_all(&exposition("a 1\n")).unwrap();
    });
    fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
    let addr = exporter.addr;
    let program = copy_program(directory.path());
    let dry_run = |user: u32| {
        let mut command = Command::new(&program);
        let command = command.env_clear().args(["--dry-run", "--exporter-addr", &addr]).uid(user);
        Ended::new(command.complete())
    };
    dry_run(0).succeeded();
    dry_run(65534).failed(4, &["exporter", &addr, "is down", "Permission denied"]);
}

#[test]
fn exporter_that_never_accepts_is_down_within_the_probe_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    // The queue has room for one.
    let _queued = UnixStream::connect(&path).unwrap();
    let addr = format!("unix:{}", path.display());
    let run = Run::new(&addr, &unused_address()).env("EXPORTER_PROBE_TIMEOUT", "0.3");
    run.end().failed(4, &["exporter", &addr, "is down", "no connection within 0.3 s"]);
}

#[test]
fn response_that_cannot_be_used_is_refused_as_over_tcp() {
    type Behaviour = fn(&mut TcpStream);
    let cases: [(Behaviour, i32, &str); 8] = [
        (hang, 4, "no complete response within 0.5 s"),
        (|_| {}, 4, "gone during the scrape"),
        (|stream| stream.write_all(b"SSH-2.0-x\r\n").unwrap(), 4, "not valid HTTP"),
        (|stream| drip(stream, *b"HTTP/1.1 200 OK\r\n"), 4, "within 0.5 s"),
        (|stream| stream.write_all(&cut(exposition("a 1\nb 2\n"))).unwrap(), 5, "too early"),
        (
            |stream| {
                stream.write_all(&cut(exposition("a 1\nb 2\n"))).unwrap();
                hang(stream);
            },
            5,
            "within 0.5 s",
        ),
        (
            |stream| stream.write_all(&exposition(&"a 1\n".repeat(26))).unwrap(),
            5,
            "larger than 100",
        ),
        (|stream| stream.write_all(&response(500, "", "broken")).unwrap(), 5, "500"),
    ];
    for (behave, status, why) in cases {
        let directory = tempfile::tempdir().unwrap();
        let addr = Fake::on_socket(&directory.path().join("socket"), behave).addr;
        let run = Run::new(&addr, &unused_address()).env("EXPORTER_MAX_BYTES", "100");
        let ended = run.env("EXPORTER_SCRAPE_TIMEOUT", "0.5").end();
        ended.failed(status, &["exporter", &addr, why]);
    }
}

/// All but the end of a response.
fn cut(mut response: Vec<u8>) -> Vec<u8> {
    response.truncate(response.len() - 2);
    response
}

#[test]
fn exporter_that_resets_the_connection_is_down() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // The rest of the request is unread, so the end is a reset.
            stream.unwrap().read_exact(&mut [0]).unwrap();
        }
    });
    let addr = format!("unix:{}", path.display());
    let ended = Run::new(&addr, &unused_address()).end();
    ended.failed(4, &["exporter", &addr, "is down", "gone during the scrape"]);
}

#[test]
fn invalid_socket_address_is_a_usage_error() {
    let too_long = format!("unix:/{}", "x".repeat(107));
    let good = "127.0.0.1:1";
    let exporter = "--exporter-addr (EXPORTER_ADDR)";
    for (exporter_addr, gateway_addr, words) in [
        ("unix:run/x.sock", good, [exporter, "absolute path"]),
        ("unix:", good, [exporter, "absolute path"]),
        (&too_long, good, [exporter, "at most 107 bytes"]),
        (good, "unix:/run/x.sock", ["--pgw-addr (PGW_ADDR)", "Unix socket"]),
        (good, "127.0.0.1:1,unix:/run/x.sock", ["--pgw-addr (PGW_ADDR)", "Unix socket"]),
    ] {
        Run::new(exporter_addr, gateway_addr).end().failed(2, &words);
        Run::new(exporter_addr, gateway_addr).arg("--dry-run").end().failed(2, &words);
    }
}
