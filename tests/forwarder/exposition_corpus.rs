//! Bodies of all kinds, with a real gateway and a real Prometheus as the judges: the forwarder pushes a body
//! if the gateway stores it and Prometheus still reads all metrics, and no other body.
//!
//! Left out are bodies that do harm only in a certain state of the gateway (a family that another group has
//! with another type, an upgrade that keeps the persistence file, a group without an instance), or only with
//! its option for names in UTF-8 (NUL in a name, label names that differ only in their escaped characters).

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::UNIX_EPOCH;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use crate::fake::Fake;
use crate::host::{Complete, fetched_program, has_fetched, program, wait_for};
use crate::run::{Ended, Run};
use crate::servers::{Server, agent, families, query_all};

/// Names of bodies, and the bodies. A missing final newline is added for the judges.
const BODIES: &[(&str, &[u8])] = &[
    // Samples and values.
    ("sample", b"a 1\n"),
    ("samples with labels", b"a{b=\"c\",d=\"e\"} 1\na{b=\"f\"} 2\n"),
    ("fraction and exponent", b"a 1.5\nb -2.5e-3\nc .5\nd 1.\ne 1E5\nf 1e-999\n"),
    ("infinite values", b"a +Inf\nb -Inf\nc Inf\nd inf\ne -Infinity\nf infinity\n"),
    ("not a number", b"a NaN\nb nan\nc NAN\n"),
    ("sign and leading zeros", b"a +1\nb -0\nc 007\n"),
    ("signed NaN", b"a +NaN\n"),
    ("value too large", b"a 1e999\n"),
    ("hexadecimal value", b"a 0x10\n"),
    ("underscore in a value", b"a 1_000\n"),
    ("comma in a value", b"a 1,5\n"),
    ("digits of another script", "a \u{0663}\n".as_bytes()),
    ("value that is a word", b"a one\n"),
    ("value in quotes", b"a \"1\"\n"),
    ("no value", b"a\n"),
    ("no value but a blank", b"a \n"),
    ("timestamp", b"a 1 1700000000000\n"),
    ("timestamp of one sample", b"a 1\nb 1 1700000000000\n"),
    ("timestamp of OpenMetrics", b"a 1 1700000000.5\n"),
    ("two values", b"a 1 2 3\n"),
    ("sample twice", b"a 1\na 1\n"),
    ("sample twice with labels in another order", b"a{b=\"1\",c=\"2\"} 1\na{c=\"2\",b=\"1\"} 1\n"),
    // White space and ends of lines.
    ("no final newline", b"a 1"),
    ("no final newline after labels", b"a{b=\"c\"} 1"),
    ("no final newline after a comment", b"a 1\n# b"),
    ("final blanks without newline", b"a 1\n "),
    ("blank lines", b"\n\na 1\n \t\nb 1\n\n"),
    ("blanks before the name", b" \ta 1\n"),
    ("blanks before the value", b"a \t 1\n"),
    ("blank after the value", b"a 1 \n"),
    ("tab after the value", b"a 1\t\n"),
    ("no blank after the labels", b"a{b=\"c\"}1\n"),
    ("blanks around the labels", b"a\t{ b\t= \"c\" , d = \"e\" ,} 1\n"),
    ("CRLF", b"# HELP a b\r\n# TYPE a gauge\r\na 1\r\n"),
    ("CRLF after samples", b"a 1\r\nb 2\r\n"),
    ("CRLF after HELP only", b"# HELP a b\r\na 1\n"),
    ("CRLF after TYPE only", b"# TYPE a gauge\r\na 1\n"),
    ("CRLF after a comment only", b"# b\r\na 1\n"),
    ("CRLF of a blank line", b"a 1\n\r\n"),
    ("CR between samples", b"a 1\rb 2\r"),
    ("form feed in a blank line", b"a 1\n\x0c\nb 1\n"),
    ("no-break space after the name", "a\u{a0}1\n".as_bytes()),
    ("byte order mark before a sample", "\u{feff}a 1\n".as_bytes()),
    ("byte order mark before a comment", "\u{feff}# HELP a b\na 1\n".as_bytes()),
    // Names and labels.
    ("colons and underscores in names", b":a 1\n: 1\n_ 1\n__b 1\n"),
    ("digit at the start of a name", b"1a 1\n"),
    ("dash in a name", b"a-b 1\n"),
    ("dot in a name", b"a.b 1\n"),
    ("name not of ASCII", "\u{e4} 1\n".as_bytes()),
    ("empty labels", b"a{} 1\nb{ } 1\n"),
    ("empty label value", b"a{b=\"\"} 1\n"),
    ("escapes in label values", b"a{b=\"\\\\ \\n \\\" }{,=# 1\"} 1\n"),
    ("unknown escape in a label value", b"a{b=\"\\t\"} 1\n"),
    ("NUL in a label value", b"a{b=\"c\0\"} 1\n"),
    ("control characters in label values", b"a{b=\"\x01\t\x0b\x0c\r\x1b\x1f\x7f\"} 1\n"),
    ("C1 controls in a label value", "a{b=\"\u{80}\u{85}\u{9f}\"} 1\n".as_bytes()),
    (
        "uncommon characters in a label value",
        "a{b=\"\u{a0}\u{2028}\u{feff}\u{fffe}\u{10ffff}\"} 1\n".as_bytes(),
    ),
    ("label value not in UTF-8", b"a{b=\"\xe9\"} 1\n"),
    ("labels of the group", b"a{job=\"b\",instance=\"c\"} 1\n"),
    ("label with reserved name", b"a{__b=\"c\"} 1\n"),
    ("label with the name of the metric", b"a{__name__=\"b\"} 1\n"),
    ("label with a dash", b"a{b-c=\"d\"} 1\n"),
    ("label without name", b"a{=\"b\"} 1\n"),
    ("label without quotes", b"a{b=c} 1\n"),
    ("label in single quotes", b"a{b='c'} 1\n"),
    ("label twice", b"a{b=\"1\",b=\"2\"} 1\n"),
    ("labels without comma", b"a{b=\"c\" d=\"e\"} 1\n"),
    ("comma only", b"a{,} 1\n"),
    ("brace not closed", b"a{b=\"c\" 1\n"),
    ("brace closed twice", b"a{b=\"c\"}} 1\n"),
    ("quote not closed", b"a{b=\"c} 1\n"),
    ("newline in a label value", b"a{b=\"c\nd\"} 1\n"),
    // Names in quotes.
    ("name in quotes", b"{\"a\"} 1\n"), // prometheus/pushgateway#689
    ("name in quotes with labels", b"{\"a\",b=\"c\"} 1\n"),
    ("name in quotes with comma", b"{ \"a\" , } 1\n"),
    ("name in quotes with a dot", b"# TYPE \"a.b\" gauge\n{\"a.b\"} 1\n"),
    ("name in quotes in TYPE", b"# TYPE \"a\" gauge\na 1\n"),
    ("name in quotes that is empty", b"{\"\"} 1\n"),
    ("name in quotes after a name", b"a{\"b\"} 1\n"),
    ("label name in quotes", b"a{\"b\"=\"c\"} 1\n"),
    ("label name in quotes with a dot", b"a{\"b.c\"=\"d\"} 1\n"),
    ("label name in quotes without a metric", b"# b\n{\"b\"=\"c\"} 1\n"),
    ("label name in quotes without a metric after a sample", b"a 1\n{\"b\"=\"c\"} 1\n"),
    ("label __name__ in quotes without a metric", b"# b\n{\"__name__\"=\"a\"} 1\n"),
    ("labels without a metric", b"{b=\"c\"} 1\n"),
    ("labels without a metric after a comment", b"# b\n{b=\"c\"} 1\n"),
    ("labels without a metric after a sample", b"a 1\n{b=\"c\"} 2\n"),
    ("braces only", b"{}\n"),
    ("braces only, with a value", b"{} 1\n"),
    ("braces only, after a comment", b"# TYPE a gauge\n{} 1\n"),
    // Comments.
    ("HELP and TYPE", b"# HELP a b\n# TYPE a gauge\na 1\n"),
    ("comments of all forms", b"#\n# \n##\n#b\n# b c\n#HELP a b\n # c\n# HELP\n# TYPE\na 1\n"),
    ("HELP and TYPE with tabs", b"#\tHELP\ta\tb\n#\tTYPE\ta\tgauge\na 1\n"),
    ("HELP after the sample", b"a 1\n# HELP a b\n"),
    ("HELP of another family", b"# HELP b c\na 1\n"),
    ("HELP without text", b"# HELP a\na 1\n"),
    ("HELP with escapes", b"# HELP a b \\\\ \\n\na 1\n"),
    ("HELP with an escaped quote", b"# HELP a \\\"\na 1\n"),
    ("HELP with an unknown escape", b"# HELP a \\t\na 1\n"),
    ("HELP twice", b"# HELP a b\n# HELP a b\na 1\n"),
    ("HELP with control characters", b"# HELP a \0\x01\x0b\x0c\r\x1b\x7f\na 1\n"),
    ("HELP with uncommon characters", "# HELP a \u{85}\u{feff}\u{fffe}\u{10ffff}\na 1\n".as_bytes()),
    ("HELP in Latin-1", b"# HELP a Temperatur in \xb0C\na 1\n"), // kallex/PromDapter#24
    ("HELP with a cut character", b"# HELP a \xe2\x82\na 1\n"),
    ("HELP with a surrogate", b"# HELP a \xed\xa0\x80\na 1\n"),
    ("HELP with an overlong NUL", b"# HELP a \xc0\x80\na 1\n"),
    ("TYPE after the sample", b"a 1\n# TYPE a gauge\n"),
    ("TYPE twice", b"# TYPE a gauge\n# TYPE a gauge\na 1\n"),
    ("TYPE without type", b"# TYPE a\na 1\n"),
    ("TYPE in capitals", b"# TYPE a GAUGE\na 1\n"),
    ("TYPE with a blank at the end", b"# TYPE a gauge \na 1\n"),
    ("TYPE with two types", b"# TYPE a gauge counter\na 1\n"),
    ("TYPE unknown", b"# TYPE a unknown\na 1\n"),
    ("TYPE info", b"# TYPE a info\na_info 1\n"),
    ("comment after a sample", b"a 1 # b\n"),
    // OpenMetrics.
    ("# EOF", b"a 1\n# EOF\n"), // pendulum-project/ntpd-rs#1273
    ("# EOF in the middle", b"# EOF\na 1\n# EOF\nb 1\n"),
    ("UNIT", b"# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# EOF\n"),
    ("_total and _created", b"# TYPE a counter\na_total 1\na_created 1.7e9\n# EOF\n"),
    ("exemplar", b"# TYPE a counter\na 1 # {trace_id=\"b\"} 1\n"),
    // Families.
    ("families in parts", b"# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\na{c=\"d\"} 2\n"),
    (
        "histogram",
        b"# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 2\na_sum 3\na_count 2\n",
    ),
    ("histogram without sum, count and +Inf", b"# TYPE a histogram\na_bucket{le=\"1\"} 1\n"),
    ("histogram with a bound that is no number", b"# TYPE a histogram\na_bucket{le=\"b\"} 1\n"),
    (
        "histogram in disorder",
        b"# TYPE a histogram\na_count 1\na_bucket{le=\"2\"} 5\na_bucket{le=\"1\"} 9\na_sum NaN\n",
    ),
    (
        "histogram and a gauge with the name of its count",
        b"# TYPE a histogram\na_bucket{le=\"+Inf\"} 2\na_count 2\n# TYPE a_count gauge\na_count 3\n",
    ),
    ("buckets without TYPE", b"a_bucket{le=\"b\"} 1\na_sum 1\na_count 1\n"),
    ("summary", b"# TYPE a summary\na{quantile=\"0.5\"} 1\na_sum 3\na_count 2\n"),
    ("summary with odd quantiles", b"# TYPE a summary\na{quantile=\"2\"} 1\na{quantile=\"NaN\"} 1\n"),
    ("le and quantile of a gauge", b"# TYPE a gauge\na{le=\"b\",quantile=\"c\"} 1\n"),
    ("Prometheus's own names", b"up 0\nscrape_duration_seconds 5\nALERTS{alertname=\"a\"} 1\n"),
    ("Go's own names", b"# TYPE go_goroutines gauge\ngo_goroutines 1\n"),
    ("Go's own name with another type", b"# TYPE go_goroutines counter\ngo_goroutines 1\n"),
    ("gateway's own time of the push", b"push_time_seconds 1\na 1\n"),
    ("gateway's own version", b"pushgateway_build_info{version=\"1\"} 1\n"),
    // Exporters.
    (
        "netdata",
        b"# COMMENT netdata_a_b: dimension \"c d\", value * 1 / 1 d gathered, gauge\n\
          netdata_a_b{chart=\"e.f\",dimension=\"c d\",family=\"g\"} 0.0 1700000000000\n",
    ),
    (
        "HAProxy",
        b"# HELP haproxy_process_a B.\n# TYPE haproxy_process_a gauge\nhaproxy_process_a NaN\n\
          # HELP haproxy_server_b B.\n# TYPE haproxy_server_b gauge\n\
          haproxy_server_b{proxy=\"c\",server=\"d\",state=\"UP\"} 1\n",
    ),
    (
        "Telegraf",
        b"# HELP a Telegraf collected metric\n# TYPE a untyped\na{host=\"b\",url=\"c?d=e&f\"} 1e+06\n",
    ),
    ("node_exporter", b"node_filesystem_size_bytes{device=\"//b/c\",mountpoint=\"/d\\\\040e\"} 5e+11\n"),
    // Not metrics.
    ("empty", b""),
    ("newline only", b"\n"),
    ("blanks only", b" \t"),
    ("comment only", b"# b"),
    ("HELP and TYPE only", b"# HELP a b\n# TYPE a gauge\n"),
    ("HTML", b"<html><body>Log in</body></html>\n"),
    ("JSON", b"{\"a\": 1}\n"),
    ("words", b"404 page not found\n"),
    ("word and number", b"error 500\n"),
    ("error after samples", b"a 1\nAn error has occurred: 1\n"),
    ("line of InfluxDB", b"cpu,host=a usage=1 1700000000000000000\n"),
    ("line of Graphite", b"a.b.c 1 1700000000\n"),
    ("line of StatsD", b"a:1|c\n"),
    ("line of CSV", b"a,1\n"),
    ("protobuf", b"\x0c\n\x01a\x18\x03\"\x05\x1a\x03\t\0\0"),
    ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\xff"),
    ("UTF-16", b"\xff\xfea\0 \x001\0\n\0"),
];

