//! The fault matrix: whatever breaks, nothing false is pushed, and one line says what broke.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::fake::{Fake, drip, exposition, hang, read_head, reset, response};
use crate::host::unused_address;
use crate::run::{Ended, Run};
use crate::servers::{Server, families};

/// What a good exporter says.
pub const GOOD: &str = "# HELP a_metric What it is.\n# TYPE a_metric gauge\na_metric{b=\"c\"} 42\n";

/// A message of protocol buffers: `b_metric 42`, of no type.
const MESSAGE: &str = "\x19\x0a\x08b_metric\x18\x03\x22\x0b\x2a\x09\x09\0\0\0\0\0\0E@";

/// Asks for the form that allows all others.
const ANY: &[(&str, &str)] = &[("PGW_ENCODING", "protobuf+gzip")];

/// What the other side of a row got to see in the end.
#[derive(Debug, PartialEq)]
pub enum Stored {
    Nothing,
    Exactly(String),
}
use Stored::{Exactly, Nothing};

/// One fault: what is wrong, and what a run makes of it.
pub struct Row {
    name: &'static str,
    /// The exporter's address.
    exporter: String,
    /// `None`: a real Pushgateway, watched.
    gateway: Option<Fake>,
    /// What the gateway's host is called.
    host: &'static str,
    variables: &'static [(&'static str, &'static str)],
    /// All the memory that the run may have, where it is bounded.
    kilobytes: Option<u32>,
    status: i32,
    says: &'static [&'static str],
    stored: Stored,
    /// Keeps the exporter's fake.
    _fake: Option<Fake>,
}

/// A row with a broken exporter in front of a real Pushgateway.
pub fn exporter(name: &'static str, fake: Fake, status: i32, says: &'static [&'static str]) -> Row {
    Row {
        name,
        exporter: fake.addr.clone(),
        gateway: None,
        host: "127.0.0.1",
        variables: &[],
        kilobytes: None,
        status,
        says,
        stored: Nothing,
        _fake: Some(fake),
    }
}

/// A row with an exporter whose metrics are answered with these bytes.
pub fn scrape(
    name: &'static str,
    reply: Vec<u8>,
    status: i32,
    says: &'static [&'static str],
) -> Row {
    // A client may have seen enough, and close, before all is written.
    let fake = Fake::after_request(move |stream| stream.write_all(&reply).unwrap_or_default());
    exporter(name, fake, status, says)
}

