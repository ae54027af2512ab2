//! The monitoring host's configuration: rules, alerts, and the page that shows the fleet.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::docs;
use crate::fake::{Fake, exposition};
use crate::host::{Complete, fetched_program, has_fetched, wait_for};
use crate::run::Run;
use crate::servers::{OLD, Server, agent, check_by_promtool, replace};

/// Whether the versions that deploy/compose.yaml names, or similar ones, are here.
fn has_newer_programs() -> bool {
    has_fetched(&["promtool-newer", "prometheus-newer", "pushgateway-newer"])
}

#[test]
fn configurations_and_rules_are_valid_and_pass_their_own_tests() {
    check_configuration("promtool".into());
    if has_newer_programs() {
        check_configuration(fetched_program("promtool-newer"));
    }
}

fn check_configuration(promtool: PathBuf) {
    let lines = [
        "check config --syntax-only deploy/prometheus/prometheus.yml",
        "check config --syntax-only deploy/prometheus/prometheus.secured.yml",
        "check rules --lint-fatal deploy/prometheus/rules/pushed.yaml",
        "test rules tests/rules.yaml",
    ];
    check_by_promtool(&promtool, &lines);
}

/// A node that runs the forwarder until this is dropped.
struct Node {
    stops: Arc<AtomicBool>,
    runs: Option<JoinHandle<()>>,
}

impl Node {
    /// `run` starts the forwarder once, and asserts how it ends.
    fn new(run: impl Fn() + Send + 'static) -> Node {
        let stops = Arc::new(AtomicBool::new(false));
        let stop = stops.clone();
        let runs = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                run();
                // Instead of cron's minute.
                thread::sleep(Duration::from_millis(500));
            }
        });
        Node { stops, runs: Some(runs) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        let ended = self.runs.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// A query for a firing alert with this name and more matchers.
fn firing(alert: &str, more: &str) -> String {
    format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"{more}}}")
}

/// An annotation of a firing alert.
fn annotation(prometheus: &Server, alert: &str, name: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(&prometheus.page("/api/v1/alerts")).unwrap();
    let alerts = answer["data"]["alerts"].as_array().unwrap();
    let is_it =
        |found: &&Value| found["labels"]["alertname"] == alert && found["state"] == "firing";
    alerts.iter().find(is_it).map(|found| found["annotations"][name].as_str().unwrap().to_owned())
}

/// The names of the alerts in this Alertmanager that it sends, and of those that it suppresses.
fn notifications(alertmanager: &Server) -> [Vec<String>; 2] {
    let alerts: Value = serde_json::from_str(&alertmanager.page("/api/v2/alerts")).unwrap();
    ["active", "suppressed"].map(|state| {
        let alerts = alerts.as_array().unwrap().iter();
        let with_state = alerts.filter(|alert| alert["status"]["state"] == state);
        with_state.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    })
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
    let node = |instance| {
        let (exporter, gateway) = (exporter.addr.clone(), gateway.addr.clone());
        Node::new(move || {
            let run = Run::new(&exporter, &gateway).instance(instance);
            run.env("PGW_LABELS", "zone=eu").end().succeeded();
        })
    };
    let (n1, n2, n3) = (node("n1.example"), node("n2.example"), node("n3.example"));
    let up = |instance: &str, value: u32| {
        let series = format!("job_instance:push_up:bool{{job=\"node\",instance=\"{instance}\"}}");
        prometheus.query(&format!("{series} == {value}"));
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
    wait_for("3 pushing nodes on the page", || page().contains("<b>3</b> up").then_some(()));

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
        let gone = page.find("<tr class=\"stopped\">")?;
        // It is the first.
        let (n3, n1) = (page.find("n3.example")?, page.find("n1.example")?);
        (gone < n3 && n3 < n1 && page.contains("<b>1</b> stopped")).then_some(())
    });
    up("n1.example", 1);
    up("n2.example", 1);

    // The alert's command prunes it, and not the others.
    let description = annotation(prometheus, "PushedInstanceStopped", "description").unwrap();
    let (_, command) = description.rsplit_once("pgw-forwarder ").unwrap();
    let command = replace(command, "--prune 86400", &format!("--prune {OLD}"));
    let command = replace(&command, "127.0.0.1:9091", &gateway.addr);
    let nowhere = "127.0.0.1:1";
    let args = command.split(' ').collect::<Vec<_>>();
    Run::new(nowhere, nowhere).args(&args).end().succeeded();
    // The gateway queues deletions.
    wait_for("the deletion", || gateway.group("n3.example").is_none().then_some(()));
    prometheus.query("absent(job_instance:push_up:bool{instance=\"n3.example\"})");
    prometheus.query("absent(ALERTS)");
    up("n1.example", 1);
    up("n2.example", 1);

    // It returns.
    let n3 = node("n3.example");
    up("n3.example", 1);
    wait_for("3 pushing nodes on the page", || page().contains("<b>3</b> up").then_some(()));

    // If all stop at once, that is one message.
    drop((n1, n2, n3));
    prometheus.query(&firing("PushedInstancesAllStopped", ",severity=\"critical\""));
    prometheus.query(&format!("count({}) == 3", firing("PushedInstanceStopped", "")));
    wait_for("one message", || {
        let [active, suppressed] = notifications(alertmanager);
        let is_one = active == ["PushedInstancesAllStopped"];
        (is_one && suppressed == ["PushedInstanceStopped"; 3]).then_some(())
    });

    // If the gateway is down, no alert says that the nodes are.
    drop(gateway);
    prometheus.query(&firing("PushgatewayDown", ""));
    prometheus.query("absent(job_instance:push_up:bool)");
    prometheus.query("count(ALERTS) == 1");
    let page = page();
    assert!(page.contains("cannot be scraped"), "{page}");
}

