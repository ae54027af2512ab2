//! A whole node: install.sh, exporter.service and the cron entry on a booted machine, with cron itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::booted_machine::{INSIDE, Machine, OUTSIDE, Suite, on_each_suite, unmet_requirement};
use crate::host::{Complete, require};
use crate::run::FORWARDER;
use crate::servers::Server;
use crate::tls_and_credentials::{Files, PASSWORD};

const CRON_FILE: &str = "/etc/cron.d/pgw-forwarder";

/// The cron entry that pgw-forwarder replaces.
const ARTICLE: &str = "\
PGW_JOB=node
PGW_INSTANCE='n4'
0 0 * * * nobody curl -s http://127.0.0.1:9014/metrics | curl --data-binary @- \
http://$PGW_ADDR/metrics/job/$PGW_JOB/instance/${PGW_INSTANCE}
";

on_each_suite! {
    node_joins_with_one_command_and_leaves_no_trace,
    node_and_exporter_return_after_a_reboot,
    node_recovers_from_a_cut_link_and_a_hanging_gateway,
    only_the_user_of_cron_can_read_credentials,
}

/// A node and its monitoring host.
struct Scene {
    machine: Machine,
    gateway: Server,
    prometheus: Server,
    /// More options of each install.sh.
    options: &'static str,
    /// The number of groups that cron pushes.
    groups: Cell<usize>,
}

/// Boots a machine with a release bundle.
fn boot(suite: Suite) -> Machine {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    Machine::boot(
        suite,
        &[
            (Path::new(FORWARDER), "pgw-forwarder"),
            (&source.join("install.sh"), "install.sh"),
            (&source.join("crontab.example"), "crontab.example"),
            (&source.join("deploy/node/exporter.service"), "deploy/node/exporter.service"),
        ],
    )
}

impl Scene {
    fn new(suite: Suite) -> Scene {
        let machine = boot(suite);
        let gateway = Server::pushgateway_on(OUTSIDE, &[]);
        let prometheus = Server::prometheus(&gateway, None);
        Scene { machine, gateway, prometheus, options: "", groups: Cell::new(1) }
    }

    /// A scene for stories that wait for several runs of cron, but are not about its schedule.
    fn with_short_minutes(suite: Suite) -> Scene {
        let scene = Scene::new(suite);
        scene.machine.shorten_minutes_of_cron(5);
        Scene { options: "--splay 0", ..scene }
    }

    /// The command of install.sh with this node's arguments, and more.
    fn install(&self, more: &str) -> String {
        let Scene { gateway, options, .. } = self;
        format!("bundle/install.sh --pgw-addr {} --pgw-instance n4 {options} {more}", gateway.addr)
    }

    /// Installs the packages, and then pgw-forwarder. Returns the state between the two.
    fn join(&self) -> BTreeMap<String, String> {
        self.machine.succeed("bundle/install.sh --packages cron prometheus-node-exporter");
        self.machine.succeed("systemctl --quiet enable --now cron");
        let before = self.machine.state();
        self.machine.succeed(&self.install(""));
        before
    }

    /// Uninstalls, and asserts that nothing is left, on the machine or on the gateway.
    fn leave(&self, before: &BTreeMap<String, String>) {
        self.machine.succeed("bundle/install.sh --uninstall");
        assert_eq!(self.push_time("node"), None);
        self.machine.assert_state(before, "uninstalled");
        let unit = self.machine.run("systemctl status exporter");
        assert!(!unit.status.success(), "{unit:?}");
    }

    /// The variables in the cron file that install.sh itself has chosen.
    fn chosen(&self) -> String {
        self.machine.succeed(&format!("grep -E '^(PGW_COMPRESSION|FORWARDER_SPLAY)=' {CRON_FILE}"))
    }

    /// The time of the last push of a job.
    fn push_time(&self, job: &str) -> Option<String> {
        let mut groups = self.gateway.groups().into_iter();
        let (_, group) =
            groups.find(|(l, _)| l.len() == 2 && l["job"] == job && l["instance"] == "n4")?;
        let metrics = &group["push_time_seconds"]["metrics"];
        Some(metrics[0]["value"].as_str().unwrap().to_owned())
    }

    /// Waits until cron has pushed once more.
    fn wait_for_push(&self, job: &str) {
        let before = self.push_time(job);
        self.wait_for_cron("a push", || (self.push_time(job) != before).then_some(()));
    }

