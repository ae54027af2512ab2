//! Host names: several addresses, slow resolvers, missing threads, and the static program.

use std::env;
use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::geteuid;

use crate::host::{Complete, enter_own_namespaces, fetched_program, require, run_command};
use crate::run::{Ended, Run, copy_program};
use crate::servers::{Server, count_pushes};

/// What most of these tests need.
const NETWORK: &str = "its own network needs root";

/// Gives the test its own /etc, where names come from `/etc/hosts` and the resolver that
/// `/etc/resolv.conf` names.
fn mount_own_etc() {
    run_command("mount -t tmpfs tmpfs /etc");
    // A daemon that caches names would be asked there.
    run_command("mount -t tmpfs tmpfs /run");
    fs::write("/etc/nsswitch.conf", "hosts: files dns\n").unwrap();
    fs::write("/etc/host.conf", "multi on\n").unwrap();
    fs::write("/etc/hosts", "").unwrap();
}

#[test]
fn name_with_dead_addresses_leads_to_the_living_one() {
    if !enter_own_namespaces(
        "name_resolution::name_with_dead_addresses_leads_to_the_living_one",
        NETWORK,
    ) {
        return;
    }
    mount_own_etc();
    // One address answers, one refuses, two never answer, one belongs to no host, one has no route.
    let (alive, refusing, silent, unused, unroutable) =
        ("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5");
    let also_silent = "10.9.0.6";
    run_command("ip link add one type veth peer other");
    run_command("ip link set one up");
    run_command("ip link set other up");
    run_command(&format!("ip address add {alive}/24 dev one"));
    run_command(&format!("ip address add {refusing}/24 dev one"));
    // Otherwise the living address would come first, since it is this host's own.
    let last = format!("precedence ::ffff:0:0/96 50\nprecedence ::ffff:{alive}/128 10\n");
    fs::write("/etc/gai.conf", last).unwrap();
    for addr in [silent, also_silent] {
        let neighbour = format!("{addr} lladdr 02:00:00:00:00:03 dev one nud permanent");
        run_command(&format!("ip neighbour add {neighbour}"));
    }
    run_command(&format!("ip route add unreachable {unroutable}"));
    // By default, the kernel takes three seconds to find out that no host has an address.
    fs::write("/proc/sys/net/ipv4/neigh/one/mcast_solicit", "1").unwrap();
    let (exporter, gateway) = (Server::node_exporter_on(alive), Server::pushgateway_on(alive, &[]));
    let named = |server: &Server| server.addr.replace(alive, "many.example");

    for dead in [
        &[refusing][..],
        &[silent],
        &[unused],
        &[unroutable],
        &[refusing, silent, unroutable, unused],
    ] {
        let lines = dead.iter().chain([&alive]).map(|addr| format!("{addr} many.example\n"));
        fs::write("/etc/hosts", lines.collect::<String>()).unwrap();
        let order = run_command("getent ahostsv4 many.example");
        // glibc puts an address without a route last.
        assert!(order.starts_with(dead[0]) || dead[0] == unroutable, "{order}");
        let instance = dead.join(" ");
        Run::new(&named(&exporter), &named(&gateway))
            .instance(&instance)
            .env("EXPORTER_PROBE_TIMEOUT", "6")
            .env("PGW_PUSH_TIMEOUT", "6")
            .end()
            .succeeded();
        assert!(gateway.group(&instance).is_some(), "{dead:?}");
    }

    // Without a living address, the limit holds.
    fs::write("/etc/hosts", format!("{silent} many.example\n{also_silent} many.example\n"))
        .unwrap();
    let run = Run::new(&exporter.addr, &named(&gateway)).env("PGW_PUSH_TIMEOUT", "1");
    let cause = "unreachable: no connection within 1 s";
    Ended::of(run.start()).failed(6, &["gateway http://many.example", cause]);
    let run = Run::new(&named(&exporter), &gateway.addr).env("EXPORTER_PROBE_TIMEOUT", "1");
    let cause = "is down: no connection within 1 s";
    Ended::of(run.start()).failed(4, &["exporter http://many.example", cause]);
}

