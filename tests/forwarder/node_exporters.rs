//! Exporters on a booted node: how exporter.service protects itself, on a port or on a Unix socket, and what
//! pushes beside it.

use std::fs;

use crate::booted_machine::{Suite, on_each_suite};
use crate::node::{Node, UNIT, failed};

on_each_suite! {
    unit_is_restricted_and_hides_no_metric,
    socket_is_open_to_no_other_user,
    several_exporters_push_side_by_side,
}

/// An exporter of another user, on the TCP port or Unix socket $1.
const IMPOSTOR: &str = "\
use IO::Socket::INET;
use IO::Socket::UNIX;
my $body = \"impostor 1\\n\";
my $listener = $ARGV[0] =~ m(/)
    ? IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5)
    : IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], Listen => 5,
                            ReuseAddr => 1);
die \"cannot listen: $!\\n\" unless $listener;
while (my $client = $listener->accept) {
    while (<$client>) { last if /^\\r?$/ }
    print $client \"HTTP/1.1 200 OK\\r\\nContent-Length: \", length $body, \"\\r\\n\\r\\n$body\";
    close $client;
}
";

/// The exposure that systemd sees in the installed unit, running and offline.
fn assert_is_restricted(node: &Node) {
    for (arguments, limit) in [("exporter.service", 2.0), (&format!("--offline=true {UNIT}"), 2.2)]
    {
        let verdict =
            node.machine.succeed(&format!("systemd-analyze security --no-pager {arguments}"));
        let (_, level) = verdict.rsplit_once("exporter.service: ").unwrap();
        let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
        assert!(level <= limit, "{verdict}");
    }
}

fn unit_is_restricted_and_hides_no_metric(suite: Suite) {
    let node = Node::new(suite);
    let machine = &node.machine;
    let mount = |directory: &str, size: u32, options: &str| {
        machine.succeed(&format!(
            "mkdir -p {directory} && mount -t tmpfs -o size={size}m{options} tmpfs {directory}"
        ));
    };
    mount("/tmp", 31, ",mode=1777");
    mount("/data", 32, "");
    node.join("");
    assert_is_restricted(&node);

    // The same as without the unit, also for file systems that come and go later.
    machine.succeed(
        "systemd-run --quiet --unit=plain --uid=node-exporter prometheus-node-exporter \
         --web.listen-address=127.0.0.1:9015 --web.disable-exporter-metrics",
    );
    node.wait_for_port(9015);
    mount("/home", 33, "");
    mount("/home/user", 34, "");
    mount("/srv/read-only", 35, ",ro");
    let are_equal = || {
        let [unit, plain] = ["127.0.0.1:9014", "127.0.0.1:9015"].map(|exporter| {
            node.scrape(exporter, |line| {
                [
                    "# TYPE ",
                    "node_filesystem_size_bytes",
                    "node_filesystem_readonly",
                    "node_filesystem_device_error",
                    "node_scrape_collector_success",
                ]
                .iter()
                .any(|start| line.starts_with(start))
            })
        });
        assert_eq!(unit, plain);
        unit.join("\n")
    };
    let found = are_equal();
    for (directory, size) in
        [("/tmp", 31), ("/data", 32), ("/home", 33), ("/home/user", 34), ("/srv/read-only", 35)]
    {
        let mut lines = found.lines().filter(|line| line.starts_with("node_filesystem_size_bytes"));
        let line = lines.find(|line| line.contains(&format!("mountpoint=\"{directory}\"")));
        let line = line.unwrap_or_else(|| panic!("{directory}: {found}"));
        let bytes: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(bytes, f64::from(size << 20), "{directory}");
    }
    machine.succeed("systemctl restart exporter");
    node.wait_for_port(9014);
    are_equal();
    machine.succeed("umount /data /home/user && systemctl stop plain");
    machine.succeed("umount /home /srv/read-only && rmdir /data /srv/read-only");
    node.leave();
}