/// Bodies that break a gateway that has not had any push. Later it refuses them.
const FIRST_PUSHES: &[(&str, &[u8])] = &[
    ("gateway's own summary without TYPE", b"pushgateway_http_push_size_bytes 1\n"),
    (
        "gateway's own summary as a gauge",
        b"# TYPE pushgateway_http_push_size_bytes gauge\npushgateway_http_push_size_bytes 1\n",
    ),
    ("count of the gateway's own summary", b"pushgateway_http_push_duration_seconds_count 1\n"),
];

/// Bodies that the forwarder refuses, although a gateway may store them.
const ALWAYS_REFUSED: &[(&str, &[u8])] = &[
    // Pushgateway 1.5.1 then truncates its metrics.
    ("TYPE gauge_histogram", b"# TYPE a gauge_histogram\na 1\n"),
    ("TYPE gauge_histogram in other letters", "# TYPE a Gauge_Hi\u{17f}togram\na 1\n".as_bytes()),
    // Pushgateway 1.11 then answers 500 at random, if another group has the family with another type.
    ("TYPE gaugehistogram", b"# TYPE a gaugehistogram\na 1\n"),
    // Only the first push to a gateway does harm, and only with another TYPE or HELP than its own.
    (
        "gateway's own counter with its TYPE and HELP",
        b"# HELP pushgateway_http_requests_total Total HTTP requests processed by the Pushgateway, \
          excluding scrapes.\n# TYPE pushgateway_http_requests_total counter\n\
          pushgateway_http_requests_total{code=\"200\",handler=\"push\",method=\"post\"} 1\n",
    ),
    // A gateway accepts them, but no exporter writes them.
    ("name in quotes after a label", b"{b=\"c\",\"a\"} 1\n"),
    ("name in quotes without braces", b"\"a\" 1\n"),
    ("no blank before the value", b"a.5\n"),
    ("no blank before the sign of the value", b"a-1\n"),
    // The gateway drops comments, except HELP and TYPE.
    ("comment in Latin-1", b"# \xb0C\na 1\n"),
];

