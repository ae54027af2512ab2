//! What install.sh makes of its options: the cron file, and the compression that the first push shows to work.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::fake::{Fake, response};
use crate::host::{Complete, require, unused_address};
use crate::run::{FORWARDER, copy_program};
use crate::servers::Server;

/// Seconds that remain before the next run begins if a run uses up all its limits.
const SPARE: f64 = 5.0;

/// Runs functions of install.sh with these arguments.
fn verbs(shell: &[&str], verbs: &str, args: &[&str]) -> Output {
    let script = format!("only_verbs=yes; . ./install.sh; {verbs}");
    Command::new(shell[0])
        .args(&shell[1..])
        .args(["-c", &script, "install.sh"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Variables of the caller do not count.
        .envs([
            ("PGW_METHOD", "post"),
            ("PGW_JOB", "x"),
            ("ALL_PROXY", "x"),
            ("SOCKET", "yes"),
            ("EVERY", "7"),
        ])
        .complete()
}

/// The cron file that install.sh writes with these arguments, before the first push.
fn crontab_by(shell: &[&str], args: &[&str]) -> Result<String, String> {
    let args = [&["--pgw-addr=push.example"], args].concat();
    let output = verbs(shell, "read_options \"$@\"; check_options; proven=; make_crontab", &args);
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        Some(2) => Err(String::from_utf8(output.stderr).unwrap()),
        _ => panic!("{args:?}: {output:?}"),
    }
}

fn crontab(args: &[&str]) -> Result<String, String> {
    crontab_by(&["/bin/sh"], args)
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

/// Seconds that a run may take without its splay.
fn time_limits() -> f64 {
    let help = Command::new(FORWARDER).arg("--help").env_clear().complete();
    let help = String::from_utf8(help.stdout).unwrap();
    let limits = ["EXPORTER_PROBE_TIMEOUT", "EXPORTER_SCRAPE_TIMEOUT", "PGW_PUSH_TIMEOUT"];
    limits.map(|name| default(&help, name)).iter().sum()
}

fn entry(crontab: &str) -> &str {
    crontab.lines().find(|line| line.starts_with("*/") || line.starts_with("0 ")).unwrap()
}

/// The shortest interval of this cron file, in seconds.
fn interval(crontab: &str) -> f64 {
    let minutes = entry(crontab).split(' ').next().unwrap();
    let step = minutes.strip_prefix("*/").map_or(60, |step| step.parse().unwrap());
    let last = (0..60).step_by(step).next_back().unwrap();
    step.min(60 - last) as f64 * 60.0
}

#[test]
fn run_ends_before_next_begins() {
    let limits = time_limits();
    let fits = |crontab: &str| {
        let splay: f64 = variable(crontab, "FORWARDER_SPLAY").unwrap().parse().unwrap();
        let interval = interval(crontab);
        assert!(splay + limits + SPARE <= interval, "{splay} s in {interval} s: {crontab}");
    };
    fits(include_str!("../../crontab.example"));
    for minutes in 1..=60 {
        let every = format!("--every={minutes}");
        let with_default = crontab(&[&every]).unwrap();
        assert_eq!(variable(&with_default, "FORWARDER_SPLAY"), Some("30"));
        fits(&with_default);
        // The message of a refusal has the largest splay.
        let why = crontab(&[&every, "--splay=3600"]).unwrap_err();
        let (_, most) = why.split_once("give at most ").unwrap();
        let most: u32 = most.split(' ').next().unwrap().parse().unwrap();
        fits(&crontab(&[&every, &format!("--splay={most}")]).unwrap());
        let why = crontab(&[&every, &format!("--splay={}", most + 1)]).unwrap_err();
        assert!(why.contains("--splay: give at most "), "{why}");
    }
    for (every, most) in [("1", "33"), ("5", "273"), ("7", "213"), ("59", "33"), ("60", "3573")] {
        let every = format!("--every={every}");
        let why = crontab(&[&every, "--splay=x"]).unwrap_err();
        assert!(why.contains(&format!(" {most} seconds")), "{every}: {why}");
    }
}

#[test]
fn value_reaches_the_cron_file_unchanged_in_each_shell() {
    let args = [
        "--pgw-addr=[fe80::1%25eth0]:9091,https://b.example/p",
        "--pgw-job=a b's \\n 100% \"x\" & $HOME `id`",
        "--pgw-label=zone=eu: 5%",
        "--pgw-label",
        "owner=me@home",
        "--exporter-metric=metrics?collect[]=cpu&collect[]=meminfo",
        "--proxy=http://proxy.example:3128",
        "--extra=--max-bytes 5 --lock-file '/tmp/100% a&b\\1'",
        "--every=60",
    ];
    let written = crontab(&args).unwrap();
    for (name, value) in [
        ("PGW_ADDR", "[fe80::1%25eth0]:9091,https://b.example/p"),
        ("PGW_JOB", "a b's \\n 100% \"x\" & $HOME `id`"),
        ("PGW_LABELS", "zone=eu: 5%,owner=me@home"),
        ("EXPORTER_METRIC", "metrics?collect[]=cpu&collect[]=meminfo"),
        ("EXPORTER_ADDR", "127.0.0.1:9014"),
        ("ALL_PROXY", "http://proxy.example:3128"),
        ("PGW_METHOD", "put"),
        ("PGW_COMPRESSION", "none"),
        ("PGW_REPORT_FAILURES", "true"),
    ] {
        assert_eq!(variable(&written, name), Some(value), "{written}");
    }
    assert_eq!(
        entry(&written),
        "0 * * * * pgw-forwarder /usr/local/bin/pgw-forwarder --max-bytes 5 --lock-file \
         '/tmp/100\\% a&b\\1' 2>&1 | logger -t pgw-forwarder"
    );
    for shell in [&["busybox", "sh"][..], &["bash"], &["dash"]] {
        assert_eq!(crontab_by(shell, &args).unwrap(), written, "{shell:?}");
    }
    assert_eq!(variable(&crontab(&[]).unwrap(), "ALL_PROXY"), None);
    let named = crontab(&["--name=my-1", "--exporter-addr=10.0.0.1:9100"]).unwrap();
    assert_eq!(variable(&named, "PGW_JOB"), Some("my-1"));
    assert!(entry(&named).ends_with(" | logger -t pgw-forwarder-my-1"), "{named}");
}

/// --run does what cron does, also with the variables that an administrator has added.
#[test]
fn every_variable_of_the_cron_file_and_no_other_reaches_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cron");
    let lines = "# a comment=1\nPGW_ADDR=push.example\nhttp_proxy=http://proxy.example:3128\n";
    fs::write(&file, format!("{lines}*/1 * * * * root true 2>&1 | logger -t x\n")).unwrap();
    let output = verbs(&["/bin/sh"], "settings=$1; with_settings env", &[file.to_str().unwrap()]);
    let mut variables: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    variables.sort_unstable();
    let proxy = "http_proxy=http://proxy.example:3128";
    assert_eq!(variables, ["PATH=/usr/bin:/bin", "PGW_ADDR=push.example", proxy], "{output:?}");
}

/// The options in a text.
fn options_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    words.filter(|word| word.starts_with("--") && word.len() > 2).collect()
}

