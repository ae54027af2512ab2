//! Groups that nobody pushes any more go from the gateway, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::fake::{Fake, date, exposition, hang, read_head, response};
use crate::host::{unused_address, wait_for};
use crate::run::{FORWARDER, Run};
use crate::servers::Server;

/// Seconds after which a group is old in these tests.
const OLD: &str = "5";

fn prune(gateway: &str) -> Run {
    // There is no exporter on the monitoring host.
    Run::new("127.0.0.1:1", gateway).args(&["--prune", OLD])
}

/// Pushes to a group; labels as the forwarder's own variable has them.
fn push(gateway: &str, job: &str, instance: &str, labels: &str) {
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let run = Run::new(&exporter.addr, gateway).instance(instance);
    run.env("PGW_JOB", job).env("PGW_LABELS", labels).end().succeeded();
}

/// Pushes to a group that has no instance, which the forwarder itself never does.
fn push_without_instance(gateway: &str, job: &str) {
    let url = format!("http://{gateway}/metrics/job/{job}");
    assert!(ureq::post(url).send("a 1\n").unwrap().status().is_success());
}

/// Waits until all that was pushed until now is old by the gateway's clock, which tells whole
/// seconds.
fn grow_old() {
    let old = Duration::from_secs(OLD.parse::<u64>().unwrap() + 1);
    let pushed = SystemTime::now();
    wait_for("the groups to grow old", || (pushed.elapsed().unwrap() > old).then_some(()));
}

/// A Pushgateway with an old group in each of the jobs a, b and c.
fn three_old_groups() -> Server {
    let gateway = Server::pushgateway(&[]);
    for job in ["a", "b", "c"] {
        push(&gateway.addr, job, "n", "");
    }
    grow_old();
    gateway
}

/// A gateway that has these lines on its page until the first deletion.
fn with_lines(lines: &str) -> Fake {
    let page = |lines| response(200, &date(0), &format!("pushgateway_build_info{{}} 1\n{lines}"));
    let (before, after) = (page(lines), page(""));
    let is_there = AtomicBool::new(true);
    Fake::answering(move |path| match path {
        "/metrics" if is_there.load(Ordering::Relaxed) => before.clone(),
        "/metrics" => after.clone(),
        _ => {
            is_there.store(false, Ordering::Relaxed);
            response(202, "", "")
        }
    })
}

/// The grouping keys on this gateway.
fn keys(gateway: &Server) -> BTreeSet<BTreeMap<String, String>> {
    gateway.groups().into_iter().map(|(key, _)| key).collect()
}

fn jobs(gateway: &Server) -> Vec<String> {
    let mut jobs: Vec<_> = keys(gateway).iter().map(|key| key["job"].clone()).collect();
    jobs.sort();
    jobs
}

#[test]
fn old_groups_of_every_kind_of_key_go_and_fresh_ones_stay() {
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
        // Longer than what a connection keeps of what it sends.
        &"long".repeat(5000),
    ];
    for value in odd {
        push(&gateway.addr, "old", value, "");
        push(&gateway.addr, "old", value, "zone=,rack=/r=1");
    }
    push(&gateway.addr, "a/b", "n", "");
    push_without_instance(&gateway.addr, "batch");
    // Never stored, but the node is there and tries, and its alert must go on.
    let refused = Fake::answering(|_| exposition("a 1 1700000000000\n"));
    let tries = || {
        let run = Run::new(&refused.addr, &gateway.addr).env("PGW_JOB", "refused");
        run.instance("n").end().status
    };
    tries();
    push(&gateway.addr, "node", "n", "");
    grow_old();
    push(&gateway.addr, "node", "n", "");
    push(&gateway.addr, "fresh", "a/b", "zone=");
    push_without_instance(&gateway.addr, "fresh");
    tries();
    let fresh = |key: &BTreeMap<String, String>| {
        ["fresh", "node", "refused"].contains(&key["job"].as_str())
    };
    let before = keys(&gateway);
    let (staying, going): (BTreeSet<_>, BTreeSet<_>) = before.iter().cloned().partition(fresh);
    assert_eq!((staying.len(), going.len()), (4, 2 * odd.len() + 2));

    // First a list.
    let listed = prune(&gateway.addr).arg("--dry-run").end();
    listed.succeeded();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), going.len(), "{listed}");
    assert!(listed.contains("{instance=\"a\\\\b\\nc\",job=\"old\"}, last pushed "), "{listed}");
    assert_eq!(keys(&gateway), before);

    // Then those of one job, and then all.
    let chosen = prune(&gateway.addr).env("PGW_JOB", "a/b").arg("-v").end();
    assert!(chosen.stderr.contains("deleted {instance=\"n\",job=\"a/b\"}"));
    assert_eq!(keys(&gateway).len(), before.len() - 1);
    prune(&gateway.addr).args(&["--pgw-job", "batch"]).end().succeeded();
    assert_eq!(keys(&gateway).len(), before.len() - 2);
    prune(&gateway.addr).end().succeeded();
    assert_eq!(keys(&gateway), staying);
    // And then there is nothing to do.
    prune(&gateway.addr).end().succeeded();
    assert_eq!(keys(&gateway), staying);
}

