//! The main job and its options, with real programs from end to end.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::fake::{Fake, exposition, response};
use crate::host::{Complete, require, unused_address, wait_for};
use crate::run::{Ended, FORWARDER, Run};
use crate::servers::{Server, families};

#[test]
fn metrics_of_a_node_reach_prometheus_under_their_job_and_instance() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let prometheus = Server::prometheus(&gateway, None);
    Run::new(&exporter.addr, &gateway.addr).instance("n1.example").end().succeeded();

    let found = prometheus.query("node_load1{job=\"node\",instance=\"n1.example\"}");
    assert!(found["metric"].get("exported_job").is_none(), "{found}");
    let load = found["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    assert!(load >= 0.0, "{found}");

    // No family of the exporter is missing, and none is new.
    let scraped = exporter.page("/metrics");
    let scraped =
        scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let scraped: BTreeSet<String> = scraped.map(String::from).collect();
    let stored = BTreeSet::from_iter(families(&gateway.group("n1.example").unwrap()));
    assert!(scraped.len() > 100);
    assert_eq!(stored, scraped);
}

#[test]
fn default_group_is_the_job_node_and_the_name_of_the_host() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    Run::new(&exporter.addr, &gateway.addr).end().succeeded();
    let (labels, _) = gateway.groups().remove(0);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(labels["instance"], host.trim());
    assert_eq!(labels["job"], "node");
    assert_eq!(labels.len(), 2);
}

#[test]
fn push_time_changes_only_with_fresh_metrics() {
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
fn run_makes_one_request_for_text_and_one_push_of_text() {
    let exporter = Fake::answering(|_| response(200, "Content-Type: text/html\r\n", "a 1\n"));
    let gateway = Fake::answering(|_| response(200, "", ""));
    Run::new(&exporter.addr, &gateway.addr).end().succeeded();

    let [scrape] = &exporter.requests()[..] else { panic!("{:?}", exporter.requests()) };
    assert_eq!((scrape.method(), scrape.path()), ("GET", "/metrics"));
    assert_eq!(scrape.header("accept"), Some("text/plain;version=0.0.4, */*;q=0.1"));
    assert_eq!(scrape.header("accept-encoding"), Some("identity"));
    let [push] = &gateway.requests()[..] else { panic!("{:?}", gateway.requests()) };
    assert_eq!((push.method(), &push.body[..]), ("POST", &b"a 1\n"[..]));
    assert_eq!(push.header("content-type"), Some("text/plain; version=0.0.4"));
    assert_eq!(push.header("content-encoding"), None);
}

#[test]
fn option_wins_over_variable() {
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
        let groups = gateway.groups().into_iter().map(|(labels, _)| labels);
        let labels = groups.into_iter().find(|labels| labels["instance"] == instance).unwrap();
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
fn post_replaces_families_and_put_replaces_the_group() {
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
fn delete_removes_only_this_group_and_needs_no_exporter() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = |exporter: &str, gateway: &str| Run::new(exporter, gateway).instance("a/b");
    run(&exporter.addr, &gateway.addr).end().succeeded();
    run(&exporter.addr, &gateway.addr).env("PGW_LABELS", "zone=x").end().succeeded();
    assert_eq!(gateway.groups().len(), 2);

    let delete = |gateway: &str| {
        run(&unused_address(), gateway).env("PGW_LABELS", "zone=x").arg("--delete").end()
    };
    delete(&gateway.addr).succeeded();
    let groups = gateway.groups();
    assert_eq!((groups.len(), groups[0].0.len()), (1, 2), "{groups:?}");
    // A group that does not exist is deleted already.
    delete(&gateway.addr).succeeded();

    let refusing = Fake::answering(|_| response(403, "", "admins only"));
    delete(&refusing.addr).failed(7, &["gateway", "403", "admins only"]);
    delete(&unused_address()).failed(6, &["gateway", "is unreachable", "refused"]);
}

#[test]
fn dry_run_prints_the_exposition_and_pushes_nothing() {
    let (exporter, gateway) = (Server::node_exporter(), Fake::answering(|_| response(200, "", "")));
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    let run = || {
        let run = Run::new(&exporter.addr, &gateway.addr).arg("--dry-run");
        // The test would not wait an hour for the splay.
        run.env("FORWARDER_LOCK_FILE", &lock).env("FORWARDER_SPLAY", "3600")
    };
    let ended = run().env("PGW_COMPRESSION", "gzip").end();
    ended.succeeded();
    assert!(gateway.requests().is_empty());
    assert!(!lock.exists(), "a dry run must not delay the run of cron");

    // promtool ends with 3 because of some names of node_exporter, and with 1 if a line
    // does not parse.
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(&ended.stdout).unwrap();
    let verdict = promtool.complete();
    assert!(matches!(verdict.status.code(), Some(0 | 3)), "{verdict:?}");

    // A reader that stops early is no failure, a full disk is one.
    let mut child = run().start();
    drop(child.stdout.take());
    Ended::of(child).succeeded();
    let child = Command::new(FORWARDER)
        .args(["--dry-run", "--exporter-addr", &exporter.addr])
        .stdout(OpenOptions::new().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Ended::of(child).failed(1, &["cannot write to stdout: No space left"]);
}

#[test]
fn query_selects_collectors() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
    run.env("EXPORTER_METRIC", "/metrics?collect[]=loadavg&collect[]=time").end().succeeded();
    let families = families(&gateway.group("n").unwrap());
    assert!(families.contains(&"node_load1".into()) && families.len() < 30, "{families:?}");
}

#[test]
fn gateway_may_have_a_path_prefix() {
    let exporter = Server::node_exporter();
    let gateway = Server::pushgateway(&["--web.route-prefix=/some/prefix"]);
    let url = format!("http://{}/some/prefix/", gateway.addr);
    Run::new(&exporter.addr, &url).instance("n").end().succeeded();
    let metrics = gateway.page("/some/prefix/metrics");
    assert!(metrics.contains("node_load1{instance=\"n\",job=\"node\"}"));
    let without = Run::new(&exporter.addr, &gateway.addr).end();
    without.failed(7, &["gateway", "404", "Check the path prefix in --pgw-addr (PGW_ADDR)"]);
}

#[test]
fn exporter_and_gateway_may_have_ipv6_addresses() {
    if !require(TcpListener::bind("[::1]:0").is_ok(), "IPv6 needs a loopback address ::1") {
        return;
    }
    let (exporter, gateway) =
        (Server::node_exporter_on("[::1]"), Server::pushgateway_on("[::1]", &[]));
    Run::new(&exporter.addr, &gateway.addr).instance("n").end().succeeded();
    assert!(gateway.group("n").is_some());
    let urls = [&exporter, &gateway].map(|server| format!("http://{}/", server.addr));
    Run::new(&urls[0], &urls[1]).instance("m").end().succeeded();
    assert!(gateway.group("m").is_some());
}

#[test]
fn gateway_without_consistency_check_stores_the_push() {
    let exporter = Server::node_exporter();
    let gateway = Server::pushgateway(&["--push.disable-consistency-check"]);
    Run::new(&exporter.addr, &gateway.addr).instance("n").end().succeeded();
    wait_for("the queued push", || gateway.group("n"));
}

#[test]
fn splay_is_a_fixed_share_of_its_seconds() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    // A unit test pins the share of this group, 0.9862.
    let run = Run::new(&exporter.addr, &gateway.addr).instance("node1.example").arg("-v");
    let ended = run.env("FORWARDER_SPLAY", "0.5").end();
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("sleeping 493.1ms of a splay of 500ms"), "{ended:?}");
}

