//! The install.sh of a release: it downloads the bundle, and trusts no other than its own.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};

use tempfile::TempDir;

use crate::booted_machine::{OUTSIDE, Suite, on_each_suite};
use crate::fake::{Fake, hang};
use crate::host::{Complete, find_program, require, run_command, unused_address};
use crate::node::{Node, failed};
use crate::run::FORWARDER;
use crate::servers::{Server, replace};

on_each_suite! {
    lone_script_joins_by_its_download_and_changes_nothing_without_it,
}

/// The target of this machine's bundle.
fn target() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

/// A release below `directory`: `good` has its bundle, and `wrong` another one of the same name.
pub struct Release {
    directory: TempDir,
    sum: String,
}

impl Release {
    pub fn new() -> Release {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let name = format!("pgw-forwarder-{}-{}", env!("CARGO_PKG_VERSION"), target());
        run_command(&format!("mkdir -p {path}/good {path}/wrong {path}/{name}/deploy"));
        run_command(&format!("cp {FORWARDER} install.sh crontab.example {path}/{name}"));
        run_command(&format!("cp -r deploy/node {path}/{name}/deploy"));
        let tar = "tar --owner=1234 --group=1234 -cz";
        run_command(&format!("{tar} -f {path}/good/{name}.tar.gz -C {path} {name}"));
        run_command(&format!("{tar} -f {path}/wrong/{name}.tar.gz -C {path} {name}/install.sh"));
        let sum = run_command(&format!("sha256sum {path}/good/{name}.tar.gz"));
        let sum = sum.split(' ').next().unwrap().to_owned();
        Release { directory, sum }
    }

    /// The bytes of a response with the bundle.
    fn response(&self) -> Vec<u8> {
        let mut files = fs::read_dir(self.path("good")).unwrap();
        let bundle = fs::read(files.next().unwrap().unwrap().path()).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bundle.len());
        [head.into_bytes(), bundle].concat()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The install.sh that is published at this URL.
    fn script(&self, url: &str) -> String {
        let script = fs::read_to_string("install.sh").unwrap();
        let script = replace(&script, "release_url=''\n", &format!("release_url='{url}'\n"));
        let sums =
            format!("sums='\narmv7-unknown-linux-gnueabihf 0\n{} {}\n'\n", target(), self.sum);
        replace(&script, "sums=''\n", &sums)
    }

    /// An nginx with TLS that serves this release. `more` are more lines of its configuration.
    fn serve(&self, host: &str, more: &str) -> Server {
        let path = self.directory.path().display();
        run_command(&format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=release -keyout {path}/key -out {path}/ca.crt \
             -addext subjectAltName=IP:{host},DNS:localhost"
        ));
        let lines = "listen ADDR ssl; ssl_certificate PATH/ca.crt; ssl_certificate_key PATH/key; root PATH;";
        Server::nginx_on(host, &format!("{}\n{more}", lines.replace("PATH", &path.to_string())))
    }
}

