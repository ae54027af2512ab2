//! Exporters other than node_exporter, and servers that are no gateways, all of them real programs: shell
//! loops, Python's client, HAProxy, nginx. A case from a public report names it.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::fake::{Fake, exposition};
use crate::host::{Complete, free_port, has_namespaces, kill, program, require, wait_for};
use crate::run::Run;
use crate::servers::{Server, count_pushes, families};

/// Both values of PGW_COMPRESSION.
const COMPRESSIONS: [&str; 2] = ["none", "gzip"];

/// A collector that takes some seconds, and counts its runs. Its arguments are the port and these seconds.
const PYTHON_EXPORTER: &str = r#"
import sys, threading, time
import prometheus_client
from prometheus_client.core import GaugeMetricFamily

class Collector:
    runs = 0

    def describe(self):
        return []

    def collect(self):
        self.runs += 1
        time.sleep(float(sys.argv[2]))
        yield GaugeMetricFamily("runs", "Runs of this collector.", value=self.runs)

registry = prometheus_client.CollectorRegistry()
registry.register(Collector())
prometheus_client.start_http_server(int(sys.argv[1]), "127.0.0.1", registry)
threading.Event().wait()
"#;

/// Runs curl, and returns its output.
fn curl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("curl").args(["--noproxy", "*", "-s"]).args(args).complete();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn port(addr: &str) -> &str {
    addr.rsplit_once(':').unwrap().1
}

/// An exporter with Python's client, whose collector takes `seconds`.
fn python_exporter(seconds: &str) -> Server {
    // The distribution's Python has the package. A request, to see whether it is up, would run the collector.
    Server::start(&["/usr/bin/python3"], "127.0.0.1", "", |addr, _| {
        ["-c", PYTHON_EXPORTER, port(addr), seconds].map(String::from).into()
    })
}

/// An HAProxy with `section` in its configuration, and its address for `ADDR`.
fn haproxy(ready: &str, section: &str) -> Server {
    Server::start(&["haproxy"], "127.0.0.1", ready, |addr, directory| {
        let config = directory.join("haproxy.cfg");
        let limits =
            "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n";
        fs::write(&config, format!("{limits}{}\n", section.replace("ADDR", addr))).unwrap();
        vec!["-db".into(), "-f".into(), config.display().to_string()]
    })
}

/// An nginx that serves a file with `text` at `/metrics`.
fn file_server(text: &str, directory: &Path) -> Server {
    let file = directory.join("metrics");
    fs::write(&file, text).unwrap();
    let root = directory.display();
    Server::nginx(&format!("listen ADDR; root {root}; default_type text/plain;"))
}

/// nginx's exporter, and the nginx that it is about.
fn nginx_exporter() -> [Server; 2] {
    let nginx = Server::nginx("listen ADDR; location = /stub_status { stub_status; }");
    let status = format!("-nginx.scrape-uri=http://{}/stub_status", nginx.addr);
    let exporter = Server::start(&["prometheus-nginx-exporter"], "127.0.0.1", "", |addr, _| {
        vec![format!("-web.listen-address={addr}"), status.clone()]
    });
    [exporter, nginx]
}

/// A shell loop around netcat. It serves one connection at a time, each with a new socket.
struct NetcatLoop {
    addr: String,
    shell: Child,
    /// The socket of the last run.
    used: Option<String>,
}

impl NetcatLoop {
    fn start(response: &str, option: &str) -> NetcatLoop {
        let addr = format!("127.0.0.1:{}", free_port());
        let netcat = program(&["nc.openbsd"]);
        let line = "while true; do printf \"$0\" | \"$1\" $2 -l 127.0.0.1 \"$3\"; done";
        let shell = Command::new("sh")
            .args(["-c", line, response, netcat.to_str().unwrap(), option, port(&addr)])
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        NetcatLoop { addr, shell, used: None }
    }