/// A row with a broken gateway behind a good exporter.
pub fn gateway(name: &'static str, fake: Fake, status: i32, says: &'static [&'static str]) -> Row {
    Row { gateway: Some(fake), ..scrape(name, exposition(GOOD), status, says) }
}

/// A row with a gateway that reads a push and answers it with these bytes.
pub fn push(name: &'static str, reply: Vec<u8>, status: i32, says: &'static [&'static str]) -> Row {
    Row {
        stored: Exactly(GOOD.into()),
        ..gateway(name, Fake::answering(move |_| reply.clone()), status, says)
    }
}

impl Row {
    pub fn stores(self, what: &str) -> Row {
        Row { stored: Exactly(what.into()), ..self }
    }

    pub fn variables(self, variables: &'static [(&'static str, &'static str)]) -> Row {
        Row { variables, ..self }
    }

    pub fn within(self, kilobytes: u32) -> Row {
        Row { kilobytes: Some(kilobytes), ..self }
    }

    /// The same with an exporter that has several megabytes, more than a connection holds.
    pub fn several_mb(self) -> Row {
        let body = exposition(&megabytes(8));
        let fake = Fake::after_request(move |stream| {
            let _ = stream.write_all(&body);
        });
        Row { exporter: fake.addr.clone(), _fake: Some(fake), ..self }
    }
}

/// `n` bytes of exposition.
fn megabytes(n: usize) -> String {
    let mut body = String::new();
    let mut i = 0;
    while body.len() < n << 20 {
        body += &format!("a_metric_with_a_name{{label=\"{i}\"}} {i}\n");
        i += 1;
    }
    body
}

fn html() -> Vec<u8> {
    response(200, "Content-Type: text/html\r\n", "<html>Log in</html>")
}

fn exporter_rows() -> Vec<Row> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("{:x}\r\n{GOOD}\r\n", GOOD.len());
    let (cut_length, cut_chunks) =
        (format!("{head}Content-Length: 9999\r\n\r\n{GOOD}"), format!("{chunked}{chunk}"));
    let (stuck, dripping, endless) = (cut_length.clone(), chunked.clone(), cut_chunks.clone());
    let (mut big, mut late) = (megabytes(12), cut_length.clone());
    big.truncate(12_000_000);
    big.truncate(big.rfind('\n').unwrap() + 1);
    late.truncate(late.len() - 20);
    const SHORT: &[(&str, &str)] = &[("EXPORTER_SCRAPE_TIMEOUT", "1")];
    const SMALL: &[(&str, &str)] = &[("EXPORTER_MAX_BYTES", "1000")];
    let protobuf = |parameters: &str| {
        let name = "Content-Type: application/vnd.google.protobuf";
        response(200, &format!("{name}{parameters}\r\n"), MESSAGE)
    };
    let delimited = "; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let coded = |coding: &str| {
        let headers = format!("Content-Type: text/plain\r\nContent-Encoding: {coding}\r\n");
        response(200, &headers, GOOD)
    };

    vec![
        Row {
            exporter: unused_address(),
            ..exporter("nothing listens", Fake::raw(hang), 4, &["exporter", "is down", "refused"])
        },
        exporter("never answers", Fake::raw(hang), 4, &["exporter", "is down", "within 0.5 s"])
            .variables(&[("EXPORTER_PROBE_TIMEOUT", "0.5")]),
        exporter(
            "drips its first answer",
            Fake::raw(|stream| drip(stream, b"HTTP/1.1 200 OK\r\nX: ".iter().copied().cycle())),
            4,
            &["exporter", "is down", "within 0.5 s"],
        )
        .variables(&[("EXPORTER_PROBE_TIMEOUT", "0.5")]),
        exporter("closes unanswered", Fake::raw(|_| ()), 4, &["exporter", "is down", "connection"]),
        exporter(
            "answers 503",
            Fake::answering(|_| response(503, "", "starting up")),
            4,
            &["exporter", "is down", "503", "starting up"],
        ),
        exporter(
            "speaks another protocol",
            Fake::raw(|stream| {
                stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
                hang(stream);
            }),
            4,
            &["exporter", "is down", "not valid HTTP"],
        ),
        exporter(
            "headers without end",
            Fake::raw(|stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                while stream.write_all(b"X-Header: and another one\r\n").is_ok() {}
            }),
            4,
            &["exporter", "is down", "too many headers"],
        ),
        exporter(
            "a header without end",
            Fake::raw(|stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Header: ");
                while stream.write_all(b"and more and ").is_ok() {}
            }),
            4,
            &["exporter", "is down", "head of the answer is too long"],
        ),
        exporter(
            "no landing page",
            Fake::answering(|path| match path {
                "/metrics" => exposition(GOOD),
                _ => response(404, "", "404 page not found"),
            }),
            0,
            &[],
        )
        .stores(GOOD),
        exporter(
            "landing page redirects",
            Fake::answering(|path| match path {
                "/metrics" => exposition(GOOD),
                _ => response(302, "Location: /metrics\r\n", ""),
            }),
            0,
            &[],
        )
        .stores(GOOD),
        exporter(
            "landing page is cut short",
            Fake::raw(|stream| {
                let request = read_head(stream).unwrap();
                if request.path() == "/" {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi").unwrap();
                } else {
                    stream.write_all(&exposition(GOOD)).unwrap();
                }
            }),
            0,
            &[],
        )
        .stores(GOOD),
        exporter(
            "closes after each answer without a word",
            Fake::raw(|stream| {
                let request = read_head(stream).unwrap();
                let reply = if request.path() == "/" { html() } else { exposition(GOOD) };
                stream.write_all(&reply).unwrap();
                // Late enough for the next request to be on its way.
                thread::sleep(Duration::from_millis(50));
            }),
            0,
            &[],
        )
        .stores(GOOD),
        scrape("metrics 500", response(500, "", "boom"), 5, &["exporter", "500", "boom"]),
        scrape("metrics 401", response(401, "", "who?"), 5, &["exporter", "401", "who?"]),
        scrape("metrics 404", response(404, "", "none"), 5, &["exporter", "404", "none"]),
        scrape("metrics 204", b"HTTP/1.1 204 No Content\r\n\r\n".into(), 5, &["exporter", "204"]),
        scrape(
            "metrics 206",
            response(206, "Content-Type: text/plain\r\n", GOOD),
            5,
            &["exporter", "206"],
        ),
        scrape("HTML", html(), 5, &["exporter", "text/html"]),
        scrape("HTML as text", exposition("<html>\n"), 5, &["exporter", "line 1", "<html>"]),
        scrape("HTML untyped", response(200, "", "<html>\n"), 5, &["exporter", "line 1", "<html>"]),
        scrape(
            "JSON",
            response(200, "Content-Type: application/json\r\n", "{\"a\": 1}"),
            5,
            &["exporter", "application/json"],
        ),
        scrape("JSON as text", exposition("{\"a\": 1}"), 5, &["exporter", "line 1"]),
        scrape(
            "OpenMetrics",
            response(
                200,
                "Content-Type: application/openmetrics-text; version=1.0.0\r\n",
                "a_total 1\n# EOF\n",
            ),
            5,
            &["exporter", "openmetrics"],
        ),
        scrape("OpenMetrics as text", exposition("a 1\n# EOF\n"), 5, &["exporter", "OpenMetrics"]),
        scrape(
            "another version of the text format",
            response(200, "Content-Type: text/plain; version=1.0.0\r\n", GOOD),
            5,
            &["exporter", "version=1.0.0"],
        ),
        scrape("empty", exposition(""), 5, &["exporter", "empty"]),
        scrape(
            "comments only",
            exposition("# HELP a b\n# TYPE a gauge\n"),
            5,
            &["exporter", "no sample"],
        ),
        scrape(
            "error in the middle",
            exposition("a 1\nError: no\n"),
            5,
            &["exporter", "line 2", "Error"],
        ),
        scrape(
            "compressed, unasked",
            response(200, "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", "\x1f"),
            5,
            &["exporter", "encoded (gzip), unasked"],
        ),
        scrape(
            "compressed, and protocol buffers were asked for",
            coded("gzip"),
            5,
            &["exporter", "encoded (gzip), unasked"],
        )
        .variables(&[("PGW_ENCODING", "protobuf")]),
        scrape("compressed in another way than asked for", coded("zstd"), 5, &["exporter", "zstd"])
            .variables(ANY),
        scrape("compressed twice", coded("gzip, gzip"), 5, &["exporter", "gzip, gzip"])
            .variables(ANY),
        scrape(
            "protocol buffers, unasked",
            protobuf(delimited),
            5,
            &["exporter", "vnd.google.protobuf"],
        ),
        scrape(
            "protocol buffers, and compressed text was asked for",
            protobuf(delimited),
            5,
            &["exporter", "vnd.google.protobuf"],
        )
        .variables(&[("PGW_ENCODING", "text+gzip")]),
        scrape("protocol buffers", protobuf(delimited), 0, &[]).stores(MESSAGE).variables(ANY),
        scrape(
            "other protocol buffers than asked for",
            protobuf(&delimited.replace("MetricFamily", "Metric")),
            5,
            &["exporter", "client.Metric;"],
        )
        .variables(ANY),
        scrape(
            "protocol buffers as text",
            protobuf(&delimited.replace("delimited", "text")),
            5,
            &["exporter", "encoding=text"],
        )
        .variables(ANY),
        scrape(
            "compact protocol buffers",
            protobuf(&delimited.replace("delimited", "compact-text")),
            5,
            &["exporter", "encoding=compact-text"],
        )
        .variables(ANY),
        scrape(
            "protocol buffers of who knows what",
            protobuf(""),
            5,
            &["exporter", "vnd.google.protobuf"],
        )
        .variables(ANY),
        scrape(
            "another version of the text format, and any form was asked for",
            response(200, "Content-Type: text/plain; version=1.0.0\r\n", GOOD),
            5,
            &["exporter", "version=1.0.0"],
        )
        .variables(ANY),
        scrape("HTML, and any form was asked for", html(), 5, &["exporter", "text/html"])
            .variables(ANY),
        scrape(
            "OpenMetrics, and any form was asked for",
            response(
                200,
                "Content-Type: application/openmetrics-text; version=1.0.0\r\n",
                "a_total 1\n# EOF\n",
            ),
            5,
            &["exporter", "openmetrics"],
        )
        .variables(ANY),
        scrape("cut short, with a length", cut_length.into(), 5, &["exporter", "too early"]),
        scrape(
            "cut short, with chunks",
            cut_chunks.clone().into(),
            5,
            &["exporter", "nothing was"],
        ),
        scrape(
            "cut short, within a chunk",
            format!("{chunked}ffff\r\n{GOOD}").into(),
            5,
            &["exporter", "nothing was pushed"],
        ),
        scrape(
            "neither length nor chunks",
            format!("{head}\r\n{GOOD}").into(),
            5,
            &["exporter", "neither a length nor chunks"],
        ),
        scrape(
            "chunks in HTTP/1.0, which has none",
            format!("{chunked}{chunk}0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0").into(),
            5,
            &["exporter", "neither a length nor chunks"],
        ),
        scrape(
            "cut short, in the size of a chunk",
            format!("{chunked}{chunk}4").into(),
            5,
            &["exporter", "nothing was pushed"],
        ),
        exporter(
            "cut short by a reset",
            Fake::after_request(move |stream| {
                stream.write_all(late.as_bytes()).unwrap();
                // Let it arrive: a reset also takes back what is still on its way.
                thread::sleep(Duration::from_millis(50));
                reset(stream);
            }),
            5,
            &["exporter", "nothing was pushed"],
        ),
        exporter("hangs", Fake::after_request(hang), 5, &["exporter", "within 1 s"])
            .variables(SHORT),
        exporter(
            "hangs in the middle",
            Fake::after_request(move |stream| {
                stream.write_all(stuck.as_bytes()).unwrap();
                hang(stream);
            }),
            5,
            &["exporter", "within 1 s"],
        )
        .variables(SHORT),
        exporter(
            "drips",
            Fake::after_request(move |stream| {
                stream.write_all(dripping.as_bytes()).unwrap();
                drip(stream, b"1\r\n#\r\n".iter().copied().cycle());
            }),
            5,
            &["exporter", "within 1 s"],
        )
        .variables(SHORT),
        exporter(
            "endless",
            Fake::after_request(move |stream| {
                let _ = stream.write_all(endless.as_bytes());
                while stream.write_all(chunk.as_bytes()).is_ok() {}
            }),
            5,
            &["exporter", "larger than 1000 bytes", "EXPORTER_MAX_BYTES"],
        )
        .variables(SMALL),
        scrape(
            "redirect",
            response(302, "Location: http://elsewhere.example/metrics\r\n", ""),
            5,
            &["exporter", "302", "http://elsewhere.example/metrics"],
        ),
        scrape("last newline missing", exposition(GOOD.trim_end()), 0, &[]).stores(GOOD),
        scrape("in chunks", format!("{cut_chunks}0\r\n\r\n").into(), 0, &[]).stores(GOOD),
        scrape("untyped", response(200, "", GOOD), 0, &[]).stores(GOOD),
        scrape("12 MB", exposition(&big), 0, &[]).stores(&big),
        scrape("as large as allowed", exposition(GOOD), 0, &[])
            .stores(GOOD)
            .variables(&[("EXPORTER_MAX_BYTES", "75")]),
        scrape(
            "larger than allowed",
            exposition(&megabytes(1)),
            5,
            &["exporter", "larger than 1000 bytes"],
        )
        .variables(SMALL),
        Row {
            // The gateway alone goes by the name that no_proxy lists.
            host: "localhost",
            variables: &[
                ("http_proxy", "http://127.0.0.1:1"),
                ("ALL_PROXY", "http://127.0.0.1:1"),
                ("no_proxy", "localhost"),
            ],
            ..scrape("a proxy that is not there", exposition(GOOD), 0, &[]).stores(GOOD)
        },
    ]
}