/// Runs functions of a published install.sh in an empty directory, where `tool` is the program that downloads.
fn run(release: &Release, tool: &str, mirror: &str, verbs: &str) -> Output {
    let directory = release.path("alone");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(directory.join("temporary")).unwrap();
    fs::write(directory.join("install.sh"), release.script("")).unwrap();
    let ca = release.path("ca.crt").display().to_string();
    for (file, text) in [
        ("wgetrc", format!("ca_certificate = {ca}\n")),
        ("apt.conf", format!("Acquire::https::CAInfo \"{ca}\";\nAcquire::Retries \"0\";\n")),
    ] {
        fs::write(directory.join(file), text).unwrap();
    }
    let script = format!(
        "set -eu; only_verbs=yes; . ./install.sh; temporary=$PWD/temporary
         has() {{ [ \"$1\" = {tool} ]; }}; {verbs}"
    );
    Command::new("/bin/sh")
        .args(["-c", &script, "install.sh"])
        .current_dir(&directory)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("PGW_FORWARDER_MIRROR", mirror)
        .env("CURL_CA_BUNDLE", ca)
        .env("WGETRC", directory.join("wgetrc"))
        .env("APT_CONFIG", directory.join("apt.conf"))
        .complete()
}

/// The programs that download, as far as this machine has them.
fn tools() -> Vec<&'static str> {
    let tools = ["curl", "wget", "/usr/lib/apt/apt-helper"];
    let (found, missing): (Vec<_>, Vec<_>) =
        tools.into_iter().partition(|tool| find_program(&[*tool]).is_some());
    require(missing.is_empty(), &format!("{missing:?}, which can download"));
    found
}

/// Asserts that a download fails with one line on stderr that contains all of `parts`, and unpacks nothing.
#[track_caller]
fn fails(release: &Release, tool: &str, mirror: &str, parts: &[&str]) {
    let output = run(release, tool, mirror, "find_program");
    failed(&output, 1, parts);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{tool}: {stderr}");
    assert!(stderr.starts_with("install.sh: "), "{tool}: {stderr}");
    assert!(stderr.ends_with(". Nothing was changed\n"), "{tool}: {stderr}");
    let unpacked = fs::read_dir(release.path("alone/temporary")).unwrap();
    let unpacked = unpacked.map(|entry| entry.unwrap()).filter(|e| e.path().is_dir());
    assert_eq!(unpacked.count(), 0, "{tool}: {stderr}");
}

#[test]
fn each_tool_downloads_the_bundle_over_tls_and_a_redirect() {
    let release = Release::new();
    // GitHub's answer for a release is a redirect to another host.
    let moved = "rewrite ^/moved/(.*) https://localhost:$server_port/good/$1 redirect;";
    let nginx = release.serve("127.0.0.1", moved);
    let response = release.response();
    let plain = Fake::answering(move |_| response.clone());
    for tool in tools() {
        for mirror in [
            format!("https://{}/good", nginx.addr),
            format!("https://{}/moved", nginx.addr),
            format!("http://{}", plain.addr),
        ] {
            let show =
                "find_program; $binary --version; echo $binary; stat -c %u:%n $PWD/deploy/node";
            let output = run(&release, tool, &mirror, show);
            assert!(output.status.success(), "{tool}: {output:?}");
            assert_eq!(output.stderr, b"", "{tool}: {output:?}");
            let stdout = String::from_utf8(output.stdout).unwrap();
            let lines: Vec<_> = stdout.lines().collect();
            let [download, version, binary, directory] = lines[..] else { panic!("{lines:?}") };
            assert!(download.starts_with(&format!("==> download {mirror}/pgw-forwarder-")));
            assert_eq!(version, concat!("pgw-forwarder ", env!("CARGO_PKG_VERSION")));
            let unpacked = release.path("alone/temporary").display().to_string();
            assert!(binary.starts_with(&unpacked), "{binary}");
            let owner = rustix::process::geteuid();
            assert!(directory.starts_with(&format!("{owner}:{unpacked}")), "{directory}");
        }
    }
}

#[test]
fn failed_download_ends_with_one_line_and_unpacks_nothing() {
    let release = Release::new();
    let plain = Fake::answering(|_| Vec::new());
    let http = plain.addr.replace("127.0.0.1", "localhost");
    let downgraded = format!("rewrite ^/downgraded/(.*) http://{http}/$1 redirect;");
    let nginx = release.serve("127.0.0.1", &downgraded);
    let mut truncated = release.response();
    truncated.truncate(truncated.len() / 2);
    let truncated = Fake::after_request(move |stream| drop(stream.write_all(&truncated)));
    let at = |path: &str| format!("https://{}/{path}", nginx.addr);
    for tool in tools() {
        let cannot = |mirror: &str, why: &[&str]| {
            let parts = [
                &["cannot download ", mirror, "Check the address, the network and the proxy"],
                why,
            ]
            .concat();
            fails(&release, tool, mirror, &parts);
        };
        cannot(&at("none"), &["404"]);
        cannot(&at("downgraded"), &["http"]);
        assert!(plain.requests().is_empty(), "{tool} has followed a redirect to http");
        cannot(&format!("http://{}", truncated.addr), &[]);
        cannot(&format!("https://{}", unused_address()), &[]);
        fails(&release, tool, &at("wrong"), &["is not the bundle of this release", "SHA-256"]);
    }
}

#[test]
fn server_that_hangs_is_given_up_after_the_limit() {
    let release = Release::new();
    let server = Fake::after_request(hang);
    let mirror = format!("http://{}", server.addr);
    for tool in tools() {
        let shorter = "timeout() { shift 2; command timeout --foreground 1 \"$@\"; }; find_program";
        let output = run(&release, tool, &mirror, shorter);
        failed(&output, 1, &["cannot download http://", "300 s were over"]);
    }
}

#[test]
fn mirror_is_refused_unless_it_has_https_or_a_loopback_address() {
    let release = Release::new();
    for mirror in [
        "",
        "http://mirror.example",
        "http://127.0.0.1.example:80",
        "http://127.0.0.1",
        "ftp://127.0.0.1:1",
        "file:///tmp",
        "mirror.example",
        "--output=/tmp/x",
    ] {
        let parts =
            ["no https:// address of pgw-forwarder-", &target(), "Set PGW_FORWARDER_MIRROR"];
        fails(&release, "curl", mirror, &parts);
    }
    for mirror in ["https://user:geheim@mirror.example", "http://127.0.0.1:1@mirror.example"] {
        fails(&release, "curl", mirror, &["PGW_FORWARDER_MIRROR: use a URL without a password"]);
    }
}

#[test]
fn processor_decides_which_bundle_is_downloaded() {
    let release = Release::new();
    let download = |machine: &str| {
        let verbs = format!("uname() {{ echo {machine}; }}; find_program");
        let mirror = format!("https://{}", unused_address());
        String::from_utf8(run(&release, "curl", &mirror, &verbs).stderr).unwrap()
    };
    let armv7 = download("armv7l");
    assert!(armv7.contains("-armv7-unknown-linux-gnueabihf.tar.gz"), "{armv7}");
    let none = format!(
        "install.sh: this release has no program for the processor mips, only for \
         armv7-unknown-linux-gnueabihf {}. Build it in a clone. Nothing was changed\n",
        target()
    );
    assert_eq!(download("mips"), none);
}

/// Files beside the install.sh of a release may be another user's, as in /tmp.
#[test]
fn published_script_ignores_files_beside_it() {
    let release = Release::new();
    let response = release.response();
    let server = Fake::answering(move |_| response.clone());
    let mirror = format!("http://{}", server.addr);
    let plant = "touch pgw-forwarder Cargo.toml crontab.example; find_program; echo $binary";
    let output = run(&release, "curl", &mirror, plant);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let binary = stdout.lines().last().unwrap();
    assert!(binary.starts_with(&*release.path("alone/temporary").to_string_lossy()), "{stdout}");
}

#[test]
fn lone_script_of_a_clone_or_bundle_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy("install.sh", directory.path().join("install.sh")).unwrap();
    let run = |verbs: &str| {
        let script = format!("only_verbs=yes; . ./install.sh; {verbs}");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "install.sh"]).current_dir(&directory).complete()
    };
    failed(&run("find_program"), 1, &["only the install.sh of a release works without"]);
    failed(&run("main --demo"), 1, &["install.sh: --demo needs a clone"]);
}

