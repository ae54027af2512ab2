//! Pushes to a real VictoriaMetrics instead of a Pushgateway.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fake::{Fake, Request};
use crate::host::{has_victoria_metrics, wait_for};
use crate::run::Run;
use crate::servers::{Server, get, values};

/// The paths below which VictoriaMetrics accepts the URLs of a Pushgateway.
pub const SINGLE: &str = "/api/v1/import/prometheus";
const CLUSTER: &str = "/insert/0/prometheus/api/v1/import/prometheus";

/// Waits until the result of a query to VictoriaMetrics has `count` series. VictoriaMetrics caches an empty
/// result for some seconds, so each try replaces FILTER by another filter.
pub fn stored(victoria: &Server, promql: &str, count: usize) -> BTreeMap<String, f64> {
    let mut tries = 0;
    wait_for(promql, || {
        get(&format!("http://{}/internal/force_flush", victoria.addr))?;
        tries += 1;
        let filter = format!("nothing!=\"{tries}\"");
        let series = values(victoria, &promql.replace("FILTER", &filter));
        (series.len() >= count).then_some(series)
    })
}

/// The response of an exporter that has what was pushed.
fn as_response(pushed: Request) -> Vec<u8> {
    let lines = pushed.head.split("\r\n");
    let headers = lines.filter(|line| line.to_ascii_lowercase().starts_with("content-"));
    let headers = headers.collect::<Vec<_>>().join("\r\n");
    let mut response = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").into_bytes();
    response.extend(pushed.body);
    response
}

#[test]
fn victoria_metrics_stores_what_a_scraping_prometheus_does_in_both_compressions() {
    if !has_victoria_metrics() {
        return;
    }
    let (exporter, victoria) = (Server::node_exporter(), Server::victoria_metrics());
    for compression in ["none", "gzip"] {
        let front = Fake::in_front_of(&victoria.addr);
        let run = Run::new(&exporter.addr, &format!("http://{}{SINGLE}", front.addr));
        run.instance(compression).env("PGW_COMPRESSION", compression).end().succeeded();
        let pushed = front.requests().remove(0);
        let sent = pushed.header("content-encoding").unwrap_or("none");
        assert_eq!(sent, compression);
        assert_eq!(pushed.body.starts_with(&[0x1f, 0x8b]), compression == "gzip");

        let response = as_response(pushed);
        let same_exporter = Fake::answering(move |_| response.clone());
        let prometheus = Server::scraping_prometheus(&same_exporter.addr, compression);
        let mut scraped = wait_for("the scrape", || {
            let series = values(&prometheus, "{job=\"node\",__name__!~\"up|scrape_.*\"}");
            (!series.is_empty()).then_some(series)
        });
        // VictoriaMetrics stores no NaN.
        scraped.retain(|_, value| !value.is_nan());
        assert!(scraped.len() > 300);
        let promql = format!("{{instance=\"{compression}\",FILTER}}");
        let mut stored = stored(&victoria, &promql, scraped.len());
        for (series, value) in scraped {
            let found = stored.remove(&series);
            // VictoriaMetrics stores at least twelve digits of a fraction, but not all.
            let is_same = |found: f64| (found - value).abs() <= value.abs() * 1e-12;
            assert!(found.is_some_and(is_same), "{series}: {found:?}, not {value}");
        }
        assert!(stored.is_empty(), "{stored:?}");
    }
}

/// Pushes several instances to the gateway at `addr`, and asserts that `victoria` stores each.
#[track_caller]
fn assert_instances_arrive(addr: &str, path: &str, victoria: &Server) {
    let exporter = Server::node_exporter();
    let instances = ["a/b", "50%", "", "ü", "."];
    for instance in instances {
        let run = Run::new(&exporter.addr, &format!("http://{addr}{path}"));
        run.instance(instance).end().succeeded();
    }
    let promql = "node_load1{job=\"node\",FILTER}";
    let series = stored(victoria, promql, instances.len());
    let found: BTreeSet<_> = series
        .keys()
        .map(|labels| {
            let labels: Value = serde_json::from_str(labels).unwrap();
            labels["instance"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(found, instances.map(String::from).into());
}

#[test]
fn awkward_instances_reach_a_single_node_unchanged() {
    if has_victoria_metrics() {
        let victoria = Server::victoria_metrics();
        assert_instances_arrive(&victoria.addr, SINGLE, &victoria);
    }
}

/// The distribution does not package the cluster. But vmagent accepts the URLs of its vminsert with the same
/// code, and writes to any VictoriaMetrics, with the tenant as labels. So this test shows that the URLs are
/// right, not how a cluster stores.
#[test]
fn awkward_instances_reach_the_urls_of_a_cluster_unchanged() {
    if has_victoria_metrics() {
        let victoria = Server::victoria_metrics();
        let agent = Server::vmagent(&victoria);
        assert_instances_arrive(&agent.addr, CLUSTER, &victoria);
        let tenant = stored(&victoria, "count by (vm_account_id) (node_load1{FILTER})", 1);
        assert_eq!(tenant.keys().collect::<Vec<_>>(), ["{\"vm_account_id\":\"0\"}"]);
    }
}

#[test]
fn delete_is_refused_because_victoria_metrics_would_only_seem_to_do_it() {
    for addr in ["http://127.0.0.1:1", "127.0.0.1:1,https://v.example"] {
        for path in [SINGLE, CLUSTER] {
            let run = Run::new("127.0.0.1:1", &format!("{addr}{path}"));
            run.arg("--delete").end().failed(2, &["--delete", "no groups"]);
        }
    }
}
