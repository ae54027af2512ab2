//! Pushes that are compressed: every gateway that takes gzip stores what it stores from curl.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::process::Command;
use std::str;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::fake::{Fake, Request, exposition, header, response};
use crate::fault_matrix::{GOOD, megabytes};
use crate::host::{Complete, has_fetched, has_victoria_metrics, wait_for};
use crate::run::Run;
use crate::servers::{Server, families, get};

/// The values of PGW_COMPRESSION.
pub const COMPRESSIONS: [&str; 2] = ["none", "gzip"];

/// The path below which VictoriaMetrics, and a vminsert of its cluster, is a gateway.
const VICTORIA: &str = "/api/v1/import/prometheus";
const VMINSERT: &str = "/insert/0/prometheus/api/v1/import/prometheus";

/// Metrics that are hard to express, or easy to mistake for something else.
const AWKWARD: &str = r#"# HELP a_gauge Backslash \\, newline \n, "quotes", ü and 日本.
# TYPE a_gauge gauge
a_gauge{n="nan"} NaN
a_gauge{n="inf"} +Inf
a_gauge{n="-inf"} -Inf
a_gauge{n="-0"} -0
a_gauge{n="tiny"} 1e-300
a_gauge{n="denormal"} 5e-324
a_gauge{n="largest"} 1.7976931348623157e308
a_gauge{n="2^53 + 1"} 9007199254740993
a_gauge{n="beyond u64"} 123456789012345678901234567890
a_gauge{n="0.1"} 0.1
# HELP an_untyped
# TYPE an_untyped untyped
an_untyped{x="back\\slash \"quotes\" new\nline",y="{a=\"b\"} 1"} 1
an_untyped{x="ü 日本 🦀",y=" "} 2
an_untyped{x="",y=""} 3
of_no_type 1
# TYPE a_counter_total counter
a_counter_total 18446744073709551615
# TYPE a_histogram histogram
a_histogram_bucket{zone="a",le="-1.5"} 0
a_histogram_bucket{zone="a",le="0.1"} 1
a_histogram_bucket{zone="a",le="+Inf"} 4
a_histogram_sum{zone="a"} -7.25
a_histogram_count{zone="a"} 4
# TYPE a_summary summary
a_summary{quantile="0.5"} 0.25
a_summary{quantile="0.99"} NaN
a_summary_sum 3e-9
a_summary_count 9007199254740991
"#;

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The text of a push, whose label must be that of this compression.
pub fn pushed_text(push: &Request, compression: &str) -> Vec<u8> {
    assert_eq!(push.header("content-type"), Some("text/plain; version=0.0.4"));
    if compression == "none" {
        assert_eq!(push.header("content-encoding"), None);
        return push.body.clone();
    }
    assert_eq!(push.header("content-encoding"), Some(compression));
    let (mut compressed, mut text) = (&push.body[..], Vec::new());
    GzDecoder::new(&mut compressed).read_to_end(&mut text).unwrap();
    assert!(compressed.is_empty(), "more bytes follow");
    text
}

fn run(exporter: &str, gateway: &str, compression: &str) -> Run {
    Run::new(exporter, gateway).instance(compression).env("PGW_COMPRESSION", compression)
}