fn gateway_rows() -> Vec<Row> {
    const SHORT: &[(&str, &str)] = &[("PGW_PUSH_TIMEOUT", "1")];
    let refusing = |head_only: fn(&mut TcpStream)| {
        Fake::raw(move |stream| {
            read_head(stream).unwrap();
            stream.write_all(&response(400, "Connection: close\r\n", "too many tins")).unwrap();
            head_only(stream);
        })
    };
    let told = |status: u16, body: &'static str| response(status, "", body);
    let moved = |status| response(status, "Location: https://new.example/p\r\n", "");

    vec![
        Row {
            variables: &[("PGW_ADDR", "127.0.0.1:1")],
            ..gateway("nothing listens", Fake::raw(hang), 6, &["gateway", "unreachable", "refused"])
        },
        Row {
            variables: &[("PGW_ADDR", "no-such-host.invalid:9091")],
            ..gateway(
                "no such name",
                Fake::raw(hang),
                6,
                &["gateway", "unreachable", "no-such-host"],
            )
        },
        gateway("hangs", Fake::raw(hang), 6, &["gateway", "unreachable", "within 1 s"])
            .variables(SHORT),
        gateway("closes unanswered", Fake::raw(|_| ()), 6, &["gateway", "unreachable"]),
        push("reads and closes unanswered", vec![], 6, &["gateway", "unreachable", "too early"]),
        gateway(
            "resets midway",
            Fake::raw(|stream| {
                stream.read_exact(&mut [0; 100]).unwrap();
                reset(stream);
            }),
            6,
            &["gateway", "unreachable"],
        ),
        Row::several_mb(gateway(
            "resets midway through several MB",
            Fake::raw(|stream| {
                stream.read_exact(&mut [0; 100_000]).unwrap();
                reset(stream);
            }),
            6,
            &["gateway", "unreachable"],
        )),
        gateway(
            "drips its answer",
            Fake::raw(|stream| {
                read_head(stream).unwrap();
                drip(stream, b"HTTP/1.1 200 OK\r\nX: ".iter().copied().cycle());
            }),
            6,
            &["gateway", "unreachable", "within 1 s"],
        )
        .variables(SHORT),
        Row::several_mb(gateway(
            "reads a few bytes at a time",
            Fake::raw(|stream| {
                while stream.read(&mut [0; 1000]).is_ok_and(|n| n > 0) {
                    thread::sleep(Duration::from_millis(20));
                }
            }),
            6,
            &["gateway", "unreachable", "within 1 s"],
        ))
        .variables(SHORT),
        push(
            "400 with a reason",
            told(400, "bad\n tins\x1b[2J"),
            7,
            &["400", "bad tins\\u{1b}[2J"],
        ),
        Row::several_mb(gateway(
            "400 before the body has been read, then closes",
            refusing(|_| ()),
            7,
            &["gateway", "refused", "400", "too many tins"],
        )),
        Row::several_mb(gateway(
            "400 before the body has been read, and reads no more",
            refusing(|_| thread::sleep(Duration::from_secs(30))),
            7,
            &["gateway", "refused", "400", "too many tins"],
        )),
        push("200 of a web page", html(), 7, &["gateway", "200", "HTML"]),
        Row::several_mb(gateway(
            "early hints, then reads on",
            Fake::raw(|stream| {
                let head = read_head(stream).unwrap();
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
                // Long enough for the sender to run into a full connection.
                thread::sleep(Duration::from_millis(300));
                let length = head.length() as u64;
                assert_eq!(io::copy(&mut stream.take(length), &mut io::sink()).unwrap(), length);
                stream.write_all(&response(200, "", "")).unwrap();
            }),
            0,
            &[],
        )),
        Row::several_mb(gateway(
            "200 before the body has been read",
            Fake::raw(|stream| {
                read_head(stream).unwrap();
                stream.write_all(&response(200, "", "")).unwrap();
            }),
            6,
            &["gateway", "200", "before it had read all"],
        )),
        gateway(
            "400 whose reason is cut short",
            Fake::raw(|stream| {
                read_head(stream).unwrap();
                stream.read_exact(&mut [0; GOOD.len()]).unwrap();
                stream.write_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 99\r\n\r\nbecau").unwrap();
            }),
            7,
            &["gateway", "refused", "400", "becau"],
        ),
        push("401", told(401, "who?"), 7, &["gateway", "refused", "401", "who?"]),
        push("404", told(404, "gone"), 7, &["gateway", "404", "gone", "path prefix", "PGW_ADDR"]),
        push("413", told(413, "too big"), 7, &["gateway", "413", "too big", "limit"]),
        push("500", told(500, "boom"), 7, &["gateway", "refused", "500", "boom"]),
        push("503", told(503, "later"), 7, &["gateway", "refused", "503", "later"]),
        push("301", moved(301), 7, &["gateway", "301", "https://new.example/p"]),
        push("307", moved(307), 7, &["gateway", "307", "https://new.example/p"]),
        push("304", b"HTTP/1.1 304 Not Modified\r\n\r\n".into(), 7, &["gateway", "304"]),
        push("202", told(202, ""), 0, &[]),
        push("204", b"HTTP/1.1 204 No Content\r\n\r\n".into(), 0, &[]),
        Row {
            stored: Exactly(GOOD.into()),
            ..gateway(
                "answers after 3 s",
                Fake::answering(|_| {
                    thread::sleep(Duration::from_secs(3));
                    response(200, "", "")
                }),
                0,
                &[],
            )
        },
        Row {
            variables: &[("http_proxy", "http://127.0.0.1:1")],
            ..gateway(
                "a proxy that is not there",
                Fake::raw(hang),
                6,
                &["gateway", "unreachable", "through the proxy http://127.0.0.1:1/", "refused"],
            )
        },
    ]
}

