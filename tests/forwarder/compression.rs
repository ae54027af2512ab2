//! Whatever form an exporter's metrics come in, they are passed on as they came, and what a
//! gateway makes of them is the same.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::{fs, thread};

use serde_json::Value;

use crate::fake::{Fake, Request, header};
use crate::host::wait_for;
use crate::run::{Ended, Run};
use crate::servers::{Server, families};

pub const ENCODINGS: [&str; 4] = ["text", "text+gzip", "protobuf", "protobuf+gzip"];

/// The types of the two forms, as an exporter gives them.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf; \
    proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// What is not easily said in one of the forms, or not easily told from something else.
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

/// What a group holds, without what tells it from others: each family with its type, help and
/// metrics. The time that a scrape took is left out, which is never the same.
fn stored(gateway: &Server, instance: &str) -> BTreeMap<String, Value> {
    let group = gateway.group(instance).unwrap();
    let names = families(&group).into_iter();
    let names = names.filter(|name| name != "node_scrape_collector_duration_seconds");
    names
        .map(|name| {
            let mut family = group[&name].clone();
            family.as_object_mut().unwrap().remove("time_stamp");
            for metric in family["metrics"].as_array_mut().unwrap() {
                let labels = metric["labels"].as_object_mut().unwrap();
                labels.remove("instance");
                // A number is the same with or without it, and Go's text format has none.
                if metric["value"] == "-0" {
                    metric["value"] = "0".into();
                }
            }
            (name, family)
        })
        .collect()
}

/// Pushes the exporter's page as the curl pair does.
fn push_plainly(exporter: &Server, gateway: &Server, instance: &str) {
    let url = format!("http://{}/metrics/job/node/instance/{instance}", gateway.addr);
    let pushed = ureq::put(url).send(exporter.page("/metrics")).unwrap();
    assert_eq!(pushed.status(), 200);
}

/// A run that asks for this encoding, for the instance of its name.
fn run(exporter: &str, gateway: &str, encoding: &str) -> Run {
    let run = Run::new(exporter, gateway).instance(encoding);
    run.env("PGW_ENCODING", encoding).env("PGW_METHOD", "put")
}

#[test]
fn each_encoding_stores_what_a_plain_scrape_does_by_value_type_and_help() {
    let directory = tempfile::tempdir().unwrap();
    let mut lines = AWKWARD.to_owned();
    // Lengths of one, two and three bytes, and more than goes into one piece of anything.
    for (n, length) in [1, 100, 200, 20_000, 300_000].into_iter().enumerate() {
        let long = "ü".repeat(length);
        lines +=
            &format!("# HELP long_{n} {long}\n# TYPE long_{n} gauge\nlong_{n}{{x=\"{long}\"}} 1\n");
    }
    for n in 0..1000 {
        lines += &format!("# TYPE many_{n} counter\nmany_{n}{{a=\"b\"}} {n}\n");
    }
    fs::write(directory.path().join("awkward.prom"), lines).unwrap();
    let exporter = Server::textfile_exporter(directory.path());
    let gateway = Server::pushgateway(&[]);
    push_plainly(&exporter, &gateway, "plain");
    let plain = stored(&gateway, "plain");
    let count = |family: &str| plain[family]["metrics"].as_array().unwrap().len();
    assert!(plain.len() > 1010, "{:?}", plain.keys());
    assert_eq!((count("a_gauge"), count("an_untyped")), (10, 3));

    for encoding in ENCODINGS {
        run(&exporter.addr, &gateway.addr, encoding).end().succeeded();
        let found = stored(&gateway, encoding);
        assert!(found.keys().eq(plain.keys()), "{encoding}");
        for (name, family) in &found {
            assert_eq!(family, &plain[name], "{encoding}: {name}");
        }
    }
}

#[test]
fn each_encoding_stores_all_families_of_a_node_with_their_types_and_as_many_samples() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let shape = |instance: &str| -> BTreeMap<String, (Value, Value, usize)> {
        let families = stored(&gateway, instance).into_iter();
        let shapes = families.map(|(name, family)| {
            let count = family["metrics"].as_array().unwrap().len();
            (name, (family["type"].clone(), family["help"].clone(), count))
        });
        shapes.collect()
    };
    for encoding in ENCODINGS {
        // On a busy machine a device or a mount may come or go between the two scrapes.
        let same = wait_for(encoding, || {
            push_plainly(&exporter, &gateway, "plain");
            run(&exporter.addr, &gateway.addr, encoding).end().succeeded();
            let (plain, found) = (shape("plain"), shape(encoding));
            (found == plain).then_some(found)
        });
        assert!(same.len() > 100, "{encoding}: {same:?}");
    }
}

