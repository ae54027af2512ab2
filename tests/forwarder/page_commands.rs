//! Commands of the pages for users that no other test runs, from the text of the page.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::booted_machine::{Suite, on_each_suite};
use crate::docs::{block, command, command_lines, page, parts};
use crate::fake::{Fake, exposition};
use crate::host::{Complete, fetched_program, has_victoria_metrics, unused_address, wait_for};
use crate::node::Node;
use crate::run::{FORWARDER, Run};
use crate::servers::{Server, agent, families, get, replace};
use crate::victoria_metrics::{SINGLE, stored};

on_each_suite! {
    node_installed_by_hand_pushes,
}

/// Runs a command of a page in a shell, with the program under test, and with these variables.
fn run(line: &str, variables: &[(&str, &str)]) -> Output {
    let path = Path::new(FORWARDER).parent().unwrap().display();
    Command::new("sh")
        .args(["-c", line])
        .env_clear()
        .env("PATH", format!("{path}:/usr/sbin:/usr/bin:/sbin:/bin"))
        .env("TMPDIR", env!("CARGO_TARGET_TMPDIR"))
        .envs(variables.iter().copied())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .complete()
}

#[track_caller]
fn succeed(line: &str) -> String {
    let output = run(line, &[]);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_pair_of_the_readme_has_the_faults_that_the_readme_lists() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let pair = command("README.md", "curl -s http://$EXPORTER_ADDR");
    let by = |line: &str, exporter: &str, instance: &str| {
        let variables = [
            ("EXPORTER_ADDR", exporter),
            ("EXPORTER_METRIC", "metrics"),
            ("PGW_ADDR", &gateway.addr),
            ("PGW_JOB", "node"),
            ("PGW_INSTANCE", instance),
        ];
        run(line, &variables).status.code()
    };

    // On a good day, both do the same, with the same variables.
    assert_eq!(by(&pair, &exporter.addr, "pair"), Some(0));
    assert_eq!(by("pgw-forwarder", &exporter.addr, "forwarder"), Some(0));
    let [pair_has, forwarder_has] =
        ["pair", "forwarder"].map(|instance| families(&gateway.group(instance).unwrap()));
    assert_eq!(pair_has, forwarder_has);

    // The exporter is down: only the pair refreshes the push time.
    let nothing = unused_address();
    let push_time = |instance: &str| {
        let group = gateway.group(instance).unwrap();
        group["push_time_seconds"]["metrics"][0]["value"].as_str().unwrap().to_owned()
    };
    let before = ["pair", "forwarder"].map(push_time);
    assert_eq!(by(&pair, &nothing, "pair"), Some(0));
    assert_eq!(by("pgw-forwarder -q", &nothing, "forwarder"), Some(4));
    assert_ne!(push_time("pair"), before[0]);
    assert_eq!(push_time("forwarder"), before[1]);

    // The gateway refuses the push.
    let [bad, page] =
        ["a 1\na 1\n", "<html>"].map(|body| Fake::answering(move |_| exposition(body)));
    assert_eq!(by(&pair, &bad.addr, "bad"), Some(0));
    assert_eq!(by("pgw-forwarder -q", &bad.addr, "bad"), Some(7));
    assert_eq!(by("pgw-forwarder -q", &page.addr, "page"), Some(5));

    // The runbook's view of a line of an exporter.
    let line = command("docs/troubleshooting.md", "curl -s http://127.0.0.1:9014/metrics");
    let line = replace(&replace(&line, "127.0.0.1:9014", &exporter.addr), "1359p", "1p");
    let shown = succeed(&line);
    assert!(shown.starts_with("# HELP ") && shown.lines().count() == 1, "{shown}");
}

#[test]
fn runbook_finds_a_family_and_deletes_a_group_without_instance() {
    let gateway = Server::pushgateway(&[]);
    let url = format!("http://{}/metrics/job/backup", gateway.addr);
    let body = "# TYPE app_up gauge\napp_up 1\n";
    assert!(agent().post(url).send(body).unwrap().status().is_success());
    let page_command = |start: &str| {
        let line = command("docs/troubleshooting.md", start);
        replace(&line, "127.0.0.1:9091", &gateway.addr)
    };
    let found = block("docs/troubleshooting.md", "curl -s http://127.0.0.1:9091/api/v1/metrics");
    let found = replace(&found[0], "127.0.0.1:9091", &gateway.addr);
    assert_eq!(succeed(&found), "[{\"job\":\"backup\"},\"GAUGE\"]\n");
    succeed(&page_command("curl -X DELETE"));
    assert!(gateway.groups().is_empty());
}

#[test]
fn commands_for_nodes_that_are_gone_remove_them() {
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    for instance in ["web-1.example", "web-2.example"] {
        Run::new(&exporter.addr, &gateway.addr).instance(instance).end().succeeded();
    }
    let page_command = |start: &str| {
        let line = command("docs/monitoring.md", start);
        replace(&line, "127.0.0.1:9091", &gateway.addr)
    };
    succeed(&page_command("pgw-forwarder --delete"));
    assert!(gateway.group("web-1.example").is_none());
    // Fresh groups stay. A second counts as a day here.
    let prune = page_command("pgw-forwarder --prune 86400");
    assert!(prune.ends_with(" --dry-run"));
    assert_eq!(succeed(&prune), "");
    let delete = prune.replace(" --dry-run", "");
    let line = "\n    pgw-forwarder --prune 86400 --pgw-addr 127.0.0.1:9091 --pgw-job node\n";
    assert!(page("docs/monitoring.md").contains(line));
    succeed(&delete);
    assert!(gateway.group("web-2.example").is_some());
    wait_for("a stale group", || {
        succeed(&replace(&prune, "86400", "1")).contains("web-2.example").then_some(())
    });
    succeed(&replace(&delete, "86400", "1"));
    assert!(gateway.groups().is_empty());
}