    /// Waits for a listening socket that no run has used. A connection would use it.
    fn wait(&mut self) {
        let local = format!("0100007F:{:04X}", port(&self.addr).parse::<u16>().unwrap());
        let used = wait_for("netcat", || {
            let table = fs::read_to_string("/proc/net/tcp").unwrap();
            let sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let mut listening = sockets.filter(|columns| columns[1] == local && columns[3] == "0A");
            let inode = listening.next().map(|columns| columns[9].to_owned());
            inode.filter(|inode| Some(inode) != self.used.as_ref())
        });
        self.used = Some(used);
    }

    /// Pushes 20 times, in both compressions. EXPORTER_ALLOW_UNFRAMED is `allow_unframed`.
    fn push_repeatedly(&mut self, gateway: &Server, allow_unframed: &str) {
        let before = count_pushes(&gateway.addr);
        for compression in COMPRESSIONS.repeat(10) {
            self.wait();
            let run = Run::new(&self.addr, &gateway.addr).instance("n");
            let run = run.env("EXPORTER_ALLOW_UNFRAMED", allow_unframed);
            run.env("PGW_COMPRESSION", compression).end().succeeded();
        }
        assert_eq!(count_pushes(&gateway.addr), before + 20);
        assert_eq!(families(&gateway.group("n").unwrap()), ["a", "b"]);
    }
}

impl Drop for NetcatLoop {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
        kill(&mut self.shell);
    }
}

/// Asserts that the forwarder pushes all families of an exporter, in both compressions.
#[track_caller]
fn pushes_all_families(exporter: &Server) {
    let page = exporter.page("/metrics");
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let expected = BTreeSet::from_iter(types.map(String::from));
    assert!(!expected.is_empty(), "{page}");
    let gateway = Server::pushgateway(&[]);
    for compression in COMPRESSIONS {
        let run = Run::new(&exporter.addr, &gateway.addr).instance(compression);
        run.env("PGW_COMPRESSION", compression).end().succeeded();
        let stored = BTreeSet::from_iter(families(&gateway.group(compression).unwrap()));
        assert_eq!(stored, expected, "{compression}");
    }
}

/// pstadler/metrics.sh#6: its loop is the second one, with bare newlines at the ends of the head's lines.
#[test]
fn unframed_netcat_loop_is_pushed_only_with_the_option() {
    let gateway = Server::pushgateway(&[]);
    for head in ["HTTP/1.0 200 OK\\r\\n\\r\\n", "HTTP/1.1 200 OK\\nContent-Type: text/plain\\n\\n"]
    {
        let mut exporter = NetcatLoop::start(&format!("{head}a 1\\nb 2\\n"), "-N");
        exporter.push_repeatedly(&gateway, "1");
        exporter.wait();
        let refused = Run::new(&exporter.addr, &gateway.addr).instance("refused").end();
        let option = "--exporter-allow-unframed (EXPORTER_ALLOW_UNFRAMED)";
        refused.failed(5, &["exporter", "truncation", option, "nothing was pushed"]);
    }
    assert!(gateway.group("refused").is_none());
}

#[test]
fn netcat_loop_with_a_length_is_pushed_without_the_option() {
    let response = "HTTP/1.0 200 OK\\nContent-Length: 8\\n\\na 1\\nb 2\\n";
    NetcatLoop::start(response, "").push_repeatedly(&Server::pushgateway(&[]), "0");
}