    /// The average number of bytes of the pushes so far.
    fn pushed_bytes(&self) -> f64 {
        let page = self.gateway.page("/metrics");
        let value = |name: &str| -> f64 {
            let name = format!("pushgateway_http_push_size_bytes_{name}{{method=\"put\"}} ");
            let line = page.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap().parse().unwrap()
        };
        value("sum") / value("count")
    }

    /// Waits until the log has `count` more lines with all of `parts`.
    fn wait_for_log(&self, count: usize, parts: &[&str]) {
        let seen = self.machine.log().len();
        self.wait_for_cron(&format!("{count} lines with {parts:?} in the log"), || {
            let log = self.machine.log();
            let new = log.iter().skip(seen);
            let found = new.filter(|line| parts.iter().all(|part| line.contains(part))).count();
            (found >= count).then_some(())
        });
    }

    /// Waits for a result of cron's next runs. Asserts meanwhile that runs do not pile up: of the runs for a
    /// group, one continues, and any other ends at once.
    fn wait_for_cron<T>(&self, awaited: &str, condition: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        let mut before = Vec::new();
        loop {
            if let Some(found) = condition() {
                return found;
            }
            let log = self.machine.log();
            let late = start.elapsed() > Duration::from_secs(240);
            assert!(!late, "{awaited}: not within four minutes: {log:#?}");
            thread::sleep(Duration::from_millis(500));
            let now = self.machine.processes("pgw-forwarder");
            let both: Vec<_> = now.iter().filter(|pid| before.contains(*pid)).collect();
            assert!(both.len() <= self.groups.get(), "{both:?} run at once");
            before = now;
        }
    }
}

/// The best compression that this gateway takes.
fn best_compression(gateway: &Server) -> &'static str {
    let status: Value = serde_json::from_str(&gateway.page("/api/v1/status")).unwrap();
    let version = status["data"]["build_information"]["version"].as_str();
    let mut parts = version.unwrap().split('.').map(|n| n.parse().unwrap());
    match (parts.next().unwrap(), parts.next().unwrap()) {
        (0, _) | (1, 0..=4) => "none",
        (_, 0u32..) => "gzip",
    }
}

/// The inodes and times of the files that install.sh writes. Another write changes them.
fn written(machine: &Machine) -> Vec<(u64, i64, i64)> {
    let files = [
        CRON_FILE,
        "/etc/systemd/system/exporter.service",
        "/etc/tmpfiles.d/pgw-forwarder.conf",
        "/usr/local/bin/pgw-forwarder",
        "/var/lib/pgw-forwarder/made",
        "/etc/passwd",
    ];
    let found = files.map(|file| fs::metadata(machine.file(file)).unwrap());
    found.map(|m| (m.ino(), m.mtime(), m.mtime_nsec())).into()
}

