//! The README's first command.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::host::wait_for;
use crate::servers::{count_pushes, get};

/// Runs the demo until it shows its addresses, ends it, and asserts that nothing is left of it.
fn demo(end: impl Fn(Pid)) {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = Command::new("./install.sh")
        .arg("--demo")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", temporary.path())
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    let mut addresses = Vec::new();
    while addresses.len() < 4 {
        let line = lines.next().unwrap_or_else(|| panic!("the demo ended: {said:#?}"));
        if let Some((_, address)) = line.split_once("  http://") {
            addresses.push(address.split('/').next().unwrap().to_owned());
        }
        said.push(line);
    }
    let answer = said.iter().find(|line| line.starts_with("node_load1{instance=\""));
    assert!(answer.is_some_and(|a| a.contains("job=\"node\"} => ")), "{said:#?}");

    let [exporter, gateway, prometheus, fleet] = &addresses[..] else { unreachable!() };
    assert_eq!(fleet, prometheus);
    assert!(get(&format!("http://{exporter}/metrics")).unwrap().contains("\nnode_load1 "));
    assert!(get(&format!("http://{prometheus}/graph")).is_some());
    wait_for("the page of the fleet", || {
        let page = get(&format!("http://{prometheus}/consoles/fleet.html"))?;
        page.contains("1 node pushes, none stopped").then_some(())
    });
    wait_for("a second push", || (count_pushes(gateway) > 1).then_some(()));

    end(Pid::from_child(&demo));
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    for address in addresses {
        assert!(TcpStream::connect(&address).is_err(), "{address} is still served");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "a file is left");
}

#[test]
fn the_demo_shows_the_whole_pipeline_and_leaves_nothing_behind() {
    // Ctrl-C goes to all processes in the terminal, a service manager's signal to the script.
    demo(|script| kill_process_group(script, Signal::INT).unwrap());
    demo(|script| kill_process(script, Signal::TERM).unwrap());
}