#[test]
fn push_goes_through_the_proxy_of_the_environment() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let open = Server::tinyproxy("");
    let run = |proxy: &str| {
        let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
        run.env("http_proxy", proxy).end()
    };
    run(&format!("http://{}", open.addr)).succeeded();
    assert!(gateway.group("n").is_some());
    // Only the push does, and not through a tunnel, which proxies allow to few ports.
    let log = open.log();
    let requests = log.lines().filter(|line| line.contains("Request (")).collect::<Vec<_>>();
    assert_eq!(requests.len(), 1, "{log}");
    assert!(requests[0].contains(&format!("POST http://{}/metrics/job/", gateway.addr)), "{log}");

    let guarded = Server::tinyproxy("BasicAuth user s3cret");
    run(&format!("http://user:s3cret@{}", guarded.addr)).succeeded();
    let refused = run(&format!("http://user:wr0ng@{}", guarded.addr));
    refused.failed(7, &["gateway", "through the proxy", &guarded.addr]);
    assert!(!refused.stderr.contains("wr0ng"), "{refused:?}");
}

#[test]
fn messages_follow_the_options_and_rust_log() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = |args: &[&str], rust_log: &str| {
        let run = Run::new(&exporter.addr, &gateway.addr).instance("n");
        let ended = run.env("RUST_LOG", rust_log).args(args).end();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.stderr
    };
    assert_eq!(run(&[], ""), "");
    let info = run(&["-v"], "off");
    for part in ["holding the lock", "is alive", "scraped http://", " bytes, ", "answered 200 OK"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    assert_eq!(run(&[], "info").lines().count(), info.lines().count());
    assert!(run(&["-vv"], "").contains("pgw-forwarder: debug: "));
    assert_eq!(run(&["-q"], "trace"), "");

    // A variable for other programs does not hide why a run failed, but -q does.
    let down = || Run::new(&unused_address(), &gateway.addr);
    down().env("RUST_LOG", "hyper=info,off").end().failed(4, &["exporter", "is down"]);
    let silent = down().arg("-q").end();
    assert_eq!((silent.status, silent.stderr.as_str()), (Some(4), ""));
}

#[test]
fn example_crontab_pushes() {
    assert_pushes(include_str!("../../crontab.example"));
}

#[test]
fn example_in_the_help_of_a_narrow_terminal_pushes() {
    let help = Command::new(FORWARDER).arg("--help").env("COLUMNS", "80").complete();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, example) = help.split_once("\nExample, a file in /etc/cron.d:\n").unwrap();
    let (example, _) = example.split_once("\n\n").unwrap();
    assert!(example.lines().all(|line| line.len() <= 80), "{example}");
    assert_pushes(example);
}

/// Asserts that the entry of this cron file pushes.
fn assert_pushes(crontab: &str) {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let lines =
        || crontab.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (_, entry) = lines().find_map(|line| line.split_once(" * * * * ")).unwrap();
    let (_user, command) = entry.split_once(' ').unwrap();
    let variables =
        lines().filter_map(|line| line.split_once('=')).filter(|(n, _)| !n.contains(' '));

    // As cron runs it, but at once, and with the servers and the program of this test.
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
        .complete();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(gateway.groups().len(), 1, "{output:?}");
}
