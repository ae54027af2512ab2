//! Servers that mean harm, on either side: they get no more time or memory than any other, the
//! line about them is short and harmless, and nothing false is pushed.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::fake::{Fake, date, exposition, hang, read_head, response};
use crate::fault_matrix::{GOOD, Row, exporter, gateway, push, run_all, scrape};
use crate::run::Run;
use crate::servers::Server;

/// What must never arrive at a gateway.
const FALSE: &str = "a_metric{b=\"c\"} 666\n";

/// Kilobytes that are little more than any run needs.
const LITTLE: u32 = 24_000;

const SHORT: &[(&str, &str)] =
    &[("EXPORTER_PROBE_TIMEOUT", "1"), ("EXPORTER_SCRAPE_TIMEOUT", "1"), ("PGW_PUSH_TIMEOUT", "1")];

/// An answer with these further header lines, and of no length but what they say.
fn head(headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{headers}\r\n{body}").into()
}

/// The good metrics in one chunk, the size of which is told in this way.
fn chunk(size: &str) -> Vec<u8> {
    head("Transfer-Encoding: chunked\r\n", &format!("{size}\r\n{GOOD}\r\n0\r\n\r\n"))
}

/// Sends `first`, and then `again` as long as anybody listens.
fn endless(stream: &mut TcpStream, first: &[u8], again: &[u8]) {
    let _ = stream.write_all(first);
    while stream.write_all(again).is_ok() {}
}