/// The head of an answer, and its body without the chunks that it may have come in.
fn parts(reply: &[u8]) -> (String, Vec<u8>) {
    let end = reply.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(reply[..end].into()).unwrap();
    let (mut rest, mut body) = (&reply[end..], Vec::new());
    if header(&head, "transfer-encoding") != Some("chunked") {
        return (head, rest.into());
    }
    loop {
        let end = rest.iter().position(|b| *b == b'\r').unwrap();
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let (chunk, more) = rest[end + 2..].split_at(usize::from_str_radix(size, 16).unwrap());
        if chunk.is_empty() {
            return (head, body);
        }
        body.extend(chunk);
        rest = &more[2..];
    }
}

/// The type and the encoding of a push.
fn form(push: &Request) -> (&str, Option<&str>) {
    let content_type = push.header("content-type").unwrap();
    (content_type, push.header("content-encoding"))
}

#[test]
fn bytes_type_and_encoding_are_passed_on_as_the_exporter_gave_them() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    for encoding in ENCODINGS {
        let said = Fake::in_front_of(&exporter.addr);
        let heard = Fake::in_front_of(&gateway.addr);
        run(&said.addr, &heard.addr, encoding).end().succeeded();
        let (scrapes, pushes) = (said.requests(), heard.requests());
        assert_eq!((scrapes.len(), pushes.len()), (2, 1), "{encoding}");
        let (head, body) = parts(&scrapes[1].reply);
        assert!(pushes[0].body == body, "{encoding}: other bytes");
        let given = (header(&head, "content-type").unwrap(), header(&head, "content-encoding"));
        assert_eq!(form(&pushes[0]), given, "{encoding}");
        // And it is what was asked for.
        let wanted = match encoding.strip_prefix("protobuf") {
            Some(_) => PROTOBUF,
            None => TEXT,
        };
        let gzip = encoding.ends_with("gzip").then_some("gzip");
        assert_eq!(given, (wanted, gzip), "{encoding}");
    }
}

#[test]
fn a_dry_run_writes_the_bytes_that_would_be_pushed() {
    let exporter = Server::node_exporter();
    for encoding in ENCODINGS {
        let said = Fake::in_front_of(&exporter.addr);
        let ended = run(&said.addr, "127.0.0.1:1", encoding).arg("--dry-run").end();
        ended.succeeded();
        let (_, body) = parts(&said.requests()[1].reply);
        assert!(ended.stdout == body, "{encoding}");
    }
}

#[test]
fn an_exporter_that_knows_only_text_gets_text_pushed() {
    let gateway = Server::pushgateway(&[]);
    let exporter = Server::nginx(
        "listen ADDR;\n\
         location = /metrics { default_type 'text/plain; version=0.0.4'; return 200 'a 1\\n'; }",
    );
    for encoding in ENCODINGS {
        let heard = Fake::in_front_of(&gateway.addr);
        run(&exporter.addr, &heard.addr, encoding).end().succeeded();
        let push = &heard.requests()[0];
        assert_eq!(form(push), ("text/plain; version=0.0.4", None), "{encoding}");
        assert_eq!(push.body, b"a 1\n");
        assert_eq!(families(&gateway.group(encoding).unwrap()), ["a"]);
    }
}

#[test]
fn what_a_proxy_before_the_exporter_compresses_stays_compressed() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    // It compresses text alone, and the exporter nothing.
    let nginx = Server::nginx(&format!(
        "listen ADDR; gzip on; gzip_proxied any; gzip_min_length 1; gzip_types 'text/plain; version=0.0.4';\n\
         location / {{ proxy_pass http://{}; proxy_set_header Accept-Encoding ''; }}",
        exporter.addr
    ));
    for (encoding, expected) in ENCODINGS.into_iter().zip([
        (TEXT, None),
        (TEXT, Some("gzip")),
        (PROTOBUF, None),
        (PROTOBUF, None),
    ]) {
        let heard = Fake::in_front_of(&gateway.addr);
        run(&nginx.addr, &heard.addr, encoding).end().succeeded();
        assert_eq!(form(&heard.requests()[0]), expected, "{encoding}");
        assert!(families(&gateway.group(encoding).unwrap()).len() > 100);
    }
}

