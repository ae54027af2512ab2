//! Reports of a failed exporter: when one is pushed, where to, and what it leaves alone.

use std::collections::BTreeMap;

use crate::fake::{Fake, exposition, hang, response};
use crate::host::{has_victoria_metrics, unused_address, wait_for};
use crate::run::{Ended, Run};
use crate::servers::Server;
use crate::victoria_metrics::{SINGLE, stored};

/// The path of the report about the job `node` of instance n1.
const PATH: &str = "/metrics/job/pgw_forwarder/instance/n1/forwarded_job/node";

fn small_exporter() -> Fake {
    Fake::answering(|_| exposition("a 1\n"))
}

/// An exporter with a response that cannot be used.
fn bad_exporter() -> Fake {
    Fake::answering(|_| response(404, "", "not here"))
}

/// A gateway that accepts every request.
fn fake_gateway() -> Fake {
    Fake::answering(|_| response(200, "", ""))
}

/// A gateway that refuses every request.
fn refusing_gateway() -> Fake {
    Fake::answering(|_| response(400, "", "no"))
}

/// A run with reports.
fn reporting(exporter: &str, gateway: &str) -> Run {
    Run::new(exporter, gateway).instance("n1").env("PGW_REPORT_FAILURES", "true")
}

/// Method and path of each request.
fn requests(gateway: &Fake) -> Vec<(String, String)> {
    let requests = gateway.requests().into_iter();
    requests.map(|request| (request.method().to_owned(), request.path().to_owned())).collect()
}

fn put(path: &str) -> (String, String) {
    ("PUT".to_owned(), path.to_owned())
}

/// The groups of a gateway, and the status that each reports, if it is a report.
fn groups(gateway: &Server) -> BTreeMap<String, Option<String>> {
    let groups = gateway.groups().into_iter();
    groups
        .map(|(labels, group)| {
            let labels: Vec<_> =
                labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let status = &group["pgw_forwarder_exit_status"]["metrics"][0]["value"];
            (labels.join(" "), status.as_str().map(str::to_owned))
        })
        .collect()
}

/// Asserts that a gateway has these groups.
#[track_caller]
fn has_groups(gateway: &Server, expected: &[(&str, Option<&str>)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(labels, status)| ((*labels).to_owned(), status.map(str::to_owned)))
        .collect();
    assert_eq!(groups(gateway), expected);
}

/// Asserts the exporter's error first, then one warning for each of these gateways.
#[track_caller]
fn warned(ended: &Ended, status: i32, gateways: &[&str]) {
    let (first, warnings) = ended.stderr.split_once('\n').unwrap();
    let error =
        Ended { status: ended.status, stdout: ended.stdout.clone(), stderr: format!("{first}\n") };
    error.failed(status, &["exporter"]);
    assert_eq!(warnings.lines().count(), gateways.len(), "{ended:?}");
    for (line, gateway) in warnings.lines().zip(gateways) {
        let start = "pgw-forwarder: warn: the failure was not reported: gateway";
        assert!(line.starts_with(&format!("{start} http://{gateway}{PATH} ")), "{ended:?}");
    }
}

#[test]
fn report_is_one_gauge_that_is_put_whatever_the_options_of_pushes_are() {
    let (gateway, exporter) = (fake_gateway(), unused_address());
    let run = reporting(&exporter, &gateway.addr).env("PGW_METHOD", "post");
    run.env("PGW_COMPRESSION", "gzip").end().failed(4, &["exporter", &exporter]);
    assert_eq!(requests(&gateway), [put(PATH)]);
    let report = gateway.requests().remove(0);
    assert_eq!(report.header("content-type"), Some("text/plain; version=0.0.4"));
    assert_eq!(report.header("content-encoding"), None);
    assert_eq!(
        String::from_utf8(report.body).unwrap(),
        "# HELP pgw_forwarder_exit_status Exit status of the last run that could not scrape its exporter.\n\
         # TYPE pgw_forwarder_exit_status gauge\n\
         pgw_forwarder_exit_status 4\n"
    );
}