#[test]
fn alert_suppresses_the_stopped_alert_of_the_same_node_or_job_only() {
    let alerts = [
        ("PushedExporterDown", "node", "n1", "active"),
        ("PushRefused", "node", "n2", "active"),
        ("PushedInstanceStopped", "node", "n1", "suppressed"),
        ("PushedInstanceStopped", "node", "n2", "suppressed"),
        ("PushedInstanceStopped", "node", "n3", "active"),
        ("PushedInstanceStopped", "db", "n1", "active"),
        ("PushedInstanceStopped", "db", "n2", "active"),
        ("PushedInstanceClockOff", "node", "n1", "active"),
        ("PushgatewayDown", "pushgateway", "gateway:9091", "active"),
        ("PushedInstancesAllStopped", "web", "", "active"),
        ("PushedInstanceStopped", "web", "n4", "suppressed"),
        ("PushedExporterDown", "web", "n5", "active"),
    ];
    let alertmanager = Server::alertmanager();
    let labels = alerts.map(|(alert, job, instance, _)| {
        json!({ "labels": { "alertname": alert, "job": job, "instance": instance } })
    });
    let url = format!("http://{}/api/v2/alerts", alertmanager.addr);
    let request = agent().post(url).header("Content-Type", "application/json");
    assert!(request.send(json!(labels).to_string()).unwrap().status().is_success());

    let states = wait_for("the alerts", || {
        let found: Value = serde_json::from_str(&alertmanager.page("/api/v2/alerts")).unwrap();
        let found = found.as_array().unwrap().clone();
        (found.len() == alerts.len()).then_some(found)
    });
    for (alert, job, instance, state) in alerts {
        let is_it = |found: &&Value| {
            let is = |label: &str, value| found["labels"][label].as_str().unwrap_or("") == value;
            is("alertname", alert) && is("job", job) && is("instance", instance)
        };
        let found = states.iter().find(is_it).unwrap();
        assert_eq!(found["status"]["state"], state, "{alert} {job} {instance}");
    }
}

#[test]
fn failed_exporter_is_reported_instead_of_its_stopped_node_until_it_is_back() {
    let (gateway, alertmanager) = (Server::pushgateway(&[]), Server::alertmanager());
    let prometheus = Server::prometheus(&gateway, Some(&alertmanager));
    fail_exporter(&gateway, &alertmanager, &prometheus);
}

#[test]
fn failed_exporter_is_reported_by_newer_programs_as_well() {
    if has_newer_programs() {
        let (gateway, alertmanager) = (Server::newer_pushgateway(&[]), Server::alertmanager());
        let prometheus = Server::newer_prometheus(&gateway, Some(&alertmanager));
        fail_exporter(&gateway, &alertmanager, &prometheus);
    }
}

/// The node is the only one of its job, so all nodes of the job stop with it.
fn fail_exporter(gateway: &Server, alertmanager: &Server, prometheus: &Server) {
    let node = |exporter: &str, path: &'static str, status: i32| {
        let (exporter, gateway) = (exporter.to_owned(), gateway.addr.clone());
        Node::new(move || {
            let run = Run::new(&exporter, &gateway).instance("n1").env("EXPORTER_METRIC", path);
            let ended = run.arg("--report-failures").end();
            match status {
                0 => ended.succeeded(),
                _ => ended.failed(status, &["exporter"]),
            }
        })
    };
    let last_push = || {
        let groups = gateway.groups().into_iter();
        let mut own = groups.filter(|(labels, _)| labels["job"] == "node");
        own.next().unwrap().1["push_time_seconds"]["metrics"][0]["value"].clone()
    };
    let description = || annotation(prometheus, "PushedExporterDown", "description");
    let wait_for_status = |status: &str| {
        let reported = format!("reports exit status {status}: ");
        wait_for(&reported, || description()?.contains(&reported).then_some(()))
    };

    let exporter = Server::node_exporter();
    let pushing = node(&exporter.addr, "metrics", 0);
    prometheus.query("job_instance:push_up:bool{job=\"node\",instance=\"n1\"} == 1");
    drop(pushing);
    let pushed = last_push();

    // The exporter stops.
    let addr = exporter.addr.clone();
    drop(exporter);
    let failing = node(&addr, "metrics", 4);
    wait_for_status("4");
    wait_for("one message", || {
        let [active, suppressed] = notifications(alertmanager);
        let is_one = active == ["PushedExporterDown"];
        (is_one && suppressed == ["PushedInstanceStopped"]).then_some(())
    });
    prometheus.query("absent(ALERTS{alertname=\"PushedInstancesAllStopped\"})");
    drop(failing);

    // It is back, but the path is wrong.
    let exporter = Server::node_exporter();
    let failing = node(&exporter.addr, "wrong", 5);
    wait_for_status("5");
    assert_eq!(last_push(), pushed);
    drop(failing);

    // The path is right. There is nothing to clean up.
    let _pushing = node(&exporter.addr, "metrics", 0);
    prometheus.query("absent(ALERTS)");
    wait_for("no message", || notifications(alertmanager).concat().is_empty().then_some(()));
    assert_eq!(gateway.groups().len(), 2);
    prometheus.query("pgw_forwarder_exit_status == 5");
    assert_ne!(last_push(), pushed);
}

