//! Options and variables: the values that a run takes, and the usage errors of all others.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::fake::{Fake, exposition, response};
use crate::host::Complete;
use crate::run::{FORWARDER, Run};
use crate::servers::Server;

/// A run that contacts no server: none listens on port 1.
fn run() -> Run {
    Run::new("127.0.0.1:1", "127.0.0.1:1")
}

#[test]
fn any_text_arrives_unchanged_as_label_value() {
    let gateway = Server::pushgateway(&[]);
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let long = "0123456789abcdef".repeat(256);
    let (long_unicode, long_crabs) = ("ü/".repeat(1024), "🦀".repeat(1024));
    let values = [
        "node1.example",
        "a/b",
        "/",
        "//",
        "/a/",
        "a b",
        " ",
        "100%",
        "%2F",
        "%",
        "a+b",
        "\"",
        "'",
        "\\",
        "\\n",
        "a\nb",
        "a\tb",
        "日本語",
        "ü",
        "🦀",
        ".",
        "..",
        "...",
        "./a",
        "a/../b",
        "",
        "=",
        "@base64",
        "job",
        "?",
        "#",
        "a?b#c",
        "&",
        ";",
        ",",
        "{}",
        "[::1]:9100",
        "~",
        "-",
        "_",
        "*",
        "<b>",
        "\u{7f}",
        "\u{1}",
        &long,
        &long_unicode,
        &long_crabs,
    ];
    for (index, value) in values.into_iter().enumerate() {
        // As job, instance and another label, the instance by variable and by option in turn.
        let run = Run::new(&exporter.addr, &gateway.addr);
        let run = match index % 2 {
            0 => run.instance(value),
            _ => run.arg(&format!("--pgw-instance={value}")),
        };
        let job = if value.is_empty() { "node" } else { value };
        run.env("PGW_JOB", job).arg(&format!("--pgw-label=zone={value}")).end().succeeded();
    }
    let arrived: BTreeSet<_> = gateway
        .groups()
        .into_iter()
        .map(|(labels, _)| {
            assert_eq!(labels["instance"], labels["zone"]);
            assert!(labels["job"] == labels["zone"] || labels["zone"].is_empty());
            labels["instance"].clone()
        })
        .collect();
    assert_eq!(arrived, values.into_iter().map(String::from).collect());
}

#[test]
fn blanks_around_an_address_and_capitals_in_a_choice_are_accepted() {
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let gateways = [(); 2].map(|()| Fake::answering(|_| response(200, "", "")));
    let [first, second] = gateways.each_ref().map(|gateway| &gateway.addr);
    Run::new(&format!(" {}\t", exporter.addr), &format!(" {first} , http://{second}/ "))
        .env("PGW_METHOD", "PUT")
        .arg("--pgw-compression=GZip")
        .end()
        .succeeded();
    for gateway in gateways {
        let requests = gateway.requests();
        assert_eq!((requests.len(), requests[0].method()), (1, "PUT"));
        assert_eq!(requests[0].header("content-encoding"), Some("gzip"));
    }
}

#[test]
fn allow_unframed_is_on_only_if_its_variable_says_so() {
    let exporter =
        Fake::after_request(|stream| stream.write_all(b"HTTP/1.0 200 OK\r\n\r\na 1\n").unwrap());
    let run = |value: &str| {
        let run = Run::new(&exporter.addr, "127.0.0.1:1").arg("--dry-run");
        run.env("EXPORTER_ALLOW_UNFRAMED", value)
    };
    for value in ["", "maybe", "fales"] {
        run(value).end().failed(2, &["--exporter-allow-unframed (EXPORTER_ALLOW_UNFRAMED)"]);
    }
    for value in ["0", "no", "off", "false", "FALSE"] {
        run(value).end().failed(5, &["--exporter-allow-unframed (EXPORTER_ALLOW_UNFRAMED)"]);
        run(value).arg("--exporter-allow-unframed").end().succeeded();
    }
    for value in ["1", "yes", "on", "true", "True"] {
        run(value).end().succeeded();
    }
}

