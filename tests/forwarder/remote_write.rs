//! Pushes to a real vmagent that writes to a real store by remote write, and the rules for such a store.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fake::{Fake, exposition};
use crate::host::{
    fetched_program, has_fetched, has_victoria_metrics, program, unused_address, wait_for,
};
use crate::run::Run;
use crate::servers::{OLD, Server, check_by_promtool, get, query_once, replace, values};

/// The configuration of the store.
const DEPLOYED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/remote-write");

/// The path below which vmagent accepts the URLs of a Pushgateway.
const IMPORT: &str = "/api/v1/import/prometheus";

/// The documented option that keeps the order of a node's pushes, and one that shortens the wait for a store.
const OPTIONS: [&str; 2] = ["-remoteWrite.queues=1", "-remoteWrite.retryMaxTime=1s"];

/// Metrics of vmagent: the number of retries, and the size of its queue.
const RETRIES: &str = "vmagent_remotewrite_retries_count_total";
const PENDING: &str = "vmagent_remotewrite_pending_data_bytes";

/// The installed program and the newer one, as far as this machine has them.
fn both(installed: &str, newer: &str) -> Vec<PathBuf> {
    let mut programs = vec![program(&[installed])];
    if has_fetched(&[newer]) {
        programs.push(fetched_program(newer));
    }
    programs
}

/// Reads a file of the store's configuration, and makes these replacements.
fn deployed(file: &str, replacements: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(format!("{DEPLOYED}/{file}")).unwrap();
    for (from, to) in replacements {
        text = replace(&text, from, to);
    }
    text
}

/// The store's rules with seconds instead of minutes.
fn fast_rules() -> String {
    let old = format!("[{OLD}s]");
    deployed("rules.yaml", &[("[150s]", &old), ("for: 3m", "for: 3s"), ("for: 150s", "for: 2s")])
}

/// A Prometheus that is configured as a store, and evaluates its rules each second.
fn store(program: &Path, rules: &str) -> Server {
    let config = deployed("prometheus.yml", &[("15s", "1s")]);
    Server::remote_write_store(program, &config, rules)
}

