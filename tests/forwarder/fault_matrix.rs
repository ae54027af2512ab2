//! The fault matrix: each row is a fault of an exporter or a gateway, and how a run ends in spite of it,
//! without compression and with it. Nothing false is pushed, and one line names the cause. A row that repeats
//! a public report names it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::compression::{COMPRESSIONS, gzip, pushed_text};
use crate::fake::{Fake, Request, drip, exposition, hang, read_head, reset, response};
use crate::host::{has_fetched, unused_address};
use crate::run::Run;
use crate::servers::{Server, agent, families};

/// The metrics of a good exporter.
pub const GOOD: &str = "# HELP a_metric What it is.\n# TYPE a_metric gauge\na_metric{b=\"c\"} 42\n";

const TEXT: &str = "Content-Type: text/plain; version=0.0.4\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

const SHORT_SCRAPE: &[(&str, &str)] =
    &[("EXPORTER_PROBE_TIMEOUT", "1"), ("EXPORTER_SCRAPE_TIMEOUT", "1")];
const SHORT_PUSH: &[(&str, &str)] = &[("PGW_PUSH_TIMEOUT", "1")];
const SMALL: &[(&str, &str)] = &[("EXPORTER_MAX_BYTES", "1000")];
const ALLOWED: &[(&str, &str)] = &[("EXPORTER_ALLOW_UNFRAMED", "1")];
const ALLOWED_SHORT: &[(&str, &str)] =
    &[("EXPORTER_ALLOW_UNFRAMED", "1"), ("EXPORTER_SCRAPE_TIMEOUT", "1")];

const TOO_LARGE: Says = &["larger than 1000 bytes", "--max-bytes (EXPORTER_MAX_BYTES)"];

/// Parts of the line that a run prints.
type Says = &'static [&'static str];

/// A fault, and how a run ends.
pub struct Row {
    name: &'static str,
    /// The exporter's address.
    exporter: String,
    /// `None`: a real Pushgateway, watched.
    gateway: Option<Fake>,
    /// The gateway's host.
    host: &'static str,
    variables: &'static [(&'static str, &'static str)],
    /// The limit of the run's memory.
    kilobytes: Option<u32>,
    status: i32,
    says: Says,
    /// All that the gateway receives, uncompressed.
    stored: Option<String>,
    fake_exporter: Fake,
}

/// A row with a broken exporter in front of a real Pushgateway.
pub fn exporter(name: &'static str, fake: Fake, status: i32, says: Says) -> Row {
    Row {
        name,
        exporter: fake.addr.clone(),
        gateway: None,
        host: "127.0.0.1",
        variables: &[],
        kilobytes: None,
        status,
        says,
        stored: None,
        fake_exporter: fake,
    }
}

/// A row with an exporter that responds these bytes.
pub fn scrape(name: &'static str, reply: Vec<u8>, status: i32, says: Says) -> Row {
    exporter(name, sends(reply, close), status, says)
}

/// A row with a broken gateway behind a good exporter.
pub fn gateway(name: &'static str, fake: Fake, status: i32, says: Says) -> Row {
    Row { gateway: Some(fake), ..scrape(name, exposition(GOOD), status, says) }
}

/// A row with a gateway that reads a push and responds these bytes.
pub fn push(name: &'static str, reply: Vec<u8>, status: i32, says: Says) -> Row {
    gateway(name, Fake::answering(move |_| reply.clone()), status, says).stores(GOOD)
}

impl Row {
    pub fn stores(self, what: &str) -> Row {
        Row { stored: Some(what.into()), ..self }
    }

    pub fn variables(self, variables: &'static [(&'static str, &'static str)]) -> Row {
        Row { variables, ..self }
    }

    pub fn within(self, kilobytes: u32) -> Row {
        Row { kilobytes: Some(kilobytes), ..self }
    }

    /// The same with an exporter that has more than a connection holds, compressed as well.
    pub fn several_mb(self) -> Row {
        static REPLY: LazyLock<Vec<u8>> = LazyLock::new(|| exposition(&megabytes(8)));
        let fake = sends(REPLY.clone(), close);
        Row { exporter: fake.addr.clone(), fake_exporter: fake, ..self }
    }
}

