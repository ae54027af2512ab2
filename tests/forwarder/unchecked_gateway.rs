//! A Pushgateway with `--push.disable-consistency-check`: what the check prevents, how an administrator sees
//! that, and the remedy.

use crate::fake::{Fake, exposition};
use crate::host::wait_for;
use crate::run::{Ended, Run};
use crate::servers::{Server, agent, families, get};

const UNCHECKED: &str = "--push.disable-consistency-check";

const GOOD: &str = "# TYPE a gauge\na{x=\"1\"} 1\n";

/// Pushes these metrics as `instance`.
fn push(gateway: &Server, instance: &str, body: &'static str) -> Ended {
    let exporter = Fake::answering(move |_| exposition(body));
    Run::new(&exporter.addr, &gateway.addr).instance(instance).end()
}

/// Deletes the group of `instance`.
fn delete(gateway: &Server, instance: &str) {
    let run = Run::new("127.0.0.1:1", &gateway.addr).arg("--delete");
    run.instance(instance).end().succeeded();
}

/// Whether the gateway can serve its metrics, and they contain this text.
fn serves(gateway: &Server, text: &str) -> bool {
    get(&format!("http://{}/metrics", gateway.addr)).is_some_and(|metrics| metrics.contains(text))
}

#[test]
fn bad_group_is_refused_by_the_check_and_breaks_all_metrics_without_it() {
    for (bad, why) in [
        ("# TYPE a counter\na 1\n", "is not a"),
        ("a 1\n", "is not a"),
        ("b 1\nb 2\n", "collected before"),
        // The gateway replaces both instances by that of the grouping key.
        ("b{instance=\"x\"} 1\nb{instance=\"y\"} 2\n", "collected before"),
        ("# TYPE go_goroutines counter\ngo_goroutines 1\n", "go_goroutines has type"),
    ] {
        let gateway = Server::pushgateway(&[]);
        push(&gateway, "good", GOOD).succeeded();
        push(&gateway, "bad", bad).failed(7, &["gateway", "400", why]);
        assert!(serves(&gateway, "a{instance=\"good\""), "{bad}");

        let gateway = Server::pushgateway(&[UNCHECKED]);
        let wait_until_served =
            || wait_for("the good group", || serves(&gateway, "a{instance=\"good\"").then_some(()));
        push(&gateway, "good", GOOD).succeeded();
        wait_until_served();
        push(&gateway, "bad", bad).succeeded();
        wait_for(bad, || (!serves(&gateway, "")).then_some(()));
        // A prune shows the reason.
        let prune = Run::new("127.0.0.1:1", &gateway.addr).args(&["--prune", "60", "--dry-run"]);
        prune.end().failed(7, &["gateway", "500", why]);
        delete(&gateway, "bad");
        wait_until_served();
    }
}

#[test]
fn unparsable_push_is_refused_and_another_help_text_accepted_with_and_without_the_check() {
    for gateway in [Server::pushgateway(&[]), Server::pushgateway(&[UNCHECKED])] {
        push(&gateway, "good", "# HELP a one\na 1\n").succeeded();
        push(&gateway, "bad", "a{x=1} 1\n").failed(7, &["gateway", "400", "pars"]);
        push(&gateway, "other", "# HELP a two\na 2\n").succeeded();
        for instance in ["good", "other"] {
            let series = format!("a{{instance=\"{instance}\"");
            wait_for(&series, || serves(&gateway, &series).then_some(()));
        }
    }
}

#[test]
fn alerts_report_what_an_unchecked_gateway_does_not() {
    let gateway = Server::pushgateway(&[UNCHECKED]);
    let prometheus = Server::prometheus(&gateway, None);
    let firing = |alert: &str| format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
    push(&gateway, "good", GOOD).succeeded();
    prometheus.query("a{instance=\"good\"}");

    // The gateway drops a push with a timestamp, but answers as if it had stored it.
    let stamped = "b 1\nc 1 1700000000000\n";
    let url = format!("http://{}/metrics/job/node/instance/stamped", gateway.addr);
    assert_eq!(agent().post(url).send(stamped).unwrap().status(), 202);
    push(&gateway, "stamped", stamped).failed(5, &["line 2 has a timestamp"]);
    let refused = prometheus.query(&firing("PushRefused"));
    assert_eq!(refused["metric"]["instance"], "stamped");
    assert!(families(&gateway.group("stamped").unwrap()).is_empty());
    prometheus.query("a{instance=\"good\"}");

    // A family with another type breaks the metrics of all groups until its group is deleted.
    push(&gateway, "bad", "# TYPE a counter\na 1\n").succeeded();
    prometheus.query(&firing("PushgatewayDown"));
    prometheus.query("absent(a)");
    delete(&gateway, "bad");
    prometheus.query("a{instance=\"good\"}");
}