/// A run that pushes to this vmagent.
fn push(exporter: &str, agent: &Server, instance: &str) -> Run {
    Run::new(exporter, &format!("http://{}{IMPORT}", agent.addr)).instance(instance)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The sum of this metric of vmagent.
fn metric(agent: &Server, name: &str) -> f64 {
    let page = agent.page("/metrics");
    let lines = page.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn rules_for_remote_write_are_valid_and_pass_their_own_tests() {
    for promtool in both("promtool", "promtool-newer") {
        let lines = [
            "check config deploy/remote-write/prometheus.yml",
            "check rules --lint-fatal deploy/remote-write/rules.yaml",
            "test rules tests/remote-write-rules.yaml",
        ];
        check_by_promtool(&promtool, &lines);
    }
}

#[test]
fn store_answers_as_a_prometheus_that_scrapes_a_pushgateway_in_both_compressions() {
    if !has_victoria_metrics() {
        return;
    }
    let exporter = Server::node_exporter();
    for program in both("prometheus", "prometheus-newer") {
        let gateway = Server::pushgateway(&[]);
        let scraping = Server::prometheus(&gateway, None);
        let store = store(&program, "");
        let agent = Server::vmagent_with(&store, &OPTIONS);
        let instances = ["a/b", "50%", "", "ü", "."];
        for (instance, compression) in instances.iter().zip(["none", "gzip"].iter().cycle()) {
            // The same bytes go to both.
            let addr = format!("{},http://{}{IMPORT}", gateway.addr, agent.addr);
            let run = Run::new(&exporter.addr, &addr).env("PGW_COMPRESSION", compression);
            run.instance(instance).end().succeeded();
        }
        // Without what the gateway and the rules add.
        let all = "{job=\"node\",__name__!~\"push_.+|ALERTS.*|.+:.+\"}";
        for server in [&scraping, &store] {
            server.query(&format!("count(count by (instance) ({all})) == {}", instances.len()));
        }
        // A push may become several requests of vmagent.
        let series = |server: &Server| values(server, all).into_keys().collect::<Vec<_>>();
        wait_for("the same series", || (series(&store) == series(&scraping)).then_some(()));
        for (promql, least) in [
            (all, 300 * instances.len()),
            ("node_uname_info * on (instance) group_left node_load1", instances.len()),
            ("sum by (instance, mode) (node_cpu_seconds_total)", 8 * instances.len()),
        ] {
            let (scraped, stored) = (values(&scraping, promql), values(&store, promql));
            assert!(stored.len() >= least && stored.keys().eq(scraped.keys()), "{promql}");
            for ((series, stored), scraped) in stored.iter().zip(scraped.values()) {
                // vmagent rounds the last digits of some numbers.
                let is_close = (stored - scraped).abs() <= scraped.abs() * 1e-12;
                let is_same = is_close || stored.to_bits() == scraped.to_bits();
                assert!(is_same, "{series}: {stored}, not {scraped}");
            }
        }
        // A rate needs two pushes.
        push(&exporter.addr, &agent, "50%").end().succeeded();
        store.query("sum(rate(node_cpu_seconds_total{instance=\"50%\"}[1m])) > 0");
    }
}

/// The time and the value of each sample that the store has of this series, in the order of time.
fn samples(store: &Server, series: &str) -> Vec<(f64, u64)> {
    let found = query_once(&store.addr, &format!("{series}[1h]")).unwrap();
    let pairs = found["values"].as_array().unwrap().iter();
    pairs
        .map(|pair| (pair[0].as_f64().unwrap(), pair[1].as_str().unwrap().parse().unwrap()))
        .collect()
}

/// Stops a store while a node pushes, and asserts that it has each sample when it is back.
fn stop_store(mut store: Server, restart_agent: bool) {
    let scrapes = AtomicU64::new(0);
    let exporter = Fake::answering(move |_| {
        exposition(&format!("scrapes_total {}\n", scrapes.fetch_add(1, Ordering::Relaxed)))
    });
    let mut agent = Server::vmagent_with(&store, &OPTIONS);
    let mut times = Vec::new();
    let mut push_once = |agent: &Server| {
        let before = now();
        push(&exporter.addr, agent, "n1").end().succeeded();
        times.push(before..now());
    };
    push_once(&agent);
    store.query("scrapes_total == 0");

    // Each push becomes a block of its own. vmagent retries the first, and the others wait on its disk.
    store.stop();
    push_once(&agent);
    wait_for("a retry", || (metric(&agent, RETRIES) > 0.0).then_some(()));
    for _ in 0..3 {
        let pending = metric(&agent, PENDING);
        push_once(&agent);
        wait_for("a longer queue", || (metric(&agent, PENDING) > pending).then_some(()));
    }
    if restart_agent {
        agent.stop();
        agent.start_again();
        wait_for("vmagent", || get(&format!("http://{}/health", agent.addr)));
    }
    store.start_again();
    store.query("scrapes_total == 4");
    push_once(&agent);
    store.query("scrapes_total == 5");
    wait_for("an empty queue", || (metric(&agent, PENDING) == 0.0).then_some(()));

    let found = samples(&store, "scrapes_total{job=\"node\",instance=\"n1\"}");
    let values: Vec<_> = found.iter().map(|(_, value)| *value).collect();
    assert_eq!(values, [0, 1, 2, 3, 4, 5]);
    for ((time, value), range) in found.iter().zip(times) {
        // vmagent cuts the time to milliseconds.
        assert!(*time > range.start - 0.001 && *time < range.end, "{value}: {time} {range:?}");
    }
}

#[test]
fn stopped_store_gets_each_push_with_its_own_time_when_it_is_back() {
    if has_victoria_metrics() {
        for program in both("prometheus", "prometheus-newer") {
            // Also a store that accepts no late samples.
            let late = "out_of_order_time_window: 15d";
            let config = deployed("prometheus.yml", &[(late, "out_of_order_time_window: 0s")]);
            stop_store(Server::remote_write_store(&program, &config, ""), false);
        }
    }
}

#[test]
fn restart_of_vmagent_while_the_store_is_stopped_loses_no_push() {
    if has_victoria_metrics() {
        for program in both("prometheus", "prometheus-newer") {
            stop_store(store(&program, ""), true);
        }
    }
}

/// Lets one node stop and the exporter of another one fail. The rules of this store notice both.
fn stop_node_and_exporter(store: &Server) {
    let agent = Server::vmagent_with(store, &OPTIONS);
    let (exporter, unused) = (Server::node_exporter(), unused_address());
    let push_as = |instance| push(&exporter.addr, &agent, instance).end().succeeded();
    let report = || {
        let run = push(&unused, &agent, "failed").arg("--report-failures");
        run.end().failed(4, &["is down"]);
    };
    let idle = || ();
    // Waits until a series of an instance has a value in the store. Meanwhile, its cron calls `run`.
    let wait_for_value = |series: &str, instance: &str, value: u32, run: &dyn Fn()| {
        let mut tries = 0;
        wait_for(&format!("{series} {instance} {value}"), || {
            run();
            // Instead of cron's minute.
            thread::sleep(Duration::from_millis(500));
            // VictoriaMetrics makes samples visible after some seconds, and caches an empty result as long. So
            // each try flushes, and is another query. Prometheus answers the former with 404.
            let _ = get(&format!("http://{}/internal/force_flush", store.addr));
            tries += 1;
            let labels = format!("job=\"node\",instance=\"{instance}\",nothing!=\"{tries}\"");
            let series = series.replace("LABELS", &labels);
            query_once(&store.addr, &format!("{series} == {value}"))
        });
    };
    let up = "job_instance:push_up:bool{LABELS}";
    let stopped = "ALERTS{alertname=\"PushedInstanceStopped\",alertstate=\"firing\",LABELS}";
    let exporter_down = "ALERTS{alertname=\"PushedExporterDown\",alertstate=\"firing\",LABELS}";

    wait_for_value(up, "stopped", 1, &|| push_as("stopped"));
    wait_for_value(up, "failed", 1, &|| push_as("failed"));
    wait_for_value("job_instance:exporter_down:status{LABELS}", "failed", 4, &report);
    wait_for_value(exporter_down, "failed", 1, &report);
    wait_for_value(up, "stopped", 0, &idle);
    wait_for_value(stopped, "stopped", 1, &idle);
    wait_for_value(up, "failed", 0, &idle);
    wait_for_value(up, "failed", 1, &|| push_as("failed"));
}

#[test]
fn stopped_node_and_failed_exporter_are_noticed_by_a_remote_write_store() {
    if has_victoria_metrics() {
        for program in both("prometheus", "prometheus-newer") {
            let store = store(&program, &fast_rules());
            stop_node_and_exporter(&store);
            // The newer push ends the report.
            store.query("absent(job_instance:exporter_down:status)");
        }
    }
}

#[test]
fn stopped_node_and_failed_exporter_are_noticed_by_victoria_metrics() {
    if has_victoria_metrics() {
        let victoria = Server::victoria_metrics();
        let _vmalert = Server::vmalert(&victoria, &fast_rules());
        stop_node_and_exporter(&victoria);
    }
}