#[test]
fn unusable_value_is_a_usage_error_that_names_option_and_variable() {
    let seconds = ["0", "-1", "-0.5", "NaN", "inf", "1e300", "86401", "", "1s", "ten", "0.0001"];
    let addresses = [
        "",
        " ",
        ":",
        "host:",
        "host:0",
        "host:65536",
        "host:http",
        "::1:80",
        "[::1",
        "ftp://h",
        "https://",
        "a b",
        "http://h:1?x",
        "http://h/?a=b",
        "h/p#f",
        "unix:",
        "unix:run/x.sock",
    ];
    let labels = ["a", "=v", "1a=v", "a-b=v", "__a=v", "job=v", "instance=v", "a=1,a=2", "ä=1"];
    let cases: &[(&str, &str, &[&str])] = &[
        ("--exporter-addr", "EXPORTER_ADDR", &addresses),
        ("--exporter-metric", "EXPORTER_METRIC", &["met rics", "metrics#a", "métrics"]),
        ("--pgw-addr", "PGW_ADDR", &addresses),
        ("--pgw-addr", "PGW_ADDR", &["h:1,h:1", "h:1,", "unix:/run/x.sock", "h:1,unix:/x"]),
        ("--pgw-job", "PGW_JOB", &["", "pgw_forwarder"]),
        ("--pgw-label", "PGW_LABELS", &labels),
        ("--pgw-method", "PGW_METHOD", &["", "get"]),
        ("--pgw-compression", "PGW_COMPRESSION", &["", "zstd", "snappy", "text+gzip"]),
        ("--probe-timeout", "EXPORTER_PROBE_TIMEOUT", &seconds),
        ("--scrape-timeout", "EXPORTER_SCRAPE_TIMEOUT", &seconds),
        ("--push-timeout", "PGW_PUSH_TIMEOUT", &seconds),
        (
            "--max-bytes",
            "EXPORTER_MAX_BYTES",
            &["0", "-1", "1.5", "NaN", "64MiB", "", "1e9", &"9".repeat(30)],
        ),
        ("--splay", "FORWARDER_SPLAY", &["-1", "NaN", "inf", "1e300", "86401", "", "ten"]),
    ];
    let contacted = Fake::answering(|_| exposition("a 1\n"));
    let run = || Run::new(&contacted.addr, &contacted.addr);
    for (option, variable, values) in cases {
        let shown = format!("{option} ({variable}): ");
        for value in *values {
            run().env(variable, value).end().failed(2, &[&shown]);
            // In the option, a comma belongs to the value of a label.
            if *option != "--pgw-label" || !value.contains(',') {
                run().arg(&format!("{option}={value}")).end().failed(2, &[&shown]);
                run().args(&[option, value]).end().failed(2, &[&shown]);
            }
        }
        let not_utf8 = run().env(variable, OsStr::from_bytes(b"\xff")).end();
        not_utf8.failed(2, &[option, variable]);
    }
    for (option, variable) in
        [("--pgw-instance", "PGW_INSTANCE"), ("--exporter-metric", "EXPORTER_METRIC")]
    {
        let huge = run().env(variable, "x".repeat(70_000)).end();
        huge.failed(2, &[&format!("{option} ({variable}): "), "too long"]);
        assert!(huge.stderr.len() < 500, "{huge:?}");
    }
    let twice = run().args(&["--pgw-label=a=1", "--pgw-label=a=2"]).end();
    twice.failed(2, &["--pgw-label (PGW_LABELS): a is given twice"]);
    assert!(contacted.requests().is_empty(), "a usage error contacts nothing");
}