/// Whether this port of the machine accepts a connection from the other end of its link.
fn is_reachable(port: u16) -> bool {
    let address = SocketAddr::new(INSIDE.parse().unwrap(), port);
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

fn node_joins_with_one_command_and_leaves_no_trace(suite: Suite) {
    let scene = Scene::new(suite);
    let machine = &scene.machine;

    // A dry run lists its steps, and takes none.
    let untouched = machine.state();
    let packages = || machine.succeed("dpkg-query --show --showformat='${Package}\n'");
    let bare = packages();
    let steps = machine.succeed(&scene.install("--dry-run"));
    for step in
        ["package cron", "package prometheus-node-exporter", "user pgw-forwarder", CRON_FILE]
    {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    machine.assert_state(&untouched, "after a dry run");

    // The one command, killed once while it installs packages. The service of the exporter's package, whose
    // port would be open to all, never starts.
    machine.run(&format!("timeout --signal=KILL 4 {}", scene.install("")));
    machine.succeed(&scene.install(""));
    assert!(!machine.file("/usr/sbin/policy-rc.d").exists());
    assert!(scene.push_time("node").is_some());
    assert_eq!(machine.succeed("journalctl --quiet --unit=prometheus-node-exporter"), "");
    assert!(!machine.run("systemctl is-enabled prometheus-node-exporter").status.success());

    // Uninstall everything, with the packages. Then install the packages first, and the rest after them.
    machine.succeed("bundle/install.sh --uninstall --purge");
    assert_eq!(scene.push_time("node"), None);
    assert_eq!(packages(), bare);
    let listening = machine.succeed("ss -Hltun");
    let before = scene.join();
    let pushed = scene.push_time("node");
    let installed = machine.state();
    assert_eq!(
        machine.succeed("systemctl is-enabled exporter && systemctl is-active exporter"),
        "enabled\nactive\n"
    );

    // cron pushes, and again, with the best compression of the gateway. This node's own moment is 17.4 seconds
    // after the start of the minute.
    let compression = format!("PGW_COMPRESSION={}\n", best_compression(&scene.gateway));
    assert_eq!(scene.chosen(), format!("{compression}FORWARDER_SPLAY=30\n"));
    scene.wait_for_push("node");
    scene.wait_for_push("node");
    assert_ne!(scene.push_time("node"), pushed);
    let time: f64 = scene.push_time("node").unwrap().parse().unwrap();
    assert!((17.4..=27.4).contains(&(time % 60.0)), "{time}");
    let text = machine.succeed("bundle/pgw-forwarder --dry-run").len() as f64;
    let bytes = scene.pushed_bytes();
    assert!(bytes < text / 3.0, "{bytes} of {text} bytes");
    let found = scene.prometheus.query("node_uname_info{job=\"node\",instance=\"n4\"}");
    assert_eq!(found["metric"]["nodename"], "node.example");
    assert_eq!(machine.log(), [""; 0], "success is silent");

    // No port of the node is open, even if an administrator changes the listen address.
    let reachable: Vec<u16> = (1..=u16::MAX).filter(|port| is_reachable(*port)).collect();
    assert_eq!(reachable, [0; 0]);
    machine.succeed("sed -i 's/127.0.0.1:9014/0.0.0.0:9014/' /etc/systemd/system/exporter.service");
    machine.succeed("systemctl daemon-reload && systemctl restart exporter");
    scene.wait_for_cron("the exporter", || {
        machine.succeed("ss -Hltn").contains(":9014").then_some(())
    });
    assert!(!is_reachable(9014));

    // A rerun repairs that, and another rerun changes nothing.
    machine.succeed(&scene.install(""));
    let files = written(machine);
    let process = machine.processes("prometheus-node-exporter");
    assert_eq!(process.len(), 1);
    machine.succeed(&scene.install(""));
    assert_eq!(written(machine), files);
    assert_eq!(machine.processes("prometheus-node-exporter"), process);
    assert_eq!(
        machine.succeed("grep -rl pgw-forwarder /etc/cron.d /var/spool/cron").lines().count(),
        1
    );

    // The unit hides no metrics, and is as restricted as promised.
    let families = |port: u16| {
        let ask = format!("EXPORTER_ADDR=127.0.0.1:{port} bundle/pgw-forwarder --dry-run");
        let page = machine.succeed(&ask);
        let is_compared = |line: &&str| {
            line.starts_with("# TYPE ")
                || line.starts_with("node_filesystem_readonly")
                || line.starts_with("node_scrape_collector_success")
        };
        page.lines().filter(is_compared).map(String::from).collect::<Vec<_>>()
    };
    machine.succeed(
        "systemd-run --quiet --unit=plain --uid=node-exporter prometheus-node-exporter \
         --web.listen-address=127.0.0.1:9015 --web.disable-exporter-metrics",
    );
    scene.wait_for_cron("an exporter without the unit", || {
        machine.succeed("ss -Hltn").contains(":9015").then_some(())
    });
    assert_eq!(families(9014), families(9015));
    machine.succeed("systemctl stop plain");
    let verdict = machine.succeed("systemd-analyze security --no-pager exporter.service");
    let (_, level) = verdict.rsplit_once("exporter.service: ").unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= 2.0, "{verdict}");

    // install.sh warns about other entries that push the same group, and about open exporters.
    machine.succeed("systemctl start prometheus-node-exporter");
    let article = format!("PGW_ADDR={}\n{ARTICLE}", scene.gateway.addr);
    let others = article.replace("n4", "n40");
    fs::write(machine.file("/etc/cron.d/article"), &article).unwrap();
    fs::write(machine.file("/etc/cron.d/others"), &others).unwrap();
    let output = machine.run(&scene.install(""));
    assert!(output.status.success(), "{output:?}");
    let warnings = String::from_utf8(output.stderr).unwrap();
    let warnings: Vec<_> = warnings.lines().filter(|line| line.contains("warning")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(
        warnings[0].contains("systemctl disable --now prometheus-node-exporter"),
        "{warnings:#?}"
    );
    assert!(warnings[1].contains("line 4 of /etc/cron.d/article"), "{warnings:#?}");
    machine.succeed("systemctl is-active prometheus-node-exporter");
    machine.succeed(
        "systemctl stop prometheus-node-exporter && rm /etc/cron.d/article /etc/cron.d/others",
    );

    // A rerun after a kill at any moment ends in the same state.
    for moment in 1..=12 {
        machine.succeed("bundle/install.sh --uninstall --keep-metrics");
        machine.run(&format!("timeout --signal=KILL 0.{moment:02} {}", scene.install("")));
        machine.succeed(&scene.install(""));
        machine.assert_state(&installed, &format!("killed after 0.{moment:02} s"));
    }

    // Only root can read a cron file with a secret.
    machine.succeed(&scene.install("--extra '--pgw-label from=http://user:secret@host'"));
    assert_eq!(machine.succeed(&format!("stat -c %a {CRON_FILE}")), "600\n");
    let labelled = |(labels, _): &(BTreeMap<String, String>, _)| labels.contains_key("from");
    assert!(scene.gateway.groups().iter().any(labelled));
    machine.succeed("bundle/install.sh --uninstall");
    assert!(!scene.gateway.groups().iter().any(labelled));
    machine.succeed(&scene.install(""));
    assert_eq!(machine.succeed(&format!("stat -c %a {CRON_FILE}")), "644\n");

    // No trace is left, on the node or on the gateway. Uninstalling twice is safe.
    scene.leave(&before);
    scene.leave(&before);
    assert_eq!(machine.succeed("ss -Hltun"), listening);

    // install.sh neither overwrites nor removes files of others.
    let unit = machine.file("/etc/systemd/system/exporter.service");
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert_eq!(machine.run(&scene.install("")).status.code(), Some(1));
    machine.succeed("bundle/install.sh --uninstall");
    fs::remove_file(unit).unwrap();
    machine.assert_state(&before, "refused");

    // No value can add a line to the cron file. The group under a former key is deleted.
    machine.succeed(&scene.install("--pgw-instance 'x\\n* * * * * root id\\n'"));
    let entries = machine.succeed(&format!("grep -c '^[*]' {CRON_FILE}"));
    assert_eq!(entries, "1\n");
    let instances = || {
        let groups = scene.gateway.groups().into_iter();
        groups.map(|(mut labels, _)| labels.remove("instance").unwrap()).collect::<Vec<_>>()
    };
    assert!(instances().contains(&"x\\n* * * * * root id\\n".to_owned()));
    machine.succeed(&scene.install(""));
    assert!(instances().iter().all(|instance| instance == "n4"));

    // It stays until a push with the new settings succeeds, here to an address without a gateway.
    let output = machine.run(&scene.install(&format!("--pgw-addr {OUTSIDE}:1")));
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(scene.push_time("node").is_some());
    let output = machine.run(&scene.install("--pgw-job late --extra '--exporter-metric none'"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    machine.succeed(&format!(
        "PGW_JOB=late PGW_INSTANCE=n4 PGW_ADDR={} bundle/pgw-forwarder --lock-file lock",
        scene.gateway.addr
    ));
    machine.succeed(&scene.install("--pgw-job other"));
    assert_eq!(scene.push_time("node"), None);
    assert_eq!(scene.push_time("late"), None);
    assert!(scene.push_time("other").is_some());
    let output = machine.run(&scene.install(&format!("--pgw-addr {OUTSIDE}:1")));
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let output = machine.run("bundle/install.sh --uninstall");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert_eq!(scene.push_time("other"), None);
    machine.succeed(&scene.install(""));

    // Each of several gateways gets the push, and the delete.
    let other = Server::pushgateway_on(OUTSIDE, &[]);
    let both = format!("--pgw-addr {},{}", scene.gateway.addr, other.addr);
    machine.succeed(&scene.install(&both));
    assert!(scene.chosen().contains(&compression));
    assert!(scene.push_time("node").is_some() && other.group("n4").is_some());
    machine.succeed("bundle/install.sh --uninstall");
    assert!(scene.push_time("node").is_none() && other.group("n4").is_none());

    // The next uninstalling finishes one that was killed or could not reach the gateway.
    for moment in 1..=6 {
        machine.succeed(&scene.install(""));
        machine.run(&format!("timeout --signal=KILL 0.{moment:02} bundle/install.sh --uninstall"));
        machine.succeed("bundle/install.sh --uninstall");
        assert_eq!(scene.push_time("node"), None, "killed after 0.{moment:02} s");
        machine.assert_state(&before, "uninstalled");
    }
    machine.succeed(&scene.install(""));
    machine.link("down");
    let output = machine.run("bundle/install.sh --uninstall");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    machine.link("up");
    scene.wait_for_cron("the link", || {
        machine.run("bundle/install.sh --uninstall").status.success().then_some(())
    });
    assert_eq!(scene.push_time("node"), None);
    machine.assert_state(&before, "uninstalled");
}

fn node_and_exporter_return_after_a_reboot(suite: Suite) {
    let scene = Scene::with_short_minutes(suite);
    let machine = &scene.machine;
    let before = scene.join();

    machine.reboot();
    scene.wait_for_push("node");

    // systemd restarts a killed exporter. A stopped one is reported each minute, and nothing is pushed.
    let process = machine.processes("prometheus-node-exporter");
    machine.succeed("systemctl kill --kill-who=main --signal=KILL exporter");
    scene.wait_for_cron("a new exporter", || {
        let now = machine.processes("prometheus-node-exporter");
        (now.len() == 1 && now != process).then_some(())
    });
    scene.wait_for_push("node");
    machine.succeed("systemctl stop exporter");
    let stopped = scene.push_time("node");
    scene.wait_for_log(
        2,
        &[
            "exporter http://127.0.0.1:9014/metrics is down: Connection refused",
            ". (exit status 4)",
        ],
    );
    assert_eq!(scene.push_time("node"), stopped);
    machine.succeed("systemctl start exporter");
    scene.wait_for_push("node");

    scene.leave(&before);
}

fn node_recovers_from_a_cut_link_and_a_hanging_gateway(suite: Suite) {
    let scene = Scene::with_short_minutes(suite);
    let machine = &scene.machine;
    let before = scene.join();

    // A cut link: runs end within their limits, and the first one after it pushes. install.sh ends with the
    // status of its push, but the new settings stay.
    machine.link("down");
    let output = machine.run(&scene.install("--exporter-addr 127.0.0.1:9016"));
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(machine.succeed(&format!("cat {CRON_FILE}")).contains("EXPORTER_ADDR=127.0.0.1:9016"));
    // Without a response, install.sh cannot know that the gateway takes gzip.
    assert!(scene.chosen().contains("PGW_COMPRESSION=none\n"));
    scene.wait_for_log(2, &["gateway", "is unreachable", ". (exit status 6)"]);
    machine.link("up");
    scene.wait_for_push("node");

    // A gateway that hangs for longer than a minute, and runs with a longer limit: the second run ends at
    // once. An entry for another job does not wait for this one.
    machine.succeed(&scene.install("--extra '--push-timeout 90'"));
    let compression = format!("PGW_COMPRESSION={}\n", best_compression(&scene.gateway));
    assert!(scene.chosen().contains(&compression), "a rerun tries gzip again");
    let second = machine.succeed(&format!("cat {CRON_FILE}")).replace("=node\n", "=other\n");
    scene.gateway.pause(true);
    scene.wait_for_log(1, &["another run (PID ", ". (exit status 3)"]);
    scene.gateway.pause(false);
    scene.wait_for_push("node");
    fs::write(machine.file("/etc/cron.d/second"), second).unwrap();
    scene.groups.set(2);
    scene.wait_for_cron("both jobs", || {
        scene.push_time("other").filter(|_| scene.push_time("node").is_some())
    });
    machine.succeed("rm /etc/cron.d/second");
    scene.groups.set(1);

    scene.leave(&before);
}

fn only_the_user_of_cron_can_read_credentials(suite: Suite) {
    let machine = boot(suite);
    let files = Files::new();
    let secured = Server::secured_pushgateway(OUTSIDE, &files.file("login.yml"));
    let mutual = Server::secured_pushgateway(OUTSIDE, &files.file("mutual.yml"));
    let plain = Server::pushgateway_on(OUTSIDE, &[]);
    for file in ["ca.crt", "password", "wrong", "token", "node.crt", "node.key"] {
        fs::copy(files.file(file), machine.file(&format!("/root/{file}"))).unwrap();
    }
    machine.succeed("bundle/install.sh --packages cron prometheus-node-exporter");
    machine.succeed("systemctl --quiet enable --now cron");
    let before = machine.state();
    let login = format!(
        "bundle/install.sh --pgw-addr https://{} --pgw-cacert ca.crt --pgw-user node",
        secured.addr
    );
    // The push that tries the compression has the credentials.
    let compression = format!("PGW_COMPRESSION={}\n", best_compression(&plain));
    let is_best = || machine.succeed(&format!("grep ^PGW_COMPRESSION= {CRON_FILE}")) == compression;
    let stored =
        |name: &str| machine.succeed(&format!("stat -c '%a %U' /etc/pgw-forwarder/{name}"));

    // A password from a file, a variable, and a prompt. The first push proves each.
    machine.succeed(&format!("{login} --pgw-password-file password"));
    assert_eq!(stored("password"), "400 pgw-forwarder\n");
    assert_eq!(stored("ca.crt"), "400 pgw-forwarder\n");
    machine.succeed(&format!("PGW_PASSWORD={PASSWORD} {login}"));
    machine.succeed(&format!(
        "echo {PASSWORD} | script --quiet --return --command '{login}' /dev/null"
    ));
    assert_eq!(stored("password"), "400 pgw-forwarder\n");
    let shown = machine.succeed("grep -r . /etc/cron.d/pgw-forwarder /var/lib/pgw-forwarder");
    assert!(shown.contains("PGW_USER=node") && !shown.contains(PASSWORD));
    assert!(is_best());
    let output = machine.run(&format!("{login} </dev/null"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = machine.run(&format!("{login} --pgw-password-file wrong"));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(!is_best());
    machine.succeed(&format!("{login} --pgw-password-file password"));

    // Other credentials, and none at all. Files of former ones are removed.
    machine.succeed(&format!(
        "bundle/install.sh --pgw-addr https://{} --pgw-cacert ca.crt --pgw-cert node.crt --pgw-key node.key",
        mutual.addr
    ));
    assert_eq!(stored("client.key"), "400 pgw-forwarder\n");
    assert!(is_best());
    assert!(!machine.file("/etc/pgw-forwarder/password").exists());
    machine.succeed(&format!("bundle/install.sh --pgw-addr {} --pgw-token-file token", plain.addr));
    assert_eq!(stored("token"), "400 pgw-forwarder\n");
    machine.succeed(&format!("bundle/install.sh --pgw-addr {}", plain.addr));
    let left = fs::read_dir(machine.file("/etc/pgw-forwarder")).unwrap();
    assert_eq!(left.count(), 0);

    // Neither a strict umask nor a source that is install.sh's own copy does harm.
    machine.succeed(&format!("umask 077; {login} --pgw-password-file password"));
    machine.succeed(&format!("{login} --pgw-password-file /etc/pgw-forwarder/password"));
    machine.succeed(&format!(
        "bundle/install.sh --pgw-addr {} --pgw-token-file /etc/pgw-forwarder/password",
        plain.addr
    ));
    assert_eq!(stored("token"), "400 pgw-forwarder\n");
    let both = machine.run(&format!("PGW_PASSWORD=x {login} --pgw-password-file password"));
    assert_eq!(both.status.code(), Some(2), "{both:?}");

    // Uninstalling removes them.
    machine.succeed(&format!("{login} --pgw-password-file password"));
    machine.succeed("bundle/install.sh --uninstall");
    machine.assert_state(&before, "uninstalled");
}

#[test]
fn machine_without_systemd_is_refused_and_left_unchanged() {
    if !require(unmet_requirement().is_none(), "a machine without systemd needs root") {
        return;
    }
    let script = "mount -t tmpfs tmpfs /run && exec ./install.sh --pgw-addr push.example";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .complete();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("does not run systemd"), "{stderr}");
    assert!(stderr.contains("nothing was changed"), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
