//! A node under watch: install.sh, exporter.service and the cron entry, on a machine that systemd
//! has booted and where cron itself keeps the time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::booted_machine::{INSIDE, Machine, OUTSIDE, enter_own_namespaces, needs};
use crate::host::require;
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

/// The monitoring side and the node.
struct Scene {
    machine: Machine,
    gateway: Server,
    prometheus: Server,
    /// How many groups cron pushes.
    groups: Cell<usize>,
}

/// A machine with a release bundle.
fn boot() -> Machine {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    Machine::boot(&[
        (Path::new(FORWARDER), "pgw-forwarder"),
        (&source.join("install.sh"), "install.sh"),
        (&source.join("crontab.example"), "crontab.example"),
        (&source.join("deploy/node/exporter.service"), "deploy/node/exporter.service"),
    ])
}

impl Scene {
    fn set() -> Scene {
        let machine = boot();
        let gateway = Server::pushgateway_on(OUTSIDE, &[]);
        let prometheus = Server::prometheus(&gateway, None);
        Scene { machine, gateway, prometheus, groups: Cell::new(1) }
    }

    /// install.sh with the arguments of this node, and more.
    fn install(&self, more: &str) -> String {
        format!("bundle/install.sh --pgw-addr {} --pgw-instance n4 {more}", self.gateway.addr)
    }

    /// Has the machine join, which has the packages already; returns its state from before.
    fn join(&self) -> BTreeMap<String, String> {
        self.machine.says("bundle/install.sh --packages cron prometheus-node-exporter");
        self.machine.says("systemctl --quiet enable --now cron");
        let before = self.machine.state();
        self.machine.says(&self.install(""));
        before
    }

    /// Has the machine leave, and asserts that nothing is left of it, there or on the gateway.
    fn leave(&self, before: &BTreeMap<String, String>) {
        self.machine.says("bundle/install.sh --uninstall");
        assert_eq!(self.push_time("node"), None);
        self.machine.is_as(before, "uninstalled");
        let unit = self.machine.run("systemctl status exporter");
        assert!(!unit.status.success(), "{unit:?}");
    }

    /// Those lines of the cron file that install.sh has found out.
    fn settings(&self) -> String {
        self.machine.says(&format!("grep -E '^(PGW_ENCODING|FORWARDER_SPLAY)=' {CRON_FILE}"))
    }

    /// When the group of a job was last pushed.
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

    /// How many bytes a push has had so far, on average.
    fn pushed_bytes(&self) -> f64 {
        let page = self.gateway.page("/metrics");
        let value = |name: &str| -> f64 {
            let name = format!("pushgateway_http_push_size_bytes_{name}{{method=\"post\"}} ");
            let line = page.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap().parse().unwrap()
        };
        value("sum") / value("count")
    }

    /// Waits until the log has `count` more lines with all of `words`.
    fn wait_for_log(&self, count: usize, words: &[&str]) {
        let seen = self.machine.log().len();
        self.wait_for_cron("the log", || {
            let log = self.machine.log();
            let new = log.iter().skip(seen);
            let found = new.filter(|line| words.iter().all(|word| line.contains(word))).count();
            (found >= count).then_some(())
        });
    }

    /// Waits for what cron's next runs do, and asserts all the while that they do not pile up: of
    /// the runs for one group, one goes on, and any other leaves at once.
    fn wait_for_cron<T>(&self, what: &str, condition: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        let mut before = Vec::new();
        loop {
            if let Some(found) = condition() {
                return found;
            }
            let log = self.machine.log();
            let late = start.elapsed() > Duration::from_secs(240);
            assert!(!late, "{what}: not in four minutes: {log:#?}");
            thread::sleep(Duration::from_millis(500));
            let now = self.machine.processes("pgw-forwarder");
            let both: Vec<_> = now.iter().filter(|pid| before.contains(*pid)).collect();
            assert!(both.len() <= self.groups.get(), "{both:?} run at once");
            before = now;
        }
    }
}

/// The best encoding that this gateway is known to take.
fn best_encoding(gateway: &Server) -> &'static str {
    let status: Value = serde_json::from_str(&gateway.page("/api/v1/status")).unwrap();
    let version = status["data"]["build_information"]["version"].as_str();
    let mut parts = version.unwrap().split('.').map(|n| n.parse().unwrap());
    match (parts.next().unwrap(), parts.next().unwrap()) {
        (0, _) | (1, 0..=4) => "text",
        (1, 5..=7) => "text+gzip",
        (_, 0u32..) => "protobuf+gzip",
    }
}

