//! A node for tests: a minimal Debian that systemd boots in a container, with its own network link.
//! Each test has its machine in its own namespaces and its own control group, so all run at the same time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::{
    self, Complete, MAX_LONG_WAIT, MAX_WAIT, find_program, kill, run_command, run_command_within,
    wait_for,
};

/// The addresses of the machine and of the other end of its link.
pub const INSIDE: &str = "10.213.0.2";
pub const OUTSIDE: &str = "10.213.0.1";
/// The time limit of a command on the machine.
const MAX_SECONDS: u64 = 300;

/// The packages that a machine has in addition to the minimum.
const INSTALLED: &str = "systemd,systemd-sysv,dbus,iproute2,procps,libfaketime";

/// The packages that install.sh installs, a second exporter, and what downloads and Ansible need. A machine has
/// downloaded, not installed them.
const DOWNLOADED: &str = "cron prometheus-node-exporter prometheus-process-exporter \
    ca-certificates curl wget openssh-server python3";

/// The release of Debian on a machine: its systemd, cron and node_exporter.
#[derive(Clone, Copy)]
pub enum Suite {
    Bookworm,
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
        }
    }
}

/// The requirement for a machine that this host does not meet.
pub fn unmet_requirement() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a booted Debian needs root".into());
    }
    let tools = ["debootstrap", "systemd-nspawn", "nsenter", "ip"];
    let is_missing = |tool: &&&str| find_program(&[**tool]).is_none();
    let missing: Vec<_> = tools.iter().filter(is_missing).collect();
    (!missing.is_empty()).then(|| format!("a booted Debian needs {missing:?}"))
}

/// Makes tests of stories, each on each suite: `STORY` becomes `bookworm::STORY` and `trixie::STORY`.
macro_rules! on_each_suite {
    ($($story:ident,)*) => {
        $crate::booted_machine::on_each_suite!(bookworm Bookworm $($story)*);
        $crate::booted_machine::on_each_suite!(trixie Trixie $($story)*);
    };
    ($module:ident $suite:ident $($story:ident)*) => {
        mod $module {
            $(#[test]
            fn $story() {
                let test = concat!(module_path!(), "::", stringify!($story));
                let suite = $crate::booted_machine::Suite::$suite;
                if $crate::booted_machine::enter_own_namespaces(test, suite) {
                    super::$story(suite);
                }
            })*
        }
    };
}
pub(crate) use on_each_suite;