/// Megabytes of exposition, of which compression leaves three quarters.
pub fn megabytes(count: usize) -> String {
    let mut noise = 1_u64;
    let mut body = String::new();
    while body.len() < count << 20 {
        body += "noise{b=\"";
        for _ in 0..256 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            STANDARD.encode_string(noise.to_le_bytes(), &mut body);
        }
        body += "\"} 1\n";
    }
    body
}

/// A response with these headers and a body of unknown length.
fn reply(headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}").into()
}

/// A response of any bytes with a length.
fn binary(headers: &str, body: &[u8]) -> Vec<u8> {
    let headers = format!("{headers}Content-Length: {}\r\n", body.len());
    [&reply(&headers, ""), body].concat()
}

fn chunk(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n", body.len())
}

/// The body in one chunk, and the chunk that ends it.
fn chunks(body: &str) -> String {
    chunk(body) + "0\r\n\r\n"
}

/// Sends this in response to a request, then calls `then`.
fn sends(reply: impl Into<Vec<u8>>, then: fn(&mut TcpStream)) -> Fake {
    let reply = reply.into();
    Fake::after_request(move |stream| {
        // A client that has seen enough may close earlier.
        let _ = stream.write_all(&reply);
        then(stream);
    })
}

/// Sends this in response to a request, then the rest slowly, again and again.
fn drips(reply: impl Into<Vec<u8>>, rest: &'static str) -> Fake {
    let reply = reply.into();
    Fake::after_request(move |stream| {
        stream.write_all(&reply).unwrap();
        drip(stream, rest.bytes().cycle());
    })
}

/// Sends this in response to a request, then the rest again and again.
fn floods(reply: impl Into<Vec<u8>>, rest: String) -> Fake {
    let reply = reply.into();
    Fake::after_request(move |stream| {
        let _ = stream.write_all(&reply);
        while stream.write_all(rest.as_bytes()).is_ok() {}
    })
}

fn close(_: &mut TcpStream) {}

/// Reads nothing, for longer than any run takes.
fn idle(_: &mut TcpStream) {
    thread::sleep(Duration::from_secs(60));
}

/// Ends the connection with a reset after what has been sent.
fn cut(stream: &mut TcpStream) {
    // Let it arrive: a reset also takes back what is still on its way.
    thread::sleep(Duration::from_millis(50));
    reset(stream);
}

/// Exporters that do not run, or do not speak HTTP.
fn down_rows() -> Vec<Row> {
    const GONE: Says = &["alive at the probe, gone during the scrape. Check its log"];
    const LATE: Says =
        &["no complete response within 1 s", "--scrape-timeout (EXPORTER_SCRAPE_TIMEOUT)"];
    const BUSY: Says = &["no connection within 1 s", "--probe-timeout (EXPORTER_PROBE_TIMEOUT)"];
    let down = |name, fake, says: Says| exporter(name, fake, 4, says);
    let slow = |name, fake, says: Says| down(name, fake, says).variables(SHORT_SCRAPE);
    let ok = "HTTP/1.1 200 OK\r\n";
    // A connection that is never accepted fills its queue.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let busy = listener.local_addr().unwrap().to_string();
    let waiting = TcpStream::connect(&busy).unwrap();
    let full = Fake::raw(move |_| _ = (&listener, &waiting));
    let refused: Says = &["refused", "Check that it runs, and --exporter-addr (EXPORTER_ADDR)"];
    vec![
        Row { exporter: unused_address(), ..down("nothing listens", Fake::raw(hang), refused) },
        Row { exporter: busy, ..slow("accepts nothing", full, BUSY) },
        down("closes at once", Fake::raw(close), GONE),
        down("closes after the request", sends("", close), GONE),
        down("panics (prometheus/node_exporter#3662)", sends("", |stream| reset(stream)), GONE),
        slow("hangs", sends("", hang), LATE),
        slow("hangs in the head", sends(ok, hang), LATE),
        slow("drips the head", drips(ok, "X: y\r\n"), LATE),
        down("another protocol", sends("SSH-2.0-OpenSSH_9.2\r\n", hang), &["not valid HTTP"]),
        down("endless headers", floods(ok, "X-Header: more\r\n".into()), &["too many headers"]),
        down(
            "endless header",
            floods(format!("{ok}X: "), "and more and ".into()),
            &["header is too big"],
        ),
    ]
}