#[test]
fn report_replaces_the_one_before_and_leaves_the_nodes_own_group_alone() {
    let gateway = Server::pushgateway(&[]);
    let run =
        |exporter: &str| reporting(exporter, &gateway.addr).env("PGW_LABELS", "zone=eu").end();
    let own = ("instance=n1 job=node zone=eu", None);
    let report = "forwarded_job=node instance=n1 job=pgw_forwarder zone=eu";
    run(&small_exporter().addr).succeeded();
    has_groups(&gateway, &[own]);
    let own_group = || {
        let mut groups = gateway.groups().into_iter();
        groups.find(|(labels, _)| labels["job"] == "node").map(|(_, group)| group)
    };
    let before = own_group();
    for (exporter, status) in
        [(unused_address(), 4), (bad_exporter().addr, 5), (unused_address(), 4)]
    {
        run(&exporter).failed(status, &["exporter"]);
        has_groups(&gateway, &[own, (report, Some(&status.to_string()))]);
        // Its push_time_seconds is part of it.
        assert_eq!(own_group(), before);
    }

    // A good run leaves the report where it is.
    run(&small_exporter().addr).succeeded();
    has_groups(&gateway, &[own, (report, Some("4"))]);
    assert_ne!(own_group(), before);
}

#[test]
fn reports_of_two_jobs_on_a_node_do_not_overwrite_each_other() {
    let gateway = Server::pushgateway(&[]);
    let run = |job, exporter: &str| reporting(exporter, &gateway.addr).env("PGW_JOB", job).end();
    run("node", &unused_address()).failed(4, &["exporter"]);
    run("db", &bad_exporter().addr).failed(5, &["exporter"]);
    has_groups(
        &gateway,
        &[
            ("forwarded_job=node instance=n1 job=pgw_forwarder", Some("4")),
            ("forwarded_job=db instance=n1 job=pgw_forwarder", Some("5")),
        ],
    );
}

#[test]
fn delete_removes_the_report_together_with_the_group_that_it_is_about() {
    let gateway = Server::pushgateway(&[]);
    let run = |exporter: &str, job, labels| {
        reporting(exporter, &gateway.addr).env("PGW_JOB", job).env("PGW_LABELS", labels)
    };
    for (job, labels) in [("node", "zone=eu"), ("node", ""), ("db", "zone=eu")] {
        run(&small_exporter().addr, job, labels).end().succeeded();
        run(&unused_address(), job, labels).end().failed(4, &["exporter"]);
    }
    assert_eq!(groups(&gateway).len(), 6);
    // The one who deletes may not know whether there were reports.
    let delete = run("127.0.0.1:1", "node", "zone=eu").env("PGW_REPORT_FAILURES", "false");
    delete.arg("--delete").end().succeeded();
    // A gateway queues deletions.
    wait_for("the deletions", || (groups(&gateway).len() == 4).then_some(()));
    has_groups(
        &gateway,
        &[
            ("instance=n1 job=node", None),
            ("forwarded_job=node instance=n1 job=pgw_forwarder", Some("4")),
            ("instance=n1 job=db zone=eu", None),
            ("forwarded_job=db instance=n1 job=pgw_forwarder zone=eu", Some("4")),
        ],
    );
}

#[test]
fn prune_deletes_a_stale_report_with_the_group_of_its_job() {
    let gateway = Server::pushgateway(&[]);
    reporting(&small_exporter().addr, &gateway.addr).end().succeeded();
    reporting(&unused_address(), &gateway.addr).end().failed(4, &["exporter"]);
    // The reports about a job are pruned with it.
    let prune = || {
        let run = Run::new("127.0.0.1:1", &gateway.addr).args(&["--prune", "1"]);
        run.args(&["--pgw-job", "node"])
    };
    wait_for("the groups to become stale", || {
        let ended = prune().arg("--dry-run").end();
        ended.succeeded();
        let listed = String::from_utf8(ended.stdout).unwrap();
        (listed.lines().count() == 2 && listed.contains("forwarded_job")).then_some(())
    });
    prune().end().succeeded();
    wait_for("the deletions", || groups(&gateway).is_empty().then_some(()));
}