#[test]
fn help_explains_every_option_and_no_other() {
    let script = fs::read_to_string("install.sh").unwrap();
    let (usage, rest) = script.split_once("\nUSAGE\n").unwrap();
    let (_, read) = rest.split_once("\nread_options() {").unwrap();
    let (read, _) = read.split_once("\n}\n").unwrap();
    assert_eq!(options_in(usage), options_in(read));
}

#[test]
fn wrong_option_is_refused_with_its_name() {
    for (args, message) in [
        (&["--schedule=* * * * *"][..], "--schedule is not an option"),
        (&["--every"], "--every is not an option, or its value is missing"),
        (&["--every=0"], "--every: give 1 to 60 minutes"),
        (&["--every=61"], "--every: give 1 to 60 minutes"),
        (&["--every=5x"], "--every: give 1 to 60 minutes"),
        (&["--all=no"], "--all is not an option"),
        (&["--pgw-job="], "--pgw-job: the value is empty"),
        (&["--pgw-job= x"], "--pgw-job: the value is empty, or a blank"),
        (&["--pgw-job=x\t"], "--pgw-job: the value is empty, or a blank"),
        (&["--pgw-job='x'"], "--pgw-job: the value is empty, or a blank or quote"),
        (&["--pgw-job=x\n* * * * * root id"], "--pgw-job: a value has one line"),
        (&["--extra=-v\n* * * * * root id"], "--extra: a value has one line"),
        (&["--extra=--pgw-label a=b"], "--extra: use install.sh's own option"),
        (&["--pgw-addr=http://user:geheim@push.example"], "--pgw-addr: every user can read"),
        (&["--exporter-addr=http://user:geheim@[::1]:1"], "--exporter-addr: every user can read"),
        (&["--proxy=http://user:geheim@proxy.example"], "--proxy: every user can read"),
        (&["--pgw-label=a=b,c=d"], "--pgw-label: a comma"),
        (&["--pgw-password-file=/nowhere"], "--pgw-password-file: the file does not exist"),
        (&["--user=nowhere"], "--user: nowhere does not exist"),
        (&["--user=0"], "--user: 0 does not exist"),
        (&["--name=../x", "--exporter-addr=x:1"], "--name: use small letters"),
        (&["--name=x"], "--name: --exporter-addr is missing"),
        (&["--socket", "--exporter-addr=127.0.0.1:1"], "--socket: leave out the address"),
        (&["--socket", "--no-exporter"], "--socket: leave out the address"),
        (&["--exporter-addr=0.0.0.0:9100"], "--exporter-addr: node_exporter must listen"),
        (&["--exporter-addr=:9100"], "--exporter-addr: node_exporter must listen"),
    ] {
        let why = crontab(args).expect_err(&format!("{args:?}"));
        assert!(why.starts_with(&format!("install.sh: {message}")), "{args:?}: {why}");
        assert!(why.ends_with(". See --help\n"), "{args:?}: {why}");
        assert!(!why.contains("geheim"), "{why}");
    }
}