/// Long bodies, and large ones.
fn large_bodies() -> [(&'static str, String); 8] {
    let long = "b".repeat(100_000);
    let many = |line: &dyn Fn(usize) -> String| (0..300).map(line).collect::<String>();
    [
        ("long label value", format!("a{{b=\"{long}\"}} 1\n")),
        ("long label name", format!("a{{{long}=\"c\"}} 1\n")),
        ("long name", format!("{long} 1\n")),
        ("long HELP", format!("# HELP a {long}\na 1\n")),
        ("long comment", format!("# {long}\na 1\n")),
        ("many series", many(&|n| format!("a{{b=\"{n}\"}} {n}\n"))),
        ("many families", many(&|n| format!("# HELP a{n} b\n# TYPE a{n} gauge\na{n} {n}\n"))),
        ("many labels", format!("a{{{}}} 1\n", many(&|n| format!("b{n}=\"c\",")))),
    ]
}

/// Parts of valid bodies, for the fuzz. `$` stands for a name, `@` for a text.
const VALID: &[&str] = &[
    "# HELP $ Text.\n# TYPE $ gauge\n${a=\"@\",c=\"d\"} 1\n${a=\"@x\"} 2\n",
    "# HELP $ @\n# TYPE $ counter\n${cpu=\"0\",mode=\"idle\"} 5.5\n",
    "# HELP $ a@b\n# TYPE $ gauge\n$ 1\n",
    "# TYPE $ histogram\n$_bucket{le=\"1\"} 1\n$_bucket{le=\"+Inf\"} 2\n$_sum 3\n$_count 2\n",
    "# HELP $ @\n# TYPE $ summary\n${quantile=\"0.5\",a=\"@\"} 1\n$_sum 3\n$_count 2\n",
    "# TYPE $_info untyped\n$_info{version=\"1.0\",rev=\"\"} 1\n",
    "${device=\"/dev/@\",mountpoint=\"/a \\\"@\\\" c\\\\d\\n\"} NaN\n",
    "# a @ comment\n#@\n# HELP $_b late @\n$_b 1e9\n",
    "${a=\"\u{e9}\u{1f600}\"} +Inf\n",
    "# TYPE \"$\" gauge\n{\"$\",a=\"@\"} 1\n",
    "{\"$\",\"a\"=\"@\"} 1\n",
    " \t$ { a = \"@\" , }\t1e5\n \t\n",
    "#\tTYPE\t$\tGauge\n#HELP $\t@\n$ -Inf\n",
    "$ 3\n",
];

/// Texts that the fuzz puts anywhere, with a bar between them.
const TOKENS: &str = "$|$_sum|$_count|$_bucket|$_total|$_gcount|$_created|good|good_count|up\
    |go_goroutines|push_time_seconds|{|}|{}|{ }|\"|\"\"|\\|\\n|\\\"|\\\\|\\x|,|=|=\"|\",|\"}|:|_|-\
    |;|'|+|.| |\t|  |\n|\r|\r\n|\n\n|#|# |# HELP |# TYPE |# HELP $|# TYPE $|#\tTYPE $|# UNIT $ s\
    |# EOF\n| # {a=\"b\"} 1| gauge| counter| histogram| summary| untyped| GAUGE| unknown| info\
    | stateset| gaugehistogram| gauge_histogram| Gauge_Histogram|gauge_histogram|{a=\"b\"}|a=\"\"\
    |\"a\"=\"b\"|\"=\"|le=\"1\"|le=\"+Inf\"|le=\"NaN\"|le=\"\"|le=\"x\"|quantile=\"0.5\"\
    |quantile=\"\"|job=\"j\"|instance=\"x\"|__name__=\"q\"|__x=\"\"|\"$\"|\"$.b\"|{\"$\"|0|1|-1\
    |NaN|nan|+Inf|-Inf|Inf|infinity|e|E|1e999|0x1p3|1_0|1.|.5| 1| 1\n| 1700000000000|\0|\x01|\x0b\
    |\x0c|\x1b|\x7f|\u{85}|\u{a0}|\u{feff}|\u{2028}|\u{fffd}|\u{fffe}|\u{10ffff}|\u{e9}|\u{301}\
    |\u{202e}|\u{663}|\u{ff11}|\u{17f}";

/// A gateway, the Prometheus that scrapes it, and an exporter for the forwarder.
struct Judge {
    gateway: Server,
    prometheus: Arc<Server>,
    exporter: Fake,
    /// The body that the exporter sends.
    body: Arc<Mutex<Vec<u8>>>,
    directory: TempDir,
}

impl Judge {
    /// Starts gateways, and one Prometheus for all of them.
    fn start<const COUNT: usize>(programs: &[PathBuf; 2]) -> [Judge; COUNT] {
        let [gateway, prometheus] = programs.each_ref().map(|program| [program.to_str().unwrap()]);
        let gateways = [(); COUNT].map(|()| {
            Server::start(&gateway, "127.0.0.1", "/-/ready", |addr, _| {
                vec![format!("--web.listen-address={addr}"), "--persistence.file=".into()]
            })
        });
        let prometheus = Server::start(&prometheus, "127.0.0.1", "/-/ready", |addr, directory| {
            let mut text = "global: { scrape_interval: 1s, scrape_timeout: 1s }\nscrape_configs:\n\
                - job_name: gateway\n  honor_labels: true\n  static_configs:\n"
                .to_owned();
            // Many scrapers show the result of a push soon, and each may still take a second.
            for (n, gateway) in (0..10 * COUNT).zip(gateways.iter().cycle()) {
                let addr = &gateway.addr;
                text += &format!("  - {{ targets: ['{addr}'], labels: {{ scraper: '{n}' }} }}\n");
            }
            let config = directory.join("prometheus.yml");
            fs::write(&config, text).unwrap();
            vec![
                format!("--config.file={}", config.display()),
                format!("--storage.tsdb.path={}", directory.join("data").display()),
                format!("--web.listen-address={addr}"),
            ]
        });
        let prometheus = Arc::new(prometheus);
        gateways.map(|gateway| {
            let body = Arc::<Mutex<Vec<u8>>>::default();
            let current = Arc::clone(&body);
            let exporter = Fake::answering(move |_| {
                let body = current.lock().unwrap();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                [head.as_bytes(), &body].concat()
            });
            let (prometheus, directory) = (Arc::clone(&prometheus), tempfile::tempdir().unwrap());
            Judge { gateway, prometheus, exporter, body, directory }
        })
    }

    fn url(&self, instance: &str) -> String {
        format!("http://{}/metrics/job/node/instance/{instance}", self.gateway.addr)
    }

    /// Pushes with curl. Returns whether the gateway accepts it.
    fn push(&self, instance: &str, body: &[u8]) -> bool {
        let file = self.directory.path().join("body");
        fs::write(&file, body).unwrap();
        let output = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*"])
            .args(["--data-binary", &format!("@{}", file.display()), &self.url(instance)])
            .complete();
        output.stdout.starts_with(b"2")
    }

    fn delete(&self, instance: &str) {
        agent().delete(self.url(instance)).call().unwrap();
    }

    fn forward(&self, instance: &str, compression: &str, body: &[u8]) -> Ended {
        *self.body.lock().unwrap() = body.into();
        let run = Run::new(&self.exporter.addr, &self.gateway.addr).instance(instance);
        run.env("PGW_COMPRESSION", compression).end()
    }

    fn stored(&self, instance: &str) -> Vec<String> {
        self.gateway.group(instance).map_or(Vec::new(), |group| families(&group))
    }

    /// Whether another node can push, and Prometheus then reads its metrics.
    fn serves_others(&self) -> bool {
        let good = agent().post(self.url("other")).send("# TYPE good gauge\ngood 1\n");
        if good.is_err() {
            return false;
        }
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let up = format!("up{{job=\"gateway\",instance=\"{}\"}}", self.gateway.addr);
        let scrapes = format!("(timestamp({up}) > {now:.3})");
        let reads = format!("{scrapes} and on (scraper) (timestamp(good) > {now:.3})");
        let count = |promql: &str| query_all(&self.prometheus.addr, promql).map(|all| all.len());
        wait_for("scrapes after the push", || {
            let scrapes = count(&scrapes)?;
            match count(&reads)? {
                // A single scrape may fail because the machine is slow.
                0 => (scrapes >= 3).then_some(false),
                _ => Some(true),
            }
        })
    }

    /// The families in the body, if the gateway stores them and still serves others. Deletes them again.
    fn decide(&self, body: &[u8]) -> Vec<String> {
        let newline: &[u8] = if body.ends_with(b"\n") { b"" } else { b"\n" };
        if !self.push("judge", &[body, newline].concat()) {
            return Vec::new();
        }
        let mut stored = self.stored("judge");
        if !self.serves_others() {
            stored.clear();
        }
        self.delete("judge");
        stored
    }

    /// Checks that the forwarder pushes a body exactly if it should.
    fn check(&self, body: &[u8]) -> Result<(), String> {
        let runs = ["none", "gzip"].map(|compression| {
            let ended = self.forward(compression, compression, body);
            (ended, self.stored(compression))
        });
        let wanted = self.decide(body);
        let is_readable = !wanted.is_empty() || self.serves_others();
        ["none", "gzip"].iter().for_each(|instance| self.delete(instance));
        if !is_readable {
            return Err(format!("no metrics can be read after {runs:?}"));
        }
        let is_right = |(ended, stored): &(Ended, Vec<String>)| match ended.status {
            Some(0) => !wanted.is_empty() && *stored == wanted,
            Some(5 | 7) => wanted.is_empty() && stored.is_empty(),
            _ => false,
        };
        match runs.iter().all(is_right) {
            true => Ok(()),
            false => Err(format!("the gateway stores {wanted:?}, but {runs:?}")),
        }
    }

    /// Checks that the forwarder refuses a body that does harm as the first push to this gateway.
    fn check_first(&self, body: &[u8]) -> Result<(), String> {
        let is_harmful = self.push("judge", body) && !self.serves_others();
        self.delete("judge");
        if !is_harmful {
            return Err("it does no harm".into());
        }
        self.check_refused(body)
    }

    /// Checks that the forwarder refuses a body.
    fn check_refused(&self, body: &[u8]) -> Result<(), String> {
        let ended = self.forward("refused", "none", body);
        let is_sent = self.gateway.group("refused").is_some();
        self.delete("refused");
        match (ended.status, is_sent) {
            (Some(5), false) => Ok(()),
            _ => Err(format!("{ended:?}")),
        }
    }
}

/// Valid bodies with some changes, and series of tokens. `$` stands for a name.
fn fuzzed_bodies() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        8 => select(TOKENS.split('|').collect::<Vec<_>>()).prop_map(|token| token.into()),
        1 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
    ];
    let changes = vec((any::<Index>(), 0..3usize, token.clone()), 0..3);
    let text = r#"[^\n"\\]{0,3}|\\\\|\\n"#;
    let changed = (vec(select(VALID), 1..4), text, changes).prop_map(|(parts, text, changes)| {
        let parts = (0..).zip(parts).map(|(n, part)| part.replace('$', &format!("${n}")));
        let parts = parts.map(|part| part.replace('@', &text));
        let mut body = parts.collect::<String>().into_bytes();
        for (index, length, token) in changes {
            let start = index.index(body.len() + 1);
            body.splice(start..body.len().min(start + length), token);
        }
        body
    });
    prop_oneof![9 => changed, 1 => vec(token, 1..12).prop_map(|tokens| tokens.concat())]
}

