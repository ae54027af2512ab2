//! What the monitoring side makes of the pushes: the rules, the alerts, and the page for the fleet.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::fake::{Fake, exposition};
use crate::host::wait_for;
use crate::run::Run;
use crate::servers::{OLD, Server};

#[test]
fn the_configurations_and_the_rules_are_valid_and_hold_their_promises() {
    for line in [
        "check config --syntax-only deploy/prometheus/prometheus.yml",
        "check config --syntax-only deploy/prometheus/prometheus.secured.yml",
        "check rules --lint-fatal deploy/prometheus/rules/pushed.yaml",
        "test rules tests/rules.yaml",
    ] {
        let mut promtool = Command::new("promtool");
        promtool.args(line.split(' ')).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = promtool.output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

/// A node that pushes until this is dropped.
struct Node {
    stops: Arc<AtomicBool>,
    pushes: Option<JoinHandle<()>>,
}

impl Node {
    fn new(exporter: &Server, gateway: &Server, instance: &'static str) -> Node {
        let stops = Arc::new(AtomicBool::new(false));
        let (stop, exporter, gateway) =
            (stops.clone(), exporter.addr.clone(), gateway.addr.clone());
        let pushes = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let run = Run::new(&exporter, &gateway).instance(instance);
                run.end().succeeded();
                // The interval, which is a minute elsewhere.
                thread::sleep(Duration::from_millis(500));
            }
        });
        Node { stops, pushes: Some(pushes) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        let ended = self.pushes.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

#[test]
fn a_node_is_seen_to_push_to_stop_to_be_forgotten_and_to_come_back() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let alertmanager = Server::alertmanager();
    let prometheus = Server::prometheus(&gateway, Some(&alertmanager));
    let node = |instance| Node::new(&exporter, &gateway, instance);
    let (n1, n2, n3) = (node("n1.example"), node("n2.example"), node("n3.example"));
    let up = |instance: &str, value: u32| {
        let series = format!("job_instance:push_up:bool{{job=\"node\",instance=\"{instance}\"}}");
        prometheus.query(&format!("{series} == {value}"));
    };
    let firing = |alert: &str, more: &str| {
        format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"{more}}}")
    };
    let page = || prometheus.page("/consoles/fleet.html");

    // All three are there, under their own names.
    for instance in ["n1.example", "n2.example", "n3.example"] {
        let load = format!("node_load1{{job=\"node\",instance=\"{instance}\"}}");
        prometheus.query(&load);
        up(instance, 1);
    }
    prometheus.query("absent({exported_job=~\".+\"})");
    prometheus.query("count(node_load1) == 3");
    prometheus.query("absent(ALERTS)");
    wait_for("the page", || page().contains("3 nodes push, none stopped").then_some(()));

    // What only Prometheus can know, a node cannot tell it.
    let liar = Fake::answering(|_| {
        exposition(
            "up 0\njob_instance:push_up:bool 0\nALERTS{alertname=\"X\",alertstate=\"firing\"} 1\n\
             scrape_samples_scraped 1\nlies 1\n",
        )
    });
    let lies = Run::new(&liar.addr, &gateway.addr).env("PGW_JOB", "pushgateway");
    lies.instance("liar").end().succeeded();
    prometheus.query("lies{job=\"pushgateway\",instance=\"liar\"}");
    for name in ["up", "ALERTS", "scrape_samples_scraped"] {
        prometheus.query(&format!("absent({name}{{instance=\"liar\"}})"));
    }
    let delete = Run::new(&liar.addr, &gateway.addr).env("PGW_JOB", "pushgateway");
    delete.instance("liar").arg("--delete").end().succeeded();
    prometheus.query("absent(lies)");

    // One stops.
    drop(n3);
    up("n3.example", 0);
    let found = prometheus.query(&firing("PushedInstanceStopped", ""));
    assert_eq!(found["metric"]["instance"], "n3.example");
    prometheus.query("count(ALERTS) == 1");
    wait_for("the page", || {
        let page = page();
        let gone = page.find("class=\"gone\"")?;
        // The one that is gone stands first.
        let (n3, n1) = (page.find("n3.example")?, page.find("n1.example")?);
        (gone < n3 && n3 < n1 && page.contains("1 stopped")).then_some(())
    });
    up("n1.example", 1);
    up("n2.example", 1);

    // It is forgotten, and the others are not.
    let prune = Run::new("127.0.0.1:1", &gateway.addr);
    prune.args(&["--prune", &OLD.to_string()]).end().succeeded();
    assert!(gateway.group("n3.example").is_none());
    prometheus.query("absent(job_instance:push_up:bool{instance=\"n3.example\"})");
    prometheus.query("absent(ALERTS)");
    up("n1.example", 1);
    up("n2.example", 1);

    // It comes back.
    let n3 = node("n3.example");
    up("n3.example", 1);
    wait_for("the page", || page().contains("3 nodes push, none stopped").then_some(()));

    // All stop at once, and that is one message.
    drop((n1, n2, n3));
    prometheus.query(&firing("PushedInstancesAllStopped", ",severity=\"critical\""));
    prometheus.query(&format!("count({}) == 3", firing("PushedInstanceStopped", "")));
    wait_for("one message", || {
        let alerts: Value = serde_json::from_str(&alertmanager.page("/api/v2/alerts")).unwrap();
        let with = |state: &str| {
            let mut names = Vec::new();
            for alert in alerts.as_array().unwrap() {
                if alert["status"]["state"] == state {
                    names.push(alert["labels"]["alertname"].as_str().unwrap().to_owned());
                }
            }
            names
        };
        let is_one = with("active") == ["PushedInstancesAllStopped"];
        (is_one && with("suppressed") == ["PushedInstanceStopped"; 3]).then_some(())
    });

    // And when the gateway is gone, nobody says that the nodes are.
    drop(gateway);
    prometheus.query(&firing("PushgatewayDown", ""));
    prometheus.query("absent(job_instance:push_up:bool)");
    prometheus.query("count(ALERTS) == 1");
    let page = page();
    assert!(page.contains("cannot be scraped"), "{page}");
}