#[test]
fn a_refused_deletion_does_not_keep_the_others() {
    let gateway = three_old_groups();
    let guard = Fake::meddling(&gateway.addr, |request| {
        let is_hers = request.method() == "DELETE" && request.path().contains("/job/b/");
        is_hers.then(|| response(403, "", "b is mine"))
    });
    let ended = prune(&guard.addr).end();
    assert_eq!(ended.status, Some(7), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{ended:?}");
    assert!(lines[0].contains("not deleted: {instance=\"n\",job=\"b\"}, last pushed"));
    assert!(lines[0].contains("403 Forbidden: b is mine"), "{ended:?}");
    assert!(
        lines[1].contains("error: gateway") && lines[1].contains("1 of 3 stale groups"),
        "{ended:?}"
    );
    assert_eq!(jobs(&gateway), ["b"]);

    let silent = prune(&guard.addr).arg("-q").end();
    assert_eq!((silent.status, silent.stderr.as_str()), (Some(7), ""));
}

#[test]
fn a_push_that_comes_while_others_are_deleted_is_seen() {
    let gateway = three_old_groups();
    // The first deletion takes longer than one look at the page may be relied on, and meanwhile
    // the nodes that are left come back.
    let first = AtomicBool::new(true);
    let addr = gateway.addr.clone();
    let slow = Fake::meddling(&gateway.addr, move |request| {
        if request.method() == "DELETE" && first.swap(false, Ordering::Relaxed) {
            for job in ["a", "b", "c"] {
                if !request.path().contains(&format!("/job/{job}/")) {
                    push(&addr, job, "n", "");
                }
            }
            thread::sleep(Duration::from_millis(5100));
        }
        None
    });
    prune(&slow.addr).end().succeeded();
    assert_eq!(jobs(&gateway).len(), 2);
}

#[test]
fn a_gateway_that_dies_halfway_is_said_to() {
    let gateway = three_old_groups();
    let addr = gateway.addr.clone();
    // Half of a page, with old groups in it, is no reason to delete anything.
    let page = gateway.page("/metrics");
    let half = response(200, &date(0), &page);
    let half = half[..half.len() - 10].to_vec();
    let torn = Fake::raw(move |stream| {
        let request = read_head(stream).unwrap();
        if request.method() == "GET" {
            std::io::Write::write_all(stream, &half).unwrap();
        }
    });
    prune(&torn.addr).end().failed(6, &["gateway", "/metrics is unreachable", "too early"]);

    // It ends after the first of three deletions.
    let dying = Mutex::new(Some(gateway));
    let count = Mutex::new(0);
    let front = Fake::meddling(&addr, move |request| {
        if request.method() == "DELETE" {
            *count.lock().unwrap() += 1;
            if *count.lock().unwrap() > 1 {
                drop(dying.lock().unwrap().take());
                return Some(Vec::new());
            }
        }
        None
    });
    let ended = prune(&front.addr).end();
    ended.failed(6, &["gateway", "/metrics/job/", "closed the connection"]);
    let deletions = front.requests().into_iter();
    let deletions = deletions.filter(|request| request.method() == "DELETE");
    // A broken connection is tried once more by nobody.
    assert_eq!(deletions.count(), 2);
}

#[test]
fn what_is_no_pushgateway_is_told() {
    let exporter = Server::node_exporter();
    prune(&exporter.addr).end().failed(7, &["is no Pushgateway", "pushgateway_build_info"]);
    prune(&unused_address()).end().failed(6, &["gateway", "refused"]);

    let date = &date(0);
    let own = "pushgateway_build_info{version=\"1\"} 1\n";
    let group = "push_time_seconds{instance=\"n\",job=\"j\"} 1\n";
    let page = format!("{own}{group}");
    let nothing_went = |reply: Vec<u8>, status: i32, words: &[&str]| {
        let fake = Fake::answering(move |_| reply.clone());
        prune(&fake.addr).end().failed(status, words);
        assert_eq!(fake.requests().len(), 1, "it was asked to delete");
    };
    nothing_went(response(200, "", &page), 7, &["no date"]);
    nothing_went(response(200, "Date: yesterday\r\n", &page), 7, &["no date"]);
    nothing_went(response(200, &date.repeat(2), &page), 7, &["no date"]);
    let ahead = response(200, &crate::fake::date(3600), &page);
    nothing_went(ahead, 7, &["clock", "differ by"]);
    nothing_went(response(206, date, &page), 7, &["it answered 206"]);
    let html = format!("{date}Content-Type: text/html\r\n");
    nothing_went(response(200, &html, &page), 7, &["an HTML page"]);
    let json = format!("{date}Content-Type: application/json\r\n");
    nothing_went(response(200, &json, &page), 7, &["not the text format"]);
    let gzip = format!("{date}Content-Encoding: gzip\r\n");
    nothing_went(response(200, &gzip, &page), 7, &["gzip"]);
    let endless = format!("HTTP/1.1 200 OK\r\n{date}\r\n{page}").into_bytes();
    let endless = Fake::raw(move |stream| {
        read_head(stream).unwrap();
        std::io::Write::write_all(stream, &endless).unwrap();
    });
    prune(&endless.addr).end().failed(7, &["a part looks like"]);
    nothing_went(response(500, date, "oh no"), 7, &["500", "oh no"]);
    for line in [
        "push_time_seconds{instance=\"n\"} 1\n",
        "push_time_seconds{job=\"\\x\"} 1\n",
        "push_time_seconds{job=\"a\"} one\n",
        "push_time_seconds{job=\"a\"\n",
        "push_time_seconds{job=\"a\"} 1",
    ] {
        let page = format!("{own}{group}{line}");
        nothing_went(response(200, date, &page), 7, &["is no Pushgateway: it has"]);
    }
    // It says yes, and does nothing.
    let reply = response(200, date, &page);
    let liar = Fake::answering(move |path| match path {
        "/metrics" => reply.clone(),
        _ => response(202, "", ""),
    });
    let ended = prune(&liar.addr).env("PGW_PUSH_TIMEOUT", "1").end();
    ended.failed(7, &["took the deletion of", "but still has it"]);
}

#[test]
fn what_grows_old_meanwhile_is_left_for_the_next_time() {
    // Each look is later than the one before, and there is always one more group that is old by
    // then, but was not at the first.
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let looks = Mutex::new(0);
    let gateway = Fake::answering(move |path| {
        if path != "/metrics" {
            return response(202, "", "");
        }
        let mut looks = looks.lock().unwrap();
        *looks += 1;
        let old = if *looks == 1 { "push_time_seconds{job=\"old\"} 1\n" } else { "" };
        let page = format!(
            "pushgateway_build_info{{}} 1\n{old}push_time_seconds{{job=\"j{looks}\"}} {}\n",
            now - 4
        );
        response(200, &date(*looks * 5), &page)
    });
    let run = Run::new("127.0.0.1:1", &gateway.addr);
    run.args(&["--prune", "10"]).end().succeeded();
    let requests = gateway.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.path()).collect();
    assert_eq!(paths, ["/metrics", "/metrics/job/old", "/metrics"]);
}

