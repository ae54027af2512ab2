//! Pruning: stale groups are deleted from the gateway, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::fake::{Fake, date, exposition, hang, response};
use crate::host::{Complete, has_fetched, kill, unused_address, wait_for};
use crate::run::{FORWARDER, Run};
use crate::servers::{Server, agent};

/// The age from which on a group is stale in these tests, in seconds.
const STALE: &str = "5";

/// The sample by which a Pushgateway is recognised.
const BUILD_INFO: &str = "pushgateway_build_info{version=\"1\"} 1\n";

/// A deletion that takes this long makes the next one wait for another reading of the metrics.
const SLOW: Duration = Duration::from_millis(5100);

pub fn prune(gateway: &str) -> Run {
    // The monitoring host has no exporter.
    Run::new("127.0.0.1:1", gateway).args(&["--prune", STALE])
}

/// Pushes to a group. `labels` are as in `PGW_LABELS`.
fn push(gateway: &str, job: &str, instance: &str, labels: &str) {
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let run = Run::new(&exporter.addr, gateway).instance(instance);
    run.env("PGW_JOB", job).env("PGW_LABELS", labels).end().succeeded();
}

/// Pushes to a group without an instance, which the forwarder never does.
fn push_without_instance(gateway: &str, job: &str) {
    let url = format!("http://{gateway}/metrics/job/{job}");
    assert!(agent().post(url).send("a 1\n").unwrap().status().is_success());
}

/// Waits until so many groups are stale by the gateway's clock. Returns the list of them.
fn wait_until_stale(gateway: &Server, groups: usize) -> String {
    wait_for("the groups to grow old", || {
        let ended = prune(&gateway.addr).arg("--dry-run").end();
        ended.succeeded();
        let listed = String::from_utf8(ended.stdout).unwrap();
        (listed.lines().count() == groups).then_some(listed)
    })
}

/// A Pushgateway with a stale group in each of the jobs a, b and c.
pub fn three_stale_groups() -> Server {
    let gateway = Server::pushgateway(&[]);
    for job in ["a", "b", "c"] {
        push(&gateway.addr, job, "n", "");
    }
    wait_until_stale(&gateway, 3);
    gateway
}

/// A gateway with these lines in its metrics, which accepts deletions, and deletes nothing.
fn gateway_with(lines: &str) -> Fake {
    let metrics = response(200, &date(0), &format!("{BUILD_INFO}{lines}"));
    Fake::answering(move |path| match path {
        "/metrics" => metrics.clone(),
        _ => response(202, "", ""),
    })
}

fn paths(gateway: &Fake) -> Vec<String> {
    gateway.requests().iter().map(|request| request.path().to_owned()).collect()
}

type Key = BTreeMap<String, String>;

/// The grouping keys on this gateway.
fn keys(gateway: &Server) -> BTreeSet<Key> {
    gateway.groups().into_iter().map(|(key, _)| key).collect()
}

/// Waits until the gateway, which queues deletions, has these groups only.
#[track_caller]
fn wait_for_keys(gateway: &Server, expected: &BTreeSet<Key>) {
    let shown = format!("the groups {expected:?}");
    wait_for(&shown, || {
        let keys = keys(gateway);
        assert!(keys.is_superset(expected), "{keys:?} lacks some of {expected:?}");
        (keys == *expected).then_some(())
    });
}

/// The same by the jobs alone.
#[track_caller]
pub fn wait_for_jobs(gateway: &Server, expected: &[&str]) {
    wait_for(&format!("the jobs {expected:?}"), || {
        let keys = keys(gateway);
        let jobs: BTreeSet<_> = keys.iter().map(|key| &*key["job"]).collect();
        (jobs == expected.iter().copied().collect()).then_some(())
    });
}

