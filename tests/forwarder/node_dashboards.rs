//! Well-known dashboards and rules for node_exporter, on nodes that push.
//!
//! The queries have the form of those in "Node Exporter Full" (Grafana's dashboard 1860) and in the
//! node-mixin of the node_exporter project.

use std::fs;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::fake::{Fake, exposition};
use crate::host::{Complete, enter_own_namespaces, run_command, wait_for};
use crate::run::Run;
use crate::servers::{Server, values};

const INSTANCES: [&str; 2] = ["n1.example", "n2.example"];

/// The queries of panels and rules. As in a dashboard, `$job`, `$node` and `$w` are variables: the labels
/// `job` and `instance`, and the window.
const QUERIES: [&str; 22] = [
    // Node Exporter Full: the row with gauges.
    r#"100 * (1 - avg(rate(node_cpu_seconds_total{mode="idle",instance="$node",job="$job"}[$w])))"#,
    r#"scalar(node_load1{instance="$node",job="$job"}) * 100
        / count(count(node_cpu_seconds_total{instance="$node",job="$job"}) by (cpu))"#,
    r#"(1 - node_memory_MemAvailable_bytes{instance="$node",job="$job"}
        / node_memory_MemTotal_bytes{instance="$node",job="$job"}) * 100"#,
    r#"node_memory_SwapTotal_bytes{instance="$node",job="$job"}"#,
    r#"node_time_seconds{instance="$node",job="$job"}
        - node_boot_time_seconds{instance="$node",job="$job"}"#,
    // Node Exporter Full: CPU, memory, network, disk.
    r#"avg(sum without (mode) (rate(node_cpu_seconds_total{instance="$node",job="$job",mode=~".*irq"}[$w])))"#,
    r#"sum(rate(node_cpu_seconds_total{mode="user",instance="$node",job="$job"}[$w]))
        / scalar(count(count(node_cpu_seconds_total{instance="$node",job="$job"}) by (cpu)))"#,
    r#"node_memory_MemTotal_bytes{instance="$node",job="$job"}
        - node_memory_MemFree_bytes{instance="$node",job="$job"}"#,
    r#"rate(node_network_receive_bytes_total{instance="$node",job="$job"}[$w]) * 8"#,
    r#"node_filesystem_avail_bytes{instance="$node",job="$job",device!~"rootfs"}"#,
    r#"(node_filesystem_size_bytes{instance="$node",job="$job",device!~"rootfs"}
        - node_filesystem_avail_bytes{instance="$node",job="$job",device!~"rootfs"})
        / node_filesystem_size_bytes{instance="$node",job="$job",device!~"rootfs"}"#,
    r#"rate(node_disk_read_bytes_total{instance="$node",job="$job"}[$w])"#,
    r#"rate(node_disk_io_time_seconds_total{instance="$node",job="$job"}[$w])"#,
    // Node Exporter Full: the exporter itself.
    r#"node_scrape_collector_success{instance="$node",job="$job"}"#,
    // node-mixin: the dashboard "Nodes". The label `cluster` is optional.
    r#"(1 - sum without (mode) (rate(node_cpu_seconds_total{job="$job",mode=~"idle|iowait|steal",
        instance="$node",cluster=~".*"}[$w]))) / ignoring (cpu) group_left
        count without (cpu, mode) (node_cpu_seconds_total{job="$job",mode="idle",instance="$node"})"#,
    r#"rate(node_disk_written_bytes_total{job="$job",instance="$node",device!=""}[$w])"#,
    r#"sum(max by (device) (node_filesystem_avail_bytes{job="$job",instance="$node",fstype!=""}))"#,
    r#"rate(node_network_transmit_bytes_total{job="$job",instance="$node",device!="lo"}[$w]) * 8"#,
    // node-mixin: recorded series, on which its dashboards "USE Method" rest.
    r#"count without (cpu, mode) (node_cpu_seconds_total{job="$job",mode="idle",instance="$node"})"#,
    r#"sum without (device) (rate(node_network_receive_bytes_total{job="$job",device!="lo",
        instance="$node"}[$w]))"#,
    // node-mixin: alerts.
    r#"sum without (mode) (avg without (cpu) (rate(node_cpu_seconds_total{job="$job",
        mode!~"idle|iowait",instance="$node"}[$w]))) * 100"#,
    r#"min_over_time(node_timex_sync_status{job="$job",instance="$node"}[$w])"#,
];