#[test]
fn socat_one_liner_is_pushed() {
    let script = "while read -r line && [ ${#line} -gt 1 ]; do \\:; done; \
        echo HTTP/1.0 200 OK; echo; echo a 1; echo b 2";
    let exporter = Server::start(&["socat"], "127.0.0.1", "/", |addr, _| {
        let listen = format!("TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr", port(addr));
        vec![listen, format!("SYSTEM:{script}")]
    });
    let gateway = Server::pushgateway(&[]);
    let run = || Run::new(&exporter.addr, &gateway.addr).instance("n");
    run().end().failed(5, &["exporter", "EXPORTER_ALLOW_UNFRAMED"]);
    for compression in COMPRESSIONS {
        let run = run().env("PGW_COMPRESSION", compression);
        run.arg("--exporter-allow-unframed").end().succeeded();
    }
    assert_eq!(count_pushes(&gateway.addr), 2);
    assert_eq!(families(&gateway.group("n").unwrap()), ["a", "b"]);
}

/// PrefectHQ/prometheus-prefect-exporter#105: any request runs the collector, which takes longer than the
/// probe may.
#[test]
fn slow_collector_runs_once_for_each_push() {
    let (exporter, gateway) = (python_exporter("3"), Server::pushgateway(&[]));
    for runs in ["1", "2"] {
        Run::new(&exporter.addr, &gateway.addr).instance("n").end().succeeded();
        let group = gateway.group("n").unwrap();
        assert_eq!(group["runs"]["metrics"][0]["value"], runs);
    }
}

#[test]
fn exporter_that_prefers_openmetrics_is_asked_for_the_text_format() {
    let exporter = python_exporter("0");
    let accept = "Accept: application/openmetrics-text, */*;q=0.1";
    let page = curl(&["-H", accept, &exporter.addr]);
    assert!(page.ends_with(b"# EOF\n"));
    let ended = Run::new(&exporter.addr, "127.0.0.1:1").arg("--dry-run").end();
    ended.succeeded();
    assert!(ended.stdout.ends_with(b"\nruns 2.0\n"), "{ended:?}");
    pushes_all_families(&exporter);
}

#[test]
fn haproxy_is_pushed_though_its_landing_page_is_an_error() {
    let section = "frontend metrics\n bind ADDR\n \
        http-request use-service prometheus-exporter if { path /metrics }";
    let exporter = haproxy("/metrics", section);
    let landing =
        Run::new(&exporter.addr, "127.0.0.1:1").env("EXPORTER_METRIC", "/").arg("--dry-run").end();
    landing.failed(5, &["503"]);
    pushes_all_families(&exporter);
}

#[test]
fn metrics_of_nginx_are_pushed_from_a_file_and_from_its_exporter() {
    let directory = tempfile::tempdir().unwrap();
    let text = "# TYPE a gauge\na 1\n# TYPE b counter\nb{x=\"1\"} 2\n";
    pushes_all_families(&file_server(text, directory.path()));
    let [exporter, _nginx] = nginx_exporter();
    pushes_all_families(&exporter);
}

/// prometheus/node_exporter#3662.
#[test]
fn exporter_that_dies_during_a_scrape_is_reported_as_gone() {
    if !require(has_namespaces(), "a mount point that is not UTF-8 needs a mount namespace") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let node_exporter = program(&["prometheus-node-exporter", "node_exporter"]);
    let script = "point=$(printf '%s/caf\\351' \"$1\") && mkdir \"$point\" \
        && mount -t tmpfs none \"$point\" && exec \"$0\" --web.listen-address=\"$2\"";
    let exporter = Server::start(&["unshare"], "127.0.0.1", "/", |addr, _| {
        let mut args = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
            .map(String::from)
            .to_vec();
        args.extend([script.into(), node_exporter.display().to_string()]);
        args.extend([directory.path().display().to_string(), addr.into()]);
        args
    });
    let gateway = Server::pushgateway(&[]);
    let run = || Run::new(&exporter.addr, &gateway.addr).end();
    run().failed(4, &[&exporter.addr, "alive at the probe, gone during the scrape", "log"]);
    let log = exporter.log();
    assert!(log.contains("panic: label value") && log.contains("is not valid UTF-8"), "{log}");
    wait_for("its end", || TcpStream::connect(&exporter.addr).is_err().then_some(()));
    run().failed(4, &[&exporter.addr, "is down", "refused", "EXPORTER_ADDR"]);
    assert!(gateway.groups().is_empty());
}