/// Compresses.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = Command::new("gzip");
    let mut gzip = gzip.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = gzip.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        gzip.wait_with_output().unwrap().stdout
    })
}

/// A field of a message: its number, and its bytes, of which there are few.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// A message after its length.
fn delimited(fields: &[Vec<u8>]) -> Vec<u8> {
    let message = fields.concat();
    [&[message.len() as u8], &message[..]].concat()
}

/// The metric `{b="c"} 42` of no type.
fn metric() -> Vec<u8> {
    let label = field(1, &[field(1, b"b"), field(2, b"c")].concat());
    let value = field(5, &[&[1 << 3 | 1], &42f64.to_le_bytes()[..]].concat());
    field(4, &[label, value].concat())
}

/// A family of no type.
fn family(name: &str, metrics: usize) -> Vec<u8> {
    let untyped = vec![3 << 3, 3];
    let mut fields = vec![field(1, name.as_bytes()), untyped];
    fields.extend(vec![metric(); metrics]);
    delimited(&fields)
}

/// One of the forms, and good metrics in it.
struct Form {
    encoding: &'static str,
    head: String,
    good: Vec<u8>,
}

fn forms() -> [Form; 4] {
    ENCODINGS.map(|encoding| {
        let is_protobuf = encoding.starts_with("protobuf");
        let content_type = if is_protobuf { PROTOBUF } else { TEXT };
        let mut good = match is_protobuf {
            true => [family("a", 1), family("b", 1)].concat(),
            false => b"# TYPE a untyped\na{b=\"c\"} 42\nb 1\n".to_vec(),
        };
        let mut head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n");
        if encoding.ends_with("gzip") {
            good = gzip(&good);
            head += "Content-Encoding: gzip\r\n";
        }
        Form { encoding, head, good }
    })
}

impl Form {
    /// An answer with a length.
    fn with_length(&self, body: &[u8]) -> Vec<u8> {
        let head = format!("{}Content-Length: {}\r\n\r\n", self.head, body.len());
        [head.as_bytes(), body].concat()
    }

    /// An answer in two chunks.
    fn in_chunks(&self, body: &[u8]) -> Vec<u8> {
        let mut answer = format!("{}Transfer-Encoding: chunked\r\n\r\n", self.head).into_bytes();
        let (one, other) = body.split_at(body.len() / 2);
        for chunk in [one, other, b""] {
            answer.extend(format!("{:x}\r\n", chunk.len()).bytes());
            answer.extend(chunk);
            answer.extend(b"\r\n");
        }
        answer
    }

    /// What a run makes of this answer, and what it pushes.
    fn run(
        &self,
        gateway: &Server,
        answer: &[u8],
        variables: &[(&str, &str)],
    ) -> (Ended, Vec<Request>) {
        let answer = answer.to_vec();
        // A client may have seen enough, and close, before all is written.
        let exporter =
            Fake::after_request(move |stream| stream.write_all(&answer).unwrap_or_default());
        let heard = Fake::in_front_of(&gateway.addr);
        let run = run(&exporter.addr, &heard.addr, self.encoding);
        let run = variables.iter().fold(run, |run, (name, value)| run.env(name, value));
        (run.end(), heard.requests())
    }

    /// Asserts that these metrics are pushed as they are, and stored.
    #[track_caller]
    fn is_pushed(&self, gateway: &Server, answer: &[u8], body: &[u8]) {
        let (ended, pushes) = self.run(gateway, answer, &[]);
        ended.succeeded();
        assert!(pushes[0].body == body, "{}", self.encoding);
        assert!(!families(&gateway.group(self.encoding).unwrap()).is_empty());
    }