/// Pushes as the script does that this program replaces, but with a type, which VictoriaMetrics needs.
fn push_by_curl(exporter: &str, gateway: &str, instance: &str) {
    let line = format!(
        "curl -sSf http://{exporter}/metrics | curl -sS --fail-with-body -H 'Content-Type: text/plain' \
         --data-binary @- {gateway}/metrics/job/node/instance/{instance}"
    );
    let output = Command::new("/bin/sh").args(["-c", &line]).complete();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// The families that a Pushgateway stores of an instance, with types, help and metrics.
fn stored_families(pushgateway: &Server, instance: &str) -> BTreeMap<String, Value> {
    let mut group = pushgateway.group(instance).unwrap();
    let names = families(&group).into_iter();
    names
        .map(|name| {
            let mut family = group[&name].take();
            family.as_object_mut().unwrap().remove("time_stamp");
            for metric in family["metrics"].as_array_mut().unwrap() {
                metric["labels"].as_object_mut().unwrap().remove("instance");
            }
            (name, family)
        })
        .collect()
}

/// The series that a VictoriaMetrics stores of an instance, as soon as there are so many, with their values.
fn stored_series(victoria: &Server, instance: &str, count: usize) -> BTreeMap<String, Value> {
    let mut tries = 0;
    wait_for(instance, || {
        get(&format!("http://{}/internal/force_flush", victoria.addr))?;
        tries += 1;
        // It remembers for some seconds that a query found nothing, but only for the same query.
        let series = format!("{{instance=\"{instance}\",nothing!=\"{tries}\"}}");
        let series =
            percent_encoding::utf8_percent_encode(&series, percent_encoding::NON_ALPHANUMERIC);
        let lines = victoria.page(&format!("/api/v1/export?match[]={series}"));
        let series = lines.lines().map(|line| {
            let mut series: Value = serde_json::from_str(line).unwrap();
            series["metric"].as_object_mut().unwrap().remove("instance");
            (series["metric"].to_string(), series["values"].take())
        });
        let found = series.collect::<BTreeMap<_, _>>();
        (found.len() >= count).then_some(found)
    })
}

/// The metrics of a node_exporter, and what one makes of awkward files.
fn expositions() -> [String; 2] {
    let mut lines = AWKWARD.to_owned();
    lines += &format!("# HELP long {}\n# TYPE long gauge\nlong 1\n", "ü".repeat(100_000));
    for n in 0..1000 {
        lines += &format!("# TYPE many_{n} counter\nmany_{n}{{a=\"b\"}} {n}\n");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("awkward.prom"), lines).unwrap();
    let exporters = [Server::textfile_exporter(directory.path()), Server::node_exporter()];
    exporters.map(|exporter| exporter.page("/metrics"))
}

#[test]
fn compressed_push_stores_what_curl_stores() {
    let mut gateways = vec![(Server::pushgateway(&[]), "")];
    if has_fetched(&["pushgateway-newer"]) {
        gateways.push((Server::newer_pushgateway(&[]), ""));
    }
    if has_victoria_metrics() {
        gateways.push((Server::victoria_metrics(), VICTORIA));
    }
    for (number, page) in expositions().into_iter().enumerate() {
        // VictoriaMetrics stores no NaN.
        let is_number = |line: &&str| !line.starts_with('#') && !line.ends_with(" NaN");
        let samples = page.lines().filter(is_number).count();
        let exporter = Fake::answering(move |_| exposition(&page));
        for (server, path) in &gateways {
            let gateway = format!("http://{}{path}", server.addr);
            let stored = |instance: &str| match *path {
                "" => stored_families(server, instance),
                _ => stored_series(server, instance, samples),
            };
            let by_curl = format!("curl-{number}");
            push_by_curl(&exporter.addr, &gateway, &by_curl);
            let by_curl = stored(&by_curl);
            assert!(by_curl.len() > 100, "{by_curl:?}");
            for compression in COMPRESSIONS {
                let instance = format!("{compression}-{number}");
                let run = run(&exporter.addr, &gateway, compression).instance(&instance);
                run.end().succeeded();
                let found = stored(&instance);
                assert!(found.keys().eq(by_curl.keys()), "{gateway}: {instance}");
                for (name, value) in &found {
                    assert_eq!(value, &by_curl[name], "{gateway}: {instance}: {name}");
                }
            }
        }
    }
}

#[test]
fn push_is_stored_in_every_mode_of_every_gateway_and_the_response_has_no_body() {
    const UNCHECKED: &str = "--push.disable-consistency-check";
    const PREFIX: &str = "--web.route-prefix=/a/prefix";
    let mut pushgateways = vec![
        ("200", "", Server::pushgateway(&[])),
        ("202", "", Server::pushgateway(&[UNCHECKED])),
        ("200", "/a/prefix", Server::pushgateway(&[PREFIX])),
    ];
    if has_fetched(&["pushgateway-newer"]) {
        pushgateways.push(("200", "", Server::newer_pushgateway(&[])));
        pushgateways.push(("202", "", Server::newer_pushgateway(&[UNCHECKED])));
    }
    for (status, path, server) in &pushgateways {
        for instance in push_in_every_way(&format!("{}{path}", server.addr), status) {
            let sample = format!("a_metric{{b=\"c\",instance=\"{instance}\",job=\"node\"}} 42\n");
            wait_for(&sample, || {
                server.page(&format!("{path}/metrics")).contains(&sample).then_some(())
            });
        }
    }
    if !has_victoria_metrics() {
        return;
    }
    let victoria = Server::victoria_metrics();
    let agent = Server::vmagent(&victoria);
    for (server, path) in [(&victoria, VICTORIA), (&agent, VICTORIA), (&agent, VMINSERT)] {
        // The exact status depends on the version.
        for instance in push_in_every_way(&format!("{}{path}", server.addr), "20") {
            stored_series(&victoria, &instance, 1);
        }
    }
}

/// Pushes with every compression and method, as the instances that are returned, and checks the responses.
fn push_in_every_way(gateway: &str, status: &str) -> Vec<String> {
    let exporter = Fake::answering(|_| exposition(GOOD));
    let (addr, path) = gateway.split_at(gateway.find('/').unwrap_or(gateway.len()));
    let seen = Fake::in_front_of(addr);
    let ways = COMPRESSIONS.map(|compression| ["post", "put"].map(|method| (compression, method)));
    let push = |(compression, method)| {
        let instance = format!("{gateway}-{compression}-{method}");
        let run = run(&exporter.addr, &format!("http://{}{path}", seen.addr), compression);
        run.env("PGW_METHOD", method).instance(&instance).end().succeeded();
        let reply = String::from_utf8(seen.requests().pop().unwrap().reply).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{instance}: {reply}");
        assert!(reply.ends_with("\r\n\r\n"), "{instance}: {reply}");
        instance
    };
    ways.into_iter().flatten().map(push).collect()
}

#[test]
fn compressed_push_is_labelled_and_has_less_than_a_quarter_of_the_bytes() {
    let (exporter, pushgateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let (scraped, pushed) =
        (Fake::in_front_of(&exporter.addr), Fake::in_front_of(&pushgateway.addr));
    run(&scraped.addr, &pushed.addr, "gzip").end().succeeded();
    let (scrapes, pushes) = (scraped.requests(), pushed.requests());
    assert_eq!((scrapes.len(), pushes.len()), (1, 1));
    // Over loopback, compression would only cost the exporter.
    assert_eq!(scrapes[0].header("accept-encoding"), Some("identity"));
    let text = pushed_text(&pushes[0], "gzip");
    assert!(text == body(&scrapes[0].reply));
    let length = pushes[0].length();
    assert!(length < text.len() / 4, "{length} of {}", text.len());
}

/// The body of a response, without the chunks that it may have come in.
fn body(reply: &[u8]) -> Vec<u8> {
    let end = reply.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let (head, mut rest) = (str::from_utf8(&reply[..end]).unwrap(), &reply[end..]);
    if header(head, "transfer-encoding") != Some("chunked") {
        return rest.into();
    }
    let mut body = Vec::new();
    loop {
        let end = rest.iter().position(|b| *b == b'\r').unwrap();
        let size = usize::from_str_radix(str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        let (chunk, more) = rest[end + 2..].split_at(size);
        if chunk.is_empty() {
            return body;
        }
        body.extend(chunk);
        rest = &more[2..];
    }
}

#[test]
fn dry_run_prints_text_whatever_the_compression() {
    let exporter = Fake::answering(|_| exposition(GOOD));
    for compression in COMPRESSIONS {
        let ended = run(&exporter.addr, "127.0.0.1:1", compression).arg("--dry-run").end();
        ended.succeeded();
        assert_eq!(ended.stdout, GOOD.as_bytes(), "{compression}");
    }
}

#[test]
fn gateway_that_takes_no_gzip_gets_a_message_that_names_the_option() {
    let exporter = Fake::answering(|_| exposition(GOOD));
    let refused = |compression, why: &'static str| {
        let gateway = Fake::answering(move |_| response(400, "", why));
        let ended = run(&exporter.addr, &gateway.addr, compression).end();
        ended.failed(7, &["refused: 400", why]);
        ended
    };
    // As 1.4 answers gzip.
    let parsing = "text format parsing error in line 1: invalid metric name";
    let remedy = "before 1.5.0, set --pgw-compression (PGW_COMPRESSION) to none";
    assert!(refused("gzip", parsing).stderr.contains(remedy));
    for (compression, why) in
        [("none", parsing), ("gzip", "pushed metrics must not have timestamps")]
    {
        assert!(!refused(compression, why).stderr.contains("--pgw-compression"), "{why}");
    }
}

#[test]
fn every_gateway_gets_the_same_compressed_bytes() {
    let exporter = Server::node_exporter();
    let pushgateways = [(); 3].map(|()| Server::pushgateway(&[]));
    let seen = pushgateways.each_ref().map(|server| Fake::in_front_of(&server.addr));
    let addresses = seen.each_ref().map(|fake| fake.addr.clone()).join(",");
    run(&exporter.addr, &addresses, "gzip").end().succeeded();
    let [first, others @ ..] = seen.map(|fake| fake.requests().remove(0));
    assert!(pushed_text(&first, "gzip").starts_with(b"# HELP"));
    for other in others {
        assert!(other.body == first.body && other.header("content-encoding") == Some("gzip"));
    }
}

#[test]
fn compression_needs_no_memory_for_a_second_copy() {
    let text = megabytes(30);
    let page = exposition(&text);
    let exporter = Fake::after_request(move |stream| stream.write_all(&page).unwrap_or_default());
    let gateway = Fake::answering(|_| response(200, "", ""));
    for compression in COMPRESSIONS {
        let run = run(&exporter.addr, &gateway.addr, compression);
        run.within(50_000).end().succeeded();
    }
    let pushes = gateway.requests();
    let [plain, compressed] = [0, 1].map(|n| &pushes[n]);
    assert!(pushed_text(plain, "none") == text.as_bytes());
    assert!(pushed_text(compressed, "gzip") == text.as_bytes());
    // So large a second copy would exceed the limit.
    assert!(compressed.body.len() > 15_000_000, "{}", compressed.body.len());
}
