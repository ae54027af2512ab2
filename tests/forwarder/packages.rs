//! The Debian package on a booted machine.

use crate::booted_machine::{Machine, Suite, on_each_suite};
use crate::host::run_command;
use crate::node::{CRON_FILE, Node};
use crate::release::deb;
use crate::servers::replace;

on_each_suite! {
    package_starts_nothing_and_its_removal_takes_the_node_out,
    removal_does_not_wait_for_a_dead_gateway,
    package_takes_over_a_node_of_a_bundle,
}

/// Copies the package to a machine, as this version.
fn copy_package(machine: &Machine, version: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("unpacked").display().to_string();
    run_command(&format!("dpkg-deb --raw-extract {} {path}", deb().display()));
    run_command(&format!("sed -i s/^Version:.*/Version:{version}/ {path}/DEBIAN/control"));
    let package = machine.file("/root/package.deb");
    run_command(&format!("dpkg-deb --root-owner-group --build {path} {}", package.display()));
}

/// The command that joins the node with the packaged program.
fn join(node: &Node) -> String {
    replace(&node.install(""), "bundle/", "/usr/share/pgw-forwarder/")
}

const INSTALL: &str = "apt-get -qy install ./package.deb";

fn package_starts_nothing_and_its_removal_takes_the_node_out(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    copy_package(machine, "0.1.0-1");
    machine.succeed(INSTALL);
    let added = machine.state().into_keys().filter(|path| !node.before.contains_key(path));
    let added: Vec<_> = added.collect();
    let is_expected = |path: &&String| {
        path.starts_with("/usr/") || path.starts_with("/var/lib/dpkg/info/pgw-forwarder.")
    };
    let unexpected: Vec<_> = added.iter().filter(|path| !is_expected(path)).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert_eq!(
        machine.succeed("pgw-forwarder --version"),
        concat!("pgw-forwarder ", env!("CARGO_PKG_VERSION"), "\n")
    );

    // The node runs the packaged program, and no copy.
    machine.succeed(&join(&node));
    assert!(machine.succeed(&format!("cat {CRON_FILE}")).contains(" /usr/bin/pgw-forwarder 2>&1"));
    assert!(!machine.file("/usr/local/bin/pgw-forwarder").exists());
    node.wait_for_push("node");
    let joined = machine.succeed(&format!("cat {CRON_FILE}"));
    copy_package(machine, "0.1.0-2");
    machine.succeed(INSTALL);
    assert_eq!(machine.succeed(&format!("cat {CRON_FILE}")), joined);
    node.wait_for_push("node");
    machine.succeed("/usr/share/pgw-forwarder/install.sh --run");

    machine.succeed("apt-get -qy remove pgw-forwarder");
    assert!(node.gateway.groups().is_empty());
    machine.assert_state(&node.before, "removed");
    machine.succeed(INSTALL);
    machine.succeed(&join(&node));
    machine.succeed("apt-get -qy purge pgw-forwarder");
    machine.assert_state(&node.before, "purged");
    assert!(node.gateway.groups().is_empty());
}

fn removal_does_not_wait_for_a_dead_gateway(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    copy_package(machine, "0.1.0-1");
    machine.succeed(INSTALL);
    machine.succeed(&join(&node));
    machine.link("down");
    let removed = machine.run("apt-get -qy remove pgw-forwarder");
    assert!(removed.status.success(), "{removed:?}");
    let said = String::from_utf8([removed.stdout, removed.stderr].concat()).unwrap();
    assert!(said.contains("the metrics of this node stay on the gateway"), "{said}");
    machine.assert_state(&node.before, "removed without the gateway");
}

fn package_takes_over_a_node_of_a_bundle(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    node.join("");
    let further = "--name further --exporter-addr 127.0.0.1:9014";
    node.join(further);
    copy_package(machine, "0.1.0-1");
    machine.succeed(INSTALL);
    for more in ["", further] {
        machine.succeed(&format!("{} {more}", join(&node)));
    }
    let entries = machine.succeed("cat /etc/cron.d/pgw-forwarder*");
    assert_eq!(entries.matches(" /usr/bin/pgw-forwarder").count(), 2, "{entries}");
    machine.succeed("apt-get -qy remove pgw-forwarder");
    assert!(node.gateway.groups().is_empty());
    machine.assert_state(&node.before, "removed");
}