/// Responses of which nothing can be pushed.
fn unusable_rows() -> Vec<Row> {
    let bad = |name, reply, says: Says| scrape(name, reply, 5, says);
    let body = |name, body: &[u8], says: Says| bad(name, binary(TEXT, body), says);
    let typed = |media_type: &str, body| {
        let body = format!("{body} 1\n# EOF\n");
        response(200, &format!("Content-Type: {media_type}\r\n"), &body)
    };
    let coded =
        |coding: &str, body: &[u8]| binary(&format!("{TEXT}Content-Encoding: {coding}\r\n"), body);
    let moved = response(302, "Location: http://new.example/metrics\r\n", "");
    let (once, latin_1) = (gzip(GOOD.as_bytes()), b"# HELP t Temperatur in \xb0C\nt 1\n");
    let twice = gzip(&once);
    const OPENMETRICS: Says = &["OpenMetrics, which a Pushgateway does not take", "text/plain"];
    const GZIP: Says = &["the response is compressed (gzip), unasked"];
    vec![
        bad("500", response(500, "", "boom"), &["500", "boom"]),
        bad("503", response(503, "", "starting up"), &["503", "starting up"]),
        bad("401", response(401, "", "who?"), &["401", "who?", "EXPORTER_USER"]),
        bad("404", response(404, "", "none"), &["404", "none", "EXPORTER_METRIC"]),
        bad("204", b"HTTP/1.1 204 No Content\r\n\r\n".into(), &["204"]),
        bad("206", response(206, TEXT, GOOD), &["206"]),
        bad("302", moved, &["302", "http://new.example/metrics", "not followed"]),
        body("empty", b"", &["the response is empty"]),
        body("comments only", b"# HELP a b\n# TYPE a gauge\n", &["no sample"]),
        body("error in the middle", b"a 1\nError: no\n", &["line 2 is not a sample", "Error"]),
        body("a timestamp", b"a 1 1700000000000\n", &["line 1 has a timestamp"]),
        body("HTML", b"<html>\n", &["line 1 is not a sample", "<html>"]),
        body("JSON", b"{\"a\": 1}", &["line 1 is not a sample", "{\"a\": 1}"]),
        bad("HTML by its type", typed("text/html", "<html>"), &["line 1", "<html>"]),
        bad("JSON by its type", typed("application/json", "{\"a\":"), &["line 1", "{\"a\":"]),
        body(
            "HELP in Latin-1 (kallex/PromDapter#24)",
            latin_1,
            &["line 1 is not UTF-8", "in \u{fffd}C"],
        ),
        body("comment in Latin-1", b"a 1\n# \xfc", &["line 2 is not UTF-8"]),
        body("label in Latin-1", b"a{b=\"\xfc\"} 1\n", &["line 1 is not UTF-8"]),
        body("type of OpenMetrics", b"# TYPE a gaugehistogram\na 1\n", &["line 1 has a type of"]),
        body("gateway's own metric", b"pushgateway_http_x 1\n", &["line 1 is a metric of the"]),
        bad("OpenMetrics", typed("application/openmetrics-text; version=1.0.0", "a"), OPENMETRICS),
        bad("OpenMetrics in capitals", typed("Application/OpenMetrics-Text", "a"), OPENMETRICS),
        bad(
            "two types",
            typed("text/plain\r\nContent-Type: application/openmetrics-text", "a"),
            OPENMETRICS,
        ),
        bad("gzip", coded("gzip", &once), GZIP),
        bad("gzip in gzip (TwiN/gatus#406)", coded("gzip", &twice), GZIP),
        bad("gzip in gzip by its label", coded("gzip, gzip", &twice), GZIP),
        bad("gzip without a label", binary(TEXT, &once), &["line 1 is not UTF-8"]),
        bad("gzip only by its label", coded("X-GZip", GOOD.as_bytes()), &["(x-gzip), unasked"]),
        bad("zstd", coded("zstd", b"\x28\xb5\x2f\xfd"), &["(zstd), unasked"]),
        bad("too large", exposition(&megabytes(1)), TOO_LARGE).variables(SMALL),
        exporter("endless", floods(reply(CHUNKED, ""), chunk(GOOD)), 5, TOO_LARGE).variables(SMALL),
    ]
}