/// The same, slowly enough for each to be read by itself.
fn paced(stream: &mut TcpStream, again: &[u8]) {
    while stream.write_all(again).is_ok() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// 200 MB in some 200 KB.
fn bomb() -> Vec<u8> {
    let made = Command::new("/bin/sh")
        .args(["-c", "head -c 200000000 /dev/zero | gzip -9"])
        .output()
        .unwrap();
    assert!(made.status.success() && made.stdout.len() > 100_000);
    made.stdout
}

/// An answer of these bytes with a length.
fn binary(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The three places where a head is read: what does the same there, does it everywhere.
fn in_each_head(
    name: [&'static str; 3],
    behave: fn(&mut TcpStream),
    says: [&'static [&'static str]; 3],
) -> Vec<Row> {
    let [probed, scraped, pushed] = name;
    let asked = move |stream: &mut TcpStream| {
        read_head(stream).unwrap();
        behave(stream);
    };
    vec![
        exporter(probed, Fake::raw(asked), 4, says[0]).variables(SHORT),
        exporter(scraped, Fake::after_request(behave), 5, says[1]).variables(SHORT),
        gateway(pushed, Fake::raw(asked), 6, says[2]).variables(SHORT),
    ]
}

/// Three rows of a thing that is done in each place where a head is read.
macro_rules! in_each_head {
    ($name:literal, $behave:expr, $why:literal) => {
        in_each_head(
            [
                concat!($name, ", probed"),
                concat!($name, ", scraped"),
                concat!($name, ", pushed to"),
            ],
            $behave,
            [
                &["exporter", "is down", $why],
                &["exporter", "nothing was pushed", $why],
                &["gateway", "unreachable", $why],
            ],
        )
    };
}

fn heads() -> Vec<Row> {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n";
    [
        in_each_head!(
            "a million headers",
            |stream| {
                let _ = stream.write_all(OK);
                let _ = stream.write_all("A: b\r\n".repeat(1_000_000).as_bytes());
                hang(stream);
            },
            "too many headers"
        ),
        in_each_head!(
            "a few long headers",
            |stream| {
                let _ = stream.write_all(OK);
                let header = format!("X-Header: {}\r\n", "x".repeat(5000));
                let _ = stream.write_all(header.repeat(4).as_bytes());
                hang(stream);
            },
            "head of the answer is too long"
        ),
        in_each_head!(
            "a header without end",
            |stream| endless(stream, b"HTTP/1.1 200 OK\r\nX-Header: ", &[b'x'; 10_000]),
            "head of the answer is too long"
        ),
        in_each_head!(
            "a header's name without end",
            |stream| endless(stream, OK, &[b'x'; 10_000]),
            "head of the answer is too long"
        ),
        in_each_head!(
            "a status line of a megabyte",
            |stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 ");
                let _ = stream.write_all(&[b'O'; 1 << 20]);
                let _ = stream.write_all(b"\r\n\r\n");
                hang(stream);
            },
            "head of the answer is too long"
        ),
        in_each_head!(
            "nothing but line ends",
            |stream| endless(stream, b"", &[b'\n'; 10_000]),
            "head of the answer is too long"
        ),
        in_each_head!(
            "100 for ever",
            |stream| paced(stream, b"HTTP/1.1 100 Continue\r\n\r\n"),
            "within 1 s"
        ),
        in_each_head!(
            "102 for ever",
            |stream| paced(stream, b"HTTP/1.1 102 Processing\r\n\r\n"),
            "within 1 s"
        ),
        in_each_head!("103 for ever", |stream| paced(stream, HINTS), "within 1 s"),
        // Either limit may be the first.
        in_each_head!("103 for ever, as fast as can be", |stream| endless(stream, b"", HINTS), ""),
        in_each_head!(
            "an answer of HTTP/0.9",
            |stream| {
                let _ = stream.write_all(GOOD.as_bytes());
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "the preface of HTTP/2",
            |stream| {
                let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a frame of HTTP/2",
            |stream| {
                let _ = stream.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0");
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a version that there is not",
            |stream| {
                let _ = stream.write_all(b"HTTP/1.2 200 OK\r\n\r\n");
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a status that there is not",
            |stream| {
                let _ = stream.write_all(b"HTTP/1.1 020 OK\r\nContent-Length: 0\r\n\r\n");
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "NUL in a header",
            |stream| {
                let _ = stream.write_all(&head("X: a\0b\r\nContent-Length: 0\r\n", ""));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a terminal escape in a header",
            |stream| {
                let _ = stream.write_all(&head("X: \x1b[2J\r\nContent-Length: 0\r\n", ""));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a header that is folded",
            |stream| {
                let _ = stream.write_all(&head("X: a\r\n b\r\nContent-Length: 0\r\n", ""));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a space before the colon",
            |stream| {
                let _ = stream.write_all(&head("Content-Length : 0\r\n", ""));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a negative length",
            |stream| {
                let _ = stream.write_all(&head("Content-Length: -1\r\n", GOOD));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a length with a sign",
            |stream| {
                let _ = stream.write_all(&head("Content-Length: +75\r\n", GOOD));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "a length that overflows",
            |stream| {
                let _ = stream.write_all(&head("Content-Length: 18446744073709551691\r\n", GOOD));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "an empty length",
            |stream| {
                let _ = stream.write_all(&head("Content-Length:\r\n", GOOD));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "two lengths",
            |stream| {
                let lengths = "Content-Length: 75\r\nContent-Length: 5\r\n";
                let _ = stream.write_all(&head(lengths, GOOD));
                hang(stream);
            },
            "not valid HTTP"
        ),
        in_each_head!(
            "two lengths in one header",
            |stream| {
                let _ = stream.write_all(&head("Content-Length: 5, 75\r\n", GOOD));
                hang(stream);
            },
            "not valid HTTP"
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn bodies() -> Vec<Row> {
    let bomb = bomb();
    let size = format!("{:x}", GOOD.len());
    let length = GOOD.len();
    let both = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n");
    let coded = |coding: &str| head(&format!("Transfer-Encoding: {coding}\r\n"), &chunk_of(GOOD));
    let zipped = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n";
    let plain = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
    let protobuf = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.google.protobuf; \
        proto=io.prometheus.client.MetricFamily; encoding=delimited\r\n";
    let long = "x".repeat(7000);
    const NOTHING: &[&str] = &["exporter", "nothing was pushed"];
    vec![
        scrape("a good chunk", chunk(&size), 0, &[]).stores(GOOD),
        scrape("a small note on a chunk", chunk(&format!("{size};a=b")), 0, &[]).stores(GOOD),
        scrape("the largest chunk", chunk("ffffffffffffffff"), 5, NOTHING),
        scrape("a chunk that overflows", chunk("1000000000000004b"), 5, NOTHING),
        scrape("a negative chunk", chunk("-4b"), 5, NOTHING),
        scrape("a chunk in C", chunk("0x4b"), 5, NOTHING),
        scrape("a chunk of no size", chunk(""), 5, NOTHING),
        scrape("a chunk of a word", chunk("many"), 5, NOTHING),
        scrape("a chunk of NUL", chunk("4b\0"), 5, NOTHING),
        scrape(
            "a chunk with a megabyte of notes",
            chunk(&format!("{size};{}", "x".repeat(1 << 20))),
            5,
            NOTHING,
        ),
        scrape("a chunk that is longer than told", chunk("4"), 5, NOTHING),
        scrape("a chunk that is shorter than told", chunk("4d"), 5, NOTHING),
        exporter(
            "a note on a chunk without end",
            Fake::after_request(|stream| {
                let first = head("Transfer-Encoding: chunked\r\n", "4b;");
                endless(stream, &first, &[b'x'; 10_000]);
            }),
            5,
            NOTHING,
        )
        .variables(SHORT),
        exporter(
            "trailers without end",
            Fake::after_request(|stream| {
                let first = head("Transfer-Encoding: chunked\r\n", "1\r\n\n\r\n0\r\n");
                endless(stream, &first, b"X-Trailer: and another one\r\n");
            }),
            5,
            &["exporter", "within 1 s"],
        )
        .variables(SHORT),
        exporter(
            "line ends without CR around chunks",
            Fake::after_request(|stream| {
                let bare = chunk_of(GOOD).replace('\r', "");
                let _ = stream.write_all(&head("Transfer-Encoding: chunked\r\n", &bare));
            }),
            5,
            NOTHING,
        ),
        scrape("a length and chunks", head(&both, &chunk_of(GOOD)), 5, &["both a length and"]),
        scrape(
            "another length and chunks",
            head(&both.replace("75", "5"), &chunk_of(GOOD)),
            5,
            NOTHING,
        ),
        scrape("chunks of a compressed body", coded("gzip, chunked"), 5, NOTHING),
        scrape("chunks of chunks", coded("chunked, chunked"), 5, NOTHING),
        scrape(
            "chunks and something else",
            coded("chunked\r\nTransfer-Encoding: gzip"),
            5,
            NOTHING,
        ),
        scrape(
            "a length of something else",
            head(&format!("Transfer-Encoding: gzip\r\nContent-Length: {length}\r\n"), GOOD),
            5,
            NOTHING,
        ),
        scrape(
            "the same length twice",
            head(&format!("Content-Length: {length}\r\n").repeat(2), GOOD),
            0,
            &[],
        )
        .stores(GOOD),
        scrape("a bomb", binary(zipped, &bomb), 5, &["exporter", "encoded (gzip)"]),
        scrape(
            "a family of the greatest length",
            binary(protobuf, &[&[0xff; 9][..], &[1], GOOD.as_bytes()].concat()),
            5,
            &["exporter", "family 1 is no whole"],
        )
        .variables(&[("PGW_ENCODING", "protobuf")]),
        scrape(
            "a million families of nothing",
            binary(protobuf, &[0; 1_000_000]),
            5,
            &["exporter", "family 1 is no whole"],
        )
        .variables(&[("PGW_ENCODING", "protobuf")]),
        scrape("a bomb as text", binary(plain, &bomb), 5, &["exporter", "not UTF-8"]),
        scrape(
            "a bomb behind another name",
            binary(&zipped.replace("gzip", "identity\r\nContent-Encoding: gzip"), &bomb),
            5,
            &["exporter", "encoded"],
        ),
        scrape(
            "a bomb as an error's words",
            binary(&zipped.replace("200 OK", "500 Oh"), &bomb),
            5,
            &["exporter", "500"],
        ),
        push(
            "a bomb as a refusal's words",
            binary(&zipped.replace("200 OK", "400 No"), &bomb),
            7,
            &["gateway", "refused", "400"],
        ),
        push("a bomb as a consent", binary(zipped, &bomb), 0, &[]),
        scrape(
            "a long type",
            response(200, &format!("Content-Type: {long}\r\n"), GOOD),
            5,
            &["exporter", "xxx...", "not the text format"],
        ),
        scrape(
            "a long encoding",
            response(200, &format!("Content-Encoding: {long}\r\n"), GOOD),
            5,
            &["exporter", "xxx...", "unasked"],
        ),
        scrape(
            "two types",
            response(200, "Content-Type: text/plain; a=b\r\nContent-Type: text/html\r\n", GOOD),
            5,
            &["exporter", "text/html"],
        ),
        push(
            "a web page in capitals",
            response(200, "Content-Type: Text/HTML\r\n", "<HTML>Log in</HTML>"),
            7,
            &["gateway", "200", "HTML"],
        ),
        scrape(
            "controls in a line",
            exposition("a_metric \x1b[2J\u{9b}\u{202e}\0\x07 1\n"),
            5,
            &["line 1", "\\u{1b}[2J\\u{9b}\\u{202e}\\0\\u{7}"],
        ),
        scrape("controls alone", exposition(&"\x1b".repeat(5000)), 5, &["line 1", "\\u{1b}"]),
        scrape("NUL between lines", exposition(&format!("{GOOD}\0\n")), 5, &["line 4"]),
        exporter(
            "controls in a probe's error",
            Fake::answering(|_| response(503, "", "\x1b]0;owned\x07 \u{9b}2J\r\nyes\0")),
            4,
            &["503", "\\u{1b}]0;owned\\u{7} \\u{9b}2J yes\\0"],
        ),
        scrape(
            "controls in an error",
            response(500, "", &"\x1b[31m\u{202e}\r\n".repeat(1000)),
            5,
            &["500", "\\u{1b}[31m\\u{202e} \\u{1b}", "..."],
        ),
        push(
            "controls in a refusal",
            response(400, "", &"\x1b\x08\u{2028}\r\n".repeat(1000)),
            7,
            &["400", "\\u{1b}\\u{8}", "..."],
        ),
        scrape("101", head("", "").map_status("101 Switching Protocols"), 5, &["101"]),
        push(
            "a switch of protocols",
            head("Upgrade: h2c\r\n", "").map_status("101 Switching Protocols"),
            7,
            &["gateway", "refused", "101"],
        ),
        scrape("204 with a body", exposition(GOOD).map_status("204 No Content"), 5, &["204"]),
        scrape("304 with a body", exposition(GOOD).map_status("304 Not Modified"), 5, &["304"]),
        push("a 204 with a body", exposition(GOOD).map_status("204 No Content"), 0, &[]),
        push(
            "a 304 with a body",
            exposition(GOOD).map_status("304 Not Modified"),
            7,
            &["gateway", "304"],
        ),
        scrape("a status of no class", exposition(GOOD).map_status("999 Oh"), 5, &["999"]),
        push("a consent of no class", exposition("").map_status("999 Oh"), 7, &["999"]),
        scrape(
            "more than was announced",
            [&exposition(GOOD)[..], FALSE.as_bytes()].concat(),
            0,
            &[],
        )
        .stores(GOOD),
        scrape("more than the last chunk", [&chunk(&size)[..], FALSE.as_bytes()].concat(), 0, &[])
            .stores(GOOD),
        scrape(
            "line ends without CR in a head",
            String::from_utf8(exposition(GOOD)).unwrap().replace('\r', "").into(),
            0,
            &[],
        )
        .stores(GOOD),
        scrape(
            "hints before it",
            [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", &exposition(GOOD)[..]].concat(),
            0,
            &[],
        )
        .stores(GOOD),
        gateway(
            "a refusal whose words drip",
            Fake::raw(|stream| {
                read_head(stream).unwrap();
                let _ = stream.write_all(b"HTTP/1.1 400 No\r\n\r\nbecau");
                crate::fake::drip(stream, b"x".iter().copied().cycle());
            }),
            7,
            &["gateway", "refused", "400", "becaux"],
        )
        .variables(SHORT),
    ]
}

/// Answers that nobody has asked for, at the time when they come.
fn unasked() -> Vec<Row> {
    let first = |reply: Vec<u8>| {
        Fake::answering(move |path| match path {
            "/metrics" => exposition(GOOD),
            _ => reply.clone(),
        })
    };
    let alive = response(200, "", "alive");
    let chunks = head("Transfer-Encoding: chunked\r\n", "0\r\n\r\n");
    let empty = b"HTTP/1.1 204 No Content\r\n\r\n".to_vec();
    let stale = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n".to_vec();
    let early = |reply: Vec<u8>| {
        Fake::raw(move |stream| {
            let _ = stream.write_all(&reply);
            thread::sleep(Duration::from_secs(30));
        })
    };
    let mut rows: Vec<Row> = [
        ("a second answer after the probe's", alive),
        ("a second answer after the probe's chunks", chunks),
        ("an answer in the place of a 204's body", empty),
        ("an answer in the place of a 304's body", stale),
    ]
    .into_iter()
    .map(|(name, reply)| {
        let reply = [reply, exposition(FALSE)].concat();
        exporter(name, first(reply), 0, &[]).stores(GOOD)
    })
    .collect();
    rows.extend([
        exporter(
            "answers before it is asked, and then no more",
            Fake::raw(|stream| {
                let _ = stream.write_all(&exposition(FALSE));
                hang(stream);
            }),
            5,
            &["exporter", "within 1 s"],
        )
        .variables(SHORT),
        gateway(
            "consents before it is asked, and reads nothing",
            early(response(200, "", "")),
            6,
            &["gateway", "200", "before it had read all"],
        )
        .several_mb(),
        gateway(
            "refuses before it is asked, and reads nothing",
            early(response(400, "", "not you")),
            7,
            &["gateway", "refused", "400", "not you"],
        )
        .several_mb(),
        gateway(
            "goes on with 103 for ever, and reads nothing",
            Fake::raw(|stream| endless(stream, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")),
            6,
            &["gateway", "within 1 s"],
        )
        .several_mb()
        .variables(SHORT),
    ]);
    rows
}

fn chunk_of(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

trait MapStatus {
    /// The same answer with another status.
    fn map_status(self, status: &str) -> Vec<u8>;
}

impl MapStatus for Vec<u8> {
    fn map_status(self, status: &str) -> Vec<u8> {
        let answer = String::from_utf8(self).unwrap();
        let (_, rest) = answer.split_once("\r\n").unwrap();
        format!("HTTP/1.1 {status}\r\n{rest}").into()
    }
}

#[test]
fn a_server_that_means_harm_gets_its_status_and_a_short_line() {
    let pushgateway = Server::pushgateway(&[]);
    let little = [heads(), bodies()].into_iter().flatten();
    let rows = little.map(|row| row.within(LITTLE)).chain(unasked());
    run_all(&rows.collect::<Vec<_>>(), &pushgateway);
}

#[test]
fn a_bomb_that_was_asked_for_is_unpacked_by_the_gateway_alone() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n";
    let bomb = binary(head, &bomb());
    let exporter = Fake::after_request(move |stream| stream.write_all(&bomb).unwrap_or_default());
    let gateway = Server::pushgateway(&[]);
    let run = Run::new(&exporter.addr, &gateway.addr).env("PGW_ENCODING", "text+gzip");
    let ended = run.within(LITTLE).end();
    ended.failed(7, &["gateway", "refused: 400", "parsing"]);
    assert!(gateway.groups().is_empty());
}

#[test]
fn no_redirect_is_followed_wherever_it_leads() {
    let target = Fake::answering(|_| exposition(FALSE));
    let near = format!("http://{}/metrics", target.addr);
    for status in [300, 301, 302, 303, 305, 307, 308] {
        for (location, shown) in [
            (near.as_str(), near.as_str()),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("http://169.254.169.254/latest/", "http://169.254.169.254/latest/"),
            ("javascript:alert(1)", "javascript:alert(1)"),
            ("//\u{9b}2J\u{202e}/\tb", "//\\u{9b}2J\\u{202e}/ b"),
            (&"/x".repeat(3500), "/x/x..."),
            ("", "a redirect to"),
        ] {
            let reply = response(status, &format!("Location: {location}\r\n"), FALSE);
            let moved = Fake::after_request(move |stream| {
                let _ = stream.write_all(&reply);
            });
            let ended = Run::new(&moved.addr, &target.addr).end();
            ended.failed(5, &[&status.to_string(), shown, "none is followed"]);
            assert!(ended.stderr.len() < 1000, "{ended:?}");
            assert_eq!(moved.requests().len(), 2);

            let reply = response(status, &format!("Location: {location}\r\n"), "");
            let moved = Fake::answering(move |_| reply.clone());
            let good = Fake::answering(|_| exposition(GOOD));
            let push = Run::new(&good.addr, &moved.addr);
            let delete = Run::new(&good.addr, &moved.addr).arg("--delete");
            let prune = Run::new(&good.addr, &moved.addr).args(&["--prune", "5"]);
            for run in [push, delete, prune] {
                let ended = run.end();
                ended.failed(7, &[&status.to_string(), shown, "none is followed"]);
                assert!(ended.stderr.len() < 1000, "{ended:?}");
            }
            assert_eq!(moved.requests().len(), 3);
        }
    }
    assert!(target.requests().is_empty());
}

#[test]
fn a_terminal_is_left_alone_however_much_is_said() {
    let reply = response(200, "X: \u{9b}2J\u{202e}\u{85}\r\nY: a\tb\r\n", "\x1b[2J\r\n");
    let hostile = Fake::answering(move |_| reply.clone());
    for level in ["-v", "-vv"] {
        let ended = Run::new(&hostile.addr, "127.0.0.1:1").arg(level).end();
        assert_eq!(ended.status, Some(5), "{ended:?}");
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert!(lines.len() > 1, "{ended:?}");
        for line in lines {
            assert!(line.starts_with("pgw-forwarder: "), "{line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(!line.contains('\u{202e}'), "{line:?}");
        }
    }
}

#[test]
fn a_length_beyond_all_memory_is_no_crash() {
    let announced = head("Content-Length: 18446744073709551615\r\n", GOOD);
    let fake = Fake::after_request(move |stream| stream.write_all(&announced).unwrap_or_default());
    let gateway = Fake::answering(|_| response(200, "", ""));
    let run = Run::new(&fake.addr, &gateway.addr);
    let ended = run.env("EXPORTER_MAX_BYTES", u64::MAX.to_string()).end();
    ended.failed(1, &["no memory"]);
    assert!(gateway.requests().is_empty());
}

#[test]
fn a_page_that_means_harm_deletes_nothing() {
    let date = date(0);
    let page = "pushgateway_build_info{} 1\npush_time_seconds{instance=\"n\",job=\"j\"} 1\n";
    let size = page.len();
    let chunked = format!("{date}Transfer-Encoding: chunked\r\n");
    let length = format!("{date}Content-Length: {size}\r\n");
    let both = format!("{length}Transfer-Encoding: chunked\r\n");
    let forever = |again: &str| {
        let first = head(&chunked, &format!("{size:x}\r\n{page}\r\n"));
        let again = again.repeat(100);
        let again = format!("{:x}\r\n{again}\r\n", again.len());
        Fake::raw(move |stream| {
            read_head(stream).unwrap();
            endless(stream, &first, again.as_bytes());
        })
    };
    let early = head(&chunked, &format!("{size:x}\r\n{page}\r\n-1\r\n"));
    // Of the groups themselves, some have to be kept.
    let ended = Run::new("127.0.0.1:1", &forever(page).addr).args(&["--prune", "5"]);
    let ended = ended.env("PGW_PUSH_TIMEOUT", "60").within(150_000).end();
    ended.failed(7, &["gateway", "there is no end to its groups"]);

    for (fake, status, words) in [
        (forever("# more\n"), 6, "within 1 s"),
        (forever("#"), 6, "within 1 s"),
        (Fake::answering(move |_| early.clone()), 6, "unreachable"),
        (Fake::answering(move |_| head(&both, &chunk_of(page))), 7, "both a length and"),
        (
            Fake::answering(move |_| head(&format!("{length}Content-Encoding: gzip\r\n"), page)),
            7,
            "encoded (gzip)",
        ),
    ] {
        let run = Run::new("127.0.0.1:1", &fake.addr).args(&["--prune", "5"]);
        let ended = run.env("PGW_PUSH_TIMEOUT", "1").within(LITTLE).end();
        ended.failed(status, &["gateway", words]);
        assert!(ended.stderr.len() < 1000, "{ended:?}");
        assert_eq!(fake.requests().len(), 1, "it was asked to delete");
    }
}