/// kallex/PromDapter#24.
#[test]
fn comment_that_is_not_utf8_is_refused_since_it_would_blind_prometheus() {
    let directory = tempfile::tempdir().unwrap();
    let text = b"# HELP t Temperatur in \xb0C\n# TYPE t gauge\nt 21\n";
    fs::write(directory.path().join("t.prom"), text).unwrap();
    let exporter = Server::textfile_exporter(directory.path());
    let gateway = Server::pushgateway(&[]);
    let page = curl(&[&format!("{}/metrics", exporter.addr)]);
    let number = 1 + page.split(|b| *b == b'\n').position(|l| l.starts_with(b"# HELP t ")).unwrap();
    let line = format!("line {number} is not UTF-8: \"# HELP t Temperatur in \u{fffd}C\"");
    for compression in COMPRESSIONS {
        let run = Run::new(&exporter.addr, &gateway.addr).instance("bad");
        let refused = run.env("PGW_COMPRESSION", compression).end();
        refused.failed(5, &["exporter", &line, "nothing was pushed"]);
    }
    assert!(gateway.groups().is_empty());

    let healthy = Fake::answering(|_| exposition("a 1\n"));
    Run::new(&healthy.addr, &gateway.addr).instance("good").end().succeeded();
    let prometheus = Server::prometheus(&gateway, None);
    prometheus.query("up{job=\"pushgateway\"} == 1 and on() a{instance=\"good\"}");

    // The gateway stores what curl pushes.
    let file = directory.path().join("page");
    fs::write(&file, page).unwrap();
    let (data, url) =
        (format!("@{}", file.display()), format!("{}/metrics/job/node/instance/bad", gateway.addr));
    curl(&["-f", "--data-binary", &data, &url]);
    assert!(gateway.group("bad").is_some());
    prometheus.query("up{job=\"pushgateway\"} == 0");
    let targets = prometheus.page("/api/v1/targets");
    assert!(targets.contains("help text is not a valid utf8 string"), "{targets}");
}

/// prometheus/client_python#1019.
#[test]
fn push_to_a_server_that_is_no_gateway_fails() {
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let stats = "listen stats\n bind ADDR\n stats enable\n stats uri /";
    let [nginx_exporter, _nginx] = nginx_exporter();
    for (server, answer) in [
        (Server::node_exporter(), "200 OK with a body: <html>"),
        (nginx_exporter, "200 OK with a body: <!DOCTYPE html>"),
        (python_exporter("0"), "200 OK with a body: # HELP runs Runs of this collector."),
        (Server::nginx("listen ADDR; return 200 \"ok\";"), "200 OK with a body: ok. Check"),
        (Server::nginx("listen ADDR; return 200 '{\"ok\":true}';"), "with a body: {\"ok\":true}."),
        (haproxy("/", stats), "303 See Other, a redirect to /;st=DENY"),
    ] {
        for compression in COMPRESSIONS {
            let run = Run::new(&exporter.addr, &server.addr);
            let ended = run.env("PGW_COMPRESSION", compression).end();
            ended.failed(7, &["gateway", &server.addr, answer]);
            let is_redirect = answer.contains("redirect");
            assert!(is_redirect || ended.stderr.contains("--pgw-addr (PGW_ADDR)"), "{ended:?}");
        }
    }
}

/// Gateways answer so, too: the forwarder cannot know better.
#[test]
fn empty_2xx_response_counts_as_stored() {
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    for answer in ["200", "200 \"\"", "202", "204"] {
        let server = Server::nginx(&format!("listen ADDR; return {answer};"));
        for compression in COMPRESSIONS {
            let run = Run::new(&exporter.addr, &server.addr);
            run.env("PGW_COMPRESSION", compression).end().succeeded();
        }
    }
}
