//! The main job, and every option of it, with real programs from end to end.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fake::{Fake, exposition, response};
use crate::host::{require, unused_address};
use crate::run::{Ended, FORWARDER, Run};
use crate::servers::{Server, count_pushes, families};

#[test]
fn a_nodes_metrics_reach_prometheus_under_their_own_job_and_instance() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let prometheus = Server::prometheus(&gateway, None);
    Run::new(&exporter.addr, &gateway.addr).instance("n1.example").end().succeeded();

    let found = prometheus.query("node_load1{job=\"node\",instance=\"n1.example\"}");
    assert!(found["metric"].get("exported_job").is_none(), "{found}");
    let load = found["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    assert!(load >= 0.0, "{found}");

    // Not one family of the exporter's is missing, and none is new.
    let page = exporter.page("/metrics");
    let told = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let told: BTreeSet<String> = told.map(String::from).collect();
    let stored = BTreeSet::from_iter(families(&gateway.group("n1.example").unwrap()));
    assert!(told.len() > 100);
    assert_eq!(stored, told);
}

#[test]
fn the_defaults_are_this_host_and_the_job_node() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    Run::new(&exporter.addr, &gateway.addr).end().succeeded();
    let (labels, _) = gateway.groups().remove(0);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(labels["instance"], host.trim());
    assert_eq!(labels["job"], "node");
    assert_eq!(labels.len(), 2);
}

#[test]
fn nothing_is_pushed_while_the_exporter_is_down_so_push_time_tells_the_truth() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let addr = exporter.addr.clone();
    let run = || Run::new(&addr, &gateway.addr).instance("n").end();
    let push_time = || gateway.group("n").unwrap()["push_time_seconds"]["metrics"].clone();
    run().succeeded();
    let first = push_time();
    run().succeeded();
    let second = push_time();
    assert_ne!(first, second);

    drop(exporter);
    run().failed(4, &["exporter", &addr, "is down", "refused"]);
    assert_eq!(push_time(), second);
}

#[test]
fn options_win_over_variables() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    Run::new(&unused_address(), &unused_address())
        .env("EXPORTER_METRIC", "nothing-here")
        .env("EXPORTER_PROBE_TIMEOUT", "no number")
        .env("PGW_JOB", "variable")
        .env("PGW_INSTANCE", "variable")
        .env("PGW_LABELS", "from=variable,and=another")
        .args(&["--exporter-addr", &exporter.addr, "--pgw-addr", &gateway.addr])
        .args(&["--exporter-metric", "/metrics", "--probe-timeout=5", "--pgw-job", "option"])
        .args(&["--pgw-instance", "option", "--pgw-label", "from=option"])
        .end()
        .succeeded();
    let (labels, _) = gateway.groups().remove(0);
    assert_eq!(labels.len(), 3, "{labels:?}");
    assert!(labels.values().all(|value| value == "option"), "{labels:?}");
}

#[test]
fn labels_of_options_and_of_the_variable_join_the_grouping_key() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = || Run::new(&exporter.addr, &gateway.addr);
    let labels = |instance: &str| {
        let (labels, _) = gateway
            .groups()
            .into_iter()
            .find(|(labels, _)| labels["instance"] == instance)
            .unwrap();
        let rest = labels.into_iter().filter(|(name, _)| name != "job" && name != "instance");
        rest.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    run().instance("a").env("PGW_LABELS", "zone=eu,rack=/r=1").end().succeeded();
    assert_eq!(labels("a"), ["rack=/r=1", "zone=eu"]);
    run().instance("b").args(&["--pgw-label", "zone=a, b", "--pgw-label=x="]).end().succeeded();
    assert_eq!(labels("b"), ["x=", "zone=a, b"]);
    run().instance("c").env("PGW_LABELS", "").end().succeeded();
    assert_eq!(labels("c"), [""; 0]);
}

#[test]
fn post_replaces_families_and_put_the_group() {
    let gateway = Server::pushgateway(&[]);
    let push = |body: &'static str, method: &str| {
        let exporter = Fake::answering(move |_| exposition(body));
        let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
        run.env("PGW_METHOD", method).end().succeeded();
        families(&gateway.group("n").unwrap())
    };
    assert_eq!(push("a 1\nb 1\n", "post"), ["a", "b"]);
    assert_eq!(push("a 2\n", "post"), ["a", "b"]);
    assert_eq!(push("a 3\n", "put"), ["a"]);
}