/// A front of a gateway. It records for each push its compression, and the one that cron's next run would use.
struct Front {
    fake: Fake,
    takes_gzip: Arc<AtomicBool>,
    pushes: Arc<Mutex<Vec<[String; 2]>>>,
}

impl Front {
    /// `takes_gzip`: gateways before 1.5.0 answer 400 to it.
    fn new(gateway: &Server, cron_file: &Path, takes_gzip: bool) -> Front {
        let pushes = Arc::new(Mutex::new(Vec::new()));
        let takes_gzip = Arc::new(AtomicBool::new(takes_gzip));
        let (seen, takes) = (Arc::clone(&pushes), Arc::clone(&takes_gzip));
        let cron_file = cron_file.to_owned();
        let fake = Fake::meddling(&gateway.addr, move |request| {
            let compression = request.header("content-encoding").unwrap_or("none").to_owned();
            let refused = compression == "gzip" && !takes.load(Ordering::Relaxed);
            let crontab = fs::read_to_string(&cron_file).unwrap_or_default();
            let next = variable(&crontab, "PGW_COMPRESSION").unwrap_or_default().to_owned();
            seen.lock().unwrap().push([compression, next]);
            let why = "text format parsing error in line 1: invalid metric name\n";
            refused.then(|| response(400, "", why))
        });
        Front { fake, takes_gzip, pushes }
    }

    /// The pushes since the last call.
    fn pushes(&self) -> Vec<[String; 2]> {
        std::mem::take(&mut self.pushes.lock().unwrap())
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
        copy_program(directory.path());
        let cron_file = directory.path().join("cron.d/entry");
        fs::create_dir(directory.path().join("cron.d")).unwrap();
        Installation { directory, exporter: Server::node_exporter(), cron_file }
    }

