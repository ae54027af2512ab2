//! The static program for aarch64, under an emulator of that processor, against the real servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compression::COMPRESSIONS;
use crate::host::{
    Complete, fetched_program, find_program, program, require, run_command, unused_address,
};
use crate::prune;
use crate::release::{artefact, dist};
use crate::run::Run;
use crate::servers::{Server, families};
use crate::tls_and_credentials::{self, Files};
use crate::unix_socket::{ActivatedExporter, samples};

/// The program, if the distribution had a toolchain for it. Not even CI can demand that.
fn built_program() -> Option<PathBuf> {
    let file = fetched_program("aarch64/pgw-forwarder");
    if !file.is_file() {
        eprintln!("skipped: tests/cross-build.sh builds for aarch64");
        return None;
    }
    let has_emulator = find_program(&["qemu-aarch64-static"]).is_some();
    require(has_emulator, "qemu-user-static emulates aarch64").then_some(file)
}

/// The same run of this program, emulated.
fn emulated(run: Run, file: &Path) -> Run {
    let emulator = program(&["qemu-aarch64-static"]);
    // `by` appends the native program. The shell takes it as $0, and does not run it.
    let line = format!("exec '{}' '{}' \"$@\"", emulator.display(), file.display());
    run.by(&["/bin/sh", "-c", &line])
}

#[test]
fn aarch64_program_is_released_for_its_processor() {
    let Some(file) = built_program() else { return };
    let packed = Command::new("tar")
        .args(["--wildcards", "-xzO", "*/pgw-forwarder", "-f"])
        .arg(artefact("-aarch64-unknown-linux-gnu.tar.gz"))
        .complete();
    assert!(packed.stdout == fs::read(file).unwrap(), "tests/run.sh packages it");
    let deb = artefact("_arm64.deb").display().to_string();
    assert_eq!(run_command(&format!("dpkg-deb --field {deb} Architecture")), "arm64\n");
    let rpm = artefact(".aarch64.rpm").display().to_string();
    assert_eq!(run_command(&format!("rpm -qp --queryformat %{{ARCH}} {rpm}")), "aarch64");
    let script = fs::read_to_string(dist().join("install.sh")).unwrap();
    assert!(script.contains("\naarch64-unknown-linux-gnu "), "{script}");
}

#[test]
fn aarch64_program_is_the_same_version_and_static() {
    let Some(file) = built_program() else { return };
    // The number of the processor in the header of an ELF file.
    let code = fs::read(&file).unwrap();
    assert_eq!(code[18..20], 183_u16.to_le_bytes());
    let loader = b"/lib/ld-linux-aarch64";
    assert!(!code.windows(loader.len()).any(|part| part == loader), "it is not static");
    let version = || Run::new("", "").arg("--version");
    let ended = emulated(version(), &file).end();
    ended.succeeded();
    assert_eq!(ended.stdout, version().end().stdout);
}

#[test]
fn aarch64_program_stores_what_the_native_one_stores() {
    let Some(file) = built_program() else { return };
    let (socket, whole) = (ActivatedExporter::start(), Server::node_exporter());
    let tcp = Server::textfile_exporter(socket.directory.path());
    let gateway = Server::pushgateway(&[]);
    for compression in COMPRESSIONS {
        let push = |exporter: &str, instance: &str| {
            let run = Run::new(exporter, &gateway.addr).env("PGW_COMPRESSION", compression);
            run.instance(instance)
        };
        for (kind, exporter) in [("tcp", &tcp.addr), ("unix", &socket.addr), ("whole", &whole.addr)]
        {
            let [native, foreign] =
                ["native", "aarch64"].map(|p| format!("{p} {kind} {compression}"));
            push(exporter, &native).end().succeeded();
            emulated(push(exporter, &foreign), &file).end().succeeded();
            let [native, foreign] = [native, foreign].map(|name| gateway.group(&name).unwrap());
            assert_eq!(families(&foreign), families(&native), "{kind} {compression}");
            // The values of a whole node_exporter change meanwhile.
            if kind != "whole" {
                assert_eq!(samples(&foreign), samples(&native), "{kind} {compression}");
            }
        }
    }
}

#[test]
fn aarch64_program_pushes_over_tls_with_a_password_and_a_host_name() {
    let Some(file) = built_program() else { return };
    let (files, exporter) = (Files::new(), Server::node_exporter());
    let (_gateway, address) = files.gateway("login.yml");
    let address = address.replace("127.0.0.1", "localhost");
    let push = |variables: &[(&str, &str)]| {
        let run = tls_and_credentials::run(&files, &exporter.addr, &address, variables);
        emulated(run, &file)
    };
    let login = [("PGW_USER", "node"), ("PGW_PASSWORD_FILE", "password")];
    push(&[&login[..], &[("PGW_CACERT", "ca.crt")]].concat()).end().succeeded();
    push(&login).end().failed(6, &[&address, "PGW_CACERT"]);
    push(&[("PGW_CACERT", "ca.crt")]).end().failed(7, &["401"]);
}

#[test]
fn aarch64_program_deletes_its_group_and_prunes_stale_ones() {
    let Some(file) = built_program() else { return };
    let gateway = prune::three_stale_groups();
    let exporter = Server::node_exporter();
    let run = || Run::new(&exporter.addr, &gateway.addr).instance("n");
    run().end().succeeded();
    emulated(prune::prune(&gateway.addr), &file).end().succeeded();
    prune::wait_for_jobs(&gateway, &["node"]);
    emulated(run().arg("--delete"), &file).end().succeeded();
    prune::wait_for_jobs(&gateway, &[]);
}

#[test]
fn aarch64_program_exits_with_4_if_the_exporter_is_down() {
    let Some(file) = built_program() else { return };
    let exporter = unused_address();
    let run = emulated(Run::new(&exporter, &unused_address()), &file);
    run.end().failed(4, &[&exporter, "down"]);
}