#[test]
fn delete_removes_this_group_alone_and_asks_no_exporter() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let labelled = |run: Run| run.instance("a/b").env("PGW_LABELS", "zone=x");
    Run::new(&exporter.addr, &gateway.addr).instance("a/b").end().succeeded();
    labelled(Run::new(&exporter.addr, &gateway.addr)).end().succeeded();
    assert_eq!(gateway.groups().len(), 2);

    let delete = || labelled(Run::new(&unused_address(), &gateway.addr)).arg("--delete").end();
    delete().succeeded();
    let (labels, _) = gateway.groups().remove(0);
    assert_eq!(labels.len(), 2, "{labels:?}");
    assert_eq!(gateway.groups().len(), 1);
    // What is gone already is gone.
    delete().succeeded();

    let refusing = Fake::answering(|_| response(403, "", "admins only"));
    let refused = Run::new(&unused_address(), &refusing.addr).arg("--delete").end();
    refused.failed(7, &["gateway", "403", "admins only"]);
    let unreachable = Run::new(&unused_address(), &unused_address()).arg("--delete").end();
    unreachable.failed(6, &["gateway", "refused"]);
}

#[test]
fn a_dry_run_shows_what_would_be_pushed_and_pushes_nothing() {
    let (exporter, gateway) = (Server::node_exporter(), Fake::answering(|_| response(200, "", "")));
    let lock = tempfile::tempdir().unwrap();
    let lock = lock.path().join("lock");
    let run = || {
        let run = Run::new(&exporter.addr, &gateway.addr).arg("--dry-run");
        // An hour; a test that waits for it does not end.
        run.env("FORWARDER_LOCK_FILE", lock.to_str().unwrap()).env("FORWARDER_SPLAY", "3600")
    };
    let ended = run().end();
    ended.succeeded();
    assert!(gateway.requests().is_empty());
    assert!(!lock.exists(), "a dry run must not stand in cron's way");

    // The README's pipe into Prometheus's own checker, which calls node_exporter's own names
    // doubtful (status 3), but would say what does not parse (status 1).
    let mut promtool = Command::new("promtool");
    let mut promtool = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), &ended.stdout).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    assert!(matches!(verdict.status.code(), Some(0 | 3)), "{verdict:?}");

    // A reader that stops early is no failure, a full disk is.
    let mut child = run().start();
    drop(child.stdout.take());
    Ended::new(child.wait_with_output().unwrap(), Duration::ZERO).succeeded();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(FORWARDER)
        .args(["--dry-run", "--exporter-addr", &exporter.addr])
        .stdout(full)
        .output()
        .unwrap();
    Ended::new(output, Duration::ZERO).failed(1, &["stdout", "No space left"]);
}

#[test]
fn the_bytes_go_on_with_the_type_that_the_exporter_gave_them() {
    let content_type = "text/plain; version=\"0.0.4\"; charset=utf-8";
    let reply = response(200, &format!("Content-Type: {content_type}\r\n"), "a 1\n");
    let exporter = Fake::answering(move |_| reply.clone());
    let gateway = Fake::answering(|_| response(200, "", ""));
    Run::new(&exporter.addr, &gateway.addr).end().succeeded();

    let scrape = &exporter.requests()[1].head.to_ascii_lowercase();
    assert!(scrape.contains("\r\naccept: text/plain; version=0.0.4"), "{scrape}");
    assert!(scrape.contains("\r\naccept-encoding: identity\r\n"), "{scrape}");
    let push = &gateway.requests()[0].head.to_ascii_lowercase();
    assert!(push.contains(&format!("\r\ncontent-type: {content_type}\r\n")), "{push}");
}

#[test]
fn a_query_chooses_the_collectors() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
    run.env("EXPORTER_METRIC", "/metrics?collect[]=loadavg&collect[]=time").end().succeeded();
    let families = families(&gateway.group("n").unwrap());
    assert!(families.contains(&"node_load1".into()) && families.len() < 30, "{families:?}");
}

#[test]
fn a_gateway_may_have_a_path_prefix() {
    let exporter = Server::node_exporter();
    let gateway = Server::pushgateway(&["--web.route-prefix=/some/prefix"]);
    let url = format!("http://{}/some/prefix/", gateway.addr);
    Run::new(&exporter.addr, &url).instance("n").end().succeeded();
    assert!(
        gateway.page("/some/prefix/metrics").contains("node_load1{instance=\"n\",job=\"node\"}")
    );
    let without = Run::new(&exporter.addr, &gateway.addr).end();
    without.failed(7, &["gateway", "404", "path prefix"]);
}

