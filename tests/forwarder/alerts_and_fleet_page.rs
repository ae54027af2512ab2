//! The monitoring host's configuration: rules, alerts, and the page that shows the fleet.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::fake::{Fake, exposition};
use crate::host::{Complete, fetched_program, require, wait_for};
use crate::run::Run;
use crate::servers::{OLD, Server};

/// Whether the versions that deploy/compose.yaml names, or similar ones, are here.
fn has_newer_programs() -> bool {
    let is_fetched = |name| fetched_program(name).is_file();
    require(
        ["promtool-newer", "prometheus-newer", "pushgateway-newer"].into_iter().all(is_fetched),
        "newer programs of the monitoring host: tests/newer-programs.sh gets them",
    )
}

#[test]
fn configurations_and_rules_are_valid_and_pass_their_own_tests() {
    check_configuration("promtool".into());
    if has_newer_programs() {
        check_configuration(fetched_program("promtool-newer"));
    }
}

fn check_configuration(promtool: PathBuf) {
    for line in [
        "check config --syntax-only deploy/prometheus/prometheus.yml",
        "check config --syntax-only deploy/prometheus/prometheus.secured.yml",
        "check rules --lint-fatal deploy/prometheus/rules/pushed.yaml",
        "test rules tests/rules.yaml",
    ] {
        let mut command = Command::new(&promtool);
        command.args(line.split(' ')).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.complete();
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
                // Instead of cron's minute.
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
fn stopped_node_is_reported_until_it_is_pruned_or_returns() {
    let (gateway, alertmanager) = (Server::pushgateway(&[]), Server::alertmanager());
    let prometheus = Server::prometheus(&gateway, Some(&alertmanager));
    stop_nodes(gateway, &alertmanager, &prometheus);
}

#[test]
fn stopped_node_is_reported_by_newer_programs_as_well() {
    if has_newer_programs() {
        let (gateway, alertmanager) = (Server::newer_pushgateway(&[]), Server::alertmanager());
        let prometheus = Server::newer_prometheus(&gateway, Some(&alertmanager));
        stop_nodes(gateway, &alertmanager, &prometheus);
    }
}

fn stop_nodes(gateway: Server, alertmanager: &Server, prometheus: &Server) {
    let exporter = Server::node_exporter();
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

    // Prometheus has all three, with their own labels.
    for instance in ["n1.example", "n2.example", "n3.example"] {
        let load = format!("node_load1{{job=\"node\",instance=\"{instance}\"}}");
        prometheus.query(&load);
        up(instance, 1);
    }
    prometheus.query("absent({exported_job=~\".+\"})");
    prometheus.query("count(node_load1) == 3");
    prometheus.query("absent(ALERTS)");
    wait_for("3 pushing nodes on the page", || {
        page().contains("3 nodes push, none stopped").then_some(())
    });

    // A node cannot push metrics that Prometheus itself makes.
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

    // One node stops.
    drop(n3);
    up("n3.example", 0);
    let found = prometheus.query(&firing("PushedInstanceStopped", ""));
    assert_eq!(found["metric"]["instance"], "n3.example");
    prometheus.query("count(ALERTS) == 1");
    wait_for("a stopped node on the page", || {
        let page = page();
        let gone = page.find("class=\"gone\"")?;
        // It is the first.
        let (n3, n1) = (page.find("n3.example")?, page.find("n1.example")?);
        (gone < n3 && n3 < n1 && page.contains("1 stopped")).then_some(())
    });
    up("n1.example", 1);
    up("n2.example", 1);

    // It is pruned, and the others are not.
    let prune = Run::new("127.0.0.1:1", &gateway.addr);
    prune.args(&["--prune", &OLD.to_string()]).end().succeeded();
    assert!(gateway.group("n3.example").is_none());
    prometheus.query("absent(job_instance:push_up:bool{instance=\"n3.example\"})");
    prometheus.query("absent(ALERTS)");
    up("n1.example", 1);
    up("n2.example", 1);

    // It returns.
    let n3 = node("n3.example");
    up("n3.example", 1);
    wait_for("3 pushing nodes on the page", || {
        page().contains("3 nodes push, none stopped").then_some(())
    });

    // If all stop at once, that is one message.
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

    // If the gateway is down, no alert says that the nodes are.
    drop(gateway);
    prometheus.query(&firing("PushgatewayDown", ""));
    prometheus.query("absent(job_instance:push_up:bool)");
    prometheus.query("count(ALERTS) == 1");
    let page = page();
    assert!(page.contains("cannot be scraped"), "{page}");
}