/// Bodies that a gateway stores, and that make its metrics unreadable. The forwarder refuses them.
const HELP_IN_LATIN_1: &[u8] = b"# HELP bad in \xb0C\n# TYPE bad gauge\nbad 1\n";
const GAUGE_HISTOGRAM: &[u8] = b"# TYPE bad gauge_histogram\nbad 1\n";
const GATEWAYS_OWN: &[u8] = b"pushgateway_http_push_size_bytes 1\n";

#[test]
fn group_that_makes_the_metrics_unreadable_is_found_by_the_alerts_command() {
    for body in [HELP_IN_LATIN_1, GAUGE_HISTOGRAM, GATEWAYS_OWN] {
        let gateway = Server::pushgateway(&[]);
        find_unreadable_group(&gateway, &Server::prometheus(&gateway, None), body);
    }
}

#[test]
fn group_that_makes_the_metrics_of_newer_programs_unreadable_is_found_as_well() {
    if has_newer_programs() {
        // Pushgateway 1.11 can serve a gauge_histogram.
        for body in [HELP_IN_LATIN_1, GATEWAYS_OWN] {
            let gateway = Server::newer_pushgateway(&[]);
            find_unreadable_group(&gateway, &Server::newer_prometheus(&gateway, None), body);
        }
    }
}

fn find_unreadable_group(gateway: &Server, prometheus: &Server, body: &[u8]) {
    // The gateway's own families do harm only as the first push.
    let url = format!("http://{}/metrics/job/node/instance/bad/zone/eu", gateway.addr);
    assert!(agent().post(url).send(body).unwrap().status().is_success());
    let similar = Fake::answering(|_| {
        exposition("# HELP ok In \u{b0}C, no GAUGE_HISTOGRAM, no pushgateway_http_.\nok 1\n")
    });
    let exporter = Server::node_exporter();
    for (addr, instance) in [(&similar.addr, "similar"), (&exporter.addr, "node")] {
        // The gateway may refuse it now. A refused push makes a group, too.
        Run::new(addr, &gateway.addr).instance(instance).end();
    }
    assert_eq!(gateway.groups().len(), 3);

    prometheus.query("up{job=\"pushgateway\"} == 0");
    let description =
        wait_for("PushgatewayDown", || annotation(prometheus, "PushgatewayDown", "description"));
    let command = &description[description.find("curl ").unwrap()..];
    let start = "curl -s http://127.0.0.1:9091/api/v1/metrics | jq -c '.data[] | select(tojson";
    assert_eq!(command, docs::command("docs/troubleshooting.md", start));
    let output = Command::new("sh")
        .args(["-c", &replace(command, "127.0.0.1:9091", &gateway.addr)])
        .env("no_proxy", "*")
        .complete();
    let group: &[u8] = b"{\"instance\":\"bad\",\"job\":\"node\",\"zone\":\"eu\"}\n";
    assert!(output.stdout == group, "{output:?}");

    let delete = Run::new(&exporter.addr, &gateway.addr).instance("bad").arg("--delete");
    delete.env("PGW_LABELS", "zone=eu").end().succeeded();
    prometheus.query("up{job=\"pushgateway\"} == 1");
    wait_for("the deletion", || (gateway.groups().len() == 2).then_some(()));
}

#[test]
fn every_alert_has_a_runbook_with_its_own_name() {
    let prometheus = Server::prometheus_of("      - targets: []\n", None);
    let rules = wait_for("the rules", || {
        let answer: Value = serde_json::from_str(&prometheus.page("/api/v1/rules")).unwrap();
        Some(answer["data"]["groups"][0]["rules"].as_array()?.clone())
    });
    let alerts: Vec<_> = rules.iter().filter(|rule| rule["type"] == "alerting").collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let url = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        let anchor = alert["name"].as_str().unwrap().to_lowercase();
        let page = "https://pgw-forwarder.example/docs/troubleshooting.md";
        assert_eq!(url, format!("{page}#{anchor}"));
    }
}