    /// Installs for these gateways, and returns the status, the output, and the written compression.
    fn install(&self, gateways: &str) -> (Option<i32>, String, String) {
        let directory = self.directory.path().display();
        let script = format!(
            "read_options \"$@\"; check_options; temporary={directory} settings={directory}/settings proven=
             cron_file={directory}/cron.d/entry made={directory}/made program={directory}/pgw-forwarder
             make_crontab >$settings; put_entry; exit $status"
        );
        let args = [
            "--no-exporter",
            "--user=root",
            "--pgw-instance=n",
            "--splay=0",
            &format!("--extra=--lock-file {directory}/lock"),
            &format!("--exporter-addr={}", self.exporter.addr),
            &format!("--pgw-addr={gateways}"),
        ];
        let output = verbs(&["/bin/sh"], &script, &args);
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
    for (takes_gzip, other, status, compression, pushes) in [
        (true, None, 0, "gzip", &tried),
        (false, None, 0, "none", &fell_back),
        // What one gateway cannot take, the others do not get.
        (true, Some(false), 0, "none", &fell_back),
        (false, Some(true), 0, "none", &fell_back),
        (true, None, 6, "none", &tried),
        (false, None, 6, "none", &fell_back),
        (true, None, 7, "none", &fell_back),
    ] {
        let node = Installation::new();
        let first = Front::new(&gateway, &node.cron_file, takes_gzip);
        let other = other.map(|takes_gzip| Front::new(&gateway, &node.cron_file, takes_gzip));
        let mut gateways = vec![&first.fake.addr];
        gateways.extend(other.iter().map(|other| &other.fake.addr));
        gateways.extend((status == 6).then_some(&down));
        gateways.extend((status == 7).then_some(&closed));
        let gateways = gateways.into_iter().cloned().collect::<Vec<_>>().join(",");

        let (ended, said, written) = node.install(&gateways);
        assert_eq!((ended, &written[..]), (Some(status), compression), "{said}");
        assert_eq!(said.contains("==> push without gzip"), pushes == &fell_back, "{said}");
        for front in [Some(&first), other.as_ref()].into_iter().flatten() {
            assert_eq!(&front.pushes(), pushes, "{said}");
        }
        assert!(gateway.group("n").is_some());
    }
}

#[test]
fn rerun_keeps_a_compression_until_another_works() {
    if !is_root() {
        return;
    }
    let (node, gateway) = (Installation::new(), Server::pushgateway(&[]));
    let front = Front::new(&gateway, &node.cron_file, true);
    node.install(&front.fake.addr);
    front.pushes();
    let before = fs::metadata(&node.cron_file).unwrap().ino();
    let (status, said, written) = node.install(&front.fake.addr);
    assert_eq!((status, &written[..]), (Some(0), "gzip"), "{said}");
    assert_eq!(front.pushes(), [["gzip", "gzip"]]);
    assert_eq!(fs::metadata(&node.cron_file).unwrap().ino(), before, "it was written again");

    let both = format!("{},{}", front.fake.addr, unused_address());
    let (status, said, written) = node.install(&both);
    assert_eq!((status, &written[..]), (Some(6), "gzip"), "{said}");
    front.pushes();

    // An older gateway takes the place of the former one, and a newer one of that.
    front.takes_gzip.store(false, Ordering::Relaxed);
    let (status, said, written) = node.install(&front.fake.addr);
    assert_eq!((status, &written[..]), (Some(0), "none"), "{said}");
    assert_eq!(front.pushes(), [["gzip", "gzip"], ["none", "gzip"]]);
    front.takes_gzip.store(true, Ordering::Relaxed);
    let (status, said, written) = node.install(&front.fake.addr);
    assert_eq!((status, &written[..]), (Some(0), "gzip"), "{said}");
}

/// Installs a package by the verbs of deploy/demo.sh, where no systemd runs and apt-get is this script. Returns
/// the output, and the text of policy-rc.d afterwards.
fn install_package(apt_get: &str, policy: &str) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let fake = directory.path().join("apt-get");
    fs::write(&fake, format!("#!/bin/sh\n{apt_get}\n")).unwrap();
    let script = "
        chmod 755 $0/apt-get; mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /usr/sbin; PATH=$0:$PATH
        [ -z \"$1\" ] || echo \"$1\" >/usr/sbin/policy-rc.d
        sh -c 'only_verbs=yes; . ./install.sh; . deploy/demo.sh; packages_without_services no-such-package'
        status=$?; cat /usr/sbin/policy-rc.d >$0/policy 2>/dev/null; exit $status";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(directory.path())
        .arg(policy)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .complete();
    (output, fs::read_to_string(directory.path().join("policy")).unwrap())
}

#[test]
fn services_are_forbidden_only_while_apt_runs() {
    if !is_root() {
        return;
    }
    let is_forbidden = "/usr/sbin/policy-rc.d; [ $? = 101 ] || exit 9";
    for (end, status) in [("exit 0", 0), ("exit 100", 1), ("kill -TERM $PPID; exit 0", 130)] {
        let (output, policy) = install_package(&format!("{is_forbidden}; {end}"), "");
        assert_eq!(output.status.code(), Some(status), "{end}: {output:?}");
        assert_eq!(policy, "", "{end}");
    }
    // A killed run may have left its own. An administrator's stays.
    let (output, policy) = install_package(is_forbidden, "#!/bin/sh\n# pgw-forwarder\nexit 101");
    assert_eq!((output.status.code(), &policy[..]), (Some(0), ""), "{output:?}");
    let (output, policy) = install_package("exit 0", "#!/bin/sh\nexit 0");
    assert_eq!((output.status.code(), &policy[..]), (Some(0), "#!/bin/sh\nexit 0\n"), "{output:?}");
}
