//! Exporters and gateways that mean harm: they get no more time or memory than any other, the error line
//! about them is short and harmless, and nothing false is pushed or deleted.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::fake::{Fake, date, drip, exposition, hang, read_head, response};
use crate::fault_matrix::{GOOD, Row, exporter, gateway, push, run_all, scrape};
use crate::host::Complete;
use crate::run::Run;
use crate::servers::Server;

/// Metrics that must never arrive at a gateway.
const FALSE: &str = "a_metric{b=\"c\"} 666\n";

/// Kilobytes of address space that a run gets; without a response it needs 11,000, most of them for its code.
const LITTLE: u32 = 13_000;

/// The same for `--prune`, which keeps the longest possible line of 2 MiB, and moves it when it grows.
const LITTLE_FOR_PRUNE: u32 = LITTLE + 3 * 2_100;

const SHORT: &[(&str, &str)] =
    &[("EXPORTER_PROBE_TIMEOUT", "1"), ("EXPORTER_SCRAPE_TIMEOUT", "1"), ("PGW_PUSH_TIMEOUT", "1")];

/// A response with these further header lines, framed by nothing but them.
fn head(headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{headers}\r\n{body}").into()
}

/// A response whose body is these chunks.
fn chunked(chunks: &str) -> Vec<u8> {
    head("Transfer-Encoding: chunked\r\n", chunks)
}

/// The good metrics as one chunk that claims this size, and the end.
fn chunk(size: &str) -> String {
    format!("{size}\r\n{GOOD}\r\n0\r\n\r\n")
}

