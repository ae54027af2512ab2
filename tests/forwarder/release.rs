//! What a release consists of: documentation, bundle, packages.

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::docs::{command, page};
use crate::host::{Complete, MAX_LONG_WAIT, program, require};

/// The directory of the release that `tests/run.sh` makes. It may have files for other processors as well.
pub fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
}

/// A file of this version's release, by the end of its name.
pub fn artefact(end: &str) -> PathBuf {
    let files =
        fs::read_dir(dist()).unwrap_or_else(|e| panic!("{e}: deploy/release.sh makes dist"));
    let version = concat!(env!("CARGO_PKG_VERSION"), "-");
    let mut paths = files.map(|file| file.unwrap().path());
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains(version) && name.ends_with(end)
    };
    paths.find(is_wanted).unwrap_or_else(|| panic!("no {end} in dist: run deploy/release.sh"))
}

fn bundle() -> PathBuf {
    artefact(&format!("-{ARCH}-unknown-linux-gnu.tar.gz"))
}

pub fn deb() -> PathBuf {
    let architecture = output("dpkg", &["--print-architecture"]);
    artefact(&format!("_{}.deb", architecture.trim_end()))
}

fn rpm() -> PathBuf {
    artefact(&format!(".{ARCH}.rpm"))
}

/// The output of a command that succeeds.
#[track_caller]
fn output(program_name: &str, args: &[&str]) -> String {
    let mut command = Command::new(program(&[program_name]));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env("LC_ALL", "C.UTF-8");
    let output = command.complete();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn man_page_is_free_of_errors() {
    let page = "docs/pgw-forwarder.1";
    assert_eq!(output("mandoc", &["-T", "lint", "-W", "error", page]), "");
    // man prints warnings before the page.
    let page = output("man", &["--warnings", "--local-file", "--encoding=UTF-8", page]);
    assert!(page.starts_with("PGW-FORWARDER(1)"), "{page}");
    for section in ["EXIT STATUS", "ENVIRONMENT", "FILES"] {
        assert!(page.lines().any(|line| line == section), "{section}: {page}");
    }
}

#[test]
fn shells_complete_the_options() {
    let bash = "source docs/completions/pgw-forwarder.bash
        COMP_WORDS=(pgw-forwarder --pgw-a) COMP_CWORD=1
        words=($(complete -p pgw-forwarder))
        for n in ${!words[@]}; do [ \"${words[n]}\" != -F ] || function=${words[n + 1]}; done
        $function pgw-forwarder --pgw-a pgw-forwarder && echo \"${COMPREPLY[@]}\"";
    assert_eq!(output("bash", &["-c", bash]), "--pgw-addr\n");
    let fish = "source docs/completions/pgw-forwarder.fish; complete --do-complete='pgw-forwarder --pgw-a'";
    assert!(output("fish", &["--no-config", "-c", fish]).starts_with("--pgw-addr\t"));
    // zsh completes at a prompt only.
    output("zsh", &["-n", "docs/completions/_pgw-forwarder"]);
}

#[test]
fn bundle_has_a_static_program_and_all_that_install_sh_needs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    output("tar", &["-xzf", bundle().to_str().unwrap(), "-C", path, "--strip-components=1"]);
    let files = output("find", &[path, "-type", "f", "-printf", "%P %m\n"]);
    let files: BTreeSet<_> = files.lines().collect();
    let expected = [
        "LICENSE-APACHE 644",
        "LICENSE-MIT 644",
        "README.md 644",
        "THIRD-PARTY 644",
        "completions/_pgw-forwarder 644",
        "completions/pgw-forwarder.bash 644",
        "completions/pgw-forwarder.fish 644",
        "crontab.example 644",
        "deploy/node/exporter.service 644",
        "deploy/node/exporter.socket 644",
        "deploy/node/sysusers.conf 644",
        "install.sh 755",
        "pgw-forwarder 755",
        "pgw-forwarder.1 644",
    ];
    assert_eq!(files, BTreeSet::from(expected));
    for file in ["install.sh", "crontab.example", "deploy/node/exporter.service"] {
        let is_current = fs::read_to_string(directory.path().join(file)).unwrap() == page(file);
        assert!(is_current, "{file} has changed: run deploy/release.sh");
    }
    let program = directory.path().join("pgw-forwarder");
    let version = concat!("pgw-forwarder ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(output(program.to_str().unwrap(), &["--version"]), version);
    assert!(output("ldd", &[program.to_str().unwrap()]).contains("statically linked"));
    let code = fs::read(&program).unwrap();
    for path in [env!("CARGO_MANIFEST_DIR"), "/.cargo/"] {
        assert!(!code.windows(path.len()).any(|part| part == path.as_bytes()), "{path}");
    }
    // Each package that the program contains has its licence.
    let licences = fs::read_to_string(directory.path().join("THIRD-PARTY")).unwrap();
    let direct = page("Cargo.toml");
    let (_, direct) = direct.split_once("[dependencies]\n").unwrap();
    let (direct, _) = direct.split_once("\n\n").unwrap();
    for line in direct.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(' ').next().unwrap();
        assert!(licences.contains(&format!("\n{name} v")), "{name}");
    }
    assert!(licences.matches(" is hereby granted").count() > 20);
}

#[test]
fn install_sh_of_the_release_has_the_sums_of_its_bundles() {
    let checked = format!("cd {} && sha256sum --check --strict SHA256SUMS", dist().display());
    let checked = output("sh", &["-c", &checked]);
    for part in ["install.sh: OK", ".deb: OK", ".rpm: OK", ".tar.gz: OK"] {
        assert!(checked.contains(part), "{part}: {checked}");
    }
    let name = bundle();
    let name = name.file_name().unwrap().to_str().unwrap();
    let start = concat!("pgw-forwarder-", env!("CARGO_PKG_VERSION"), "-");
    let target = name.strip_prefix(start).unwrap().strip_suffix(".tar.gz").unwrap();
    let sum = output("sha256sum", &[bundle().to_str().unwrap()]);
    let line = format!("\n{target} {}\n", &sum[..64]);
    // The script differs from that of the repository in these lines and the address only.
    let released = fs::read_to_string(dist().join("install.sh")).unwrap();
    let (start, rest) = released.split_once("\nsums='").unwrap();
    let (sums, end) = rest.split_once('\'').unwrap();
    assert!(sums.contains(&line), "{line} is not in {sums}");
    let released_without_sums = format!("{start}\nsums=''{end}");
    let without_address =
        |line| if str::starts_with(line, "release_url='") { "release_url=''" } else { line };
    let is_current =
        released_without_sums.lines().map(without_address).eq(page("install.sh").lines());
    assert!(is_current, "install.sh has changed: run deploy/release.sh");
    let version = concat!("\nversion=", env!("CARGO_PKG_VERSION"), "\n");
    assert!(released.contains(version), "{version}");
}

#[test]
fn deb_is_free_of_errors_and_has_one_script() {
    let deb = deb();
    let deb = deb.to_str().unwrap();
    assert_eq!(output("lintian", &["--allow-root", "--fail-on", "error,warning", deb]), "");
    let directory = tempfile::tempdir().unwrap();
    output("dpkg-deb", &["--raw-extract", deb, directory.path().to_str().unwrap()]);
    let names = fs::read_dir(directory.path().join("DEBIAN")).unwrap();
    let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
    let expected = ["control", "prerm"].map(String::from);
    assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
}

/// No real system of this kind is at hand.
#[test]
fn rpm_has_the_program_its_script_and_what_install_sh_needs() {
    let rpm = rpm();
    let rpm = rpm.to_str().unwrap();
    let script = output("rpm", &["-qp", "--scripts", rpm]);
    assert!(script.starts_with("preuninstall scriptlet:\n"), "{script}");
    assert!(script.contains(page("deploy/package/prerm").trim_end()), "{script}");
    assert!(!script.contains("postinstall"), "{script}");
    if !require(rustix::process::geteuid().is_root(), "to install an .rpm needs root") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let options = "-i --nodeps --noscripts --noplugins --root";
    output("rpm", &[&options.split(' ').collect::<Vec<_>>()[..], &[root, rpm]].concat());
    let share = directory.path().join("usr/share/pgw-forwarder");
    for file in ["install.sh", "crontab.example", "deploy/node/exporter.socket"] {
        assert!(share.join(file).is_file(), "{file}");
    }
    let program = directory.path().join("usr/bin/pgw-forwarder");
    assert!(output(program.to_str().unwrap(), &["--version"]).starts_with("pgw-forwarder "));
}

#[test]
fn address_of_a_release_is_https_and_ends_with_its_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (url, why) in [
        (format!("http://files.example/v{version}"), "give an https:// URL that ends with"),
        ("https://files.example/v0".into(), "give an https:// URL that ends with"),
        (format!("https://files.example/v{version}/"), "give an https:// URL that ends with"),
        (format!("https://files.example/'$(id)'/v{version}"), "use letters, digits and"),
    ] {
        let mut release = Command::new("deploy/release.sh");
        let ended = release.arg("--sums").env("RELEASE_URL", &url).complete();
        assert_eq!(ended.status.code(), Some(1), "{url}: {ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains(why), "{url}: {ended:?}");
    }
}

#[test]
fn release_made_in_another_directory_has_the_same_bytes() {
    let (source, directory) =
        (env!("CARGO_MANIFEST_DIR"), tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    let (copy, cargo) = (directory.path().join("copy"), directory.path().join("cargo"));
    for path in [&copy, &cargo, &copy.join("target")] {
        fs::create_dir(path).unwrap();
    }
    let files = "git ls-files -z | xargs -0 cp --parents --target-directory";
    output("sh", &["-c", &format!("{files} {}", copy.display())]);
    // What cargo downloads, and the tools, are the same.
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap()).join(".cargo"),
        PathBuf::from,
    );
    symlink(home.join("registry"), cargo.join("registry")).unwrap();
    symlink(Path::new(source).join("target/tools"), copy.join("target/tools")).unwrap();
    let time = output("git", &["log", "-1", "--format=%ct"]);
    // The README's command. Its address goes into install.sh only.
    let line = command("README.md", "RELEASE_URL=");
    let (url, script) = line.strip_prefix("RELEASE_URL=").unwrap().split_once(' ').unwrap();
    let mut release = Command::new(copy.join(script));
    release
        .env("RELEASE_URL", url)
        .env("CARGO_HOME", &cargo)
        .env("SOURCE_DATE_EPOCH", time.trim_end())
        .env_remove("CARGO_TARGET_DIR");
    let ended = release.complete_within(MAX_LONG_WAIT);
    assert!(ended.status.success(), "{ended:?}");
    let released = fs::read_to_string(copy.join("dist/install.sh")).unwrap();
    assert!(released.contains(&format!("\nrelease_url='{url}'\n")), "{url}");
    for file in fs::read_dir(copy.join("dist")).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap();
        // These depend on the bundles of other targets, which may be in dist as well.
        if name != "install.sh" && name != "SHA256SUMS" {
            let other = Path::new(source).join("dist").join(name);
            assert!(fs::read(&file).unwrap() == fs::read(other).unwrap(), "{name:?} differs");
        }
    }
}