/// Rows that a real Pushgateway refuses by itself.
fn refused_rows(pushgateway: &Server) -> Vec<Row> {
    // Version 1.11.0 crashes over each push that fails its consistency check, and closes the
    // connection instead of answering (pushgateway issue 766).
    let crashes = pushgateway.page("/api/v1/status").contains("\"version\":\"1.11.0\"");
    let inconsistent = |name, body, says| match crashes {
        false => scrape(name, exposition(body), 7, says),
        true => scrape(name, exposition(body), 6, &["gateway", "too early"]),
    };
    vec![
        scrape(
            "labels that do not parse",
            exposition("a{b=c} 1\n"),
            7,
            &["gateway", "400", "parsing"],
        ),
        inconsistent("a timestamp", "a 1 1700000000000\n", &["gateway", "400", "timestamp"]),
        inconsistent("a sample twice", "a 1\na 1\n", &["gateway", "400"]),
    ]
}

/// Runs one row.
fn run(row: &Row, instance: &str, pushgateway: &Server) {
    let watch = Fake::in_front_of(&pushgateway.addr);
    let fake = row.gateway.as_ref().unwrap_or(&watch);
    let port = fake.addr.rsplit_once(':').unwrap().1;
    let run = Run::new(&row.exporter, &format!("{}:{port}", row.host)).instance(instance);
    let run = row.variables.iter().fold(run, |run, (name, value)| run.env(name, value));
    let run = match row.kilobytes {
        Some(kilobytes) => run.within(kilobytes),
        None => run,
    };
    let ended: Ended = run.end();

    let name = row.name;
    if row.status == 0 {
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{name}");
    } else {
        assert_eq!(ended.status, Some(row.status), "{name}: {ended:?}");
        ended.failed(row.status, row.says);
    }
    // Whatever it quotes: a line that a log keeps whole, and that leaves a terminal alone.
    let line = ended.stderr.trim_end_matches('\n');
    assert!(line.len() < 1000, "{name}: {ended:?}");
    assert!(!line.contains(char::is_control), "{name}: {ended:?}");
    // All limits together, as the README promises.
    assert!(ended.took < Duration::from_secs(22), "{name}: {ended:?}");

    let pushes = fake.requests();
    match &row.stored {
        Nothing if row.gateway.is_none() => {
            assert_eq!(pushes.len(), usize::from(row.status > 5), "{name}");
        }
        Nothing => assert!(pushes.iter().all(|push| push.body.is_empty()), "{name}"),
        Exactly(body) => {
            assert_eq!(pushes.len(), 1, "{name}");
            assert!(pushes[0].body == body.as_bytes(), "{name}: other bytes were pushed");
        }
    }
    if row.gateway.is_none() {
        match (row.status, pushgateway.group(instance)) {
            (0, group) => assert!(!families(&group.unwrap()).is_empty(), "{name}"),
            // A refusal leaves its mark, but no data.
            (6 | 7, Some(group)) => assert!(families(&group).is_empty(), "{name}: {group}"),
            (_, group) => assert!(group.is_none(), "{name}: {group:?}"),
        }
    }
}