/// A response of these bytes with a length.
fn binary(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The same response with another status line.
fn with_status(status: &str, response: &[u8]) -> Vec<u8> {
    let end = response.iter().position(|b| *b == b'\r').unwrap();
    [b"HTTP/1.1 ", status.as_bytes(), &response[end..]].concat()
}

/// 200 MB in some 200 KB.
fn bomb() -> Vec<u8> {
    let made =
        Command::new("/bin/sh").args(["-c", "head -c 200000000 /dev/zero | gzip -9"]).complete();
    assert!(made.status.success() && made.stdout.len() > 100_000);
    made.stdout
}

/// How a server goes on after its first bytes.
#[derive(Debug, Clone, Copy)]
enum Then {
    Close,
    Hang,
    /// Sends these again for as long as the client is there.
    Repeat(&'static [u8]),
    /// The same, slowly enough for each to be read by itself.
    Pace(&'static [u8]),
    /// The same, a few bytes each second.
    Drip(&'static [u8]),
    /// Neither reads nor closes.
    Sleep,
}

impl Then {
    fn after(self, stream: &mut TcpStream, first: &[u8]) {
        let _ = stream.write_all(first);
        match self {
            Then::Close => {}
            Then::Hang => hang(stream),
            Then::Repeat(again) => while stream.write_all(again).is_ok() {},
            Then::Pace(again) => {
                while stream.write_all(again).is_ok() {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Then::Drip(again) => drip(stream, again.iter().copied().cycle()),
            Then::Sleep => thread::sleep(Duration::from_secs(30)),
        }
    }

    fn exporter(self, first: Vec<u8>) -> Fake {
        Fake::after_request(move |stream| self.after(stream, &first))
    }

    /// An exporter on a new socket in `directory`.
    fn exporter_on_socket(self, directory: &Path, first: Vec<u8>) -> Fake {
        let number = directory.read_dir().unwrap().count();
        let path = directory.join(number.to_string());
        Fake::on_socket(&path, move |stream| self.after(stream, &first))
    }

    /// A gateway that does not read what is pushed.
    fn gateway(self, first: Vec<u8>) -> Fake {
        Fake::raw(move |stream| {
            read_head(stream).unwrap();
            self.after(stream, &first);
        })
    }
}

/// Three rows for each broken head: an exporter's over TCP and over a socket in `directory`, and a gateway's.
fn heads(directory: &Path) -> Vec<Row> {
    use Then::{Close, Hang, Pace, Repeat};
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n";
    const LONG: &str = "response header is too big";
    const LIMIT: &str = "within 1 s";
    const INVALID: &str = "not valid HTTP";
    let long_headers = format!("X-Header: {}\r\n", "x".repeat(5000)).repeat(4);
    let long_headers = [OK, long_headers.as_bytes()].concat();
    let mut table = vec![
        ("headers without end", OK.to_vec(), Repeat(b"A: b\r\n"), "too many headers"),
        ("a few long headers", long_headers, Hang, LONG),
        ("header without end", [OK, b"X: "].concat(), Repeat(&[b'x'; 10_000]), LONG),
        ("header name without end", OK.to_vec(), Repeat(&[b'x'; 10_000]), LONG),
        ("reason without end", b"HTTP/1.1 200 ".to_vec(), Repeat(&[b'O'; 10_000]), LONG),
        ("nothing but line ends", vec![], Repeat(&[b'\n'; 10_000]), LONG),
        ("100 for ever", vec![], Pace(b"HTTP/1.1 100 Continue\r\n\r\n"), LIMIT),
        ("102 for ever", vec![], Pace(b"HTTP/1.1 102 Processing\r\n\r\n"), LIMIT),
        ("103 for ever", vec![], Pace(HINTS), LIMIT),
        // Either limit may be the first.
        ("103 for ever, at full speed", vec![], Repeat(HINTS), ""),
        ("response of HTTP/0.9", GOOD.into(), Close, INVALID),
        ("frame of HTTP/2", b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0".into(), Hang, INVALID),
    ];
    for (name, head) in [
        ("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ("unknown version", "HTTP/1.2 200 OK\r\n\r\n"),
        ("status below 100", "HTTP/1.1 020 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        table.push((name, head.into(), Hang, INVALID));
    }
    for (name, headers) in [
        ("NUL in a header", "X: a\0b\r\nContent-Length: 0\r\n"),
        ("terminal escape in a header", "X: \x1b[2J\r\nContent-Length: 0\r\n"),
        ("folded header", "X: a\r\n b\r\nContent-Length: 0\r\n"),
        ("space before a colon", "Content-Length : 0\r\n"),
        ("empty length", "Content-Length:\r\n"),
    ] {
        table.push((name, head(headers, GOOD), Hang, INVALID));
    }
    let size = GOOD.len();
    for (name, value) in [
        ("negative length", format!("-{size}")),
        ("length with a sign", format!("+{size}")),
        ("length that overflows", ((1 << 64) + size as u128).to_string()),
        ("two lengths", format!("{size}\r\nContent-Length: 5")),
        ("two lengths in one header", format!("5, {size}")),
    ] {
        let head = head(&format!("Content-Length: {value}\r\n"), GOOD);
        table.push((name, head, Hang, INVALID));
    }

    let mut rows = Vec::new();
    for (name, first, then, why) in table {
        let down: &[_] = vec!["exporter", "is down", why].leak();
        let unreachable: &[_] = vec!["gateway", "unreachable", why].leak();
        let row_name = |end| -> &str { format!("{name}, {end}").leak() };
        rows.extend([
            exporter(row_name("scraped"), then.exporter(first.clone()), 4, down),
            exporter(
                row_name("scraped over a Unix socket"),
                then.exporter_on_socket(directory, first.clone()),
                4,
                down,
            ),
            gateway(row_name("pushed to"), then.gateway(first), 6, unreachable),
        ]);
    }
    rows.into_iter().map(|row| row.variables(SHORT)).collect()
}

fn framing() -> Vec<Row> {
    use Then::{Close, Repeat};
    const NOTHING: &[&str] = &["exporter", "nothing was pushed"];
    let (size, length) = (GOOD.len(), format!("Content-Length: {}\r\n", GOOD.len()));
    let good = chunk(&format!("{size:x}"));
    let coded = |coding: &str| head(&format!("Transfer-Encoding: {coding}\r\n"), &good);
    let both = |length: &str| {
        head(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &good)
    };
    let notes = chunk(&format!("{size:x};{}", "x".repeat(1 << 20)));
    let trailers = Repeat(b"X-Trailer: and another one\r\n");

    let mut rows: Vec<Row> = vec![
        exporter(
            "note on a chunk without end",
            Repeat(&[b'x'; 10_000]).exporter(chunked("45;")),
            5,
            NOTHING,
        )
        .variables(SHORT),
        exporter(
            "trailers without end",
            trailers.exporter(chunked("1\r\n\n\r\n0\r\n")),
            5,
            &["exporter", "within 1 s"],
        )
        .variables(SHORT),
        exporter(
            "line ends without CR around chunks",
            Close.exporter(chunked(&good.replace('\r', ""))),
            5,
            NOTHING,
        ),
    ];
    for (name, body) in [
        ("largest chunk", chunk("ffffffffffffffff")),
        ("chunk that overflows", chunk(&format!("{:x}", (1 << 64) + size as u128))),
        ("negative chunk", chunk(&format!("-{size:x}"))),
        ("chunk in C", chunk(&format!("0x{size:x}"))),
        ("chunk of no size", chunk("")),
        ("chunk of a word", chunk("many")),
        ("chunk of NUL", chunk(&format!("{size:x}\0"))),
        ("chunk with a megabyte of notes", notes),
        ("chunk that is longer than announced", chunk(&format!("{:x}", size - 1))),
        ("chunk that is shorter than announced", chunk(&format!("{:x}", size + 1))),
    ] {
        rows.push(scrape(name, chunked(&body), 5, NOTHING));
    }
    for (name, reply) in [
        ("chunks of a compressed body", coded("gzip, chunked")),
        ("chunks of chunks", coded("chunked, chunked")),
        ("chunks and another coding", coded("chunked\r\nTransfer-Encoding: gzip")),
        ("length of another coding", head(&format!("Transfer-Encoding: gzip\r\n{length}"), GOOD)),
    ] {
        rows.push(scrape(name, reply, 5, NOTHING));
    }
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    for (name, reply) in [
        ("good chunk", chunked(&good)),
        ("small note on a chunk", chunked(&chunk(&format!("{size:x};a=b")))),
        // RFC 9112, 6.3: the length does not count.
        ("length and chunks", both(&size.to_string())),
        ("smaller length and chunks", both("5")),
        ("huge length and chunks", both("99999999999")),
        ("same length twice", head(&length.repeat(2), GOOD)),
        ("more than was announced", [&exposition(GOOD)[..], FALSE.as_bytes()].concat()),
        ("more than the last chunk", [&chunked(&good)[..], FALSE.as_bytes()].concat()),
        ("second response", [exposition(GOOD), exposition(FALSE)].concat()),
        ("hints before the response", [hints, &exposition(GOOD)[..]].concat()),
        (
            "line ends without CR in a head",
            String::from_utf8(exposition(GOOD)).unwrap().replace('\r', "").into(),
        ),
    ] {
        rows.push(scrape(name, reply, 0, &[]).stores(GOOD));
    }
    rows
}

fn statuses() -> Vec<Row> {
    let good = |status: &str| with_status(status, &exposition(GOOD));
    let switching = with_status("101 Switching Protocols", &head("Upgrade: h2c\r\n", ""));
    vec![
        scrape("101", switching.clone(), 5, &["exporter", "101"]),
        scrape("204 with a body", good("204 No Content"), 5, &["exporter", "204"]),
        scrape("304 with a body", good("304 Not Modified"), 5, &["exporter", "304"]),
        scrape("status of no class", good("999 Oh"), 5, &["exporter", "999"]),
        push("101 to a push", switching, 7, &["gateway", "refused", "101"]),
        // HTTP gives it no body, whatever follows.
        push("204 with a body to a push", good("204 No Content"), 0, &[]),
        push("304 with a body to a push", good("304 Not Modified"), 7, &["gateway", "304"]),
        push("status of no class to a push", good("999 Oh"), 7, &["gateway", "999"]),
    ]
}

fn bodies() -> Vec<Row> {
    let bomb = bomb();
    let zipped = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n";
    let zipped_twice = zipped.replace("gzip", "identity\r\nContent-Encoding: gzip");
    let plain = zipped.replace("Content-Encoding: gzip\r\n", "");
    let long = "x".repeat(3500);
    let labels = format!("Content-Type: {long}\r\nContent-Encoding: {long}\r\n");
    let codings = format!("Content-Encoding: {}\r\n", "br,".repeat(1000));
    vec![
        scrape("bomb", binary(zipped, &bomb), 5, &["exporter", "compressed (gzip), unasked"]),
        scrape("bomb as text", binary(&plain, &bomb), 5, &["exporter", "line 1 is not UTF-8"]),
        scrape("bomb of two codings", binary(&zipped_twice, &bomb), 5, &["exporter", "(gzip)"]),
        scrape(
            "bomb as an error",
            binary(&zipped.replace("200 OK", "500 Oh"), &bomb),
            5,
            &["exporter", "500"],
        ),
        push(
            "bomb as a refusal",
            binary(&zipped.replace("200 OK", "400 No"), &bomb),
            7,
            &["gateway", "refused", "400"],
        ),
        push("bomb as a consent", binary(zipped, &bomb), 7, &["gateway", "with a body"]),
        scrape("long labels", response(200, &labels, GOOD), 0, &[]).stores(GOOD),
        scrape("a thousand codings", response(200, &codings, GOOD), 5, &["compressed (br), "]),
        scrape(
            "controls in a line",
            exposition("a_metric \x1b[2J\u{9b}\u{202e}\0\x07 1\n"),
            5,
            &["line 1", "\\u{1b}[2J\\u{9b}\\u{202e}\\0\\u{7}"],
        ),
        scrape("controls alone", exposition(&"\x1b".repeat(5000)), 5, &["line 1", "\\u{1b}"]),
        scrape("NUL between lines", exposition(&format!("{GOOD}\0\n")), 5, &["line 4"]),
        scrape(
            "controls in an error",
            response(503, "", &"\x1b]0;owned\x07 \u{9b}2J\u{202e}\r\nyes\0".repeat(1000)),
            5,
            &["503", "\\u{1b}]0;owned\\u{7} \\u{9b}2J\\u{202e} yes\\0", "..."],
        ),
        push(
            "controls in a refusal",
            response(400, "", &"\x1b\x08\u{2028}\r\n".repeat(1000)),
            7,
            &["400", "\\u{1b}\\u{8}", "..."],
        ),
        push(
            "controls in a consent",
            response(200, "", &"\x1b\x08\u{2028}\r\n".repeat(1000)),
            7,
            &["200", "with a body", "\\u{1b}\\u{8}", "..."],
        ),
        gateway(
            "refusal that drips",
            Then::Drip(b"x").gateway(b"HTTP/1.1 400 No\r\n\r\nbecau".into()),
            7,
            &["gateway", "refused", "400", "becaux"],
        )
        .variables(SHORT),
        gateway(
            "consent that drips",
            Then::Drip(b"x").gateway(b"HTTP/1.1 200 OK\r\n\r\nbecau".into()),
            7,
            &["gateway", "200", "with a body", "becaux"],
        )
        .variables(SHORT),
    ]
}

/// A Unix socket keeps every promise that TCP keeps.
fn sockets(directory: &Path) -> Vec<Row> {
    use Then::{Close, Drip, Hang, Repeat};
    const NOTHING: &[&str] = &["exporter unix:/", "nothing was pushed"];
    const LIMIT: &[&str] = &["exporter unix:/", "within 1 s", "nothing was pushed"];
    const DOWN: &[&str] = &["exporter unix:/", "is down", "within 1 s"];
    let long = head("Content-Length: 9999\r\n", GOOD);
    let chunks = format!("{:x}\r\n{GOOD}\r\n", GOOD.len());
    let row = |name, first: &[u8], then: Then, status, says| {
        exporter(name, then.exporter_on_socket(directory, first.to_owned()), status, says)
            .variables(SHORT)
    };
    vec![
        row("socket with a response", &exposition(GOOD), Hang, 0, &[]).stores(GOOD),
        row("socket with chunks", &chunked(&chunk(&format!("{:x}", GOOD.len()))), Hang, 0, &[])
            .stores(GOOD),
        row("socket in silence", b"", Hang, 4, DOWN),
        row("socket that closes", b"", Close, 4, &["exporter unix:/", "is down"]),
        row("socket that drips a head", b"", Drip(b"HTTP/1.1 200 OK\r\nX: "), 4, DOWN),
        row("socket that falls silent", &long, Hang, 5, LIMIT),
        row("socket that drips a body", &chunked(&chunks), Drip(b"1\r\n#\r\n"), 5, LIMIT),
        row("truncated on a socket, with a length", &long, Close, 5, NOTHING),
        row("truncated on a socket, with chunks", &chunked(&chunks), Close, 5, NOTHING),
        row("unframed on a socket", &head("", GOOD), Close, 5, NOTHING),
        row("endless on a socket", &chunked(&chunks), Repeat(b"6\r\na_b 1\n\r\n"), 5, NOTHING)
            .variables(&[("EXPORTER_MAX_BYTES", "1000")]),
    ]
}

/// Responses that come before the request.
fn unasked() -> Vec<Row> {
    let early = |reply: Vec<u8>, then: Then| Fake::raw(move |stream| then.after(stream, &reply));
    vec![
        // So does a shell that is run for each connection.
        exporter("answers before it is asked", early(exposition(GOOD), Then::Hang), 0, &[])
            .stores(GOOD),
        gateway(
            "consents before it is asked, and reads nothing",
            early(response(200, "", ""), Then::Sleep),
            6,
            &["gateway", "200", "before it had read everything"],
        )
        .several_mb(),
        gateway(
            "refuses before it is asked, and reads nothing",
            early(response(400, "", "not you"), Then::Sleep),
            7,
            &["gateway", "refused", "400", "not you"],
        )
        .several_mb(),
        gateway(
            "103 for ever, and reads nothing",
            early(vec![], Then::Repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
            6,
            &["gateway", "within 1 s"],
        )
        .several_mb()
        .variables(SHORT),
    ]
}

#[test]
fn hostile_server_gets_its_status_and_one_short_line() {
    let pushgateway = Server::pushgateway(&[]);
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let little = [heads(directory), framing(), statuses(), bodies(), sockets(directory)];
    let little = little.into_iter().flatten().map(|row| row.within(LITTLE));
    run_all(&little.chain(unasked()).collect::<Vec<_>>(), &pushgateway);
}

#[test]
fn redirect_is_not_followed_wherever_it_leads() {
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
            let moved = Then::Close.exporter(reply);
            let ended = Run::new(&moved.addr, &target.addr).end();
            ended.failed(5, &[&status.to_string(), shown, "not followed"]);
            assert!(ended.stderr.len() < 1000, "{ended:?}");
            assert_eq!(moved.requests().len(), 1);

            let reply = response(status, &format!("Location: {location}\r\n"), "");
            let moved = Fake::answering(move |_| reply.clone());
            let good = Fake::answering(|_| exposition(GOOD));
            let push = Run::new(&good.addr, &moved.addr);
            let delete = Run::new(&good.addr, &moved.addr).arg("--delete");
            let prune = Run::new(&good.addr, &moved.addr).args(&["--prune", "5"]);
            for run in [push, delete, prune] {
                let ended = run.end();
                ended.failed(7, &[&status.to_string(), shown, "not followed"]);
                assert!(ended.stderr.len() < 1000, "{ended:?}");
            }
            assert_eq!(moved.requests().len(), 3);
        }
    }
    assert!(target.requests().is_empty());
}

#[test]
fn verbose_run_leaves_a_terminal_alone() {
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
fn announced_length_takes_no_memory() {
    let announced = head("Content-Length: 18446744073709551615\r\n", GOOD);
    let exporter = Then::Close.exporter(announced);
    let gateway = Fake::answering(|_| response(200, "", ""));
    let run = Run::new(&exporter.addr, &gateway.addr);
    let run = run.env("EXPORTER_MAX_BYTES", u64::MAX.to_string()).within(LITTLE);
    run.end().failed(5, &["nothing was pushed"]);
    assert!(gateway.requests().is_empty());
}

#[test]
fn hostile_metrics_of_a_gateway_delete_nothing() {
    let date = date(0);
    let page = "pushgateway_build_info{} 1\npush_time_seconds{instance=\"n\",job=\"j\"} 1\n";
    let size = page.len();
    let chunked = format!("{date}Transfer-Encoding: chunked\r\n");
    let length = format!("{date}Content-Length: {size}\r\n");
    let forever = |again: &str| {
        let first = head(&chunked, &format!("{size:x}\r\n{page}\r\n"));
        let again = again.repeat(100);
        let again = format!("{:x}\r\n{again}\r\n", again.len()).leak().as_bytes();
        Then::Repeat(again).gateway(first)
    };
    let early = head(&chunked, &format!("{size:x}\r\n{page}\r\n-1\r\n"));
    let zipped = head(&format!("{length}Content-Encoding: gzip\r\n"), page);
    let unframed = head(&date, page);
    let answering = |reply: Vec<u8>| Fake::answering(move |_| reply.clone());
    // The stale groups themselves have to be kept.
    let ended = Run::new("127.0.0.1:1", &forever(page).addr).args(&["--prune", "5"]);
    let ended = ended.env("PGW_PUSH_TIMEOUT", "60").within(150_000).end();
    ended.failed(7, &["gateway", "there is no end to its groups"]);

    for (fake, status, why) in [
        (forever("# more\n"), 6, "within 1 s"),
        (forever("#"), 6, "within 1 s"),
        (answering(early), 6, "unreachable"),
        (answering(zipped), 7, "compressed (gzip)"),
        (answering(unframed), 7, "truncation"),
    ] {
        let run = Run::new("127.0.0.1:1", &fake.addr).args(&["--prune", "5"]);
        let ended = run.env("PGW_PUSH_TIMEOUT", "1").within(LITTLE_FOR_PRUNE).end();
        ended.failed(status, &["gateway", why]);
        assert!(ended.stderr.len() < 1000, "{ended:?}");
        assert_eq!(fake.requests().len(), 1, "it was asked to delete");
    }
}
