//! A booted node whose exporter, link, gateway or power fails.

use std::fs;

use crate::booted_machine::{OUTSIDE, Suite, on_each_suite};
use crate::node::{CRON_FILE, Node, best_compression, failed};

on_each_suite! {
    node_and_exporter_return_after_a_failure,
    node_recovers_from_a_cut_link_and_a_hanging_gateway,
}

fn node_and_exporter_return_after_a_failure(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    node.join("");
    let list = || machine.succeed("bundle/install.sh --list");
    let entry = |failure: &str| {
        let gateway = &node.gateway.addr;
        format!("pgw-forwarder: job node, exporter 127.0.0.1:9014, gateway {gateway}, {failure}")
    };
    assert_eq!(list(), entry("no failure in the log\n"));

    machine.reboot();
    node.wait_for_push("node");

    // systemd restarts a killed exporter.
    let process = machine.processes("prometheus-node-exporter");
    machine.succeed("systemctl kill --kill-who=main --signal=KILL exporter");
    node.wait_for_cron("a new exporter", || {
        let now = machine.processes("prometheus-node-exporter");
        (now.len() == 1 && now != process).then_some(())
    });
    node.wait_for_push("node");
    // Each run reports a stopped one to the log and to the gateway, and does not push.
    machine.succeed("systemctl stop exporter");
    let down = "exporter http://127.0.0.1:9014/metrics is down: Connection refused";
    node.wait_for_log(1, &[down, ". (exit status 4)"]);
    let stopped = node.push_time("node");
    node.wait_for_log(2, &[down, ". (exit status 4)"]);
    assert_eq!(node.push_time("node"), stopped);
    assert_eq!(node.report("node").as_deref(), Some("4"));
    let listed = list();
    assert!(listed.starts_with(&entry("last failure 20")), "{listed}");
    assert!(listed.ends_with(", exit status 4\n"), "{listed}");
    failed(&machine.run("bundle/install.sh --run"), 4, &[down]);
    machine.succeed("systemctl start exporter");
    node.wait_for_push("node");

    // Leaving takes the report, too.
    assert!(node.report("node").is_some());
    node.leave();
}

fn node_recovers_from_a_cut_link_and_a_hanging_gateway(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    let compression = || machine.succeed(&format!("sed -n 's/^PGW_COMPRESSION=//p' {CRON_FILE}"));

    // A cut link: runs end within their limits, and the first one after it pushes. install.sh ends with the
    // status of its push, but all is installed. It does not know whether the gateway takes gzip.
    machine.link("down");
    node.refuses("", 6, &["is unreachable", "everything is installed", "cron tries again"]);
    assert_eq!(compression(), "none\n");
    node.wait_for_log(2, &["gateway", "is unreachable", ". (exit status 6)"]);
    machine.link("up");
    node.wait_for_push("node");

    // A rerun tries gzip. Another one keeps what worked, and the other settings change.
    node.join("");
    let best = format!("{}\n", best_compression(&node.gateway));
    assert_eq!(compression(), best);
    machine.link("down");
    node.refuses("--exporter-addr 127.0.0.1:9016", 6, &["is unreachable"]);
    assert_eq!(compression(), best);
    assert!(machine.succeed("bundle/install.sh --list").contains("exporter 127.0.0.1:9016"));

    // Without the gateway, the node cannot leave, and stays as it is. It can leave the metrics there.
    let installed = machine.state();
    let uninstall = "bundle/install.sh --uninstall";
    failed(&machine.run(uninstall), 6, &["nothing was removed", "--keep-metrics"]);
    machine.assert_state(&installed, "not uninstalled");
    machine.succeed(&format!("{uninstall} --keep-metrics"));
    machine.assert_state(&node.before, "uninstalled without the gateway");
    assert!(node.push_time("node").is_some());
    machine.link("up");

    // A gateway that hangs for longer than a minute, and runs with a longer limit: the second run ends at
    // once. An entry for another job does not wait for this one.
    node.wait_for_cron("the link", || {
        machine.run(&node.install("--extra '--push-timeout 90'")).status.success().then_some(())
    });
    let second = machine.succeed(&format!("cat {CRON_FILE}")).replace("=node\n", "=other\n");
    node.gateway.pause(true);
    node.wait_for_log(1, &["another run (PID ", ". (exit status 3)"]);
    // A run by hand waits for that of cron.
    machine.succeed("bundle/install.sh --run >by-hand 2>&1 &");
    let by_hand = || machine.succeed("cat by-hand");
    node.wait_for_cron("a run that waits", || by_hand().contains("==> wait for").then_some(()));
    node.gateway.pause(false);
    node.wait_for_cron("its push", || by_hand().contains(" answered 200 OK").then_some(()));
    assert!(!by_hand().contains("exit status"), "{}", by_hand());
    node.wait_for_push("node");
    fs::write(machine.file("/etc/cron.d/second"), second).unwrap();
    node.groups.set(2);
    node.wait_for_cron("the other job", || node.push_time("other"));
    machine.succeed("rm /etc/cron.d/second");
    node.groups.set(1);
    node.join("--name other --exporter-addr 127.0.0.1:9014 --pgw-job other");
    node.leave();

    // The address of a gateway that is gone for good is another key.
    node.join("");
    let gone = format!("--pgw-addr {OUTSIDE}:1");
    node.refuses(&gone, 2, &["already pushes as", "--uninstall"]);
    node.leave();
}
