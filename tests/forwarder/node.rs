//! A node for stories about install.sh: a booted machine, and the gateway that it pushes to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::booted_machine::{INSIDE, Machine, OUTSIDE, Suite};
use crate::run::FORWARDER;
use crate::servers::Server;

pub const CRON_FILE: &str = "/etc/cron.d/pgw-forwarder";
pub const UNIT: &str = "/etc/systemd/system/exporter.service";

pub struct Node {
    pub machine: Machine,
    pub gateway: Server,
    /// The state of the machine before install.sh.
    pub before: BTreeMap<String, String>,
    /// More options of each install.sh.
    options: &'static str,
    /// The number of groups that cron pushes.
    pub groups: Cell<usize>,
}

impl Node {
    /// A machine without cron and node_exporter.
    pub fn bare(suite: Suite) -> Node {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = [
            "install.sh",
            "crontab.example",
            "deploy/node/exporter.service",
            "deploy/node/exporter.socket",
            "deploy/node/sysusers.conf",
        ];
        let paths = files.map(|file| source.join(file));
        let mut bundle = vec![(Path::new(FORWARDER), "pgw-forwarder")];
        bundle.extend(paths.iter().map(|path| path.as_path()).zip(files));
        let machine = Machine::boot(suite, &bundle);
        let gateway = Server::pushgateway_on(OUTSIDE, &[]);
        Node { machine, gateway, before: BTreeMap::new(), options: "", groups: Cell::new(1) }
    }

    /// A machine whose administrator has installed the packages.
    pub fn new(suite: Suite) -> Node {
        // Otherwise a rerun would have to wait for cron's run, which sleeps.
        Node { options: "--splay 0", ..Node::bare(suite) }.prepare()
    }

    /// The same for stories that wait for several runs of cron, but are not about its schedule.
    pub fn with_short_minutes(suite: Suite) -> Node {
        let node = Node { options: "--splay 0", ..Node::bare(suite) };
        node.machine.shorten_minutes_of_cron(5);
        node.prepare()
    }

    fn prepare(mut self) -> Node {
        self.install_packages("cron prometheus-node-exporter");
        self.before = self.machine.state();
        self
    }

    /// Installs packages whose exporters do not start.
    pub fn install_packages(&self, packages: &str) {
        let presets = "/run/systemd/system-preset";
        self.machine.succeed(&format!(
            "mkdir -p {presets} && echo 'disable prometheus-*' >{presets}/50-test.preset && \
             apt-get -qy install --no-install-recommends {packages} && rm {presets}/50-test.preset"
        ));
    }

    /// The command of install.sh with this node's arguments, and more.
    pub fn install(&self, more: &str) -> String {
        let Node { gateway, options, .. } = self;
        format!("bundle/install.sh --pgw-addr {} --pgw-instance n4 {options} {more}", gateway.addr)
    }

    /// Installs, and asserts success. Returns the warnings.
    #[track_caller]
    pub fn join(&self, more: &str) -> String {
        let output = self.machine.run(&self.install(more));
        assert!(output.status.success(), "{more}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Asserts that an installation fails with a message that contains all of `parts`.
    #[track_caller]
    pub fn refuses(&self, more: &str, status: i32, parts: &[&str]) {
        failed(&self.machine.run(&self.install(more)), status, parts);
    }

    /// Uninstalls, and asserts that nothing is left, on the machine or on the gateway.
    pub fn leave(&self) {
        self.machine.succeed("bundle/install.sh --uninstall --all");
        self.machine.assert_state(&self.before, "uninstalled");
        assert!(self.gateway.groups().is_empty());
        let unit = self.machine.run("systemctl status exporter.service exporter.socket");
        assert!(!unit.status.success(), "{unit:?}");
    }

    /// The group of a job, or its report.
    fn find_group(&self, labels: &[(&str, &str)]) -> Option<Value> {
        let mut groups = self.gateway.groups().into_iter();
        let is_wanted = |found: &BTreeMap<String, String>| {
            let found = found.iter().map(|(name, value)| (&name[..], &value[..]));
            found.collect::<BTreeMap<_, _>>() == labels.iter().copied().collect()
        };
        Some(groups.find(|(found, _)| is_wanted(found))?.1)
    }

    pub fn group(&self, job: &str) -> Option<Value> {
        self.find_group(&[("job", job), ("instance", "n4")])
    }

    /// The time of the last push of a job.
    pub fn push_time(&self, job: &str) -> Option<String> {
        Some(value(&self.group(job)?, "push_time_seconds"))
    }

    /// The exit status that the last failed run of a job has reported.
    pub fn report(&self, job: &str) -> Option<String> {
        let labels = [("job", "pgw_forwarder"), ("instance", "n4"), ("forwarded_job", job)];
        Some(value(&self.find_group(&labels)?, "pgw_forwarder_exit_status"))
    }

    /// Waits until cron has pushed once more.
    pub fn wait_for_push(&self, job: &str) {
        let before = self.push_time(job);
        self.wait_for_cron("a push", || (self.push_time(job) != before).then_some(()));
    }

    /// Waits until the log has `count` more lines with all of `parts`.
    pub fn wait_for_log(&self, count: usize, parts: &[&str]) {
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
    pub fn wait_for_cron<T>(&self, awaited: &str, condition: impl Fn() -> Option<T>) -> T {
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

    /// The lines of this node's exporter that `is_compared` accepts, as the forwarder scrapes them.
    pub fn scrape(&self, exporter: &str, is_compared: impl Fn(&str) -> bool) -> Vec<String> {
        let line = format!("EXPORTER_ADDR={exporter} bundle/pgw-forwarder --dry-run");
        let page = self.machine.succeed(&line);
        page.lines().filter(|line| is_compared(line)).map(String::from).collect()
    }

    /// Waits until a program on the machine listens on this port.
    pub fn wait_for_port(&self, port: u16) {
        self.wait_for_cron("a listener", || {
            self.machine.succeed("ss -Hltn").contains(&format!(":{port} ")).then_some(())
        });
    }
}

/// Asserts that a command failed with a message that contains all of `parts`.
#[track_caller]
pub fn failed(output: &Output, status: i32, parts: &[&str]) {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in {stderr}");
    }
}

fn value(group: &Value, family: &str) -> String {
    group[family]["metrics"][0]["value"].as_str().unwrap().to_owned()
}

/// The best compression that this gateway takes.
pub fn best_compression(gateway: &Server) -> &'static str {
    let status: Value = serde_json::from_str(&gateway.page("/api/v1/status")).unwrap();
    let version = status["data"]["build_information"]["version"].as_str();
    let mut parts = version.unwrap().split('.').map(|n| n.parse().unwrap());
    match (parts.next().unwrap(), parts.next().unwrap()) {
        (0, _) | (1, 0..=4) => "none",
        (_, 0u32..) => "gzip",
    }
}

/// Whether this port of the machine accepts a connection from the other end of its link.
pub fn is_reachable(port: u16) -> bool {
    let address = SocketAddr::new(INSIDE.parse().unwrap(), port);
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}