#[test]
fn a_proxy_that_keeps_connections_open_is_gone_through() {
    let gateway = three_old_groups();
    let proxy = Fake::meddling(&gateway.addr, |request| {
        let is_whole = request.path().starts_with("http://");
        (!is_whole).then(|| response(400, "", "a proxy has to be told the host"))
    });
    let ended = prune(&gateway.addr).env("http_proxy", &proxy.addr).end();
    ended.succeeded();
    assert!(gateway.groups().is_empty());
}

#[test]
fn a_page_of_any_size_takes_the_same_memory() {
    let filler = "node_cpu_seconds_total{cpu=\"0\",instance=\"n\",job=\"node\",mode=\"idle\"} 1\n";
    let group = "push_time_seconds{instance=\"n\",job=\"old\"} 1\n";
    let lines = filler.repeat(800_000) + group;
    assert!(lines.len() > 50_000_000);
    let fake = with_lines(&lines);
    // Kilobytes that are little more than any run needs.
    prune(&fake.addr).within(20_000).end().succeeded();
    assert_eq!(fake.requests().len(), 3);
    assert_eq!(fake.requests()[1].path(), "/metrics/job/old/instance/n");
}

#[test]
fn one_prune_runs_at_a_time_for_each_gateway() {
    let stuck = Fake::raw(hang);
    let mut first = prune(&stuck.addr).start();
    wait_for("the first", || stuck.requests().pop());
    prune(&stuck.addr).end().failed(3, &["another run (PID "]);
    // A node on the monitoring host goes on pushing meanwhile.
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let ended = Run::new(&exporter.addr, &stuck.addr).env("PGW_PUSH_TIMEOUT", "0.1").end();
    ended.failed(6, &["no whole answer"]);
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn what_would_prune_more_than_was_meant_is_a_usage_error() {
    let gateway = Fake::answering(|_| response(200, "", ""));
    for (args, word) in [
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
        run.end().failed(2, &[word]);
    }
    assert!(gateway.requests().is_empty());
}

#[test]
fn the_example_crontab_prunes_the_nodes() {
    let gateway = with_lines(
        "push_time_seconds{instance=\"n\",job=\"node\"} 1\n\
         push_time_seconds{instance=\"n\",job=\"backup\"} 1\n",
    );
    let mut lines = include_str!("../../crontab.example").lines();
    let command = lines.find_map(|line| line.strip_prefix("#17 * * * * nobody "));
    // As cron does it, but for the places of the forwarder and the gateway.
    let command = command.unwrap().replace("/usr/local/bin/pgw-forwarder", FORWARDER);
    let output = Command::new("/bin/sh")
        .args(["-c", &command])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PGW_ADDR", &gateway.addr)
        .env("TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let requests = gateway.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.path()).collect();
    assert_eq!(paths, ["/metrics", "/metrics/job/node/instance/n", "/metrics"]);
}