/// Pushes what the exporter at `addr` has, and waits until Prometheus has scraped it from the gateway. So each
/// sample in Prometheus is of another push, as with a scrape interval like that of the pushes.
fn push(addr: &str, instance: &str, gateway: &Server, prometheus: &Server) {
    Run::new(addr, &gateway.addr).instance(instance).end().succeeded();
    let group = gateway.group(instance).unwrap();
    let time = group["push_time_seconds"]["metrics"][0]["value"].as_str().unwrap();
    prometheus.query(&format!("push_time_seconds{{instance=\"{instance}\"}} == {time}"));
}

/// The values of a label of the series that `selector` selects, as Grafana asks for them.
fn label_values(prometheus: &Server, label: &str, selector: &str) -> Value {
    let encoded =
        percent_encoding::utf8_percent_encode(selector, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("/api/v1/label/{label}/values?match[]={encoded}");
    serde_json::from_str::<Value>(&prometheus.page(&path)).unwrap()["data"].clone()
}

#[test]
fn dashboard_variables_and_queries_find_pushed_nodes_as_they_find_scraped_ones() {
    // Outside, interfaces and file systems of other tests come and go between a push and a scrape.
    if !enter_own_namespaces(
        "node_dashboards::dashboard_variables_and_queries_find_pushed_nodes_as_they_find_scraped_ones",
        "its own interfaces need root",
    ) {
        return;
    }
    run_command("ip link add one type veth peer other");
    let gateway = Server::pushgateway(&[]);
    let prometheus = &Server::prometheus(&gateway, None);
    let nodes = INSTANCES.map(|instance| {
        let exporter = Server::node_exporter();
        let scraping = Server::scraping_prometheus(&exporter.addr, instance);
        // A rate needs two samples.
        for _ in 0..2 {
            push(&exporter.addr, instance, &gateway, prometheus);
        }
        (instance, exporter, scraping)
    });

    // The variables of both dashboards.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    let options = |label, selector: &str| label_values(prometheus, label, selector);
    assert_eq!(options("job", "node_uname_info"), json!(["node"]));
    assert_eq!(options("nodename", "node_uname_info{job=\"node\"}"), json!([host]));
    let selector = format!("node_uname_info{{job=\"node\",nodename=\"{host}\"}}");
    assert_eq!(options("instance", &selector), json!(INSTANCES));
    for info in ["node_uname_info", "node_exporter_build_info"] {
        let selector = format!("{info}{{job=\"node\",cluster=~\".*\",sysname!=\"Darwin\"}}");
        assert_eq!(options("instance", &selector), json!(INSTANCES));
    }

    for (instance, _exporter, scraping) in &nodes {
        for query in QUERIES {
            let query =
                query.replace("$job", "node").replace("$node", instance).replace("$w", "30s");
            wait_for(&query, || {
                let (pushed, scraped) = (values(prometheus, &query), values(scraping, &query));
                (!scraped.is_empty() && pushed.keys().eq(scraped.keys())).then_some(())
            });
        }
    }

    // Alerts on scraped nodes ask for the first, which does not exist. The second replaces it.
    assert!(values(prometheus, "up{job=\"node\"}").is_empty());
    prometheus.query("count(job_instance:push_up:bool{job=\"node\"}) == 2");
}

#[test]
fn cpu_rate_of_pushed_node_agrees_with_that_of_scraped_node() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let prometheus = Server::prometheus(&gateway, None);
    let scraping = Server::scraping_prometheus(&exporter.addr, "n");
    // Prometheus has to have the counters from the start of the window on.
    let counters = "node_cpu_seconds_total{job=\"node\",instance=\"n\"}";
    let query = format!("rate({counters}[20s]) and {counters} offset 20s");
    wait_for(&query, || {
        push(&exporter.addr, "n", &gateway, &prometheus);
        let (pushed, scraped) = (values(&prometheus, &query), values(&scraping, &query));
        // A counter grows by at most 1 a second. Each end of the two windows may be 1 s apart, which is
        // the interval of scrapes and pushes here: 2 s of 20 s.
        let tolerance = 2.0 / 20.0;
        let agrees = |(labels, rate): (&String, &f64)| {
            let is_possible = (0.0..=1.0 + tolerance).contains(rate);
            is_possible && (rate - scraped[labels]).abs() <= tolerance
        };
        let has_same_series = !scraped.is_empty() && pushed.keys().eq(scraped.keys());
        (has_same_series && pushed.iter().all(agrees)).then_some(())
    });
}

