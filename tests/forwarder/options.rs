//! What a user may write, and what is not taken.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::fake::{Fake, exposition};
use crate::run::{FORWARDER, Run};
use crate::servers::Server;

#[test]
fn every_name_arrives_as_exactly_that_label_value() {
    let gateway = Server::pushgateway(&[]);
    let exporter = Fake::answering(|_| exposition("a 1\n"));
    let long = "0123456789abcdef".repeat(256);
    let (long_unicode, long_crabs) = ("ü/".repeat(1024), "🦀".repeat(1024));
    let names = [
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
    for (index, name) in names.into_iter().enumerate() {
        // In turn by variable and by option, as instance, job and label.
        let run = Run::new(&exporter.addr, &gateway.addr);
        let run = match index % 2 {
            0 => run.instance(name),
            _ => run.arg(&format!("--pgw-instance={name}")),
        };
        let job = if name.is_empty() { "node" } else { name };
        run.env("PGW_JOB", job).arg(&format!("--pgw-label=zone={name}")).end().succeeded();
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
    assert_eq!(arrived, names.into_iter().map(String::from).collect());
}

#[test]
fn what_does_not_parse_is_a_usage_error_that_names_option_and_variable() {
    let seconds =
        ["0", "-1", "-0.5", "NaN", "inf", "-inf", "1e300", "86401", "", "1s", "ten", "0.0001"];
    let addresses = [
        "",
        ":",
        "host:",
        "host:0",
        "host:65536",
        "host:http",
        "::1:80",
        "[::1",
        "ftp://h",
        "a b",
        "h:1,h:1",
    ];
    let labels = ["a", "=v", "1a=v", "a-b=v", "__a=v", "job=v", "instance=v", "a=1,a=2", "ä=1"];
    let cases: &[(&str, &str, &[&str])] = &[
        ("--exporter-addr", "EXPORTER_ADDR", &addresses),
        ("--exporter-metric", "EXPORTER_METRIC", &["met rics", "metrics#a", "métrics"]),
        ("--pgw-addr", "PGW_ADDR", &addresses),
        ("--pgw-addr", "PGW_ADDR", &["https://", "http://push.example/?a=b"]),
        ("--pgw-job", "PGW_JOB", &[""]),
        ("--pgw-label", "PGW_LABELS", &labels),
        ("--pgw-method", "PGW_METHOD", &["", "get"]),
        ("--encoding", "PGW_ENCODING", &["", "json"]),
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
    for (option, variable, values) in cases {
        for value in *values {
            // Both sides can be reached, wherever the case is not about their address.
            let by_variable = Run::new(&contacted.addr, &contacted.addr).env(variable, value).end();
            by_variable.failed(2, &[option, variable]);
            if value.contains(',') && *option == "--pgw-label" {
                continue; // An option's label may have a comma.
            }
            let by_option = Run::new(&contacted.addr, &contacted.addr);
            by_option.arg(&format!("{option}={value}")).end().failed(2, &[option, variable]);
            let in_two_words = Run::new(&contacted.addr, &contacted.addr);
            in_two_words.args(&[option, value]).end().failed(2, &[option, variable]);
        }
    }
    let huge = Run::new(&contacted.addr, &contacted.addr).instance(&"i".repeat(70_000)).end();
    huge.failed(2, &["--pgw-instance", "PGW_INSTANCE"]);
    assert!(huge.stderr.len() < 500, "{huge:?}");
    let huge = Run::new(&contacted.addr, &contacted.addr).env("EXPORTER_METRIC", "m".repeat(8193));
    huge.end().failed(2, &["--exporter-metric", "EXPORTER_METRIC", "longer than 8192"]);
    let twice =
        Run::new(&contacted.addr, &contacted.addr).args(&["--pgw-label=a=1", "--pgw-label=a=2"]);
    twice.end().failed(2, &["--pgw-label", "a is given twice"]);
    assert!(contacted.requests().is_empty(), "a usage error contacts nobody");
}

#[test]
fn other_mistakes_are_told_on_one_line_too() {
    let run = |args: &[&str]| Run::new("127.0.0.1:1", "127.0.0.1:1").args(args).end();
    run(&["--no-such-option"]).failed(2, &["--no-such-option", "--help"]);
    run(&["push.example"]).failed(2, &["push.example", "--help"]);
    run(&["--dry-run", "--delete"]).failed(2, &["--dry-run", "--delete"]);
    run(&["-v", "-q"]).failed(2, &["--quiet"]);
    run(&["--pgw-job"]).failed(2, &["--pgw-job (PGW_JOB)", "a value is missing"]);
    let lock = Run::new("127.0.0.1:1", "127.0.0.1:1").env("FORWARDER_LOCK_FILE", "");
    lock.end().failed(2, &["--lock-file (FORWARDER_LOCK_FILE)", "a value is missing"]);
    let log = Run::new("127.0.0.1:1", "127.0.0.1:1").env("RUST_LOG", "a=b=c");
    log.end().failed(2, &["RUST_LOG"]);
    let odd = OsStr::from_bytes(b"\xff");
    let odd = Run::new("127.0.0.1:1", "127.0.0.1:1").env("PGW_INSTANCE", odd);
    odd.end().failed(2, &["--pgw-instance (PGW_INSTANCE)", "not UTF-8"]);
    let odd = OsStr::from_bytes(b"http://\xff:1");
    let odd = Run::new("127.0.0.1:1", "127.0.0.1:1").env("http_proxy", odd);
    odd.end().failed(2, &["http_proxy"]);
    let proxy =
        Run::new("127.0.0.1:1", "127.0.0.1:1").env("http_proxy", "socks5://u:geheim@p:1").end();
    proxy.failed(2, &["http_proxy", "only http://"]);
    let url = Run::new("127.0.0.1:1", "http://user:geheim/@push.example").end();
    url.failed(2, &["--pgw-addr", "PGW_ADDR", "a port is a number"]);
    for ended in [proxy, url] {
        assert!(!ended.stderr.contains("geheim"), "{ended:?}");
    }
}

/// All options, variables and statuses are told by `--help`, and by the README.
#[test]
fn the_help_and_the_readme_tell_all() {
    let help = Command::new(FORWARDER).arg("--help").env_clear().output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let readme = include_str!("../../README.md");
    let words = help.split(|c: char| c.is_whitespace() || "[],=.".contains(c));
    let mut told = 0;
    for word in words {
        let is_variable =
            word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        if word.starts_with("--") || is_variable {
            assert!(readme.contains(word), "the README does not tell about {word}");
            told += 1;
        }
    }
    assert!(told > 30, "{help}");
    let (_, statuses) = help.split_once("Exit status:\n").unwrap();
    for status in 0..=7 {
        assert!(statuses.contains(&format!("\n  {status}  ")) || status == 0, "{statuses}");
        assert!(readme.contains(&format!("\n| {status} | ")), "the README lacks status {status}");
    }
    let version = Command::new(FORWARDER).arg("--version").output().unwrap();
    let expected = format!("pgw-forwarder {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), expected);
}