/// The files that install.sh has made, with what tells whether they were written again.
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

/// Whether a machine can boot for this test here, which is in a network of its own.
fn is_on_stage(test: &str) -> bool {
    let needs = needs();
    require(needs.is_none(), needs.as_deref().unwrap_or_default())
        && enter_own_namespaces(&format!("node_installation::{test}"))
}

/// Whether this port of the machine can be reached from the other end of its link.
fn is_reachable(port: u16) -> bool {
    let address = SocketAddr::new(INSIDE.parse().unwrap(), port);
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

#[test]
fn a_node_joins_with_one_command_and_leaves_no_trace() {
    if !is_on_stage("a_node_joins_with_one_command_and_leaves_no_trace") {
        return;
    }
    let scene = Scene::set();
    let machine = &scene.machine;

    // A dry run says what it would do, and does nothing.
    let untouched = machine.state();
    let packages = || machine.says("dpkg-query --show --showformat='${Package}\n'");
    let bare = packages();
    let steps = machine.says(&scene.install("--dry-run"));
    for step in
        ["package cron", "package prometheus-node-exporter", "user pgw-forwarder", CRON_FILE]
    {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    machine.is_as(&untouched, "after a dry run");

    // The one command, once killed among the packages. The service of the exporter's package, which
    // listens for everybody, never comes up.
    machine.run(&format!("timeout --signal=KILL 4 {}", scene.install("")));
    machine.says(&scene.install(""));
    assert!(!machine.file("/usr/sbin/policy-rc.d").exists());
    assert!(scene.push_time("node").is_some());
    assert_eq!(machine.says("journalctl --quiet --unit=prometheus-node-exporter"), "");
    assert!(!machine.run("systemctl is-enabled prometheus-node-exporter").status.success());

    // Away with it, packages and all; and once more, with the packages there already.
    machine.says("bundle/install.sh --uninstall --purge");
    assert_eq!(scene.push_time("node"), None);
    assert_eq!(packages(), bare);
    let listening = machine.says("ss -Hltun");
    let before = scene.join();
    let pushed = scene.push_time("node");
    let installed = machine.state();
    assert_eq!(
        machine.says("systemctl is-enabled exporter && systemctl is-active exporter"),
        "enabled\nactive\n"
    );

    // cron fires, and fires again: at this node's own moment of the minute, which is 17.4 seconds after
    // its beginning, and as the gateway takes it best.
    let encoding = format!("PGW_ENCODING={}\n", best_encoding(&scene.gateway));
    assert_eq!(scene.settings(), format!("{encoding}FORWARDER_SPLAY=30\n"));
    scene.wait_for_push("node");
    scene.wait_for_push("node");
    assert_ne!(scene.push_time("node"), pushed);
    let time: f64 = scene.push_time("node").unwrap().parse().unwrap();
    assert!((17.4..=27.4).contains(&(time % 60.0)), "{time}");
    let text = machine.says("bundle/pgw-forwarder --dry-run").len() as f64;
    let bytes = scene.pushed_bytes();
    assert!(bytes < text / 3.0, "{bytes} of {text} bytes");
    let found = scene.prometheus.query("node_uname_info{job=\"node\",instance=\"n4\"}");
    assert_eq!(found["metric"]["nodename"], "node.example");
    assert_eq!(machine.log(), [""; 0], "success is silent");

    // Nothing of the node can be reached, not even if someone changes the listen address.
    let reachable: Vec<u16> = (1..=u16::MAX).filter(|port| is_reachable(*port)).collect();
    assert_eq!(reachable, [0; 0]);
    machine.says("sed -i 's/127.0.0.1:9014/0.0.0.0:9014/' /etc/systemd/system/exporter.service");
    machine.says("systemctl daemon-reload && systemctl restart exporter");
    scene
        .wait_for_cron("the exporter", || machine.says("ss -Hltn").contains(":9014").then_some(()));
    assert!(!is_reachable(9014));

    // The same command again mends that; and again, it changes nothing.
    machine.says(&scene.install(""));
    let files = written(machine);
    let process = machine.processes("prometheus-node-exporter");
    assert_eq!(process.len(), 1);
    machine.says(&scene.install(""));
    assert_eq!(written(machine), files);
    assert_eq!(machine.processes("prometheus-node-exporter"), process);
    assert_eq!(
        machine.says("grep -rl pgw-forwarder /etc/cron.d /var/spool/cron").lines().count(),
        1
    );

    // The unit hides nothing of what is to be measured, and is as hard as promised.
    let families = |port: u16| {
        let ask = format!("EXPORTER_ADDR=127.0.0.1:{port} bundle/pgw-forwarder --dry-run");
        let page = machine.says(&ask);
        let is_told = |line: &&str| {
            line.starts_with("# TYPE ")
                || line.starts_with("node_filesystem_readonly")
                || line.starts_with("node_scrape_collector_success")
        };
        page.lines().filter(is_told).map(String::from).collect::<Vec<_>>()
    };
    machine.says(
        "systemd-run --quiet --unit=plain --uid=node-exporter prometheus-node-exporter \
         --web.listen-address=127.0.0.1:9015 --web.disable-exporter-metrics",
    );
    scene.wait_for_cron("an exporter without the unit", || {
        machine.says("ss -Hltn").contains(":9015").then_some(())
    });
    assert_eq!(families(9014), families(9015));
    machine.says("systemctl stop plain");
    let verdict = machine.says("systemd-analyze security --no-pager exporter.service");
    let (_, level) = verdict.rsplit_once("exporter.service: ").unwrap();
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= 2.0, "{verdict}");

    // What else pushes the same group, or opens the exporter's port, is left alone and told about.
    machine.says("systemctl start prometheus-node-exporter");
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
    machine.says("systemctl is-active prometheus-node-exporter");
    machine.says(
        "systemctl stop prometheus-node-exporter && rm /etc/cron.d/article /etc/cron.d/others",
    );

    // Killed at any moment and run again, it ends in the same state.
    for moment in 1..=12 {
        machine.says("bundle/install.sh --uninstall --keep-metrics");
        machine.run(&format!("timeout --signal=KILL 0.{moment:02} {}", scene.install("")));
        machine.says(&scene.install(""));
        machine.is_as(&installed, &format!("killed after 0.{moment:02} s"));
    }

    // A cron file with a secret is root's alone.
    machine.says(&scene.install("--extra '--pgw-label from=http://user:secret@host'"));
    assert_eq!(machine.says(&format!("stat -c %a {CRON_FILE}")), "600\n");
    let labelled = |(labels, _): &(BTreeMap<String, String>, _)| labels.contains_key("from");
    assert!(scene.gateway.groups().iter().any(labelled));
    machine.says("bundle/install.sh --uninstall");
    assert!(!scene.gateway.groups().iter().any(labelled));
    machine.says(&scene.install(""));
    assert_eq!(machine.says(&format!("stat -c %a {CRON_FILE}")), "644\n");

    // No trace is left, on the node or on the gateway; and there is nothing left to remove.
    scene.leave(&before);
    scene.leave(&before);
    assert_eq!(machine.says("ss -Hltun"), listening);

    // What is not install.sh's, it neither overwrites nor removes.
    let unit = machine.file("/etc/systemd/system/exporter.service");
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert_eq!(machine.run(&scene.install("")).status.code(), Some(1));
    machine.says("bundle/install.sh --uninstall");
    fs::remove_file(unit).unwrap();
    machine.is_as(&before, "refused");

    // A value is a value, whatever it looks like; and a group under a former key is not left.
    machine.says(&scene.install("--pgw-instance 'x\\n* * * * * root id\\n'"));
    let entries = machine.says(&format!("grep -c '^[*]' {CRON_FILE}"));
    assert_eq!(entries, "1\n");
    let instances = || {
        let groups = scene.gateway.groups().into_iter();
        groups.map(|(mut labels, _)| labels.remove("instance").unwrap()).collect::<Vec<_>>()
    };
    assert!(instances().contains(&"x\\n* * * * * root id\\n".to_owned()));
    machine.says(&scene.install(""));
    assert!(instances().iter().all(|instance| instance == "n4"));

    // It stays until something else has been pushed, through an address, say, where nobody is.
    let output = machine.run(&scene.install(&format!("--pgw-addr {OUTSIDE}:1")));
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(scene.push_time("node").is_some());
    let output = machine.run(&scene.install("--pgw-job late --extra '--exporter-metric none'"));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    machine.says(&format!(
        "PGW_JOB=late PGW_INSTANCE=n4 PGW_ADDR={} bundle/pgw-forwarder --lock-file lock",
        scene.gateway.addr
    ));
    machine.says(&scene.install("--pgw-job other"));
    assert_eq!(scene.push_time("node"), None);
    assert_eq!(scene.push_time("late"), None);
    assert!(scene.push_time("other").is_some());
    let output = machine.run(&scene.install(&format!("--pgw-addr {OUTSIDE}:1")));
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let output = machine.run("bundle/install.sh --uninstall");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert_eq!(scene.push_time("other"), None);
    machine.says(&scene.install(""));

    // Several gateways: each gets it, and forgets it.
    let other = Server::pushgateway_on(OUTSIDE, &[]);
    let both = format!("--pgw-addr {},{}", scene.gateway.addr, other.addr);
    machine.says(&scene.install(&both));
    assert!(scene.settings().contains(&encoding));
    assert!(scene.push_time("node").is_some() && other.group("n4").is_some());
    machine.says("bundle/install.sh --uninstall");
    assert!(scene.push_time("node").is_none() && other.group("n4").is_none());

    // Uninstalling that is killed, or cannot ask the gateway, is finished by the next time.
    for moment in 1..=6 {
        machine.says(&scene.install(""));
        machine.run(&format!("timeout --signal=KILL 0.{moment:02} bundle/install.sh --uninstall"));
        machine.says("bundle/install.sh --uninstall");
        assert_eq!(scene.push_time("node"), None, "killed after 0.{moment:02} s");
        machine.is_as(&before, "uninstalled");
    }
    machine.says(&scene.install(""));
    machine.link("down");
    let output = machine.run("bundle/install.sh --uninstall");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    machine.link("up");
    scene.wait_for_cron("the link", || {
        machine.run("bundle/install.sh --uninstall").status.success().then_some(())
    });
    assert_eq!(scene.push_time("node"), None);
    machine.is_as(&before, "uninstalled");
}

#[test]
fn a_node_comes_back_from_a_reboot_and_so_does_its_exporter() {
    if !is_on_stage("a_node_comes_back_from_a_reboot_and_so_does_its_exporter") {
        return;
    }
    let scene = Scene::set();
    let machine = &scene.machine;
    let before = scene.join();

    machine.reboot();
    scene.wait_for_push("node");

    // A killed exporter is started again; a stopped one is told about each minute, and not pushed.
    let process = machine.processes("prometheus-node-exporter");
    machine.says("systemctl kill --kill-who=main --signal=KILL exporter");
    scene.wait_for_cron("a new exporter", || {
        let now = machine.processes("prometheus-node-exporter");
        (now.len() == 1 && now != process).then_some(())
    });
    scene.wait_for_push("node");
    machine.says("systemctl stop exporter");
    let stopped = scene.push_time("node");
    scene.wait_for_log(2, &["exporter http://127.0.0.1:9014/ is down", "refused"]);
    assert_eq!(scene.push_time("node"), stopped);
    machine.says("systemctl start exporter");
    scene.wait_for_push("node");

    scene.leave(&before);
}

#[test]
fn a_node_outlives_a_cut_link_and_a_gateway_that_hangs() {
    if !is_on_stage("a_node_outlives_a_cut_link_and_a_gateway_that_hangs") {
        return;
    }
    let scene = Scene::set();
    let machine = &scene.machine;
    let before = scene.join();

    // A cut link: runs end within their limits, and the first after it pushes. What is installed
    // meanwhile stays, though install.sh ends with the status of its push.
    machine.link("down");
    let output = machine.run(&scene.install("--exporter-addr 127.0.0.1:9016"));
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(machine.says(&format!("cat {CRON_FILE}")).contains("EXPORTER_ADDR=127.0.0.1:9016"));
    // From who does not answer, nobody knows what it takes.
    assert!(scene.settings().contains("PGW_ENCODING=text\n"));
    scene.wait_for_log(2, &["gateway", "is unreachable"]);
    machine.link("up");
    scene.wait_for_push("node");

    // A gateway that hangs for longer than a minute, and runs with a limit beyond it: the second
    // leaves at once. An entry for another job goes its own way beside it.
    machine.says(&scene.install("--extra '--push-timeout 90'"));
    let second = machine.says(&format!("cat {CRON_FILE}")).replace("=node\n", "=other\n");
    scene.gateway.pause(true);
    scene.wait_for_log(1, &["another run (PID "]);
    scene.gateway.pause(false);
    scene.wait_for_push("node");
    fs::write(machine.file("/etc/cron.d/second"), second).unwrap();
    scene.groups.set(2);
    scene.wait_for_cron("both jobs", || {
        scene.push_time("other").filter(|_| scene.push_time("node").is_some())
    });
    machine.says("rm /etc/cron.d/second");
    scene.groups.set(1);

    scene.leave(&before);
}

#[test]
fn a_nodes_credentials_are_those_of_crons_user_alone() {
    if !is_on_stage("a_nodes_credentials_are_those_of_crons_user_alone") {
        return;
    }
    let machine = boot();
    let files = Files::new();
    let secured = Server::secured_pushgateway(OUTSIDE, &files.file("login.yml"));
    let mutual = Server::secured_pushgateway(OUTSIDE, &files.file("mutual.yml"));
    let plain = Server::pushgateway_on(OUTSIDE, &[]);
    for file in ["ca.crt", "password", "wrong", "token", "node.crt", "node.key"] {
        fs::copy(files.file(file), machine.file(&format!("/root/{file}"))).unwrap();
    }
    machine.says("bundle/install.sh --packages cron prometheus-node-exporter");
    machine.says("systemctl --quiet enable --now cron");
    let before = machine.state();
    let login = format!(
        "bundle/install.sh --pgw-addr https://{} --pgw-cacert ca.crt --pgw-user node",
        secured.addr
    );
    // To know what it takes, each has been asked by all that it wants.
    let encoding = format!("PGW_ENCODING={}\n", best_encoding(&plain));
    let is_best = || machine.says(&format!("grep ^PGW_ENCODING= {CRON_FILE}")) == encoding;
    let stored = |name: &str| machine.says(&format!("stat -c '%a %U' /etc/pgw-forwarder/{name}"));

    // By a file, by a variable, and asked for; the first push proves that each does.
    machine.says(&format!("{login} --pgw-password-file password"));
    assert_eq!(stored("password"), "400 pgw-forwarder\n");
    assert_eq!(stored("ca.crt"), "400 pgw-forwarder\n");
    machine.says(&format!("PGW_PASSWORD={PASSWORD} {login}"));
    machine
        .says(&format!("echo {PASSWORD} | script --quiet --return --command '{login}' /dev/null"));
    assert_eq!(stored("password"), "400 pgw-forwarder\n");
    let shown = machine.says("grep -r . /etc/cron.d/pgw-forwarder /var/lib/pgw-forwarder");
    assert!(shown.contains("PGW_USER=node") && !shown.contains(PASSWORD));
    assert!(is_best());
    let output = machine.run(&format!("{login} </dev/null"));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = machine.run(&format!("{login} --pgw-password-file wrong"));
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(!is_best());
    machine.says(&format!("{login} --pgw-password-file password"));

    // Another way in, and none at all: what is not needed any more is gone.
    machine.says(&format!(
        "bundle/install.sh --pgw-addr https://{} --pgw-cacert ca.crt --pgw-cert node.crt --pgw-key node.key",
        mutual.addr
    ));
    assert_eq!(stored("client.key"), "400 pgw-forwarder\n");
    assert!(is_best());
    assert!(!machine.file("/etc/pgw-forwarder/password").exists());
    machine.says(&format!("bundle/install.sh --pgw-addr {} --pgw-token-file token", plain.addr));
    assert_eq!(stored("token"), "400 pgw-forwarder\n");
    machine.says(&format!("bundle/install.sh --pgw-addr {}", plain.addr));
    let left = fs::read_dir(machine.file("/etc/pgw-forwarder")).unwrap();
    assert_eq!(left.count(), 0);

    // Whatever is told to whom by the one who installs it, and be it from a copy of before.
    machine.says(&format!("umask 077; {login} --pgw-password-file password"));
    machine.says(&format!("{login} --pgw-password-file /etc/pgw-forwarder/password"));
    machine.says(&format!(
        "bundle/install.sh --pgw-addr {} --pgw-token-file /etc/pgw-forwarder/password",
        plain.addr
    ));
    assert_eq!(stored("token"), "400 pgw-forwarder\n");
    let both = machine.run(&format!("PGW_PASSWORD=x {login} --pgw-password-file password"));
    assert_eq!(both.status.code(), Some(2), "{both:?}");

    // And with the rest.
    machine.says(&format!("{login} --pgw-password-file password"));
    machine.says("bundle/install.sh --uninstall");
    machine.is_as(&before, "uninstalled");
}

#[test]
fn a_machine_without_systemd_is_told_so_and_left_as_it_is() {
    if !require(needs().is_none(), "a machine without systemd needs root") {
        return;
    }
    let script = "mount -t tmpfs tmpfs /run && exec ./install.sh --pgw-addr push.example";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("does not run systemd") && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(output.stdout.is_empty(), "{output:?}");
}
