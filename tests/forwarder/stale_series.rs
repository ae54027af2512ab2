//! Series that an exporter no longer has: PUT removes them from the gateway, POST keeps them.

use std::collections::BTreeMap;
use std::fs;

use crate::host::unused_address;
use crate::run::Run;
use crate::servers::{Server, families, query_all};

const METHODS: [&str; 2] = ["put", "post"];

#[test]
fn removed_textfile_metric_goes_stale_with_put_and_stays_with_post() {
    let textfiles = tempfile::tempdir().unwrap();
    let file = textfiles.path().join("backup.prom");
    fs::write(&file, "backup_size_bytes 42\n").unwrap();
    let exporter = Server::textfile_exporter(textfiles.path());
    let gateway = Server::pushgateway(&[]);
    let prometheus = Server::prometheus(&gateway, None);
    let push_both = || {
        for method in METHODS {
            let run = Run::new(&exporter.addr, &gateway.addr).instance(method);
            run.env("PGW_METHOD", method).end().succeeded();
        }
    };
    let has_backup =
        |method| families(&gateway.group(method).unwrap()).contains(&"backup_size_bytes".into());

    push_both();
    prometheus.query("count(backup_size_bytes{job=\"node\"}) == 2");

    fs::remove_file(&file).unwrap();
    push_both();
    assert_eq!(METHODS.map(has_backup), [false, true]);
    // Without a staleness marker, Prometheus would return the last sample for five minutes, longer than
    // this waits.
    prometheus.query("absent(backup_size_bytes{instance=\"put\"})");
    let found = |promql: &str| !query_all(&prometheus.addr, promql).unwrap().is_empty();
    assert!(found("backup_size_bytes{instance=\"put\"}[5m]"), "the past stays");
    assert!(found("node_textfile_scrape_error{instance=\"put\"}"), "the rest of the group stays");
    assert!(found("backup_size_bytes{instance=\"post\"}"));
}

#[test]
fn filtered_push_removes_the_other_families_with_put_and_keeps_them_with_post() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    for method in METHODS {
        let push = |metric: &str| {
            let run = Run::new(&exporter.addr, &gateway.addr).instance(method);
            run.env("PGW_METHOD", method).env("EXPORTER_METRIC", metric).end().succeeded();
            gateway.group(method).unwrap()
        };
        let whole = push("metrics");
        assert!(families(&whole).len() > 100);
        let filtered = push("metrics?collect[]=loadavg");
        // The families that stay look as fresh as the others.
        assert_ne!(filtered["push_time_seconds"], whole["push_time_seconds"]);
        if method == "put" {
            let left = families(&filtered);
            assert!(left.contains(&"node_load1".into()), "{left:?}");
            assert!(!left.contains(&"node_memory_MemTotal_bytes".into()), "{left:?}");
            assert!(left.len() < 30, "{left:?}");
        } else {
            assert_eq!(families(&filtered), families(&whole));
        }
    }
}

#[test]
fn put_of_a_group_leaves_the_other_groups_of_the_node_alone() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let run = |exporter: &str| {
        let run = Run::new(exporter, &gateway.addr).instance("n").env("PGW_METHOD", "put");
        run.env("EXPORTER_METRIC", "metrics?collect[]=loadavg")
    };
    run(&exporter.addr).end().succeeded();
    run(&exporter.addr).env("PGW_JOB", "app").end().succeeded();
    run(&exporter.addr).env("PGW_LABELS", "zone=eu").end().succeeded();
    let report = run(&unused_address()).env("PGW_REPORT_FAILURES", "true").end();
    report.failed(4, &["exporter", "is down"]);

    let groups = || BTreeMap::from_iter(gateway.groups());
    let before = groups();
    assert_eq!(before.len(), 4, "{before:?}");
    run(&exporter.addr).end().succeeded();
    let mut after = groups();
    let own = BTreeMap::from(
        [("job", "node"), ("instance", "n")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    assert_ne!(after[&own], before[&own]);
    after.insert(own.clone(), before[&own].clone());
    assert_eq!(after, before);
}