#[test]
fn slow_resolver_ends_the_run_within_the_limit() {
    if !enter_own_namespaces(
        "name_resolution::slow_resolver_ends_the_run_within_the_limit",
        NETWORK,
    ) {
        return;
    }
    mount_own_etc();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let resolver = UdpSocket::bind("127.0.0.1:53").unwrap();
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n").unwrap();

    let cause = "its name was not resolved within 1 s";
    let run = Run::new(&exporter.addr, "slow.example:9091").env("PGW_PUSH_TIMEOUT", "1");
    Ended::of(run.start()).failed(6, &["gateway http://slow.example:9091/", cause]);
    let mut question = [0; 512];
    let length = resolver.recv(&mut question).unwrap();
    assert!(String::from_utf8_lossy(&question[..length]).contains("slow"));
    let run = Run::new("slow.example:9014", &gateway.addr).env("EXPORTER_PROBE_TIMEOUT", "1");
    Ended::of(run.start()).failed(4, &["exporter http://slow.example:9014/", cause]);

    // The C library gives up before the limit.
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    Run::new(&exporter.addr, "slow.example:9091")
        .end()
        .failed(6, &["gateway http://slow.example:9091/", "failure in name resolution"]);
    assert_eq!(count_pushes(&gateway.addr), 0);
}

#[test]
fn missing_thread_for_a_lookup_is_reported() {
    if !require(geteuid().is_root(), "its own user needs root") {
        return;
    }
    // No user has this number. For root, no limit holds.
    let user = 400_000 + std::process::id() % 100_000;
    let directory = tempfile::tempdir().unwrap();
    let program = copy_program(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", &user.to_string(), "--clear-groups"])
        .args(["prlimit", "--nproc=1"])
        .arg(&program)
        .env_clear()
        .env("FORWARDER_LOCK_FILE", directory.path().join("lock"))
        .env("EXPORTER_ADDR", "localhost:1")
        .complete();
    let ended = Ended::new(output);
    ended.failed(4, &["exporter http://localhost:1/", "no thread to look up its name"]);
}

/// The program with the C library in it, as it is released; `None` skips a test.
fn static_program() -> Option<PathBuf> {
    let program = format!("{}-unknown-linux-gnu/release/pgw-forwarder", env::consts::ARCH);
    let program = fetched_program(&program);
    require(program.is_file(), "a static program: deploy/release.sh builds it").then_some(program)
}

#[test]
fn static_program_needs_no_file_of_the_system() {
    let Some(program) = static_program() else { return };
    if !require(geteuid().is_root(), "its own root directory needs root") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    run_command(&format!("cp {} {}", program.display(), root.path().display()));
    let line = format!("chroot {} /pgw-forwarder --version", root.path().display());
    assert!(run_command(&line).starts_with("pgw-forwarder "));
}

#[test]
fn static_program_pushes_by_host_name_and_loads_no_library_of_the_system() {
    let Some(program) = static_program() else { return };
    if !enter_own_namespaces(
        "name_resolution::static_program_pushes_by_host_name_and_loads_no_library_of_the_system",
        NETWORK,
    ) {
        return;
    }
    mount_own_etc();
    // By these rules, only a library that does not exist would be asked.
    let rules = "hosts: other [NOTFOUND=return UNAVAIL=return] files\n";
    fs::write("/etc/nsswitch.conf", rules).unwrap();
    fs::write("/etc/hosts", "127.0.0.1 push.example node.example\n").unwrap();
    let (exporter, gateway) = (Server::node_exporter(), Server::pushgateway(&[]));
    let addresses = [
        ("EXPORTER_ADDR", exporter.addr.replace("127.0.0.1", "node.example")),
        ("PGW_ADDR", gateway.addr.replace("127.0.0.1", "push.example")),
    ];
    let output = Command::new(program).env_clear().envs(addresses).complete();
    Ended::new(output).succeeded();
    assert_eq!(count_pushes(&gateway.addr), 1);
}