/// Responses that are truncated, or may be.
fn truncated_rows() -> Vec<Row> {
    const UNFRAMED: Says =
        &["truncation", "set --exporter-allow-unframed (EXPORTER_ALLOW_UNFRAMED)"];
    const LATE: Says = &["within 1 s", "--scrape-timeout (EXPORTER_SCRAPE_TIMEOUT)"];
    let bad = |name, fake, says: Says| exporter(name, fake, 5, says);
    let ends = |name, reply, says: Says| scrape(name, reply, 5, says);
    let chunked = |body: &str| reply(CHUNKED, body);
    let longer = || reply("Content-Length: 9999\r\n", GOOD);
    let unframed = || reply(TEXT, GOOD);
    vec![
        ends("ends before its length", longer(), &["too early"]),
        ends("ends before the last chunk", chunked(&chunk(GOOD)), &[]),
        ends("ends in a chunk", chunked(&format!("ffff\r\n{GOOD}")), &[]),
        ends("ends in the size of a chunk", chunked(&(chunk(GOOD) + "4")), &[]),
        bad("reset", sends(longer(), cut), &["too early"]),
        bad("hangs in the body", sends(longer(), hang), LATE).variables(SHORT_SCRAPE),
        bad("drips the body", drips(chunked(""), "1\r\n#\r\n"), LATE).variables(SHORT_SCRAPE),
        ends("unframed", unframed(), UNFRAMED),
        ends("unframed HTTP/1.0 (pstadler/metrics.sh#6)", old(unframed()), UNFRAMED),
        ends("chunks in HTTP/1.0", old(chunked(&chunks(GOOD))), UNFRAMED),
        ends("unframed, no newline", reply(TEXT, GOOD.trim_end()), &["truncated"])
            .variables(ALLOWED),
        bad("unframed, reset", sends(unframed(), cut), &["too early"]).variables(ALLOWED),
        bad("unframed, hangs", sends(unframed(), hang), LATE).variables(ALLOWED_SHORT),
        ends("ends before its length, allowed", longer(), &["too early"]).variables(ALLOWED),
    ]
}

/// Responses that a Pushgateway stores from curl, whatever is odd about them.
fn good_rows() -> Vec<Row> {
    let good = |name, reply| scrape(name, reply, 0, &[]).stores(GOOD);
    let with_type = |headers: &str| reply(&format!("{headers}{CHUNKED}"), &chunks(GOOD));
    let only = |status, is_good: fn(&Request) -> bool| {
        Fake::raw(move |stream| {
            let request = read_head(stream).unwrap();
            let good = is_good(&request).then(|| exposition(GOOD));
            stream.write_all(&good.unwrap_or_else(|| response(status, "", "no"))).unwrap();
        })
    };
    let eof = "a 1\n# EOF\n";
    let rows = [
        good("in chunks", with_type("")),
        good("length and chunks (prometheus/jmx_exporter#616)", with_type("Content-Length: 5\r\n")),
        good("no last newline (mbround18/valheim-docker#399)", exposition(GOOD.trim_end())),
        good("# EOF (pendulum-project/ntpd-rs#1273)", exposition(eof)).stores(eof),
        good("as large as allowed", exposition(GOOD)).variables(&[("EXPORTER_MAX_BYTES", "69")]),
        good("unframed, allowed", reply(TEXT, GOOD)).variables(ALLOWED),
        good("unframed HTTP/1.0, allowed", old(reply(TEXT, GOOD))).variables(ALLOWED),
        exporter("HAProxy: 503 on /", only(503, |request| request.path() == "/metrics"), 0, &[])
            .stores(GOOD),
        exporter(
            "406 for an Accept without */* (influxdata/telegraf#6523)",
            only(406, |request| request.header("accept").unwrap().contains("*/*")),
            0,
            &[],
        )
        .stores(GOOD),
        exporter(
            "slower than the probe (PrefectHQ/prometheus-prefect-exporter#105)",
            Fake::after_request(|stream| {
                thread::sleep(Duration::from_secs(1));
                stream.write_all(&exposition(GOOD)).unwrap();
            }),
            0,
            &[],
        )
        .variables(&[("EXPORTER_PROBE_TIMEOUT", "0.5")])
        .stores(GOOD),
        Row {
            // Only the gateway has the name that no_proxy lists.
            host: "localhost",
            ..good("a proxy that does not run", exposition(GOOD))
        }
        .variables(&[
            ("http_proxy", "http://127.0.0.1:1"),
            ("ALL_PROXY", "http://127.0.0.1:1"),
            ("no_proxy", "localhost"),
        ]),
    ];
    // Headers that are wrong or missing.
    let headers = [
        "",
        "Content-Type:",
        "Content-Type: text/html (pretix/pretix#5133)",
        "Content-Type: application/json (nlopes/actix-web-prom#34)",
        "Content-Type: text/html\r\nContent-Type: text/plain (indico/indico-plugins#262)",
        "Content-Type: text/plain; version=1.0.0",
        "Content-Type: text/plain; verison=0.0.4",
        "Content-Type: text/plain; \u{fc}",
        "Content-Encoding: text/plain (svenstaro/site24x7_exporter#372)",
        "Content-Encoding: utf-8",
        "Content-Encoding:",
        "Content-Encoding: identity",
    ]
    .map(|name| match name.split(" (").next() {
        Some("") | None => good("no headers", response(200, "", GOOD)),
        Some(headers) => good(name, response(200, &format!("{headers}\r\n"), GOOD)),
    });
    rows.into_iter().chain(headers).collect()
}

