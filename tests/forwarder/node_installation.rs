//! install.sh on a booted machine: a node joins with one command, in spite of interruptions, and leaves.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::booted_machine::{Machine, OUTSIDE, Suite, on_each_suite, unmet_requirement};
use crate::host::{Complete, require};
use crate::node::{CRON_FILE, Node, UNIT, best_compression, is_reachable};
use crate::servers::Server;

on_each_suite! {
    node_joins_with_one_command_and_leaves_no_trace,
    interrupted_run_is_finished_by_the_next,
}

/// The inodes and times of the files that install.sh writes. Another write changes them.
fn written(machine: &Machine) -> Vec<(u64, i64, i64)> {
    let files = [
        CRON_FILE,
        UNIT,
        "/etc/tmpfiles.d/pgw-forwarder.conf",
        "/usr/local/bin/pgw-forwarder",
        "/var/lib/pgw-forwarder/made",
        "/etc/passwd",
    ];
    let found = files.map(|file| fs::metadata(machine.file(file)).unwrap());
    found.map(|m| (m.ino(), m.mtime(), m.mtime_nsec())).into()
}

/// The average number of bytes of the pushes so far.
fn pushed_bytes(gateway: &Server) -> f64 {
    let page = gateway.page("/metrics");
    let value = |name: &str| -> f64 {
        let name = format!("pushgateway_http_push_size_bytes_{name}{{method=\"put\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse().unwrap()
    };
    value("sum") / value("count")
}

/// Asserts that nobody has started or will start the service of node_exporter's package, whose port would be
/// open to all, and that no preset is left.
fn packaged_exporter_stays_off(machine: &Machine) {
    assert_eq!(machine.succeed("journalctl --quiet --unit=prometheus-node-exporter"), "");
    assert!(!machine.run("systemctl is-enabled prometheus-node-exporter").status.success());
    assert_eq!(
        machine.succeed("find /run/systemd/system-preset /usr/sbin/policy-rc.d -type f 2>&- || :"),
        ""
    );
}

/// Runs a command on the machine, and kills all its processes once `condition` holds there.
fn kill_when(machine: &Machine, condition: &str, command: &str) {
    machine.succeed(&format!(
        "systemd-run --quiet --unit=killed --working-directory=/root \
             --property=StandardOutput=truncate:/root/output --property=KillMode=process {command}
         until {condition} || ! systemctl --quiet is-active killed; do :; done
         systemctl kill --signal=KILL --kill-whom=main killed || :
         # A userdel that is killed leaves a part of the user, which no other can complete.
         while pgrep -x userdel; do :; done
         xargs --no-run-if-empty kill -9 </sys/fs/cgroup/system.slice/killed.service/cgroup.procs || :
         systemctl stop killed || :
         systemctl reset-failed killed || :"
    ));
}

fn node_joins_with_one_command_and_leaves_no_trace(suite: Suite) {
    let mut node = Node::bare(suite);
    let prometheus = Server::prometheus(&node.gateway, None);

    // A dry run lists its steps, and takes none.
    let untouched = node.machine.state();
    let steps = node.machine.succeed(&node.install("--dry-run"));
    for step in [
        "packages cron prometheus-node-exporter",
        "user pgw-forwarder",
        UNIT,
        CRON_FILE,
        "start cron",
    ] {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    assert!(!steps.contains("done"), "{steps}");
    node.machine.assert_state(&untouched, "after a dry run");

    // The one command, killed once while it installs packages.
    kill_when(&node.machine, "[ -n \"$(dpkg --audit)\" ]", &node.install(""));
    assert_ne!(node.machine.succeed("dpkg --audit"), "");
    node.join("");
    packaged_exporter_stays_off(&node.machine);
    assert!(node.push_time("node").is_some());

    // No trace is left but the packages. The node joins again with these.
    let said = node.machine.succeed("bundle/install.sh --uninstall");
    assert!(said.contains(" cron prometheus-node-exporter"), "{said}");
    assert!(node.gateway.groups().is_empty());
    node.before = node.machine.state();
    let is_own = |path: &&String| path.contains("pgw") || path.contains("/exporter.");
    assert_eq!(node.before.keys().filter(is_own).collect::<Vec<_>>(), [""; 0]);
    let users = node.machine.succeed("cut -d: -f1 /etc/passwd /etc/group");
    assert!(!users.contains("pgw-forwarder") && !users.contains("node-exporter"), "{users}");
    let listening = node.machine.succeed("ss -Hltun");
    node.join("");
    let machine = &node.machine;
    let units = "exporter.service cron.service";
    assert_eq!(machine.succeed(&format!("systemctl is-enabled {units}")), "enabled\nenabled\n");
    assert_eq!(machine.succeed(&format!("systemctl is-active {units}")), "active\nactive\n");

    // A rerun changes nothing.
    let files = written(machine);
    let process = machine.processes("prometheus-node-exporter");
    assert_eq!(process.len(), 1);
    node.join("");
    assert_eq!(written(machine), files);
    assert_eq!(machine.processes("prometheus-node-exporter"), process);

    // No port of the node is open, even if an administrator changes the listen address. A rerun repairs that.
    let reachable: Vec<u16> = (1..=u16::MAX).filter(|port| is_reachable(*port)).collect();
    assert_eq!(reachable, [0; 0]);
    machine.succeed(&format!("sed -i 's/127.0.0.1:9014/0.0.0.0:9014/' {UNIT}"));
    machine.succeed("systemctl daemon-reload && systemctl restart exporter");
    node.wait_for_port(9014);
    assert!(!is_reachable(9014));
    node.join("");
    assert_ne!(machine.processes("prometheus-node-exporter"), process);

    // cron pushes without a word, with the best compression of the gateway, and at this node's own moment:
    // 17.4 seconds after the start of the minute.
    let crontab = machine.succeed(&format!("cat {CRON_FILE}"));
    for line in [
        &format!("PGW_COMPRESSION={}", best_compression(&node.gateway))[..],
        "PGW_METHOD=put",
        "FORWARDER_SPLAY=30",
        "*/1 * * * * pgw-forwarder /usr/local/bin/pgw-forwarder 2>&1 | logger -t pgw-forwarder",
    ] {
        assert!(crontab.lines().any(|found| found == line), "{line}: {crontab}");
    }
    node.wait_for_push("node");
    let time: f64 = node.push_time("node").unwrap().parse().unwrap();
    assert!((17.4..=47.4).contains(&(time % 60.0)), "{time}");
    assert_eq!(machine.log(), [""; 0], "success is silent");
    let text = machine.succeed("bundle/pgw-forwarder --dry-run").len() as f64;
    let bytes = pushed_bytes(&node.gateway);
    assert!(bytes < text / 3.0, "{bytes} of {text} bytes");
    let found = prometheus.query("node_uname_info{job=\"node\",instance=\"n4\"}");
    assert_eq!(found["metric"]["nodename"], "node.example");

    // No trace is left, on the node or on the gateway. Uninstalling twice is safe.
    node.leave();
    node.leave();
    assert_eq!(machine.succeed("ss -Hltun"), listening);
}

fn interrupted_run_is_finished_by_the_next(suite: Suite) {
    let node = Node::new(suite);
    let machine = &node.machine;
    node.join("");
    let installed = machine.state();
    let uninstall = "bundle/install.sh --uninstall";

    // Each run is killed one step later than the one before.
    let killed_at_each = |steps: &[&str], command: &str| {
        for step in steps {
            kill_when(machine, &format!("grep -q '==> {step}' output"), command);
        }
    };
    let steps = [
        "delete the metrics",
        "stop exporter.service",
        "remove /usr/local/bin",
        "remove /run/pgw-forwarder",
        "remove the user pgw-forwarder",
        "remove the user node-exporter",
    ];
    killed_at_each(&steps, uninstall);
    machine.succeed(uninstall);
    machine.assert_state(&node.before, "uninstalled after interruptions");
    assert!(node.gateway.groups().is_empty());
    let steps = [
        "add the user pgw-forwarder",
        "add the user node-exporter",
        "write /etc/systemd",
        "start exporter.service",
        "install /usr/local/bin",
        "write /etc/tmpfiles.d",
        "make /run/pgw-forwarder",
        "push, as cron will",
        "write /etc/cron.d",
    ];
    killed_at_each(&steps, &node.install(""));
    node.join("");
    machine.assert_state(&installed, "installed after interruptions");

    // node_exporter gets its new arguments, even if the run that wrote them was killed.
    let with = node.install("--exporter-args --no-collector.nfs");
    kill_when(machine, &format!("grep -q nfs {UNIT}"), &with);
    node.join("");
    let pid = machine.succeed("systemctl show --value --property=MainPID exporter");
    let arguments = machine.succeed(&format!("cat /proc/{}/cmdline", pid.trim()));
    assert!(arguments.contains("--no-collector.nfs"), "{arguments}");
    node.join("--exporter-args ''");
    machine.assert_state(&installed, "without arguments again");

    // The push of a killed installation is deleted as well, even if it arrives late.
    machine.succeed(uninstall);
    node.gateway.pause(true);
    let is_sent = format!("ss -Htni dst {OUTSIDE} | grep -q 'bytes_acked:[0-9]\\{{4\\}}'");
    kill_when(machine, &is_sent, &node.install(""));
    node.gateway.pause(false);
    node.wait_for_cron("the push", || node.push_time("node"));
    node.leave();
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
    assert!(stderr.contains("Nothing was changed"), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