    /// Asserts that nothing is pushed, since the scrape is unusable.
    #[track_caller]
    fn is_refused(&self, gateway: &Server, answer: &[u8], words: &str) {
        let (ended, pushes) = self.run(gateway, answer, &[]);
        ended.failed(5, &["exporter", words, "nothing was pushed"]);
        assert!(pushes.is_empty(), "{}", self.encoding);
    }
}

#[test]
fn each_form_is_pushed_if_it_is_whole_and_only_then() {
    let gateway = Server::pushgateway(&[]);
    for form in forms() {
        let (length, chunks) = (form.with_length(&form.good), form.in_chunks(&form.good));
        form.is_pushed(&gateway, &length, &form.good);
        form.is_pushed(&gateway, &chunks, &form.good);
        let half = form.good.len() / 2;
        for missing in [1, half, form.good.len()] {
            form.is_refused(&gateway, &length[..length.len() - missing], "too early");
        }
        // All but the chunk that says that it was the last, and less.
        for missing in [5, 8, half] {
            form.is_refused(&gateway, &chunks[..chunks.len() - missing], "");
        }
        let endless = [form.head.as_bytes(), b"\r\n", &form.good].concat();
        form.is_refused(&gateway, &endless, "neither a length nor chunks");
    }
}

#[test]
fn a_form_that_was_not_asked_for_is_refused_and_a_plainer_one_is_not() {
    let gateway = Server::pushgateway(&[]);
    for form in forms() {
        let (has, body) = (|property| form.encoding.contains(property), &form.good);
        for asked in ENCODINGS {
            let answer = form.with_length(body);
            let asking = Form { encoding: asked, head: String::new(), good: Vec::new() };
            if has("protobuf") && !asked.contains("protobuf") {
                asking.is_refused(&gateway, &answer, "not the text format");
            } else if has("gzip") && !asked.contains("gzip") {
                asking.is_refused(&gateway, &answer, "encoded (gzip), unasked");
            } else {
                asking.is_pushed(&gateway, &answer, body);
            }
        }
    }
}

#[test]
fn in_each_form_nothing_is_no_exposition() {
    let gateway = Server::pushgateway(&[]);
    let [_, text_gzip, protobuf, protobuf_gzip] = forms();
    let zipped = [&text_gzip, &protobuf_gzip];
    for form in forms() {
        form.is_refused(&gateway, &form.with_length(b""), "empty");
        form.is_refused(&gateway, &form.in_chunks(b""), "empty");
    }
    for form in zipped {
        let not_gzip = "not compressed with gzip";
        for (body, words) in [
            (gzip(b""), "no sample"),
            (form.good[1..].to_vec(), not_gzip),
            (form.good[..19].to_vec(), not_gzip),
            (form.good[..3].to_vec(), not_gzip),
            (b"a 1\nb 2\nc 3\nd 4\ne 5\n".to_vec(), not_gzip),
            (family("a_metric", 2), not_gzip),
        ] {
            form.is_refused(&gateway, &form.with_length(&body), words);
        }
    }
    let good = family("a", 1);
    let nameless = delimited(&[metric()]);
    for (body, words) in [
        (family("a", 0), "no sample"),
        ([family("a", 0), family("b", 0)].concat(), "no sample"),
        (vec![0], "family 1 is no whole"),
        (nameless.clone(), "family 1 is no whole"),
        (family("", 1), "family 1 is no whole"),
        ([&good[..], &nameless].concat(), "family 2 is no whole"),
        ([&good[..], b"\0"].concat(), "family 2 is no whole"),
        ([&good[..], b"\n"].concat(), "family 2 is no whole"),
        ([&good[..], b"# EOF\n"].concat(), "family 2 is no whole"),
        ([&good[..], &[0xff; 11]].concat(), "family 2 is no whole"),
        (b"<html></html>".to_vec(), "family 1 is no whole"),
        (b"a 1\n".to_vec(), "family 1 is no whole"),
        (protobuf_gzip.good.clone(), "family 1 is no whole"),
    ] {
        protobuf.is_refused(&gateway, &protobuf.with_length(&body), words);
    }
}

