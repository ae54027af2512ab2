//! install.sh on a booted machine: what it refuses, and how a node's settings change.

use std::fs;

use crate::booted_machine::{Machine, OUTSIDE, Suite, on_each_suite};
use crate::node::{CRON_FILE, Node, UNIT, best_compression, failed};
use crate::servers::{Server, families};
use crate::tls_and_credentials::{Files, PASSWORD};

on_each_suite! {
    refused_installation_changes_nothing,
    settings_change_by_a_rerun_and_the_key_by_leaving_first,
    only_the_user_of_cron_can_read_credentials,
}

/// The cron entry that pgw-forwarder replaces.
const ARTICLE: &str = "\
PGW_JOB=node
# http://push.example/metrics/job/node
0 0 * * * nobody curl -s http://127.0.0.1:9014/metrics | curl --data-binary @- \
http://user:geheim@push.example/metrics/job/$PGW_JOB/instance/n4
";

/// Listens on the port $1, and answers nothing that is HTTP.
const LISTENER: &str = "\
use IO::Socket::INET;
$SIG{PIPE} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], Listen => 5);
while (my $client = $listener->accept) { print $client \"SSH-2.0\\r\\n\"; close $client }
";

fn refused_installation_changes_nothing(suite: Suite) {
    let node = Node::new(suite);
    let machine = &node.machine;
    let unchanged = "Nothing was changed";

    // Files of others are neither overwritten nor removed.
    for file in [UNIT, CRON_FILE, "/etc/tmpfiles.d/pgw-forwarder.conf", "/etc/pgw-forwarder"] {
        fs::write(machine.file(file), "foreign\n").unwrap();
        node.refuses("", 1, &[file, "not from this script", unchanged]);
        machine.succeed("bundle/install.sh --uninstall");
        assert_eq!(fs::read_to_string(machine.file(file)).unwrap(), "foreign\n");
        fs::remove_file(machine.file(file)).unwrap();
    }

    // Another program listens at the exporter's address.
    machine.succeed(
        "systemd-run --quiet --unit=other prometheus-node-exporter --web.listen-address=127.0.0.1:9014",
    );
    node.wait_for_port(9014);
    node.refuses("", 1, &["another program listens on 127.0.0.1:9014", unchanged]);
    machine.succeed("systemctl stop other");
    fs::write(machine.file("/root/listener"), LISTENER).unwrap();
    machine.succeed("systemd-run --quiet --unit=other perl /root/listener 9014");
    node.wait_for_port(9014);
    node.refuses("", 1, &["another program listens on 127.0.0.1:9014", unchanged]);
    machine.succeed("systemctl stop other");

    // An exporter that does not run as its user, or is too old.
    machine.succeed("mkdir -m 700 /home/admin && cp /usr/bin/prometheus-node-exporter /home/admin");
    let home = "/home/admin/prometheus-node-exporter";
    node.refuses(&format!("--exporter-bin {home}"), 2, &["cannot execute", home]);
    let in_tmp = "--exporter-bin /tmp/exporter";
    machine.succeed("cp /usr/bin/prometheus-node-exporter /tmp/exporter");
    node.refuses(in_tmp, 2, &["systemd cannot run /tmp/exporter"]);
    let old = machine.file("/opt/old");
    fs::write(&old, "#!/bin/sh\necho 'usage: node_exporter [<flags>]'\n").unwrap();
    machine.succeed("chmod 755 /opt/old");
    node.refuses("--exporter-bin /opt/old --socket", 1, &["too old", "1.5", unchanged]);
    machine.succeed("rm -r /home/admin /tmp/exporter /opt/old");

    // Values that pgw-forwarder refuses. It names them.
    node.refuses("--pgw-label =x", 2, &["PGW_LABELS", ". See --help"]);
    node.refuses("--pgw-cert bundle/install.sh", 2, &["PGW_CERT", "Use https://. See --help\n"]);
    machine.assert_state(&node.before, "refused");
    assert!(node.gateway.groups().is_empty());

    // A program that its user can execute does.
    machine.succeed("cp /usr/bin/prometheus-node-exporter /usr/local/bin/mine");
    node.join("--exporter-bin /usr/local/bin/mine");
    assert_eq!(machine.processes("mine").len(), 1);
    machine.succeed("rm /usr/local/bin/mine");
    node.leave();
}

fn settings_change_by_a_rerun_and_the_key_by_leaving_first(suite: Suite) {
    let node = Node::new(suite);
    let machine = &node.machine;
    let uninstall = "bundle/install.sh --uninstall";
    node.join("--pgw-label owner=me@home");
    let installed = machine.state();
    let groups = || node.gateway.groups().into_iter().map(|(labels, _)| labels).collect::<Vec<_>>();
    let before = groups();

    // Another key is refused with the difference and the remedy.
    for (more, old, new) in [
        ("--pgw-label owner=me@home --pgw-job other", "PGW_JOB=node", "PGW_JOB=other"),
        ("--pgw-label owner=me@home --pgw-instance x", "PGW_INSTANCE=n4", "PGW_INSTANCE=x"),
        ("--pgw-label owner=you@home", "PGW_LABELS=owner=me@home", "PGW_LABELS=owner=you@home"),
        ("--pgw-label owner=me@home --pgw-addr [::1]:1", OUTSIDE, "PGW_ADDR=[::1]:1"),
    ] {
        let parts = ["already pushes as", old, new, "install.sh --uninstall", "--keep-metrics"];
        node.refuses(more, 2, &parts);
    }
    let same = "--pgw-label owner=me@home --name my --exporter-addr 127.0.0.1:9014 --pgw-job node";
    node.refuses(same, 2, &["pgw-forwarder pushes to the same group", "--pgw-job"]);
    machine.assert_state(&installed, "refused");
    assert_eq!(groups(), before);
    machine.succeed(uninstall);
    assert!(node.gateway.groups().is_empty());

    // After that it works, at each of several gateways. No value can add a line to the cron file.
    let other = Server::pushgateway_on(OUTSIDE, &[]);
    let instance = "x\\n* * * * * root id\\n 100%";
    let both = format!(
        "--pgw-addr {},{} --pgw-instance '{instance}' --pgw-label zone=eu --pgw-label rack=7",
        node.gateway.addr, other.addr
    );
    node.join(&both);
    let entries = machine.succeed(&format!("grep -c '^[*]' {CRON_FILE}"));
    assert_eq!(entries, "1\n");
    assert_eq!(machine.succeed(&format!("stat -c '%a %U' {CRON_FILE}")), "600 root\n");
    for gateway in [&node.gateway, &other] {
        let groups = gateway.groups();
        assert_eq!(groups.len(), 1);
        let labels = &groups[0].0;
        assert_eq!((&labels["zone"][..], &labels["rack"][..]), ("eu", "7"));
        assert_eq!(labels["instance"], instance);
    }
    machine.succeed(uninstall);
    assert!(node.gateway.groups().is_empty() && other.groups().is_empty());

    // By hand, it runs exactly what cron runs, as cron's user and at once, and shows it.
    let some = "--exporter-metric 'metrics?collect[]=cpu' --extra '--pgw-label cost=5% --max-bytes 1000000'";
    node.refuses(some, 2, &["--extra: use install.sh's own option"]);
    let some = "--exporter-metric 'metrics?collect[]=cpu' --extra '--max-bytes 1000000 --lock-file /tmp/5%'";
    node.join(&format!("{some} --splay 30"));
    let entry = machine.succeed(&format!("grep '^[*]' {CRON_FILE}"));
    assert!(entry.contains(" --max-bytes 1000000 --lock-file /tmp/5\\% 2>&1 | logger "), "{entry}");
    let pushed = node.push_time("node");
    let output = machine.run("bundle/install.sh --run");
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(shown.contains("scraped http://127.0.0.1:9014/metrics?collect[]=cpu: "), "{shown}");
    assert!(shown.contains("holding the lock /tmp/5%\n") && !shown.contains("sleeping"), "{shown}");
    assert_eq!(machine.succeed("stat -c %U /tmp/5%"), "pgw-forwarder\n");
    assert_ne!(node.push_time("node"), pushed);
    let found = families(&node.group("node").unwrap());
    assert!(found.contains(&"node_cpu_seconds_total".into()), "{found:?}");
    assert!(!found.contains(&"node_load1".into()), "{found:?}");
    let body = machine.succeed("bundle/install.sh --run --dry-run");
    assert!(body.contains("\nnode_cpu_seconds_total{"), "{body}");
    machine.succeed("rm /tmp/5%");

    // cron's user changes. node_exporter's arguments stay until they are cleared.
    machine.succeed("useradd --system other");
    node.join("--user other --exporter-args '--no-collector.nfs --no-collector.cpu'");
    node.join("");
    assert!(
        machine
            .succeed(&format!("cat {UNIT}"))
            .contains(" --no-collector.nfs --no-collector.cpu\n")
    );
    let scraped = node.scrape("127.0.0.1:9014", |line| line.starts_with("node_cpu_"));
    assert_eq!(scraped, [""; 0]);
    node.refuses(
        "--exporter-args --nonsense",
        1,
        &["exporter.service does not work", "journalctl -u exporter"],
    );
    node.join("--exporter-args ''");
    let scraped = node.scrape("127.0.0.1:9014", |line| line.starts_with("node_cpu_"));
    assert_ne!(scraped, [""; 0]);
    machine.succeed("userdel other");

    // install.sh warns about other entries that may push the same group, and about open exporters. It shows no
    // text of an entry.
    machine.succeed("systemctl start prometheus-node-exporter");
    fs::write(machine.file("/etc/cron.d/article"), ARTICLE).unwrap();
    let own = "/var/spool/cron/crontabs/root";
    fs::write(machine.file(own), "\n* * * * * /opt/pgw-forwarder --pgw-addr x\n").unwrap();
    let said = node.join("");
    assert_eq!(said.matches("warning: ").count(), 3, "{said}");
    for part in [
        "line 3 of /etc/cron.d/article may push the same metrics",
        &format!("line 2 of {own} may push"),
        "systemctl disable --now prometheus-node-exporter",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("geheim"), "{said}");
    machine.succeed("systemctl is-active prometheus-node-exporter");
    machine
        .succeed(&format!("systemctl stop prometheus-node-exporter; rm /etc/cron.d/article {own}"));

    // cron takes each schedule without a word.
    fs::write(machine.file("/etc/cron.d/wrong"), "*/0 * * * * root true\n").unwrap();
    machine.succeed(
        "cd bundle; only_verbs=yes; proven=; . ./install.sh
         for minutes in $(seq 60); do
             read_options --pgw-addr x --every $minutes; make_crontab >/etc/cron.d/every-$minutes
         done; systemctl restart cron",
    );
    let log = node.wait_for_cron("cron's verdict", || {
        let line = "journalctl --quiet --output=cat _PID=$(systemctl show --value --property=MainPID cron)";
        let log = machine.succeed(line);
        log.contains("@reboot").then_some(log)
    });
    let mut verdicts = log.lines().filter(|line| line.contains("minute") || line.contains("Step"));
    assert!(verdicts.all(|line| line.contains("/etc/cron.d/wrong")), "{log}");
    assert!(log.contains("/etc/cron.d/wrong"), "{log}");
    machine.succeed("rm /etc/cron.d/every-* /etc/cron.d/wrong");
    node.leave();
}

/// What a user without rights finds out about the secret.
fn show_what_all_can_see(machine: &Machine) -> String {
    machine.succeed(
        "grep -rs . /etc/cron.d /var/lib/pgw-forwarder /run/pgw-forwarder; cat /proc/[0-9]*/cmdline; \
         journalctl --quiet --output=cat",
    )
}

fn only_the_user_of_cron_can_read_credentials(suite: Suite) {
    let node = Node::new(suite);
    let machine = &node.machine;
    let files = Files::new();
    let secured = Server::secured_pushgateway(OUTSIDE, &files.file("login.yml"));
    let mutual = Server::secured_pushgateway(OUTSIDE, &files.file("mutual.yml"));
    for file in ["ca.crt", "password", "wrong", "token", "node.crt", "node.key"] {
        fs::copy(files.file(file), machine.file(&format!("/root/{file}"))).unwrap();
    }
    let tls = |gateway: &Server| format!("--pgw-addr https://{} --pgw-cacert ca.crt", gateway.addr);
    let login = format!("{} --pgw-user node", tls(&secured));
    let stored =
        |name: &str| machine.succeed(&format!("stat -c '%a %U' /etc/pgw-forwarder/{name}"));
    let compression = || machine.succeed(&format!("sed -n 's/^PGW_COMPRESSION=//p' {CRON_FILE}"));

    // The first push has the password of the file, and shows it to nobody.
    node.join(&format!("{login} --pgw-password-file password"));
    assert_eq!(machine.succeed("ls /etc/pgw-forwarder"), "cacert\npassword\n");
    for file in ["password", "cacert"] {
        assert_eq!(stored(file), "400 pgw-forwarder\n");
    }
    failed(
        &machine.run("runuser -u nobody -- cat /etc/pgw-forwarder/password"),
        1,
        &["Permission denied"],
    );
    let shown = show_what_all_can_see(machine);
    assert!(shown.contains("PGW_USER=node") && !shown.contains(PASSWORD), "{shown}");
    assert_eq!(compression(), format!("{}\n", best_compression(&node.gateway)));
    node.refuses("--pgw-addr http://node:geheim@push.example", 2, &["--pgw-addr", "--pgw-user"]);
    node.refuses(&login, 2, &["PGW_PASSWORD_FILE"]);

    // A wrong password is the gateway's to refuse. A rerun brings another one, from a relative path, in spite
    // of a strict umask, and even from install.sh's own copy.
    node.refuses(
        &format!("{login} --pgw-password-file wrong"),
        7,
        &["401", "everything is installed"],
    );
    machine.succeed(&format!(
        "umask 077; {}",
        node.install(&format!("{login} --pgw-password-file ./password"))
    ));
    node.join(&format!("{login} --pgw-password-file /etc/pgw-forwarder/password"));
    machine.succeed("bundle/install.sh --run");

    // Other credentials for other gateways. The copies of former ones go.
    machine.succeed("bundle/install.sh --uninstall");
    node.join(&format!("{} --pgw-cert node.crt --pgw-key node.key", tls(&mutual)));
    assert_eq!(machine.succeed("ls /etc/pgw-forwarder"), "cacert\ncert\nkey\n");
    assert_eq!(stored("key"), "400 pgw-forwarder\n");
    machine.succeed("bundle/install.sh --uninstall");
    node.join("--pgw-token-file token");
    node.join("--pgw-token-file /etc/pgw-forwarder/token");
    assert_eq!(machine.succeed("ls /etc/pgw-forwarder"), "token\n");
    assert_eq!(stored("token"), "400 pgw-forwarder\n");
    // Another user of cron gets the same copies. A rerun repairs their mode.
    node.join("--pgw-token-file token --user daemon");
    assert_eq!(stored("token"), "400 daemon\n");
    machine.succeed("chmod 644 /etc/pgw-forwarder/token");
    node.join("--pgw-token-file token --user daemon");
    assert_eq!(stored("token"), "400 daemon\n");
    // A rerun that names none would delete the only copies.
    let installed = machine.state();
    node.refuses("", 2, &["has credentials in /etc/pgw-forwarder", "uninstall first"]);
    machine.assert_state(&installed, "not changed without credentials");
    machine.succeed("rm ca.crt password wrong token node.crt node.key");
    node.leave();
}