fn socket_is_open_to_no_other_user(suite: Suite) {
    let node = Node::new(suite);
    let machine = &node.machine;
    machine.succeed("useradd --system mallory");
    fs::write(machine.file("/opt/impostor"), IMPOSTOR).unwrap();
    let scrape = |exporter: &str| {
        machine.run(&format!(
            "runuser -u mallory -- env EXPORTER_ADDR={exporter} /usr/local/bin/pgw-forwarder --dry-run"
        ))
    };
    let has_impostor = || {
        let group = node.group("node").unwrap();
        group.get("impostor").is_some()
    };
    let listening = machine.succeed("ss -Hltn");

    // On a port, any user can read the metrics and, while node_exporter is down, push others.
    node.join("");
    let output = scrape("127.0.0.1:9014");
    assert!(output.status.success(), "{output:?}");
    machine.succeed("systemctl stop exporter");
    machine.succeed("systemd-run --quiet --unit=impostor --uid=mallory perl /opt/impostor 9014");
    node.wait_for_port(9014);
    machine.succeed("bundle/install.sh --run");
    assert!(has_impostor());
    machine.succeed("systemctl stop impostor");

    // On a socket, no port is open, and neither works. A rerun switches.
    node.join("--socket");
    assert!(!has_impostor());
    assert_eq!(machine.succeed("ss -Hltn"), listening);
    let socket = "/run/node-exporter/metrics.sock";
    assert_eq!(machine.succeed(&format!("stat -c '%a %U' {socket}")), "600 pgw-forwarder\n");
    let exporter = format!("unix:{socket}");
    failed(&scrape(&exporter), 4, &["Permission denied"]);
    assert_is_restricted(&node);
    machine.succeed("systemctl stop exporter.socket exporter.service");
    let pushed = node.push_time("node");
    let line = format!("runuser -u mallory -- perl /opt/impostor {socket}");
    failed(&machine.run(&line), 13, &["cannot listen: Permission denied"]);
    machine.succeed("systemd-run --quiet --unit=impostor --uid=mallory perl /opt/impostor 9014");
    node.wait_for_port(9014);
    failed(&machine.run("bundle/install.sh --run"), 4, &[&exporter, "No such file"]);
    assert_eq!(node.push_time("node"), pushed);
    machine.succeed("systemctl stop impostor");

    // A rerun starts it again, a push starts a stopped exporter, and a reboot both.
    node.join("--socket");
    assert_ne!(node.push_time("node"), pushed);
    machine.succeed("systemctl stop exporter.service; bundle/install.sh --run");
    machine.reboot();
    machine.succeed("bundle/install.sh --run");
    assert_eq!(machine.succeed("ss -Hltn"), listening);

    // Back to a port.
    node.join("");
    assert!(!machine.file("/etc/systemd/system/exporter.socket").exists());
    assert!(!machine.run(&format!("ls {socket}")).status.success());
    machine.succeed("ss -Hltn | grep -q '127.0.0.1:9014 '");
    node.join("--socket");
    machine.succeed("rm /opt/impostor && userdel mallory");
    node.refuses("--socket --name my", 2, &["--exporter-addr is missing"]);
    machine.succeed("bundle/install.sh --uninstall --all");
    assert_eq!(machine.succeed("ls /run").matches("exporter").count(), 0);
    let unused = machine.state();
    let users = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];
    let changed = unused.iter().filter(|(path, now)| node.before.get(*path) != Some(now));
    let changed: Vec<_> = changed.filter(|(path, _)| !users.contains(&&path[..])).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

fn several_exporters_push_side_by_side(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    node.install_packages("prometheus-process-exporter");
    let before = machine.state();
    let start = || {
        machine.succeed(
            "systemd-run --quiet --unit=processes prometheus-process-exporter \
             --web.listen-address=127.0.0.1:9256",
        );
        node.wait_for_port(9256);
    };
    let processes = "--name processes --exporter-addr 127.0.0.1:9256";
    node.groups.set(2);

    // Each has its own cron file, log tag, lock and group.
    start();
    node.join("");
    node.refuses(&format!("{processes} --user nobody"), 2, &["--user", "user of pgw-forwarder"]);
    node.join(processes);
    let crontab = machine.succeed("cat /etc/cron.d/pgw-forwarder-processes");
    for line in ["PGW_JOB=processes", "EXPORTER_ADDR=127.0.0.1:9256"] {
        assert!(crontab.lines().any(|found| found == line), "{line}: {crontab}");
    }
    assert!(crontab.contains(" 2>&1 | logger -t pgw-forwarder-processes\n"), "{crontab}");
    assert_eq!(machine.succeed("ls /run/pgw-forwarder").lines().count(), 2);
    node.wait_for_push("processes");
    node.wait_for_push("node");
    let group = node.group("processes").unwrap();
    assert!(group.get("namedprocess_scrape_errors").is_some(), "{group}");
    assert!(group.get("node_load1").is_none(), "{group}");

    // One dies, and the other goes on.
    machine.succeed("systemctl stop processes");
    node.wait_for_cron("a report", || node.report("processes"));
    let stopped = node.push_time("processes");
    node.wait_for_push("node");
    node.wait_for_push("node");
    assert_eq!(node.push_time("processes"), stopped);
    assert_eq!(node.report("node"), None);
    assert_eq!(machine.log(), [""; 0]);
    let listed = machine.succeed("bundle/install.sh --list");
    let listed: Vec<_> = listed.lines().collect();
    assert_eq!(listed.len(), 2, "{listed:?}");
    let starts = [
        "pgw-forwarder: job node, exporter 127.0.0.1:9014, ",
        "pgw-forwarder-processes: job processes, exporter 127.0.0.1:9256, ",
    ];
    let ends = ["no failure in the log", "exit status 4"];
    for (line, (start, end)) in listed.iter().zip(starts.iter().zip(ends)) {
        assert!(line.starts_with(start) && line.ends_with(end), "{line}");
    }
    failed(&machine.run("bundle/install.sh --run --name processes"), 4, &["127.0.0.1:9256"]);
    machine.succeed("bundle/install.sh --run");

    // One leaves, and the other goes on.
    let both = machine.state();
    let uninstall = "bundle/install.sh --uninstall";
    let why = ["also pushes pgw-forwarder-processes", "--all", "--name"];
    failed(&machine.run(uninstall), 1, &why);
    machine.assert_state(&both, "not uninstalled");
    machine.succeed(&format!("{uninstall} --name processes"));
    assert!(!machine.file("/etc/cron.d/pgw-forwarder-processes").exists());
    assert!(node.group("processes").is_none() && node.report("processes").is_none());
    node.wait_for_push("node");
    machine.succeed(&format!("{uninstall} --name processes"));
    node.wait_for_push("node");

    // All leave at once, or the last one with all the rest.
    start();
    node.join(processes);
    machine.succeed(&format!("{uninstall} --all"));
    machine.assert_state(&before, "uninstalled all");
    assert!(node.gateway.groups().is_empty());
    node.join(processes);
    assert!(machine.processes("prometheus-node-exporter").is_empty());
    machine.succeed(&format!("{uninstall} --name processes"));
    machine.assert_state(&before, "uninstalled the last");
    assert!(node.gateway.groups().is_empty());
}
