//! Runs of the forwarder, and how they end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::host::{Complete, run_command};

/// The program under test.
pub const FORWARDER: &str = env!("CARGO_BIN_EXE_pgw-forwarder");

/// A run of the forwarder with no variables but those that a test sets.
pub struct Run(Command);

/// Copies the program to a directory where every user can reach it. Another process writes the copy: if
/// this one did, a child that another test forks meanwhile would keep the file open for writing, and such
/// a file cannot be run.
pub fn copy_program(directory: &Path) -> PathBuf {
    let program = directory.join("pgw-forwarder");
    run_command(&format!("cp {FORWARDER} {}", program.display()));
    program
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    pub fn new(exporter: &str, gateway: &str) -> Run {
        let mut run = Run(Command::new(FORWARDER));
        // Otherwise the lock files of all tests would stay in the machine's own directory.
        run.0.env_clear().env("TMPDIR", env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
        run.env("EXPORTER_ADDR", exporter).env("PGW_ADDR", gateway)
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.0.env(name, value);
        self
    }

    pub fn arg(mut self, arg: &str) -> Run {
        self.0.arg(arg);
        self
    }

    pub fn args(mut self, args: &[&str]) -> Run {
        self.0.args(args);
        self
    }

    /// The same run, started by a command that gets the program and its arguments.
    pub fn by(self, command: &[&str]) -> Run {
        let mut run = Run(Command::new(command[0]));
        run.0
            .args(&command[1..])
            .arg(self.0.get_program())
            .args(self.0.get_args())
            .env_clear()
            .stdin(Stdio::null());
        for (name, value) in self.0.get_envs() {
            run.0.env(name, value.unwrap());
        }
        run
    }

    pub fn instance(self, instance: &str) -> Run {
        self.env("PGW_INSTANCE", instance)
    }

    /// The same run with this memory limit.
    pub fn within(self, kilobytes: u32) -> Run {
        self.after(&format!("ulimit -v {kilobytes} &&"))
    }

    /// The same run, started by a shell after these commands.
    pub fn after(self, first: &str) -> Run {
        self.by(&["/bin/sh", "-c", &format!("{first} exec \"$0\" \"$@\"")])
    }

    pub fn start(mut self) -> Child {
        self.0.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn end(self) -> Ended {
        Ended::of(self.start())
    }
}

impl Ended {
    /// How a started run ends.
    pub fn of(child: Child) -> Ended {
        Ended::new(child.complete())
    }

    pub fn new(output: Output) -> Ended {
        Ended {
            status: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts success, which is silent.
    #[track_caller]
    pub fn succeeded(&self) {
        assert_eq!((self.status, self.stderr.as_str()), (Some(0), ""));
    }

    /// Asserts a failure with one line on stderr that contains all of `parts`.
    #[track_caller]
    pub fn failed(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("pgw-forwarder: error: "), "{self:?}");
        assert!(self.stderr.ends_with(&format!(". (exit status {status})\n")), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:?}");
        }
        assert!(self.stdout.is_empty(), "{self:?}");
    }
}