/// Runs a test again, in its own network and mount namespaces where a machine of this suite can boot.
/// Returns whether this is already that run. `test` is the path of its function.
pub fn enter_own_namespaces(test: &str, suite: Suite) -> bool {
    let unmet = unmet_requirement();
    if !host::require(unmet.is_none(), unmet.as_deref().unwrap_or_default()) {
        return false;
    }
    // Only this side of the namespaces reaches the distribution's packages.
    image(suite);
    let (_, test) = test.split_once("::").unwrap();
    if !host::enter_own_namespaces(test, "a booted Debian needs namespaces") {
        return false;
    }
    // systemd needs cgroups of version 2, which the host may not have.
    run_command("umount --recursive --lazy /sys/fs/cgroup");
    run_command("mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    true
}

/// A booted machine. It is powered off and removed when this is dropped.
pub struct Machine {
    container: RefCell<Child>,
    root: PathBuf,
    directory: TempDir,
}

impl Machine {
    /// Boots the suite's image, with `bundle` as its /root/bundle. All that changes is in memory.
    pub fn boot(suite: Suite, bundle: &[(&Path, &str)]) -> Machine {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = directory.path().display();
        run_command(&format!("mount -t tmpfs tmpfs {path}"));
        run_command(&format!("mkdir {path}/upper {path}/work {path}/root"));
        run_command(&format!(
            "mount -t overlay -o lowerdir={},upperdir={path}/upper,workdir={path}/work overlay {path}/root",
            image(suite).display()
        ));
        let root = directory.path().join("root");
        for (from, to) in bundle {
            let to = root.join("root/bundle").join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
        let machine = Machine { container: RefCell::new(start(&root)), root, directory };
        machine.wait_until_up();
        machine
    }

    /// Reboots it from within.
    pub fn reboot(&self) {
        self.run("systemctl reboot");
        let end = || self.container.borrow_mut().try_wait().unwrap();
        // With this status, systemd-nspawn asks for another start.
        assert_eq!(wait_for("the shutdown", end).code(), Some(133));
        *self.container.borrow_mut() = start(&self.root);
        self.wait_until_up();
    }

    /// Waits for the end of the boot, and connects the host's end of the link.
    fn wait_until_up(&self) {
        wait_for("the machine's systemd", || self.leader());
        wait_for("the end of the boot", || {
            let state = self.command("systemctl is-system-running").complete().stdout;
            ["running\n", "degraded\n"]
                .contains(&std::str::from_utf8(&state).unwrap())
                .then_some(())
        });
        run_command(&format!("ip address replace {OUTSIDE}/24 dev ve-{}", name()));
        self.link("up");
    }

    /// Switches the link "up" or "down".
    pub fn link(&self, state: &str) {
        run_command(&format!("ip link set ve-{} {state}", name()));
    }

    /// Makes each minute of cron last only so many seconds, whether cron is installed yet or not. No other
    /// program's clock changes, not even that of cron's jobs: they get an environment of their own.
    pub fn shorten_minutes_of_cron(&self, seconds: u32) {
        let file = self.file("/etc/systemd/system/cron.service.d/faketime.conf");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        // Otherwise the times of unchanged files would differ at each reading.
        let unit = format!(
            "[Service]\nEnvironment=NO_FAKE_STAT=1 \"FAKETIME=+0 x{}\"\n\
             Environment=LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1\n",
            60.0 / f64::from(seconds)
        );
        fs::write(file, unit).unwrap();
        self.succeed(
            "systemctl daemon-reload; ! systemctl --quiet is-active cron || systemctl restart cron",
        );
    }

    /// The PID of the machine's first process on the host.
    fn leader(&self) -> Option<u32> {
        let pid = self.container.borrow().id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split(' ').next()?.parse().ok()
    }

    /// A command line for a shell on the machine.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        let leader = self.leader().unwrap_or_default().to_string();
        command
            .args(["--target", &leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["timeout", &MAX_SECONDS.to_string(), "sh", "-c", &format!("cd /root && {line}")])
            .stdin(Stdio::null());
        command
    }

    /// Runs a command line on the machine as root. Its status is 124 after [`MAX_SECONDS`].
    pub fn run(&self, line: &str) -> Output {
        self.command(line).complete_within(Duration::from_secs(MAX_SECONDS) + MAX_WAIT)
    }

    /// Asserts that a command line succeeds, and returns its stdout.
    #[track_caller]
    pub fn succeed(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:#?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The PIDs on the host of the machine's processes that run `program`.
    pub fn processes(&self, program: &str) -> Vec<String> {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.leader().unwrap_or_default().to_string());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let pid = entry.unwrap().file_name().into_string().unwrap();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // The kernel truncates names to fifteen bytes.
            if name.trim_end() == &program[..program.len().min(15)] && namespace(&pid) == own {
                found.push(pid);
            }
        }
        found
    }

    /// The forwarder's lines in the system log since the boot.
    pub fn log(&self) -> Vec<String> {
        let log = self.succeed("journalctl --boot --quiet --output=cat --identifier=pgw-forwarder");
        log.lines().map(String::from).collect()
    }

    /// Everything that an installation can change: files with mode, owner and content, and the users.
    pub fn state(&self) -> BTreeMap<String, String> {
        let ignored = [
            // Logs, caches, and the test's own files.
            "-path /var/log -o -path /var/cache -o -path /var/lib/apt -o -path /root",
            // Timers of the distribution copy files here at any time, whether or not a test runs.
            "-path /var/backups",
            // The list of packages, which has those that were removed, too.
            "-path '/var/lib/dpkg/status*'",
            // systemd's own.
            "-path /var/lib/systemd -o -path '/var/tmp/systemd-private-*'",
            // useradd and userdel copy the user files, and leave lock files if they are killed.
            "-path '/etc/*-' -o -name .pwd.lock -o -regex '/etc/[a-z]*\\.\\(lock\\|[0-9]+\\)'",
        ]
        .join(" -o ");
        let listing = self.succeed(&format!(
            "find / -xdev \\( {ignored} \\) -prune -o \
             \\( -type f -printf '%p\\t%m %u\\n' -exec sha256sum {{}} + \\) \
             -o \\( -type l -printf '%p\\t%l\\n' \\) -o \\( -type d -printf '%p\\t%m %u\\n' \\)",
        ));
        let mut state = BTreeMap::<_, String>::new();
        for line in listing.lines() {
            let hash = || line.split_once("  ").map(|(hash, path)| (path, hash));
            let (path, part) = line.split_once('\t').or_else(hash).unwrap();
            *state.entry(path.to_owned()).or_default() += &format!("{part} ");
        }
        state
    }

    /// Asserts that nothing differs from an earlier state.
    #[track_caller]
    pub fn assert_state(&self, earlier: &BTreeMap<String, String>, when: &str) {
        let now = self.state();
        let paths = now.keys().chain(earlier.keys());
        let changed = paths.filter(|path| now.get(*path) != earlier.get(*path));
        let changed: Vec<_> = changed.map(|p| (p, earlier.get(p), now.get(p))).collect();
        assert!(changed.is_empty(), "{when}: {changed:#?}");
    }

    /// The path of a file of the machine on the host.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut container = self.container.borrow_mut();
        // SIGTERM powers it off in order. Otherwise its files would still be in use.
        let _ = kill_process(Pid::from_child(&container), Signal::TERM);
        let mut has_ended = || container.try_wait().is_ok_and(|status| status.is_some());
        for _ in 0..600 {
            if has_ended() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        kill(&mut container);
        Command::new("umount").args(["-R", "-l"]).arg(self.directory.path()).complete();
        Command::new("find").args([&cgroup(), "-depth", "-type", "d", "-delete"]).complete();
    }
}

/// The machine's name, which no machine of another test has.
fn name() -> String {
    format!("pgw{}", process::id())
}

/// The machine's control group. In the same one, two machines would kill each other's services.
fn cgroup() -> String {
    format!("/sys/fs/cgroup/{}", name())
}

/// Boots the tree `root`.
fn start(root: &Path) -> Child {
    let log = File::create(root.with_extension("console")).unwrap();
    let cgroup = cgroup();
    Command::new("sh")
        .args(["-c", "mkdir -p \"$0\" && echo $$ >\"$0/cgroup.procs\" && exec \"$@\"", &cgroup])
        .args(["systemd-nspawn", "--boot", "--register=no", "--keep-unit", "--network-veth"])
        .args(["--quiet", "--resolv-conf=off", "--timezone=off", "--console=read-only"])
        // The exporter and its unit need what a real machine allows: packet filters, and the state of the clock.
        .args(["--capability=CAP_BPF,CAP_NET_ADMIN,CAP_SYS_TIME"])
        .arg("--system-call-filter=bpf @clock")
        .args(["--machine", &name(), "--directory"])
        .arg(root)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The tree of a minimal Debian. It is made once, in the target directory.
fn image(suite: Suite) -> PathBuf {
    let suite = suite.name();
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("node-image-{suite}"));
    // Several tests need it.
    let lock = File::create(image.with_extension("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let (list, packages) = ("root/packages", format!("{INSTALLED}\n{DOWNLOADED}\n"));
    if fs::read_to_string(image.join(list)).is_ok_and(|made_with| made_with == packages) {
        return image;
    }
    let new = image.with_extension("new");
    for old in [&image, &new] {
        let _ = fs::remove_dir_all(old);
    }
    let path = new.display();
    let run = |line: &str| run_command_within(MAX_LONG_WAIT, line);
    run(&format!("debootstrap --variant=minbase --include={INSTALLED} {suite} {path}"));
    // A machine reaches no mirror: apt shall notice at once, and load as little as possible.
    let apt = "Acquire::Retries \"0\";\nAcquire::Languages \"none\";\n";
    fs::write(new.join("etc/apt/apt.conf.d/node"), apt).unwrap();
    run(&format!("chroot {path} apt-get -q update"));
    run(&format!(
        "chroot {path} apt-get -qy install --download-only --no-install-recommends {DOWNLOADED}"
    ));
    fs::write(new.join(list), packages).unwrap();
    fs::write(new.join("etc/hostname"), "node.example\n").unwrap();
    fs::write(new.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    let network = format!("[Match]\nName=host0\n[Network]\nAddress={INSIDE}/24\n");
    fs::write(new.join("etc/systemd/network/10-host0.network"), network).unwrap();
    run(&format!("systemctl --root={path} enable systemd-networkd.service"));
    // Otherwise each boot would be the first one of a new machine.
    fs::write(new.join("etc/machine-id"), "5e1f7b3a9c2d4e6f8a0b1c2d3e4f5a6b\n").unwrap();
    fs::rename(&new, &image).unwrap();
    image
}