#[test]
fn a_type_that_is_not_ascii_makes_no_text_of_a_message() {
    let gateway = Server::pushgateway(&[]);
    let [_, _, protobuf, _] = forms();
    let answer = protobuf.with_length(&protobuf.good);
    let head = protobuf.head.replace("delimited", "delimited; a=\u{fc}");
    let answer = [head.as_bytes(), &answer[protobuf.head.len()..]].concat();
    let (ended, pushes) = protobuf.run(&gateway, &answer, &[]);
    // It may be refused, or taken for what it is.
    match &pushes[..] {
        [] => ended.failed(5, &["exporter", "vnd.google.protobuf"]),
        pushes => assert!(pushes[0].header("content-type").unwrap().contains("protobuf")),
    }
}

#[test]
fn a_name_that_would_spoil_the_page_of_all_is_refused() {
    let gateway = Server::pushgateway(&[]);
    let [_, _, protobuf, _] = forms();
    // As text a gateway refuses them, but Pushgateway 1.5.1 takes a message's name as it is.
    for name in ["a b", "1a", "a-b", "\u{fc}", "a\nb 1\n#"] {
        let answer = protobuf.with_length(&family(name, 1));
        protobuf.is_refused(&gateway, &answer, "family 1");
    }
    for name in ["a", "_", ":", "aZ_09:"] {
        let body = family(name, 1);
        protobuf.is_pushed(&gateway, &protobuf.with_length(&body), &body);
    }
}

#[test]
fn a_message_that_is_cut_at_any_byte_is_refused() {
    let gateway = Server::pushgateway(&[]);
    let [_, _, protobuf, _] = forms();
    let (first, good) = (family("a", 1).len(), &protobuf.good);
    for end in 1..good.len() {
        let answer = protobuf.with_length(&good[..end]);
        match end == first {
            // Between two messages there is nothing that would tell.
            true => protobuf.is_pushed(&gateway, &answer, &good[..end]),
            false => protobuf.is_refused(&gateway, &answer, "is no whole MetricFamily"),
        }
    }
}

#[test]
fn a_gzip_stream_that_is_cut_is_refused_by_the_gateway() {
    let gateway = Server::pushgateway(&[]);
    let [_, text_gzip, _, protobuf_gzip] = forms();
    // Stored in one block as it is, so that it is known where it ends.
    let cut = |bytes: &[u8], at: usize| {
        let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
        let length = (bytes.len() as u16).to_le_bytes();
        [&head, &length[..], &length.map(|b| !b), &bytes[..at]].concat()
    };
    let text = b"a{b=\"c\"} 1\na{b=\"d\"} 2\n";
    let families = [family("a", 1), family("b", 1)].concat();
    for (form, body) in
        [(&text_gzip, cut(text, 15)), (&protobuf_gzip, cut(&families, families.len() - 5))]
    {
        let (ended, pushes) = form.run(&gateway, &form.with_length(&body), &[]);
        ended.failed(7, &["gateway", "refused: 400", "unexpected EOF"]);
        assert_eq!(pushes.len(), 1);
        assert!(gateway.group(form.encoding).is_none());
    }
}

#[test]
fn in_each_form_it_is_the_bytes_that_are_received_that_are_bounded() {
    let gateway = Server::pushgateway(&[]);
    for form in forms() {
        let size = form.good.len();
        for answer in [form.with_length(&form.good), form.in_chunks(&form.good)] {
            let run = |bound: usize| {
                form.run(&gateway, &answer, &[("EXPORTER_MAX_BYTES", &bound.to_string())])
            };
            let (ended, pushes) = run(size);
            ended.succeeded();
            assert!(pushes[0].body == form.good, "{}", form.encoding);
            let (ended, pushes) = run(size - 1);
            ended.failed(5, &["larger than", "EXPORTER_MAX_BYTES"]);
            assert!(pushes.is_empty());
        }
    }
    // What is more than that uncompressed is not looked at.
    let [_, text_gzip, ..] = forms();
    let large =
        gzip(&(0..10_000).map(|n| format!("a{{n=\"{n}\"}} 1\n")).collect::<String>().into_bytes());
    let answer = text_gzip.with_length(&large);
    let bound = [("EXPORTER_MAX_BYTES", &*large.len().to_string())];
    let (ended, _) = text_gzip.run(&gateway, &answer, &bound);
    ended.succeeded();
    assert_eq!(
        gateway.group("text+gzip").unwrap()["a"]["metrics"].as_array().unwrap().len(),
        10_000
    );
}