#[test]
fn stale_groups_with_every_kind_of_key_are_deleted_and_fresh_ones_stay() {
    let gateway = Server::pushgateway(&[]);
    let odd = [
        "",
        "a/b",
        ".",
        "..",
        "ü 日本",
        "\"\\n\"} 0",
        "a\\b\nc",
        "50%+?#&",
        "a,b=\"c\"",
        // Longer than the buffer of a connection.
        &"long".repeat(5000),
    ];
    for value in odd {
        push(&gateway.addr, "old", value, "");
        push(&gateway.addr, "old", value, "zone=,rack=/r=1");
    }
    push(&gateway.addr, "a/b", "n", "");
    push_without_instance(&gateway.addr, "batch");
    // Pushes that are refused make groups, too.
    let twice = Fake::answering(|_| exposition("a 1\na 1\n"));
    let push_refused = |job: &str| {
        let run = Run::new(&twice.addr, &gateway.addr).env("PGW_JOB", job);
        run.instance("n").end().failed(7, &["400"]);
    };
    push_refused("refused");
    push_refused("refused lately");
    push(&gateway.addr, "node", "n", "");
    let going = 2 * odd.len() + 3;
    wait_until_stale(&gateway, going + 2);
    let refresh = || {
        push(&gateway.addr, "node", "n", "");
        push(&gateway.addr, "fresh", "a/b", "zone=");
        push_without_instance(&gateway.addr, "fresh");
        // This node runs, and its alert has to go on.
        push_refused("refused lately");
    };
    refresh();
    let is_fresh = |key: &Key| ["fresh", "node", "refused lately"].contains(&key["job"].as_str());
    let before = keys(&gateway);
    let (fresh, stale): (BTreeSet<_>, BTreeSet<_>) = before.iter().cloned().partition(is_fresh);
    assert_eq!((fresh.len(), stale.len()), (4, going));

    let listed = prune(&gateway.addr).arg("--dry-run").end();
    listed.succeeded();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), going, "{listed}");
    assert!(listed.contains("{instance=\"a\\\\b\\nc\",job=\"old\"}, last pushed "), "{listed}");
    assert!(
        listed.contains("{instance=\"n\",job=\"refused\"}, every push was refused\n"),
        "{listed}"
    );
    assert_eq!(keys(&gateway), before);

    let without = |jobs: &[&str]| -> BTreeSet<_> {
        before.iter().filter(|key| !jobs.contains(&key["job"].as_str())).cloned().collect()
    };
    refresh();
    let ended = prune(&gateway.addr).env("PGW_JOB", "a/b").arg("-v").end();
    assert!(ended.stderr.contains("deleted {instance=\"n\",job=\"a/b\"}"), "{ended:?}");
    wait_for_keys(&gateway, &without(&["a/b"]));
    refresh();
    prune(&gateway.addr).args(&["--pgw-job", "batch"]).end().succeeded();
    wait_for_keys(&gateway, &without(&["a/b", "batch"]));
    refresh();
    prune(&gateway.addr).end().succeeded();
    wait_for_keys(&gateway, &fresh);
}

#[test]
fn group_with_a_label_name_in_utf8_is_deleted() {
    if !has_fetched(&["pushgateway-newer"]) {
        return;
    }
    let gateway = Server::newer_pushgateway(&["--push.enable-utf8-names"]);
    let url = format!("http://{}/metrics/job/j/U__a_2e_b/v", gateway.addr);
    agent().post(url).send("a 1\n").unwrap();
    assert!(keys(&gateway).pop_first().unwrap().contains_key("a.b"));
    wait_until_stale(&gateway, 1);
    prune(&gateway.addr).end().succeeded();
    wait_for_jobs(&gateway, &[]);
}