#[test]
fn every_gateway_gets_a_report_and_each_that_fails_is_one_warning() {
    let gateways = [fake_gateway(), fake_gateway()];
    let (dead, refusing, hanging) = (unused_address(), refusing_gateway(), Fake::raw(hang));
    let all = [&gateways[0].addr, &dead, &refusing.addr, &hanging.addr, &gateways[1].addr];
    let list = all.map(String::as_str).join(",");
    for (exporter, status) in [(unused_address(), 4), (bad_exporter().addr, 5)] {
        let ended = reporting(&exporter, &list).env("PGW_PUSH_TIMEOUT", "1").end();
        warned(&ended, status, &[&dead, &refusing.addr, &hanging.addr]);
    }
    for gateway in &gateways {
        assert_eq!(requests(gateway), [put(PATH), put(PATH)]);
    }
}

#[test]
fn report_goes_below_the_gateways_path_with_its_credentials_which_no_warning_shows() {
    let gateway = fake_gateway();
    let run =
        |addr: &str| reporting(&unused_address(), &format!("http://node:s3cret@{addr}/prefix"));
    run(&gateway.addr).end().failed(4, &["exporter"]);
    assert_eq!(requests(&gateway), [put(&format!("/prefix{PATH}"))]);
    assert!(gateway.requests()[0].header("authorization").is_some());

    let ended = run(&unused_address()).end();
    assert_eq!((ended.status, ended.stderr.lines().count()), (Some(4), 2), "{ended:?}");
    assert!(!ended.stderr.contains("s3cret"), "{ended:?}");
}

#[test]
fn failing_gateway_is_no_reason_for_a_report() {
    let (exporter, dead, refusing) = (small_exporter(), unused_address(), refusing_gateway());
    reporting(&exporter.addr, &dead).end().failed(6, &["gateway", &dead]);
    reporting(&exporter.addr, &refusing.addr).end().failed(7, &["gateway", "400"]);
    let push = ("POST".to_owned(), "/metrics/job/node/instance/n1".to_owned());
    assert_eq!(requests(&refusing), [push]);
}

#[test]
fn nothing_is_reported_without_the_option_or_in_a_dry_run() {
    let gateway = fake_gateway();
    for (exporter, status) in [(unused_address(), 4), (bad_exporter().addr, 5)] {
        let run = || reporting(&exporter, &gateway.addr);
        for ended in [
            Run::new(&exporter, &gateway.addr).end(),
            run().env("PGW_REPORT_FAILURES", "no").end(),
            run().arg("--dry-run").end(),
        ] {
            ended.failed(status, &["exporter"]);
        }
    }
    assert_eq!(requests(&gateway), []);

    // The option is the same as its variable, and a wrong value of that contacts nothing.
    let run = || Run::new(&unused_address(), &gateway.addr).instance("n1");
    let wrong = run().env("PGW_REPORT_FAILURES", "maybe").end();
    wrong.failed(2, &["--report-failures (PGW_REPORT_FAILURES)"]);
    assert_eq!(requests(&gateway), []);
    run().arg("--report-failures").end().failed(4, &["exporter"]);
    assert_eq!(requests(&gateway), [put(PATH)]);
}

#[test]
fn quiet_run_reports_and_prints_nothing() {
    let gateway = fake_gateway();
    for addr in [&gateway.addr, &unused_address()] {
        let ended = reporting(&unused_address(), addr).arg("-q").end();
        assert_eq!((ended.status, &*ended.stderr, &*ended.stdout), (Some(4), "", &b""[..]));
    }
    assert_eq!(requests(&gateway), [put(PATH)]);
}

#[test]
fn victoria_metrics_stores_a_report_as_a_sample() {
    if !has_victoria_metrics() {
        return;
    }
    let victoria = Server::victoria_metrics();
    let run = reporting(&unused_address(), &format!("http://{}{SINGLE}", victoria.addr));
    run.env("PGW_LABELS", "zone=eu").end().failed(4, &["exporter"]);
    let samples = stored(&victoria, "pgw_forwarder_exit_status{FILTER}", 1);
    let (labels, status) = samples.first_key_value().unwrap();
    let labels: serde_json::Value = serde_json::from_str(labels).unwrap();
    let expected = serde_json::json!({
        "__name__": "pgw_forwarder_exit_status",
        "job": "pgw_forwarder",
        "instance": "n1",
        "forwarded_job": "node",
        "zone": "eu",
    });
    assert_eq!((labels, *status, samples.len()), (expected, 4.0, 1));
}