#[test]
fn every_fault_has_its_status_its_line_and_leaves_nothing_false() {
    let pushgateway = Server::pushgateway(&[]);
    let rows = [exporter_rows(), gateway_rows(), refused_rows(&pushgateway)];
    run_all(&rows.into_iter().flatten().collect::<Vec<_>>(), &pushgateway);
}

/// Runs rows, and tells which have failed.
pub fn run_all(rows: &[Row], pushgateway: &Server) {
    // Most of them wait for a limit, so many can run at a time.
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = || run(row, &format!("fault: {}", row.name), pushgateway);
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        failed.lock().unwrap().push(row.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} rows failed: {failed:?}", failed.len(), rows.len());
}

#[test]
fn memory_is_bounded_whatever_is_sent() {
    // Little more than a run needs, but for the 30 MB of the first.
    let run = |exporter: &Fake, kilobytes: u32, status: i32, words: &[&str]| {
        let run = Run::new(&exporter.addr, "127.0.0.1:1").arg("--dry-run");
        let run = run.env("EXPORTER_SCRAPE_TIMEOUT", "2").within(kilobytes);
        let mut ended = run.end();
        ended.stdout.clear();
        match status {
            0 => ended.succeeded(),
            status => ended.failed(status, words),
        }
    };
    let one_line = exposition(&"x ".repeat(15_000_000));
    let one_line =
        Fake::after_request(move |stream| stream.write_all(&one_line).unwrap_or_default());
    run(&one_line, 40_000, 5, &["line 1 is not a sample"]);

    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
    let announced = Fake::after_request(|stream| stream.write_all(announced).unwrap_or_default());
    run(&announced, 20_000, 5, &["larger than"]);

    // Of unknown length, it is given half of what can be had.
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let page = move |chunks: usize| {
        let line = format!("a{{b=\"{}\"}} 1\n", "x".repeat(40_000));
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        Fake::after_request(move |stream| {
            let _ = stream.write_all(chunked);
            for _ in 0..chunks {
                let _ = stream.write_all(chunk.as_bytes());
            }
            let _ = stream.write_all(b"0\r\n\r\n");
        })
    };
    run(&page(100), 40_000, 0, &[]);
    run(&page(1000), 40_000, 1, &["no memory for the 8388609 bytes"]);
    run(&page(1000), 150_000, 0, &[]);

    // Of what has no end, no more is read than can be shown, or is worth a connection.
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let endless = Fake::raw(move |stream| {
        let request = read_head(stream).unwrap();
        let status: &[u8] = if request.path() == "/" { b"200 OK" } else { b"500 Oh" };
        let _ = stream.write_all(&[b"HTTP/1.1 ", status, b"\r\n\r\n"].concat());
        while let Ok(amount) = stream.write(&[b'x'; 10_000]) {
            count.fetch_add(amount, Ordering::Relaxed);
        }
    });
    run(&endless, 10_000_000, 5, &["500", "xxx..."]);
    let written = written.load(Ordering::Relaxed);
    assert!(written < 50_000_000, "{written}: more than connections hold");
}