#[test]
fn version_of_the_script_is_that_of_the_program() {
    let script = fs::read_to_string("install.sh").unwrap();
    assert!(script.contains(concat!("\nversion=", env!("CARGO_PKG_VERSION"), "\n")));
}

fn lone_script_joins_by_its_download_and_changes_nothing_without_it(suite: Suite) {
    let mut node = Node::bare(suite);
    let machine = &node.machine;
    let release = Release::new();
    let nginx = release.serve(OUTSIDE, "");
    let at = |path: &str| format!("https://{}/{path}", nginx.addr);
    machine.succeed("rm -r bundle/*");
    let script = machine.file("/root/bundle/install.sh");
    fs::write(&script, release.script(&at("good"))).unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();

    // Nothing changes unless the download succeeds. This machine has neither curl, nor wget, nor any CA.
    let untouched = machine.state();
    node.refuses("", 1, &["cannot download https://", "certificate", "ca-certificates"]);
    machine.assert_state(&untouched, "without a CA");
    machine.succeed("apt-get -qy install --no-install-recommends ca-certificates");
    let ca = machine.file("/usr/local/share/ca-certificates/release.crt");
    fs::copy(release.path("ca.crt"), ca).unwrap();
    machine.succeed("update-ca-certificates");
    let untouched = machine.state();
    let refuses = |mirror: &str, parts: &[&str]| {
        let line = format!("PGW_FORWARDER_MIRROR={mirror} {}", node.install(""));
        failed(&machine.run(&line), 1, parts);
    };
    refuses(&at("none"), &["cannot download https://", "404"]);
    refuses(&at("wrong"), &["SHA-256 sum is wrong"]);
    refuses("http://mirror.example", &["Set PGW_FORWARDER_MIRROR"]);
    machine.assert_state(&untouched, "after failed downloads");

    // The one command, by each program that downloads.
    for tool in ["apt-helper", "wget", "curl"] {
        if tool != "apt-helper" {
            machine.succeed(&format!("apt-get -qy install --no-install-recommends {tool}"));
        }
        let untouched = machine.state();
        let steps = machine.succeed(&node.install("--dry-run"));
        assert!(steps.contains("==> download https://"), "{tool}: {steps}");
        machine.assert_state(&untouched, "after a dry run");
    }
    node.install_packages("cron prometheus-node-exporter");
    node.before = node.machine.state();
    let machine = &node.machine;
    node.join("");
    assert!(node.push_time("node").is_some());
    assert_eq!(machine.succeed("ls -d /tmp/tmp.* 2>&- || :"), "", "the download stays");
    let installed = machine.state();
    node.join("");
    machine.assert_state(&installed, "after a rerun");

    // Without the network, the node stays as it is. The other commands download nothing.
    machine.link("down");
    node.refuses("", 1, &["cannot download https://", "the network"]);
    machine.assert_state(&installed, "after a rerun without the network");
    drop(nginx);
    machine.link("up");
    node.wait_for_cron("the link", || {
        machine.run("bundle/install.sh --run").status.success().then_some(())
    });
    assert!(machine.succeed("bundle/install.sh --list").starts_with("pgw-forwarder: job node"));
    node.leave();
}