/// The same response of an older server.
fn old(mut reply: Vec<u8>) -> Vec<u8> {
    reply["HTTP/1.".len()] = b'0';
    reply
}

/// A gateway that reads the push, responds this, and closes the connection.
fn reads_and_closes(reply: Vec<u8>) -> Fake {
    Fake::raw(move |stream| {
        let request = read_head(stream).unwrap();
        stream.read_exact(&mut vec![0; request.length()]).unwrap();
        stream.write_all(&reply).unwrap();
    })
}

/// Gateways that give no response, or not all of one.
fn unreachable_rows() -> Vec<Row> {
    const EARLY: Says = &["too early"];
    const LATE: Says = &["within 1 s", "--push-timeout (PGW_PUSH_TIMEOUT)"];
    let bad = |name, fake, says: Says| gateway(name, fake, 6, says);
    let closes = |name, reply| bad(name, reads_and_closes(reply), EARLY);
    let resets = |name, bytes| {
        let read = move |stream: &mut TcpStream| {
            stream.read_exact(&mut vec![0; bytes]).unwrap();
            reset(stream);
        };
        bad(name, Fake::raw(read), EARLY)
    };
    let reads_slowly = Fake::raw(|stream| {
        while stream.read(&mut [0; 1000]).is_ok_and(|n| n > 0) {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let ok = || response(200, "", "");
    vec![
        bad("nothing listens", Fake::raw(hang), &["refused", "--pgw-addr (PGW_ADDR)"])
            .variables(&[("PGW_ADDR", "127.0.0.1:1")]),
        bad("no such name", Fake::raw(hang), &["no-such-host"])
            .variables(&[("PGW_ADDR", "no-such-host.invalid:9091")]),
        bad("no proxy", Fake::raw(hang), &["the proxy http://127.0.0.1:1)", "refused"])
            .variables(&[("http_proxy", "http://127.0.0.1:1")]),
        bad("hangs", Fake::raw(hang), LATE).variables(SHORT_PUSH),
        bad("drips", drips("HTTP/1.1 200 OK\r\n", "X: y\r\n"), LATE).variables(SHORT_PUSH),
        bad("reads slowly", reads_slowly, LATE).several_mb().variables(SHORT_PUSH),
        bad("closes at once", Fake::raw(close), EARLY),
        closes("closes after the push", vec![]),
        closes("half a head", b"HTTP/1.1 200 OK\r\nContent-Le".into()),
        closes("200 without the body that it announces", reply("Content-Length: 9\r\n", "")),
        resets("resets midway", 100),
        resets("resets midway through several MB", 100_000).several_mb(),
        bad("200 before the push", sends(ok(), idle), &["200", "before it had read everything"])
            .several_mb(),
    ]
}

/// Gateways that refuse, and servers that are no gateway.
fn refused_rows() -> Vec<Row> {
    const NO_GATEWAY: Says = &["is not a gateway", "with a body", "Check --pgw-addr (PGW_ADDR)"];
    let bad = |name, reply, says: Says| push(name, reply, 7, says);
    let closes = |name, reply, says: Says| gateway(name, reads_and_closes(reply), 7, says);
    let early = |name, then| {
        let reply = response(400, "Connection: close\r\n", "too many tins");
        gateway(name, sends(reply, then), 7, &["400", "too many tins"]).several_mb()
    };
    let moved = |status| response(status, "Location: https://new.example/p\r\n", "");
    let ok = |body| response(200, "", body);
    vec![
        bad("400", response(400, "", "bad\n tins\x1b[2J"), &["400", "bad tins\\u{1b}[2J"]),
        early("400 before the push", close),
        early("400 before the push, and reads no more", idle),
        closes(
            "400, cut",
            b"HTTP/1.1 400 Bad\r\nContent-Length: 9\r\n\r\nbecau".into(),
            &["becau"],
        ),
        bad("401", response(401, "", "who?"), &["401", "who?", "PGW_USER"]),
        bad("404", response(404, "", "gone"), &["404", "gone", "path prefix", "PGW_ADDR"]),
        bad("413", response(413, "", "too big"), &["413", "too big", "limit"]),
        bad("500", response(500, "", "boom"), &["500", "boom"]),
        bad("503", response(503, "", "later"), &["503", "later"]),
        bad("301", moved(301), &["301", "https://new.example/p"]),
        bad("307", moved(307), &["307", "https://new.example/p"]),
        bad("304", b"HTTP/1.1 304 Not Modified\r\n\r\n".into(), &["304"]),
        bad("an exporter (prometheus/client_python#1019)", exposition(GOOD), NO_GATEWAY),
        bad(
            "a login page",
            ok("<html>Log in</html>"),
            &["is not a gateway", "200", "<html>Log in"],
        ),
        bad("{\"ok\":true}", ok("{\"ok\":true}"), &["is not a gateway", "{\"ok\":true}"]),
        bad("202 with a body", response(202, "", "queued"), NO_GATEWAY),
        bad("200 with a body in chunks", reply(CHUNKED, &chunks("ok")), NO_GATEWAY),
        closes("200 with an unframed body", reply("", "ok"), NO_GATEWAY),
        closes("200 with half a body", reply("Content-Length: 9\r\n", "ok"), NO_GATEWAY),
    ]
}

/// Gateways that are odd, but store what is pushed.
fn stored_rows() -> Vec<Row> {
    let good = |name, reply| push(name, reply, 0, &[]);
    let interim = |name, segments: [&'static str; 2]| {
        let serve = move |stream: &mut TcpStream| {
            let head = read_head(stream).unwrap();
            for segment in segments {
                stream.write_all(segment.as_bytes()).unwrap();
                // Long enough for the sender to run into a full connection.
                thread::sleep(Duration::from_millis(300));
            }
            let length = head.length() as u64;
            assert_eq!(io::copy(&mut stream.take(length), &mut io::sink()).unwrap(), length);
            stream.write_all(&response(200, "", "")).unwrap();
        };
        gateway(name, Fake::raw(serve), 0, &[]).several_mb()
    };
    let slow = Fake::answering(|_| {
        thread::sleep(Duration::from_secs(3));
        response(200, "", "")
    });
    vec![
        good("200 without a chunk", reply(CHUNKED, "0\r\n\r\n")),
        good("202", response(202, "", "")),
        good("204", b"HTTP/1.1 204 No Content\r\n\r\n".into()),
        gateway("200 without framing", reads_and_closes(reply("", "")), 0, &[]),
        gateway("responds after 3 s", slow, 0, &[]).stores(GOOD),
        interim("early hints", ["HTTP/1.1 103 Early Hints\r\n", "\r\n"]),
        interim("interim response in two segments", ["HTTP/1.1", " 100 Continue\r\n\r\n"]),
    ]
}

/// Expositions that a real Pushgateway refuses.
fn refused_by_pushgateway_rows(pushgateway: &Server) -> Vec<Row> {
    // Version 1.11.0 crashes over each push that fails its consistency check, and closes the
    // connection instead of responding (pushgateway issue 766).
    let crashes = pushgateway.page("/api/v1/status").contains("\"version\":\"1.11.0\"");
    let inconsistent = |name, body, says| match crashes {
        false => scrape(name, exposition(body), 7, says),
        true => scrape(name, exposition(body), 6, &["too early"]),
    };
    vec![
        scrape("labels that do not parse", exposition("a{b=c} 1\n"), 7, &["400", "parsing"]),
        inconsistent("a sample twice", "a 1\na 1\n", &["400"]),
    ]
}

/// Runs one row.
fn run(row: &Row, compression: &str, pushgateway: &Server) {
    let name = format!("{} ({compression})", row.name);
    let watch = Fake::in_front_of(&pushgateway.addr);
    let gateway = row.gateway.as_ref().unwrap_or(&watch);
    let port = gateway.addr.rsplit_once(':').unwrap().1;
    let [scrapes_before, pushes_before] =
        [&row.fake_exporter, gateway].map(|fake| fake.requests().len());
    let run = Run::new(&row.exporter, &format!("{}:{port}", row.host)).instance(&name);
    let run = run.env("PGW_COMPRESSION", compression);
    let run = row.variables.iter().fold(run, |run, (name, value)| run.env(name, value));
    let run = match row.kilobytes {
        Some(kilobytes) => run.within(kilobytes),
        None => run,
    };
    let ended = run.end();

    // Each line names the program that failed, and what that means.
    let says: &[&str] = match row.status {
        0 => &[],
        4 => &["exporter ", " is down: "],
        5 => &["exporter ", "nothing was pushed: "],
        6 => &["gateway ", " is unreachable: "],
        7 => &["gateway "],
        _ => &[],
    };
    match row.status {
        0 => assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{name}"),
        status => ended.failed(status, &[says, row.says].concat()),
    }
    // Whatever the line quotes, a log keeps it whole, and it leaves a terminal alone.
    let line = ended.stderr.trim_end_matches('\n');
    assert!(line.len() < 1000, "{name}: {ended:?}");
    assert!(!line.contains(char::is_control), "{name}: {ended:?}");

    // Any request may run the collectors.
    assert!(row.fake_exporter.requests().len() - scrapes_before <= 1, "{name}: scraped twice");
    let pushes = gateway.requests().split_off(pushes_before);
    match &row.stored {
        None if row.gateway.is_none() => {
            assert_eq!(pushes.len(), usize::from(row.status > 5), "{name}");
        }
        None => assert!(pushes.iter().all(|push| push.body.is_empty()), "{name}"),
        Some(text) => {
            assert_eq!(pushes.len(), 1, "{name}");
            let pushed = pushed_text(&pushes[0], compression);
            assert!(pushed == text.as_bytes(), "{name}: other bytes were pushed");
        }
    }
    if row.gateway.is_none() {
        match (row.status, pushgateway.group(&name)) {
            (0, group) => assert!(!families(&group.unwrap()).is_empty(), "{name}"),
            // A refusal leaves its mark, but no data.
            (6 | 7, Some(group)) => assert!(families(&group).is_empty(), "{name}: {group}"),
            (_, group) => assert!(group.is_none(), "{name}: {group:?}"),
        }
    }
}

/// Runs each row without compression and with it, and reports the rows that fail.
pub fn run_all(rows: &[Row], pushgateway: &Server) {
    // Most of them wait for a limit, so many can run at a time.
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for compression in COMPRESSIONS {
                        let run = || run(row, compression, pushgateway);
                        if catch_unwind(AssertUnwindSafe(run)).is_err() {
                            failed.lock().unwrap().push((row.name, compression));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} runs of {} rows failed: {failed:?}", failed.len(), rows.len());
}

#[test]
fn faulty_exporter_has_its_status_and_line_and_nothing_false_is_pushed() {
    let pushgateway = Server::pushgateway(&[]);
    let rows = [down_rows(), unusable_rows(), truncated_rows(), good_rows()].into_iter();
    run_all(&rows.flatten().collect::<Vec<_>>(), &pushgateway);
}

/// It has its own Pushgateway, since each row reads all that is stored.
#[test]
fn large_exposition_is_pushed() {
    let large = megabytes(12);
    let row = scrape("12 MB", exposition(&large), 0, &[]).stores(&large);
    // For a busy machine.
    let row = row.variables(&[("EXPORTER_SCRAPE_TIMEOUT", "60"), ("PGW_PUSH_TIMEOUT", "60")]);
    run_all(&[row], &Server::pushgateway(&[]));
}

#[test]
fn faulty_gateway_has_its_status_and_line() {
    let pushgateway = Server::pushgateway(&[]);
    let refused = refused_by_pushgateway_rows(&pushgateway);
    let rows = [unreachable_rows(), refused_rows(), stored_rows(), refused].into_iter();
    run_all(&rows.flatten().collect::<Vec<_>>(), &pushgateway);
}

#[test]
fn real_server_that_is_no_gateway_is_refused() {
    let nginx = Server::nginx("listen ADDR; return 200 'ok';");
    let exporter = Server::node_exporter();
    for (server, body) in [(&nginx, "ok"), (&exporter, "<html")] {
        for compression in COMPRESSIONS {
            let run = Run::new(&exporter.addr, &server.addr).env("PGW_COMPRESSION", compression);
            run.end().failed(7, &["is not a gateway: it answered 200 OK with a body", body]);
        }
    }
}

/// 1.5.1 refuses it from curl, too, 1.11 stores it (prometheus/pushgateway#689).
#[test]
fn name_in_quotes_is_pushed_and_the_gateway_decides() {
    let quoted = "{\"my_metric\",l=\"v\"} 1\n";
    let curl = |gateway: &Server| {
        let url = format!("http://{}/metrics/job/node/instance/curl", gateway.addr);
        agent().post(url).send(quoted).is_ok()
    };
    let decide = |gateway: &Server| {
        let row = match curl(gateway) {
            true => scrape("a name in quotes", exposition(quoted), 0, &[]),
            false => scrape("a name in quotes", exposition(quoted), 7, &["400", "parsing"]),
        };
        run_all(&[row.stores(quoted)], gateway);
    };
    decide(&Server::pushgateway(&[]));
    if has_fetched(&["pushgateway-newer"]) {
        let newer = Server::newer_pushgateway(&[]);
        assert!(curl(&newer));
        decide(&newer);
    }
}

#[test]
fn memory_is_bounded_whatever_is_sent() {
    // Little more than a run needs, except for the 30 MB of the first.
    let run = |exporter: &Fake, kilobytes: u32, status: i32, parts: &[&str]| {
        let run = Run::new(&exporter.addr, "127.0.0.1:1").arg("--dry-run");
        let mut ended = run.within(kilobytes).end();
        ended.stdout.clear();
        match status {
            0 => ended.succeeded(),
            status => ended.failed(status, parts),
        }
    };
    let one_line = sends(exposition(&"x ".repeat(15_000_000)), close);
    run(&one_line, 50_000, 5, &["line 1 is not a sample"]);
    let announced = sends(reply("Content-Length: 99999999999\r\n", ""), close);
    run(&announced, 20_000, 5, &["larger than"]);

    let line = format!("a{{b=\"{}\"}} 1\n", "x".repeat(40_000));
    let chunked =
        |chunks: usize| sends(reply(CHUNKED, &(chunk(&line).repeat(chunks) + "0\r\n\r\n")), close);
    run(&chunked(100), 40_000, 0, &[]);
    run(&chunked(1000), 40_000, 1, &["no memory for the response"]);
    run(&chunked(1000), 150_000, 0, &[]);

    // The program reads no more of an endless reason than it can show.
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let endless = Fake::after_request(move |stream| {
        let _ = stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n");
        while let Ok(amount) = stream.write(&[b'x'; 10_000]) {
            count.fetch_add(amount, Ordering::Relaxed);
        }
    });
    run(&endless, 20_000, 5, &["500", "xxx..."]);
    let written = written.load(Ordering::Relaxed);
    assert!(written < 50_000_000, "{written}: more than connections hold");
}