/// Starts the server of a command of docs/scaling.md, with these replacements and further arguments.
fn start(program: &Path, line: &str, replacements: &[(&str, &str)], more: &[&str]) -> Server {
    let line =
        replacements.iter().fold(line.to_owned(), |line, (from, to)| replace(&line, from, to));
    Server::start(&[program.to_str().unwrap()], "127.0.0.1", "/health", |addr, directory| {
        let words = line.split(' ').skip(1).chain(more.iter().copied());
        let directory = directory.display().to_string();
        words.map(|word| word.replace("ADDR", addr).replace("DIRECTORY", &directory)).collect()
    })
}

#[test]
fn commands_for_victoria_metrics_push_query_and_delete() {
    if !has_victoria_metrics() {
        return;
    }
    let scaling = |start: &str| command("docs/scaling.md", start);
    let victoria = start(
        &fetched_program("victoria-metrics"),
        &scaling("victoria-metrics "),
        &[("/var/lib/victoria-metrics", "DIRECTORY/data")],
        &["-httpListenAddr=ADDR", "-search.latencyOffset=0s"],
    );
    let exporter = Server::node_exporter();
    let install = scaling("sudo sh install.sh --pgw-addr http://vm.example:8428");
    let gateway = install.rsplit(' ').next().unwrap().replace("vm.example:8428", &victoria.addr);
    assert!(gateway.ends_with(SINGLE));
    Run::new(&exporter.addr, &gateway).instance("n1").end().succeeded();
    stored(&victoria, "node_load1{FILTER}", 1);
    let here = |line: String| replace(&line, "vm.example:8428", &victoria.addr);
    let query = here(scaling("curl 'http://vm.example:8428/api/v1/query"));
    let has_series = || {
        let answer: Value = serde_json::from_str(&succeed(&query)).unwrap();
        !answer["data"]["result"].as_array().unwrap().is_empty()
    };
    wait_for("the series", || has_series().then_some(()));
    succeed(&here(scaling("curl -g -X POST")));
    wait_for("the deletion", || (!has_series()).then_some(()));
}

#[test]
fn commands_for_remote_write_start_their_programs() {
    if !has_victoria_metrics() {
        return;
    }
    let scaling = |start: &str| command("docs/scaling.md", start);
    let store = Server::start(&["prometheus"], "127.0.0.1", "/-/ready", |addr, directory| {
        let line = scaling("prometheus --config.file");
        let own = [
            format!("--web.listen-address={addr}"),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
        ];
        line.split(' ').skip(1).map(String::from).chain(own).collect()
    });
    let agent = start(
        &fetched_program("vmagent"),
        &scaling("vmagent "),
        &[
            (":8429", "ADDR"),
            ("https://store.example", &format!("http://{}", store.addr)),
            ("/var/lib/vmagent", "DIRECTORY/queue"),
        ],
        &[],
    );
    let install = scaling("sudo sh install.sh --pgw-addr http://vmagent.example:8429");
    let gateway = install.rsplit(' ').next().unwrap().replace("vmagent.example:8429", &agent.addr);
    let exporter = Server::node_exporter();
    Run::new(&exporter.addr, &gateway).instance("n1").end().succeeded();
    store.query("node_load1{instance=\"n1\"}");

    let victoria = Server::victoria_metrics();
    let alerts = start(
        &fetched_program("vmalert"),
        &scaling("vmalert "),
        &[("vm.example:8428", &victoria.addr)],
        &["-httpListenAddr=ADDR"],
    );
    let rules = get(&format!("http://{}/api/v1/rules", alerts.addr)).unwrap();
    assert!(rules.contains("PushedExporterDown"), "{rules}");
}

/// The block "By hand" of docs/install.md, on a machine that has cron and node_exporter.
fn node_installed_by_hand_pushes(suite: Suite) {
    let node = Node::with_short_minutes(suite);
    let machine = &node.machine;
    machine.succeed(
        "systemd-run --quiet --unit=by-hand prometheus-node-exporter \
         --web.listen-address=127.0.0.1:9014",
    );
    node.wait_for_port(9014);
    let page = page("docs/install.md");
    let (_, section) = page.split_once("\n## By hand\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    assert!(section.contains("`--web.listen-address=127.0.0.1:9014`"));
    let (blocks, _) = parts(section);
    let lines: Vec<_> = blocks.iter().flat_map(|block| command_lines(block)).collect();
    let (build, rest) = lines.split_first().unwrap();
    assert!(build.starts_with("cargo build "), "{build}");
    let addr = &node.gateway.addr;
    let push_time = || {
        let groups = node.gateway.groups();
        let group = groups.first().map(|(_, group)| group.clone())?;
        group["push_time_seconds"]["metrics"][0]["value"].as_str().map(String::from)
    };
    for line in rest {
        let line = line.replace("target/release/", "").replace("push.example:9091", addr);
        if line.contains("crontab.example") {
            assert!(push_time().is_some(), "the push by hand");
            machine.succeed(&format!(
                "sed -i 's/^PGW_ADDR=.*/PGW_ADDR={addr}/' bundle/crontab.example"
            ));
        }
        let line = line.strip_prefix("sudo ").unwrap_or(&line);
        machine.succeed(&format!("cd bundle && PATH=$PATH:/usr/local/bin && {line}"));
    }
    let before = push_time();
    node.wait_for_cron("a push by cron", || (push_time() != before).then_some(()));
}
