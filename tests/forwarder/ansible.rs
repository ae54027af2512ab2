//! The playbook for Ansible, against a booted machine with an SSH server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::booted_machine::{INSIDE, Suite, on_each_suite};
use crate::download::Release;
use crate::host::{Complete, MAX_LONG_WAIT, fetched_program, require, run_command};
use crate::node::Node;

on_each_suite! {
    playbook_joins_a_node_and_changes_nothing_the_second_time,
}

/// Runs the playbook of this checkout, and returns its summary.
fn play(program: &Path, release: &Release) -> String {
    let playbook = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ansible/nodes.yml");
    let output = Command::new(program)
        .arg("--inventory")
        .arg(release.path("hosts"))
        .arg(playbook)
        // It writes to the home directory.
        .env("HOME", release.path("."))
        // A connection that it keeps open would outlive the test.
        .env("ANSIBLE_SSH_ARGS", "-o ControlMaster=no -o UserKnownHostsFile=/dev/null")
        .env("ANSIBLE_HOST_KEY_CHECKING", "False")
        .complete_within(MAX_LONG_WAIT);
    assert!(output.status.success(), "{output:#?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (_, summary) = stdout.split_once("PLAY RECAP").unwrap();
    assert!(!stdout.contains("geheim"), "{stdout}");
    summary.to_owned()
}

fn ansible_playbook() -> Option<PathBuf> {
    let program = fetched_program("ansible/bin/ansible-playbook");
    require(program.is_file(), "ansible-core: tests/run.sh installs it").then_some(program)
}

fn playbook_joins_a_node_and_changes_nothing_the_second_time(suite: Suite) {
    let Some(program) = ansible_playbook() else { return };
    let node = Node::bare(suite);
    let machine = &node.machine;
    machine.succeed("rm -r bundle");
    machine.succeed("apt-get -qy install --no-install-recommends openssh-server python3");
    let release = Release::new();
    let (key, token) = (release.path("key"), release.path("token"));
    // The two blanks: no passphrase.
    run_command(&format!("ssh-keygen -q -t ed25519 -N  -f {}", key.display()));
    machine.succeed("mkdir -p -m 700 .ssh");
    fs::copy(key.with_extension("pub"), machine.file("/root/.ssh/authorized_keys")).unwrap();
    fs::write(&token, "geheim\n").unwrap();
    let options = format!(
        "--pgw-addr {} --pgw-token-file /usr/local/lib/pgw-forwarder/token",
        node.gateway.addr
    );
    let hosts = format!(
        "all:
  hosts:
    n4: {{ ansible_host: {INSIDE} }}
  vars:
    ansible_user: root
    ansible_ssh_private_key_file: {}
    pgw_bundles: {}
    pgw_files: [{}]
    pgw_options: {options} --pgw-instance {{{{ inventory_hostname }}}}
",
        key.display(),
        release.path("good").display(),
        token.display(),
    );
    fs::write(release.path("hosts"), hosts).unwrap();

    let summary = play(&program, &release);
    assert!(summary.contains("changed=4 ") && summary.contains("failed=0 "), "{summary}");
    assert!(node.push_time("node").is_some());
    assert_eq!(machine.succeed("cat /etc/pgw-forwarder/token"), "geheim\n");

    let installed = machine.state();
    let summary = play(&program, &release);
    assert!(summary.contains("changed=0 ") && summary.contains("failed=0 "), "{summary}");
    machine.assert_state(&installed, "after the second run");
}