#[test]
fn refused_deletion_does_not_stop_the_others() {
    let gateway = three_stale_groups();
    let front = Fake::meddling(&gateway.addr, |request| {
        let is_guarded = request.method() == "DELETE" && request.path().contains("/job/b/");
        is_guarded.then(|| response(403, "", "b is mine"))
    });
    let ended = prune(&front.addr).end();
    assert_eq!(ended.status, Some(7), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert!(
        lines[0].contains("warn: not deleted: {instance=\"n\",job=\"b\"}, last pushed"),
        "{ended:?}"
    );
    assert!(lines[0].contains("403 Forbidden: b is mine"), "{ended:?}");
    assert!(lines[1].contains("error: gateway"), "{ended:?}");
    assert!(lines[1].contains("refused to delete 1 of 3 stale groups"), "{ended:?}");
    wait_for_jobs(&gateway, &["b"]);

    let quiet = prune(&front.addr).arg("-q").end();
    assert_eq!((quiet.status, &*quiet.stderr), (Some(7), ""));
}

#[test]
fn push_during_slow_deletions_keeps_its_group() {
    let gateway = three_stale_groups();
    let is_first = AtomicBool::new(true);
    let addr = gateway.addr.clone();
    let front = Fake::meddling(&gateway.addr, move |request| {
        if request.method() == "DELETE" && is_first.swap(false, Ordering::Relaxed) {
            for job in ["b", "c"] {
                push(&addr, job, "n", "");
            }
            thread::sleep(SLOW);
        }
        None
    });
    prune(&front.addr).end().succeeded();
    wait_for_jobs(&gateway, &["b", "c"]);
    assert_eq!(paths(&front), ["/metrics", "/metrics/job/a/instance/n", "/metrics"]);
}

#[test]
fn group_that_becomes_stale_during_a_prune_waits_for_the_next_one() {
    // At each reading, the clock of this gateway has jumped, and the first deletion is slow.
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let readings = AtomicU64::new(0);
    let gateway = Fake::answering(move |path| {
        if path != "/metrics" {
            if path.contains("/one") {
                thread::sleep(SLOW);
            }
            return response(202, "", "");
        }
        let reading = readings.fetch_add(1, Ordering::Relaxed);
        let mut lines = BUILD_INFO.to_owned();
        for (job, time) in [("one", 1), ("two", 1), ("later", now)] {
            lines += &format!("push_time_seconds{{job=\"{job}\"}} {time}\n");
        }
        response(200, &date(reading * 30), &lines)
    });
    let run = Run::new("127.0.0.1:1", &gateway.addr);
    run.args(&["--prune", "10"]).end().succeeded();
    // Two readings, each group deleted once, though the gateway has them still.
    assert_eq!(paths(&gateway), ["/metrics", "/metrics/job/one", "/metrics", "/metrics/job/two"]);
}

#[test]
fn gateway_that_dies_during_a_prune_is_reported() {
    let gateway = three_stale_groups();
    let addr = gateway.addr.clone();
    let complete = response(200, &date(0), &gateway.page("/metrics"));
    let half = complete[..complete.len() - 10].to_vec();
    let dies_while_read = Fake::after_request(move |stream| stream.write_all(&half).unwrap());
    let ended = prune(&dies_while_read.addr).end();
    ended.failed(6, &["gateway", "/metrics is unreachable", "closed the connection too early"]);
    // No group of incomplete metrics is deleted.
    assert_eq!(dies_while_read.requests().len(), 1);

    let gateway = Mutex::new(Some(gateway));
    let deletions = AtomicU64::new(0);
    let dies_at_the_second_deletion = Fake::meddling(&addr, move |request| {
        let is_second =
            request.method() == "DELETE" && deletions.fetch_add(1, Ordering::Relaxed) > 0;
        is_second.then(|| {
            drop(gateway.lock().unwrap().take());
            Vec::new()
        })
    });
    let ended = prune(&dies_at_the_second_deletion.addr).end();
    ended.failed(
        6,
        &["gateway", "/metrics/job/", " is unreachable", "closed the connection too early"],
    );
    // The second is not tried again, and the third not at all.
    assert_eq!(dies_at_the_second_deletion.requests().len(), 3);
}

#[test]
fn server_that_may_be_no_pushgateway_is_asked_for_no_deletion() {
    let exporter = Server::node_exporter();
    let not_a_gateway = "is not a Pushgateway: ";
    prune(&exporter.addr).end().failed(7, &[not_a_gateway, "it has no pushgateway_build_info"]);
    prune(&unused_address()).end().failed(6, &["gateway", "refused"]);

    let date = &date(0);
    let group = "push_time_seconds{instance=\"n\",job=\"j\"} 1\n";
    let metrics = format!("{BUILD_INFO}{group}");
    let html = format!("<html><body>{group}</body></html>\n");
    let with = |header: &str| response(200, &format!("{date}{header}\r\n"), &metrics);
    let unframed = format!("HTTP/1.1 200 OK\r\n{date}\r\n{metrics}").into_bytes();
    let mut cases = vec![
        (response(200, "", &metrics), not_a_gateway, "the response has no date"),
        (response(200, "Date: yesterday\r\n", &metrics), not_a_gateway, "no date"),
        (
            response(200, &crate::fake::date(3600), &metrics),
            "clock that differs",
            "nothing is deleted",
        ),
        (response(206, date, &metrics), not_a_gateway, "it answered 206"),
        (response(200, date, &html), not_a_gateway, "no pushgateway_build_info"),
        (response(200, date, group), not_a_gateway, "no pushgateway_build_info"),
        (response(500, date, "oh no"), "500", "oh no"),
        (with("Content-Encoding: gzip"), not_a_gateway, "compressed (gzip)"),
        (unframed, not_a_gateway, "truncation of its response would go undetected"),
    ];
    for line in [
        "push_time_seconds{instance=\"n\"} 1\n",
        "push_time_seconds{job=\"\\x\"} 1\n",
        "push_time_seconds{job=\"a\"} one\n",
        "push_time_seconds{job=\"a\"\n",
        "push_time_seconds{job=\"a\"} 1",
    ] {
        let reply = response(200, date, &format!("{metrics}{line}"));
        cases.push((reply, not_a_gateway, "it has the line push_time_seconds{"));
    }
    for (reply, what, why) in cases {
        let fake = Fake::after_request(move |stream| stream.write_all(&reply).unwrap());
        prune(&fake.addr).end().failed(7, &["gateway", what, why]);
        assert_eq!(fake.requests().len(), 1, "{why}");
    }
    // A Content-Type says nothing about the lines.
    let labelled = with("Content-Type: text/html");
    let gateway = Fake::answering(move |path| match path {
        "/metrics" => labelled.clone(),
        _ => response(202, "", ""),
    });
    prune(&gateway.addr).end().succeeded();
    assert_eq!(paths(&gateway), ["/metrics", "/metrics/job/j/instance/n"]);
}

#[test]
fn prune_goes_through_a_proxy_that_keeps_connections_open() {
    let gateway = three_stale_groups();
    let proxy = Fake::meddling(&gateway.addr, |request| {
        let is_absolute = request.path().starts_with("http://");
        (!is_absolute).then(|| response(400, "", "a proxy needs the whole URL"))
    });
    prune(&gateway.addr).env("http_proxy", &proxy.addr).end().succeeded();
    wait_for_jobs(&gateway, &[]);
}

#[test]
fn metrics_of_any_size_take_the_same_memory() {
    let filler = "node_cpu_seconds_total{cpu=\"0\",instance=\"n\",job=\"node\",mode=\"idle\"} 1\n";
    let group = "push_time_seconds{instance=\"n\",job=\"old\"} 1\n";
    let lines = filler.repeat(800_000) + group;
    assert!(lines.len() > 50_000_000);
    let gateway = gateway_with(&lines);
    // Kilobytes of virtual memory, little more than every run needs.
    prune(&gateway.addr).within(20_000).end().succeeded();
    assert_eq!(paths(&gateway), ["/metrics", "/metrics/job/old/instance/n"]);
}

#[test]
fn one_prune_runs_at_a_time_for_each_gateway() {
    let silent = Fake::raw(hang);
    let mut first = prune(&silent.addr).start();
    wait_for("the first prune", || silent.requests().pop());
    prune(&silent.addr).end().failed(3, &["another run (PID "]);
    // A push from the monitoring host is another run.
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let push = Run::new(&exporter.addr, &silent.addr).env("PGW_PUSH_TIMEOUT", "0.1").end();
    push.failed(6, &["no complete response within 0.1 s"]);
    kill(&mut first);
}

#[test]
fn ambiguous_prune_is_a_usage_error() {
    let gateway = Fake::answering(|_| response(200, "", ""));
    for (args, words) in [
        (&["--prune"][..], "--prune"),
        (&["--prune", "0"], "from 1 to 315360000"),
        (&["--prune", "-5"], "from 1 to 315360000"),
        (&["--prune", "1h"], "\"1h\" is not a number"),
        (&["--prune", "60", "--delete"], "--delete"),
        (&["--prune", "60", "--pgw-instance=n"], "--pgw-instance"),
        (&["--prune", "60", "--pgw-label=a=b"], "--pgw-label"),
        (&["--prune", "60", "--pgw-job="], "--pgw-job"),
    ] {
        let run = Run::new("127.0.0.1:1", &gateway.addr).args(args);
        run.end().failed(2, &[words]);
    }
    assert!(gateway.requests().is_empty());
}

#[test]
fn crontab_example_prunes_the_job_of_the_nodes_alone() {
    let gateway = gateway_with(
        "push_time_seconds{instance=\"n\",job=\"node\"} 1\n\
         push_time_seconds{instance=\"n\",job=\"backup\"} 1\n",
    );
    let mut lines = include_str!("../../crontab.example").lines();
    let command = lines.find_map(|line| line.strip_prefix("#17 * * * * nobody ")).unwrap();
    // Run as cron does, but with this forwarder and gateway.
    let output = Command::new("/bin/sh")
        .args(["-c", &command.replace("/usr/local/bin/pgw-forwarder", FORWARDER)])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PGW_ADDR", &gateway.addr)
        .env("TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .complete();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(paths(&gateway), ["/metrics", "/metrics/job/node/instance/n"]);
}
