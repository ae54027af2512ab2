//! The cron file that install.sh writes: its time limits, and the compression that the first push shows to work.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::{fs, mem};

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::fake::{Fake, response};
use crate::host::{Complete, require, unused_address};
use crate::run::{FORWARDER, copy_program};
use crate::servers::Server;

/// Seconds that remain before the next run begins if a run uses up all its limits.
const SPARE: f64 = 5.0;

/// Runs functions of install.sh with these arguments.
fn verbs(verbs: &str, args: &[&str]) -> Output {
    let script = format!("only_verbs=yes; . ./install.sh; {verbs}");
    Command::new("/bin/sh")
        .args(["-c", &script, "install.sh"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .complete()
}

/// The cron file that install.sh writes with these arguments, before the first push.
fn crontab(args: &[&str]) -> Result<String, String> {
    let output = verbs("read_options \"$@\"; fit_splay; make_crontab '' '' '' '' ''", args);
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        Some(2) => Err(String::from_utf8(output.stderr).unwrap()),
        _ => panic!("{args:?}: {output:?}"),
    }
}

/// The value of a variable in a cron file.
fn variable<'a>(crontab: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = crontab.lines().filter_map(|line| line.split_once('='));
    lines.find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// The default of an option, by its variable.
fn default(help: &str, variable: &str) -> f64 {
    let (_, rest) = help.split_once(&format!("[env: {variable}=]")).unwrap();
    let (_, rest) = rest.split_once("[default: ").unwrap();
    rest.split_once(']').unwrap().0.parse().unwrap()
}

/// Seconds that a run of this cron file may take.
fn longest_run(crontab: &str) -> f64 {
    let help = Command::new(FORWARDER).arg("--help").env_clear().complete();
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

/// The shortest interval of this cron file, in seconds.
fn interval(crontab: &str) -> f64 {
    let step = entry(crontab)[2..].split(' ').next().unwrap();
    let step = step.parse().unwrap();
    let last = (0..60).step_by(step).next_back().unwrap();
    step.min(60 - last) as f64 * 60.0
}

#[test]
fn run_ends_before_next_begins() {
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
    // A longer splay is refused. Limits that alone are too long are not the splay's fault.
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

/// A front of a gateway. It records for each push its compression, and the one that cron's next run would use.
struct Front {
    fake: Fake,
    pushes: Arc<Mutex<Vec<[String; 2]>>>,
}

impl Front {
    /// `takes_gzip`: gateways before 1.5.0 answer 400 to it.
    fn new(gateway: &Server, cron_file: &Path, takes_gzip: bool) -> Front {
        let pushes = Arc::new(Mutex::new(Vec::new()));
        let (seen, cron_file) = (Arc::clone(&pushes), cron_file.to_owned());
        let fake = Fake::meddling(&gateway.addr, move |request| {
            let compression = request.header("content-encoding").unwrap_or("none").to_owned();
            let refused = compression == "gzip" && !takes_gzip;
            if request.method() == "PUT" {
                let crontab = fs::read_to_string(&cron_file).unwrap_or_default();
                let next = variable(&crontab, "PGW_COMPRESSION").unwrap_or_default().to_owned();
                seen.lock().unwrap().push([compression, next]);
            }
            let why = "text format parsing error in line 1: invalid metric name\n";
            refused.then(|| response(400, "", why))
        });
        Front { fake, pushes }
    }

    /// The pushes since the last call.
    fn pushes(&self) -> Vec<[String; 2]> {
        mem::take(&mut self.pushes.lock().unwrap())
    }
}

/// Takes the steps of install.sh that write the cron file and push, in a directory instead of the system's.
struct Installation {
    directory: TempDir,
    exporter: Server,
    cron_file: PathBuf,
}

impl Installation {
    fn new() -> Installation {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        copy_program(&directory.path().join("bin"));
        let cron_file = directory.path().join("cron");
        Installation { directory, exporter: Server::node_exporter(), cron_file }
    }

    /// Installs for these gateways, and returns the status, the output, and the written compression.
    fn install(&self, gateways: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let directory = self.directory.path().display();
        let script = format!(
            "cron_file={directory}/cron state={directory}/state made=$state/made\n\
             former=$state/former leaving=$state/leaving access=$state access_files=\n\
             read_options \"$@\"; ask_password; binary={FORWARDER}; check_options\n\
             put_crontab; prove"
        );
        let prefix = format!("--prefix={directory}");
        let lock = format!("--extra=--lock-file {directory}/lock");
        let (exporter, gateways) =
            (format!("--exporter-addr={}", self.exporter.addr), format!("--pgw-addr={gateways}"));
        let node = ["--no-exporter", "--user=root", "--pgw-instance=n", "--splay=0"];
        let own = [&prefix[..], &lock, &exporter, &gateways];
        let output = verbs(&script, &[&node, &own, args].concat());
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let crontab = fs::read_to_string(&self.cron_file).unwrap();
        let compression = variable(&crontab, "PGW_COMPRESSION").unwrap().to_owned();
        (output.status.code(), said, compression)
    }
}

fn is_root() -> bool {
    require(
        geteuid().is_root(),
        "install.sh pushes as the user of the cron entry, which needs root",
    )
}

#[test]
fn first_push_shows_which_compression_all_gateways_take() {
    if !is_root() {
        return;
    }
    let gateway = Server::pushgateway(&[]);
    let (tried, fell_back) = (vec![["gzip", "none"]], vec![["gzip", "none"], ["none", "none"]]);
    let closed = Fake::answering(|_| response(401, "", "")).addr;
    let down = unused_address();
    for (takes_gzip, other, status, compression, pushes, message) in [
        (true, None, 0, "gzip", &tried, "done"),
        (false, None, 0, "none", &fell_back, "again, without gzip"),
        // What one gateway cannot take, the others do not get.
        (true, Some(false), 0, "none", &fell_back, "again, without gzip"),
        (false, Some(true), 0, "none", &fell_back, "again, without gzip"),
        (true, None, 6, "none", &tried, "run this again"),
        (false, None, 6, "none", &fell_back, "again, without gzip"),
        (true, None, 7, "none", &tried, "run this again"),
    ] {
        let node = Installation::new();
        let first = Front::new(&gateway, &node.cron_file, takes_gzip);
        let other = other.map(|takes_gzip| Front::new(&gateway, &node.cron_file, takes_gzip));
        let mut gateways = vec![&first.fake.addr];
        gateways.extend(other.iter().map(|other| &other.fake.addr));
        gateways.extend((status == 6).then_some(&down));
        gateways.extend((status == 7).then_some(&closed));
        let gateways = gateways.into_iter().cloned().collect::<Vec<_>>().join(",");

        let (ended, said, written) = node.install(&gateways, &[]);
        assert_eq!((ended, &written[..]), (Some(status), compression), "{said}");
        assert!(said.contains(message), "{message}: {said}");
        for front in [Some(&first), other.as_ref()].into_iter().flatten() {
            assert_eq!(&front.pushes(), pushes, "{said}");
        }
        assert!(gateway.group("n").is_some());
    }
}

#[test]
fn rerun_keeps_a_compression_that_works_and_tries_gzip_again_otherwise() {
    if !is_root() {
        return;
    }
    let (node, gateway) = (Installation::new(), Server::pushgateway(&[]));
    let new = Front::new(&gateway, &node.cron_file, true);
    let old = Front::new(&gateway, &node.cron_file, false);
    let gateways = format!("{},{}", new.fake.addr, unused_address());
    let (status, said, written) = node.install(&gateways, &[]);
    assert_eq!((status, &written[..]), (Some(6), "none"), "{said}");

    node.install(&new.fake.addr, &[]);
    new.pushes();
    let before = fs::metadata(&node.cron_file).unwrap().ino();
    let (status, said, written) = node.install(&new.fake.addr, &[]);
    assert_eq!((status, &written[..]), (Some(0), "gzip"), "{said}");
    assert_eq!(new.pushes(), [["gzip", "gzip"]]);
    assert_eq!(fs::metadata(&node.cron_file).unwrap().ino(), before, "it was written again");

    // Another gateway may not take what the former one took.
    let (status, said, written) = node.install(&old.fake.addr, &[]);
    assert_eq!((status, &written[..]), (Some(0), "none"), "{said}");
    let pushes = old.pushes();
    assert_eq!(pushes[0], ["gzip", "none"]);
    assert!(pushes[1..].iter().all(|push| *push == ["none", "none"]), "{pushes:?}");
}

#[test]
fn given_compression_is_written_and_no_other_is_tried() {
    if !is_root() {
        return;
    }
    let (node, gateway) = (Installation::new(), Server::pushgateway(&[]));
    for (takes_gzip, compression, status) in
        [(true, "none", 0), (true, "gzip", 0), (false, "none", 0), (false, "gzip", 7)]
    {
        let front = Front::new(&gateway, &node.cron_file, takes_gzip);
        let option = format!("--compression={compression}");
        let (ended, said, written) = node.install(&front.fake.addr, &[&option]);
        assert_eq!((ended, &written[..]), (Some(status), compression), "{said}");
        let pushes = front.pushes();
        assert!(pushes.iter().all(|push| *push == [compression, compression]), "{pushes:?}");
    }
    let (status, said, _) = node.install(&gateway.addr, &["--compression=brotli"]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--pgw-compression (PGW_COMPRESSION)"), "{said}");
    assert!(said.ends_with("; see --help\n") && !said.contains("exit status"), "{said}");
}
