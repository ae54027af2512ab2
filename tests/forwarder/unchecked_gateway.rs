//! A Pushgateway with `--push.disable-consistency-check`: what the check protects from, and how one
//! sees that, and mends it.

use crate::fake::{Fake, exposition};
use crate::host::wait_for;
use crate::run::{Ended, Run};
use crate::servers::{Server, families, get};

const UNCHECKED: &str = "--push.disable-consistency-check";

/// What `instance` pushes.
fn push(gateway: &Server, instance: &str, body: &'static str) -> Ended {
    let exporter = Fake::answering(move |_| exposition(body));
    let run = Run::new(&exporter.addr, &gateway.addr);
    run.instance(instance).end()
}

/// Deletes the group of `instance`, as an administrator does.
fn delete(gateway: &Server, instance: &str) {
    let run = Run::new("127.0.0.1:1", &gateway.addr).arg("--delete");
    run.instance(instance).end().succeeded();
}

/// The gateway's page, if it has one that has this.
fn page_with(gateway: &Server, words: &str) -> Option<String> {
    get(&format!("http://{}/metrics", gateway.addr)).filter(|page| page.contains(words))
}

const GOOD: &str = "# TYPE a gauge\na{x=\"1\"} 1\n";

#[test]
fn one_bad_group_takes_the_page_from_all_where_nobody_checks_and_none_where_it_is_checked() {
    for (bad, why) in [
        ("# TYPE a counter\na 1\n", "is not a"),
        ("a 1\n", "is not a"),
        ("b 1\nb 2\n", "collected before"),
        // The labels of the key take the place of the exporter's.
        ("b{instance=\"x\"} 1\nb{instance=\"y\"} 2\n", "collected before"),
        ("# TYPE go_goroutines counter\ngo_goroutines 1\n", "go_goroutines has type"),
    ] {
        let gateway = Server::pushgateway(&[]);
        push(&gateway, "good", GOOD).succeeded();
        push(&gateway, "bad", bad).failed(7, &["gateway", "400", why]);
        assert!(page_with(&gateway, "a{instance=\"good\"").is_some(), "{bad}");

        let gateway = Server::pushgateway(&[UNCHECKED]);
        push(&gateway, "good", GOOD).succeeded();
        wait_for("the good page", || page_with(&gateway, "instance=\"good\""));
        push(&gateway, "bad", bad).succeeded();
        wait_for(bad, || page_with(&gateway, "").is_none().then_some(()));
        // What it is, whoever asks is told; and no group is pruned meanwhile.
        let prune = Run::new("127.0.0.1:1", &gateway.addr);
        let told = prune.args(&["--prune", "60", "--dry-run"]).end();
        told.failed(7, &["gateway", "500", why]);
        delete(&gateway, "bad");
        wait_for("the page again", || page_with(&gateway, "a{instance=\"good\""));
    }
}

#[test]
fn what_does_not_parse_is_refused_and_another_help_is_taken_by_both() {
    for gateway in [Server::pushgateway(&[]), Server::pushgateway(&[UNCHECKED])] {
        push(&gateway, "good", "# HELP a one\na 1\n").succeeded();
        push(&gateway, "bad", "a{x=1} 1\n").failed(7, &["gateway", "400", "pars"]);
        push(&gateway, "other", "# HELP a two\na 2\n").succeeded();
        for instance in ["good", "other"] {
            let series = format!("a{{instance=\"{instance}\"");
            wait_for(&series, || page_with(&gateway, &series));
        }
    }
}

#[test]
fn the_alerts_tell_what_an_unchecked_gateway_does_not() {
    let gateway = Server::pushgateway(&[UNCHECKED]);
    let prometheus = Server::prometheus(&gateway, None);
    let firing = |alert: &str| format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
    push(&gateway, "good", GOOD).succeeded();
    prometheus.query("a{instance=\"good\"}");

    // Samples with timestamps are dropped, with all of the push, and the node is not told.
    push(&gateway, "dated", "b 1\nc 1 1700000000000\n").succeeded();
    let refused = prometheus.query(&firing("PushRefused"));
    assert_eq!(refused["metric"]["instance"], "dated");
    assert!(families(&gateway.group("dated").unwrap()).is_empty());
    prometheus.query("a{instance=\"good\"}");

    // A family of another type, and nobody is known any more, until that group is gone.
    push(&gateway, "bad", "# TYPE a counter\na 1\n").succeeded();
    prometheus.query(&firing("PushgatewayDown"));
    prometheus.query("absent(a)");
    delete(&gateway, "bad");
    prometheus.query("a{instance=\"good\"}");
}
