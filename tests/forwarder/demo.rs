//! `install.sh --demo`, the README's first command, and its output in the README's picture.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::docs;
use crate::host::wait_for;
use crate::servers::{count_pushes, get};

/// The demo may have to build the program first.
const MAX_WAIT_FOR_LINE: Duration = Duration::from_secs(600);

/// A running demo. If a test fails, this ends it.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        }
    }
}

/// Lines without what differs from run to run: numbers, the name of this host, a random directory.
fn mask(lines: &[String]) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mask_line = |line: &String| {
        let line = line.replace(&format!("\"{host}\""), "\"web-1\"");
        let line = line.replace(&format!("/instance/{host} "), "/instance/web-1 ");
        let line = match line.split_once("holding the lock ") {
            Some((start, _)) => format!("{start}holding the lock"),
            None => line,
        };
        let parts = line.split(|c: char| c.is_ascii_digit() || c == '.');
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("N")
    };
    lines.iter().map(mask_line).collect()
}

/// The lines of the terminal in the README's picture.
fn lines_of_the_picture() -> Vec<String> {
    let picture = docs::page("docs/demo.svg");
    let texts = picture.lines().filter_map(|line| line.strip_suffix("</text>"));
    let plain =
        |line: &str| line.split_once('>').unwrap().1.replace("&gt;", ">").replace("&amp;", "&");
    texts.map(plain).collect()
}

/// Runs the demo until it shows its addresses, ends it, and asserts that nothing is left of it.
fn run_demo(end: impl Fn(Pid)) {
    let temporary = tempfile::tempdir().unwrap();
    // A background job of a script ignores SIGINT, and so would its children. Here, that is always so.
    let demo = "trap '' INT; exec env --default-signal ./install.sh --demo 2>&1";
    let mut command = Command::new("sh");
    // With the variables that a test has from cargo, cargo would build all of it anew.
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    let mut demo = command
        .args(["-c", demo])
        .env_remove("CARGO_MANIFEST_DIR")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", temporary.path())
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .map(Demo)
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(demo.0.stdout.take().unwrap());
    thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.unwrap())));
    let (mut output, mut addresses) = (Vec::new(), Vec::new());
    while addresses.len() < 4 {
        let line = lines.recv_timeout(MAX_WAIT_FOR_LINE);
        let line =
            line.unwrap_or_else(|e| panic!("no four addresses from the demo: {e}: {output:#?}"));
        if let Some((_, address)) = line.split_once("  http://") {
            addresses.push(address.split('/').next().unwrap().to_owned());
        }
        output.push(line);
    }
    let result = output.iter().find(|line| line.starts_with("node_load1{instance=\""));
    assert!(result.is_some_and(|line| line.contains("job=\"node\"} => ")), "{output:#?}");

    let shown = lines_of_the_picture();
    assert_eq!(shown[0], "$ ./install.sh --demo");
    let shown = &shown[1..];
    let start = output.iter().position(|line| *line == shown[0]).unwrap();
    assert_eq!(mask(&output[start..]), mask(shown));

    let [exporter, gateway, prometheus, fleet] = &addresses[..] else { unreachable!() };
    assert_eq!(fleet, prometheus);
    assert!(get(&format!("http://{exporter}/metrics")).unwrap().contains("\nnode_load1 "));
    assert!(get(&format!("http://{prometheus}/graph")).is_some());
    wait_for("the page that shows the fleet", || {
        let page = get(&format!("http://{prometheus}/consoles/fleet.html"))?;
        page.contains("<b>1</b> up").then_some(())
    });
    wait_for("a second push", || (count_pushes(gateway) > 1).then_some(()));

    end(Pid::from_child(&demo.0));
    let status = wait_for("the end of the demo", || demo.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    for address in addresses {
        assert!(TcpStream::connect(&address).is_err(), "{address} still accepts connections");
    }
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "a file is left");
}

#[test]
fn demo_shows_the_whole_pipeline_and_leaves_nothing_behind() {
    // Ctrl-C goes to all processes of the terminal, a service manager's signal to the script only.
    run_demo(|script| kill_process_group(script, Signal::INT).unwrap());
    run_demo(|script| kill_process(script, Signal::TERM).unwrap());
}