#[test]
fn other_usage_errors_name_their_cause() {
    for (args, parts) in [
        (&["--no-such-option"][..], &["--no-such-option", "--help"][..]),
        (&["push.example"], &["push.example", "--help"]),
        (&["--encoding=text"], &["--encoding", "--help"]),
        (&["--exporter-allow-unframed=true"], &["--exporter-allow-unframed", "--help"]),
        (&["--dry-run", "--delete"], &["--dry-run", "--delete"]),
        (&["--verbose", "-qv"], &["--quiet", "--verbose"]),
        (&["--pgw-job"], &["--pgw-job (PGW_JOB): a value is required"]),
    ] {
        run().args(args).end().failed(2, parts);
    }
    for (variable, value, parts) in [
        ("FORWARDER_LOCK_FILE", &b""[..], &["--lock-file (FORWARDER_LOCK_FILE): a value is"][..]),
        ("RUST_LOG", b"a=b=c", &["RUST_LOG"]),
        ("PGW_INSTANCE", b"\xff", &["--pgw-instance (PGW_INSTANCE): the value is not UTF-8"]),
        ("http_proxy", b"http://\xff:1", &["http_proxy"]),
        ("http_proxy", b"socks5://p:1", &["http_proxy", "only http://"]),
    ] {
        run().env(variable, OsStr::from_bytes(value)).end().failed(2, parts);
    }
}

#[test]
fn usage_error_does_not_show_an_address() {
    let addresses = [
        "http://user:s3cret/@h",
        "http://user:s3cret@h:0",
        "http://user:s3cret@",
        "http:/user:s3cret@h",
        "user:s3cret",
        "user:s3cret@h?x",
        "user:s3cret@h#x",
        "ftp://user:s3cret@h",
        "http://user:s3 cret@h",
        "h:1,http://user:s3cret@h:x",
        "unix:user:s3cret@h",
    ];
    for address in addresses {
        for (option, variable) in [("exporter-addr", "EXPORTER_ADDR"), ("pgw-addr", "PGW_ADDR")] {
            let by_option = run().arg(&format!("--{option}={address}")).end();
            let misspelled = run().arg(&format!("--{option}s={address}")).end();
            for ended in [run().env(variable, address).end(), by_option, misspelled] {
                ended.failed(2, &[option]);
                assert!(!ended.stderr.contains("cret"), "{ended:?}");
            }
        }
        let proxy = run().env("http_proxy", address).end();
        proxy.failed(2, &["http_proxy"]);
        assert!(!proxy.stderr.contains("cret"), "{proxy:?}");
    }
}

#[test]
fn quiet_silences_usage_errors() {
    for arg in ["--no-such-option", "push.example", "--pgw-job=", "--splay=x", "--pgw-label=x"] {
        for quiet in ["-q", "--quiet"] {
            for args in [[quiet, arg], [arg, quiet]] {
                let ended = run().args(&args).end();
                assert_eq!((ended.status, ended.stderr.as_str()), (Some(2), ""), "{args:?}");
            }
        }
    }
}

/// The options and variables in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
    let is_name = |word: &&str| {
        let prefixes = ["--", "EXPORTER_", "PGW_", "FORWARDER_", "RUST_"];
        prefixes.iter().any(|prefix| word.starts_with(prefix) && !word.ends_with(['-', '_']))
    };
    words.filter(is_name).collect()
}

#[test]
fn help_reference_and_crontab_have_the_same_names() {
    let help = Command::new(FORWARDER).arg("--help").env_clear().complete();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let reference = include_str!("../../docs/reference.md");
    let (in_help, in_reference) = (names(&help), names(reference));
    assert!(in_help.len() > 50, "{in_help:?}");
    // Each option has these, and they have no row.
    let general = ["--help", "--version"];
    let missing = in_help.difference(&in_reference).filter(|name| !general.contains(*name));
    let missing = missing.collect::<Vec<_>>();
    assert!(missing.is_empty(), "the reference lacks {missing:?}");
    let crontab = names(include_str!("../../crontab.example"));
    let unknown = in_reference.union(&crontab).filter(|name| !in_help.contains(*name));
    let unknown = unknown.collect::<Vec<_>>();
    assert!(unknown.is_empty(), "--help lacks {unknown:?}");

    let (_, statuses) = help.split_once("Exit status:\n").unwrap();
    let row = |page: &'static str, status: i32| {
        let start = format!("| {status} | ");
        page.lines().find(|line| line.starts_with(&start)).unwrap()
    };
    for status in 0..=7 {
        assert!(format!("\n{statuses}").contains(&format!("\n  {status}  ")), "{statuses}");
        assert_eq!(row(include_str!("../../README.md"), status), row(reference, status));
    }
    let version = Command::new(FORWARDER).arg("--version").complete();
    let expected = format!("pgw-forwarder {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
}
