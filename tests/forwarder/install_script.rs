//! What install.sh writes into the cron file, and how it asks the gateway for that.

use std::io::Write;
use std::process::{Command, Output};

use crate::fake::{Fake, read_head, response};
use crate::host::program;
use crate::run::{FORWARDER, Run};
use crate::servers::Server;

/// Seconds that are left before the next run begins, when all limits of one are used up.
const SPARE: f64 = 5.0;

/// Runs verbs of install.sh, with the arguments that it is given.
fn verbs(verbs: &str, args: &[&str]) -> Output {
    let script = format!("only_verbs=yes; . ./install.sh; {verbs}");
    Command::new("/bin/sh")
        .args(["-c", &script, "install.sh"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

/// The cron file of install.sh with these arguments.
fn crontab(args: &[&str]) -> Result<String, String> {
    let output = verbs("read_options \"$@\"; fit_splay; make_crontab '' '' '' '' ''", args);
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        Some(2) => Err(String::from_utf8(output.stderr).unwrap()),
        _ => panic!("{args:?}: {output:?}"),
    }
}

/// What a cron file has for a variable.
fn variable<'a>(crontab: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = crontab.lines().filter_map(|line| line.split_once('='));
    lines.find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// What the program takes where neither option nor variable tells.
fn default(help: &str, variable: &str) -> f64 {
    let (_, rest) = help.split_once(&format!("[env: {variable}=]")).unwrap();
    let (_, rest) = rest.split_once("[default: ").unwrap();
    rest.split_once(']').unwrap().0.parse().unwrap()
}

/// Seconds that a run of this cron file takes at most.
fn longest_run(crontab: &str) -> f64 {
    let help = Command::new(FORWARDER).arg("--help").env_clear().output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let entry = entry(crontab).replace('=', " ");
    let words = entry.split(' ');
    [
        ("--splay", "FORWARDER_SPLAY"),
        ("--probe-timeout", "EXPORTER_PROBE_TIMEOUT"),
        ("--scrape-timeout", "EXPORTER_SCRAPE_TIMEOUT"),
        ("--push-timeout", "PGW_PUSH_TIMEOUT"),
    ]
    .map(|(option, name)| {
        let mut words = words.clone();
        let option = words.find(|word| *word == option).and(words.next());
        let seconds = option.or(variable(crontab, name));
        seconds.map_or_else(|| default(&help, name), |text| text.parse().unwrap())
    })
    .iter()
    .sum()
}

fn entry(crontab: &str) -> &str {
    let mut lines = crontab.lines();
    lines.find(|line| line.starts_with("*/")).unwrap()
}

/// Seconds that are at least between two runs of this cron file.
fn interval(crontab: &str) -> f64 {
    let step = entry(crontab)[2..].split(' ').next().unwrap();
    let step = step.parse().unwrap();
    let last = (0..60).step_by(step).next_back().unwrap();
    step.min(60 - last) as f64 * 60.0
}

#[test]
fn a_run_ends_before_the_next_begins() {
    let example = include_str!("../../crontab.example");
    for (crontab, splay) in [
        (example.to_owned(), "30"),
        (crontab(&[]).unwrap(), "30"),
        (crontab(&["--splay=33"]).unwrap(), "33"),
        (crontab(&["--extra=--push-timeout 30"]).unwrap(), "13"),
        (
            crontab(&[
                "--splay=50",
                "--extra=--probe-timeout 0.5 --scrape-timeout=1.5 -v --push-timeout 3",
            ])
            .unwrap(),
            "50",
        ),
        (crontab(&["--splay=273", "--schedule=*/5 * * * *"]).unwrap(), "273"),
    ] {
        assert_eq!(variable(&crontab, "FORWARDER_SPLAY"), Some(splay));
        let (run, interval) = (longest_run(&crontab), interval(&crontab));
        assert!(run + SPARE <= interval, "{run} s in {interval} s: {crontab}");
    }
    // Others are refused; where the limits alone are longer, that is not the splay's fault.
    for args in [
        &["--splay=33.1"][..],
        &["--splay=274", "--schedule=*/5 * * * *"],
        &["--splay=34", "--schedule=*/59 * * * *"],
        &["--splay=34", "--schedule=1,2 * * * *"],
        &["--splay=50", "--extra=--push-timeout 3"],
        &["--splay=1", "--extra=--push-timeout=90"],
    ] {
        let why = crontab(args).unwrap_err();
        assert!(why.contains("--splay: the time limits"), "{args:?}: {why}");
    }
    let long = crontab(&["--extra=--push-timeout 90"]).unwrap();
    assert_eq!(variable(&long, "FORWARDER_SPLAY"), Some("0"));
    let hourly = crontab(&["--splay=3000", "--schedule=7 * * * *"]).unwrap();
    assert_eq!(variable(&hourly, "FORWARDER_SPLAY"), Some("3000"));
}

#[test]
fn the_encoding_is_the_best_that_all_gateways_are_known_to_take() {
    for (versions, encoding) in [
        ("1.2.0", "text"),
        ("1.4.3", "text"),
        ("1.5.0", "text+gzip"),
        ("1.7.0", "text+gzip"),
        ("1.8.0", "protobuf+gzip"),
        ("1.11.2", "protobuf+gzip"),
        ("2.0.0", "protobuf+gzip"),
        ("1.11.2\n1.5.1", "text+gzip"),
        ("0.9.1\n1.11.2", "text"),
        ("", "text"),
    ] {
        let output = verbs("printf '%s\\n' \"$1\" | best_encoding", &[versions]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("{encoding}\n"), "{versions}");
        let crontab = crontab(&[&format!("--encoding={encoding}")]).unwrap();
        assert_eq!(variable(&crontab, "PGW_ENCODING"), Some(encoding));
    }
}

#[test]
fn a_gateway_tells_its_version() {
    let built = Command::new(program(&["prometheus-pushgateway", "pushgateway"]))
        .arg("--version")
        .output()
        .unwrap();
    // On which of the two it says so depends on its version.
    let built = String::from_utf8([built.stdout, built.stderr].concat()).unwrap();
    let (_, version) = built.split_once("version ").unwrap();
    let version = version.split(' ').next().unwrap();
    let ask = |gateways: &str| Run::new("127.0.0.1:1", gateways).arg("--gateway-version");

    let gateway = Server::pushgateway(&["--web.route-prefix=/push"]);
    let addr = format!("{}/push", gateway.addr);
    let ended = ask(&addr).end();
    ended.succeeded();
    let told = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(told, format!("{version}\n"));

    // Each of several: the versions that are told, and a line for who tells none.
    let status = |build: &str| {
        let data =
            format!("{{\"build_information\":{{{build}}},\"flags\":{{\"version\":\"9.9.9\"}}}}");
        let body = format!("{{\"status\":\"success\",\"data\":{data}}}");
        response(200, "Content-Type: application/json\r\n", &body)
    };
    let old = status(r#""branch":"\"version\":\"7.7.7\"","version":"1.2.0""#);
    let old = Fake::answering(move |_| old.clone());
    let ended = ask(&format!("{},{addr}", old.addr)).end();
    ended.succeeded();
    let told = String::from_utf8(ended.stdout).unwrap();
    let mut told: Vec<_> = told.lines().collect();
    told.sort();
    assert_eq!(told, ["1.2.0", version]);
    let none = "it tells no version";
    let html = response(200, "Content-Type: text/html\r\n", "Hello");
    let whole = status(r#""version":"1.8.0""#);
    for (other, number, words) in [
        // VictoriaMetrics says so to whatever it does not know.
        (response(204, "", ""), 7, none),
        (response(200, "", r#"{"version":"1.8.0"}"#), 7, none),
        (response(200, "", &"x".repeat(100_000)), 7, none),
        (status(""), 7, none),
        (status(r#""version":"""#), 7, none),
        (status(r#""version":"1.8.x""#), 7, none),
        (status(r#""version":"1..8""#), 7, none),
        (html, 7, "an HTML page"),
        (response(401, "", ""), 7, "--pgw-user"),
        (response(404, "", ""), 7, "404"),
        (whole[..150].to_vec(), 6, "is unreachable"),
        (Vec::new(), 6, "is unreachable"),
    ] {
        let said = String::from_utf8_lossy(&other).to_string();
        let other = Fake::raw(move |stream| {
            read_head(stream);
            let _ = stream.write_all(&other);
        });
        let ended = ask(&format!("{addr},{}", other.addr)).end();
        assert_eq!(ended.status, Some(number), "{said}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{said}: {ended:?}");
        assert!(ended.stderr.contains(words), "{said}: {ended:?}");
    }
    let both = ask(&addr).arg("--delete").end();
    both.failed(2, &["--gateway-version", "--delete"]);
}