/// The counters on the gateway stand still, so a dashboard sees no idle second.
#[test]
fn stopped_node_looks_busy_unless_the_query_asks_for_push_up() {
    let start = Instant::now();
    // An idle machine, which the machine of the tests is not.
    let exporter = Fake::answering(move |_| {
        let seconds = start.elapsed().as_secs_f64();
        exposition(&format!("node_cpu_seconds_total{{cpu=\"0\",mode=\"idle\"}} {seconds}\n"))
    });
    let gateway = Server::pushgateway(&[]);
    let prometheus = Server::prometheus(&gateway, None);
    let counters = "node_cpu_seconds_total{job=\"node\",mode=\"idle\"}";
    let busy = format!("1 - avg without (cpu, mode) (rate({counters}[10s]))");
    let busy_and_up = format!("({busy}) and on (job, instance) job_instance:push_up:bool == 1");
    for _ in 0..2 {
        push(&exporter.addr, "n", &gateway, &prometheus);
    }
    prometheus.query(&format!("({busy_and_up}) < 1"));

    prometheus.query(&format!("({busy}) == 1"));
    prometheus.query(&format!("absent({busy_and_up})"));
    assert_eq!(values(&prometheus, &busy).into_values().collect::<Vec<_>>(), [1.0]);
}

/// Between two pushes, Prometheus scrapes the same value several times. So a window contains a whole number
/// of pushes only if the scrape interval is that of the pushes.
#[test]
fn rate_is_exact_if_the_scrape_interval_is_that_of_the_pushes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rates.yaml");
    // A counter that grows by 1 a second, pushed each minute: the scrape interval and the window in
    // seconds, and the lowest and highest rate of windows that end at different times.
    for (scrapes, window, lowest, highest) in [
        // Grafana's default: four times 15 s.
        (15, 60, 0.0, 1.333),
        // With the push interval as "Scrape interval" in Grafana: four times 60 s.
        (15, 240, 0.8, 1.067),
        // The windows of the node-mixin.
        (15, 120, 0.571, 1.143),
        (15, 300, 0.842, 1.053),
        (60, 240, 1.0, 1.0),
        (60, 120, 1.0, 1.0),
        (60, 300, 1.0, 1.0),
    ] {
        let samples = (0..1200 / scrapes).map(|n| (n * scrapes / 60 * 60).to_string());
        let samples = samples.collect::<Vec<_>>().join(" ");
        let test = |function: &str, value: f64| {
            let rates = format!("rate(seconds[{window}s])[1m:1s]");
            let expected = json!([{ "labels": "{}", "value": value }]);
            let expr = format!("round({function}({rates}), 0.001)");
            json!({ "expr": expr, "eval_time": "18m", "exp_samples": expected })
        };
        let tests = json!({ "tests": [{
            "interval": format!("{scrapes}s"),
            "input_series": [{ "series": "seconds", "values": samples }],
            "promql_expr_test": [test("min_over_time", lowest), test("max_over_time", highest)],
        }]});
        fs::write(&file, tests.to_string()).unwrap();
        let output = Command::new("promtool").args(["test", "rules"]).arg(&file).complete();
        assert!(output.status.success(), "{scrapes} s, {window} s: {output:?}");
    }
}
