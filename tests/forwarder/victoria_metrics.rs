//! VictoriaMetrics as the gateway, with a real one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fake::{Fake, Request};
use crate::host::{fetched_program, require, wait_for};
use crate::run::Run;
use crate::servers::{Server, get, query_all};

/// Where it takes what a Pushgateway takes.
const SINGLE: &str = "/api/v1/import/prometheus";
const CLUSTER: &str = "/insert/0/prometheus/api/v1/import/prometheus";

fn there_is_one() -> bool {
    let programs = ["victoria-metrics", "vmagent"];
    let are_there = programs.map(|name| fetched_program(name).is_file());
    require(
        are_there == [true; 2],
        "VictoriaMetrics 1.84 or newer: tests/victoria-metrics.sh gets it",
    )
}

/// The answer to a query: the labels of each series, and its value.
fn answer(server: &Server, promql: &str) -> BTreeMap<String, f64> {
    let series = query_all(&server.addr, promql).unwrap().into_iter();
    series
        .map(|series| {
            let value = series["value"][1].as_str().unwrap();
            (series["metric"].to_string(), value.parse().unwrap())
        })
        .collect()
}

/// The same of a VictoriaMetrics, as soon as there are this many. It remembers for some seconds that
/// it has found nothing, but only for the same words: so FILTER is another one each time.
fn stored(victoria: &Server, promql: &str, count: usize) -> BTreeMap<String, f64> {
    let mut tries = 0;
    wait_for(promql, || {
        get(&format!("http://{}/internal/force_flush", victoria.addr))?;
        tries += 1;
        let filter = format!("nothing!=\"{tries}\"");
        let series = answer(victoria, &promql.replace("FILTER", &filter));
        (series.len() >= count).then_some(series)
    })
}

/// What was pushed, as the answer of an exporter.
fn again(pushed: Request) -> Vec<u8> {
    let lines = pushed.head.split("\r\n");
    let headers = lines.filter(|line| line.to_ascii_lowercase().starts_with("content-"));
    let headers = headers.collect::<Vec<_>>().join("\r\n");
    let mut answer = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n").into_bytes();
    answer.extend(pushed.body);
    answer
}

#[test]
fn victoriametrics_holds_what_a_prometheus_gets_that_scrapes() {
    if !there_is_one() {
        return;
    }
    let (exporter, victoria) = (Server::node_exporter(), Server::victoria_metrics());
    for encoding in ["text", "text+gzip"] {
        holds_the_same(&exporter, &victoria, encoding);
    }
}

fn holds_the_same(exporter: &Server, victoria: &Server, encoding: &str) {
    let seen = Fake::in_front_of(&victoria.addr);
    let url = format!("http://{}{SINGLE}", seen.addr);
    let run = Run::new(&exporter.addr, &url).instance(encoding);
    run.env("PGW_ENCODING", encoding).end().succeeded();
    let pushed = seen.requests().remove(0);
    let is_gzip = pushed.body.starts_with(&[0x1f, 0x8b]);
    assert_eq!(is_gzip, encoding == "text+gzip");

    let page = again(pushed);
    let same = Fake::answering(move |_| page.clone());
    let prometheus = Server::scraping_prometheus(&same.addr, encoding);
    let mut scraped = wait_for("the scrape", || {
        let series = answer(&prometheus, "{job=\"node\",__name__!~\"up|scrape_.*\"}");
        (!series.is_empty()).then_some(series)
    });
    // It stores none of these.
    scraped.retain(|_, value| !value.is_nan());
    assert!(scraped.len() > 300);
    let promql = format!("{{instance=\"{encoding}\",FILTER}}");
    let mut stored = stored(victoria, &promql, scraped.len());

    for (series, value) in scraped {
        let found = stored.remove(&series);
        // It keeps twelve digits of a fraction or more, not all.
        let is_same = |found: f64| (found - value).abs() <= value.abs() * 1e-12;
        assert!(found.is_some_and(is_same), "{series}: {found:?}, not {value}");
    }
    assert!(stored.is_empty(), "{stored:?}");
}

/// Pushes as several instances to the gateway at `addr`, and looks for each where it is stored.
#[track_caller]
fn each_instance_arrives(addr: &str, path: &str, victoria: &Server) {
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
fn awkward_instances_reach_victoriametrics_as_these() {
    if there_is_one() {
        let victoria = Server::victoria_metrics();
        each_instance_arrives(&victoria.addr, SINGLE, &victoria);
    }
}

/// The distribution has no program of a cluster's. But vmagent takes the URLs of a vminsert, with the
/// same code, and writes what comes to any VictoriaMetrics, the tenant as labels. So this shows that
/// these URLs are made right; not how a cluster stores.
#[test]
fn awkward_instances_reach_it_under_the_urls_of_a_cluster() {
    if there_is_one() {
        let victoria = Server::victoria_metrics();
        let agent = Server::vmagent(&victoria);
        each_instance_arrives(&agent.addr, CLUSTER, &victoria);
        let tenant = stored(&victoria, "count by (vm_account_id) (node_load1{FILTER})", 1);
        assert_eq!(tenant.keys().collect::<Vec<_>>(), ["{\"vm_account_id\":\"0\"}"]);
    }
}

#[test]
fn it_is_asked_for_nothing_that_it_would_not_do_in_silence() {
    for addr in ["http://127.0.0.1:1", "127.0.0.1:1,https://v.example"] {
        for path in [SINGLE, CLUSTER] {
            let run = || Run::new("127.0.0.1:1", &format!("{addr}{path}"));
            let ended = run().env("PGW_ENCODING", "protobuf+gzip").end();
            ended.failed(2, &["--encoding (PGW_ENCODING)", "text+gzip"]);
            let ended = run().arg("--delete").end();
            ended.failed(2, &["--delete", "no groups"]);
        }
    }
}