#[test]
fn both_sides_may_be_at_an_ipv6_address() {
    if !require(TcpListener::bind("[::1]:0").is_ok(), "IPv6 needs a loopback address ::1") {
        return;
    }
    let (exporter, gateway) =
        (Server::node_exporter_on("[::1]"), Server::pushgateway_on("[::1]", &[]));
    Run::new(&exporter.addr, &gateway.addr).instance("n").end().succeeded();
    assert!(gateway.group("n").is_some());
    let url = format!("http://{}", gateway.addr);
    Run::new(&format!("http://{}/", exporter.addr), &url).instance("m").end().succeeded();
    assert!(gateway.group("m").is_some());
}

#[test]
fn a_gateway_that_does_not_check_answers_202() {
    let exporter = Server::node_exporter();
    let gateway = Server::pushgateway(&["--push.disable-consistency-check"]);
    Run::new(&exporter.addr, &gateway.addr).instance("n").end().succeeded();
    crate::host::wait_for("the queued push", || gateway.group("n"));
}

#[test]
fn the_splay_is_a_fixed_share_of_its_seconds() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    // This group's share is 0.986, see the unit test that pins it.
    let run = Run::new(&exporter.addr, &gateway.addr).instance("node1.example").arg("-v");
    let ended = run.env("FORWARDER_SPLAY", "0.5").end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("sleeping 493.1"), "{ended:?}");
    assert!(ended.took > Duration::from_millis(493), "{ended:?}");
}

#[test]
fn a_push_goes_through_the_proxy_of_the_environment() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let open = Server::tinyproxy("");
    let run = |proxy: &str| {
        let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
        run.env("http_proxy", proxy).end()
    };
    run(&format!("http://{}", open.addr)).succeeded();
    assert!(gateway.group("n").is_some());
    // The push alone, and not by a tunnel, which proxies allow to few ports.
    let log = open.log();
    let requests = log.lines().filter(|line| line.contains("Request (")).collect::<Vec<_>>();
    assert_eq!(requests.len(), 1, "{log}");
    assert!(requests[0].contains(&format!("POST http://{}/metrics/job/", gateway.addr)), "{log}");

    let guarded = Server::tinyproxy("BasicAuth user s3cret");
    run(&format!("http://user:s3cret@{}", guarded.addr)).succeeded();
    let refused = run(&format!("http://user:geheim@{}", guarded.addr));
    refused.failed(7, &["gateway", "through the proxy", &guarded.addr]);
    assert!(!refused.stderr.contains("geheim"), "{refused:?}");
}

#[test]
fn it_says_as_much_as_it_is_asked_to() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = |args: &[&str], rust_log: &str| {
        let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
        let ended = run.env("RUST_LOG", rust_log).args(args).end();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.stderr
    };
    assert_eq!(run(&[], ""), "");
    let info = run(&["-v"], "off");
    for words in ["holding the lock", "is alive: 200", "bytes of text", "answered 200"] {
        assert!(info.contains(words), "{words}: {info}");
    }
    assert_eq!(run(&[], "info").lines().count(), info.lines().count());
    assert!(run(&["-vv"], "").contains("pgw-forwarder: debug: "));
    assert_eq!(run(&["-q"], "trace"), "");

    // A variable that is meant for other programs does not take the reason away.
    let failed = Run::new(&unused_address(), &gateway.addr).env("RUST_LOG", "hyper=info,off").end();
    failed.failed(4, &["exporter", "is down"]);
    let silent = Run::new(&unused_address(), &gateway.addr).arg("-q").end();
    assert_eq!((silent.status, silent.stderr.as_str()), (Some(4), ""));
}

#[test]
fn the_example_crontab_pushes() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let example = include_str!("../../crontab.example");
    let lines = || example.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = lines().find_map(|line| line.strip_prefix("*/1 * * * * ")).unwrap();
    let (_user, command) = entry.split_once(' ').unwrap();
    let variables =
        lines().filter_map(|line| line.split_once('=')).filter(|(n, _)| !n.contains(' '));

    // As cron does it, but for the places of the forwarder, the gateway and the exporter, and at
    // once.
    let command = command.replace("/usr/local/bin/pgw-forwarder", FORWARDER);
    let output = Command::new("/bin/sh")
        .args(["-c", &command])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.map(|(name, value)| (name.trim(), value.trim())))
        .env("PGW_ADDR", &gateway.addr)
        .env("EXPORTER_ADDR", &exporter.addr)
        .env("FORWARDER_SPLAY", "0")
        .env("TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(count_pushes(&gateway.addr), 1, "{output:?}");
}