/// Runs the forwarder with EXPOSITION_FUZZ_CASES bodies, and checks that those that it pushes do no harm.
fn fuzz(judge: &Judge) -> Result<(), String> {
    // Without the variable, each run has the same bodies.
    let (cases, mut runner) = match env::var("EXPOSITION_FUZZ_CASES") {
        Ok(cases) => (cases.parse().unwrap(), TestRunner::default()),
        Err(_) => (20, TestRunner::deterministic()),
    };
    let bodies = fuzzed_bodies();
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut count = |kind| *counts.entry(kind).or_default() += 1;
    let (mut pushed, mut wrong) = (Vec::new(), String::new());
    for n in 1..=cases {
        let body = bodies.new_tree(&mut runner).unwrap().current();
        let name = format!("m{n}_");
        let name = |byte: &u8| if *byte == b'$' { name.as_bytes().to_vec() } else { vec![*byte] };
        let body = body.iter().flat_map(name).collect::<Vec<_>>();
        let instance = format!("fuzz{}", pushed.len());
        let ended = judge.forward(&instance, ["none", "gzip"][n % 2], &body);
        match ended.status {
            Some(0) => {
                count("pushed");
                pushed.push((instance, body));
            }
            Some(5) if judge.decide(&body).is_empty() => count("refused"),
            Some(5) => {
                count("refused without need");
                eprintln!("without need: {}: {}", body.escape_ascii(), ended.stderr);
            }
            Some(7) => count("refused by the gateway"),
            _ => wrong += &format!("{}: {ended:?}\n", body.escape_ascii()),
        }
        // Fifty share a scrape.
        if pushed.len() == 50 || (n == cases && !pushed.is_empty()) {
            let is_harmless = judge.serves_others();
            pushed.iter().for_each(|(instance, _)| judge.delete(instance));
            for (_, body) in pushed.drain(..).filter(|_| !is_harmless) {
                let harm =
                    if judge.decide(&body).is_empty() { "harmful" } else { "harmless alone" };
                wrong += &format!("{}: {harm}\n", body.escape_ascii());
            }
        }
    }
    eprintln!("{cases} fuzzed bodies: {counts:?}");
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

type Check = fn(&Judge, &[u8]) -> Result<(), String>;

/// Checks all bodies. Each judge begins with a body for a first push.
fn check_all(programs: &[PathBuf; 2]) {
    let judges: [_; FIRST_PUSHES.len()] = Judge::start(programs);
    let large = large_bodies();
    let large = large.iter().map(|(name, body)| (*name, body.as_bytes()));
    // If Prometheus 3 reads this, it panics.
    let longest = format!("a{{b=\"{}\"}} 1\n", "c".repeat(16 << 20));
    let longest = ("label value of 16 MiB", longest.as_bytes());
    let judged = BODIES.iter().copied().chain(large);
    let judged = judged.map(|(name, body)| (name, body, Judge::check as Check));
    let refused = ALWAYS_REFUSED.iter().copied().chain([longest]);
    let refused = refused.map(|(name, body)| (name, body, Judge::check_refused as Check));
    let bodies = judged.chain(refused).collect::<Vec<_>>();

    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(String::new()));
    let report = |name: &str, result: Result<(), String>| {
        let why = result.err().map(|why| format!("{name}: {why:.3000}\n"));
        wrong.lock().unwrap().extend(why);
    };
    thread::scope(|scope| {
        for (judge, (name, body)) in judges.iter().zip(FIRST_PUSHES) {
            let (next, bodies, report) = (&next, &bodies, &report);
            scope.spawn(move || {
                report(name, judge.check_first(body));
                while let Some((name, body, check)) = bodies.get(next.fetch_add(1, Relaxed)) {
                    report(name, check(judge, body));
                }
                report("fuzz", fuzz(judge));
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn forwarder_pushes_exactly_what_installed_gateway_and_prometheus_accept() {
    check_all(&[program(&["prometheus-pushgateway", "pushgateway"]), program(&["prometheus"])]);
}

#[test]
fn forwarder_pushes_exactly_what_newer_gateway_and_prometheus_accept() {
    let programs = ["pushgateway-newer", "prometheus-newer"];
    if has_fetched(&programs) {
        check_all(&programs.map(fetched_program));
    }
}
