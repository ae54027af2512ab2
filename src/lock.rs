//! The run lock: one run at a time for each gateway and grouping key.
//!
//! The lock is a `flock`, which the kernel releases when its holder dies. The PID in the file is
//! information for the run that is turned away, and needs a disk; the lock needs none. The file is never
//! unlinked: a run that had it open would then hold a lock that no other run sees.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{env, process};

use anyhow::{Result, anyhow, bail};
use fs4::{FileExt, TryLockError};
use log::{debug, info};
use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::group::fingerprint;
use crate::status::Status;

/// The directory that `install.sh` and tmpfiles.d provide.
const SYSTEM_DIRECTORY: &str = "/run/pgw-forwarder";

/// The option that chooses another lock file, for messages.
const OPTION: &str = "--lock-file (FORWARDER_LOCK_FILE)";

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock at `path`. If another run holds it, the error has [`Status::Locked`] and its PID.
    pub fn take(path: &Path) -> Result<Lock> {
        let shown = path.display();
        let unusable =
            |e| anyhow!("lock file {shown} cannot be used: {e}. Check it, or set {OPTION}");
        let mut file = open(path).map_err(unusable)?;
        let is_free = match FileExt::try_lock(&file) {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(e)) => return Err(unusable(e.into())),
        };
        let pid = read_pid(&mut file).map_err(unusable)?;
        if !is_free {
            return Err(Status::Locked.error(format!(
                "another run (PID {pid}) for this gateway and group holds the lock {shown}"
            )));
        }
        info!("holding the lock {shown}");
        let written = file.set_len(0).and_then(|()| file.rewind());
        let written =
            written.and_then(|()| file.write_all(format!("{}\n", process::id()).as_bytes()));
        if let Err(e) = written {
            debug!("no PID in {shown}: {e}");
        }
        Ok(Lock(file))
    }
}

impl Drop for Lock {
    /// Empties the file, so that no later run is shown this PID.
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
    }
}

/// Opens the lock file, for reading alone if the disk is read-only. Refuses what another user may have put
/// there.
fn open(path: &Path) -> Result<File> {
    // A FIFO or terminal must not make the run wait, or become its own.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    // A user who can open the file can lock it, and so keep the metrics from leaving.
    options.read(true).mode(0o600).custom_flags(flags.bits() as i32);
    let file = match options.clone().write(true).create(true).truncate(false).open(path) {
        Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => options.open(path).map_err(|_| e)?,
        result => result?,
    };
    let found = file.metadata()?;
    let user = geteuid().as_raw();
    if !found.is_file() {
        bail!("it is not a regular file");
    }
    if found.uid() != user {
        bail!("it belongs to user {}, and this run is user {user}", found.uid());
    }
    if found.nlink() != 1 {
        bail!("it has a second name (a hard link)");
    }
    Ok(file)
}

/// The PID in the file: that of its holder, unless it writes it just now, or of a run that was killed.
/// Refuses a file with anything but a PID, since it would be overwritten.
fn read_pid(file: &mut File) -> Result<String> {
    let mut content = Vec::new();
    file.take(16).read_to_end(&mut content)?;
    // A crash of the machine may have left zero bytes.
    let is_blank = |b: &u8| b.is_ascii_whitespace() || *b == 0;
    if content.len() == 16 || !content.iter().all(|b| b.is_ascii_digit() || is_blank(b)) {
        bail!("it holds something else than a PID");
    }
    let digits: String = content.into_iter().filter(|b| !is_blank(b)).map(char::from).collect();
    Ok(if digits.is_empty() { "unknown".into() } else { digits })
}

/// The lock file for pushes to `url`, which names gateway and grouping key. It is in the first of these
/// directories that is this user's: `/run/pgw-forwarder`, `/run/user/UID`, and `pgw-forwarder-UID` in the
/// directory for temporary files, which is made if it is missing. (`$XDG_RUNTIME_DIR` does not count: a
/// login shell has it and cron has not, and the two would not see each other's lock.)
pub fn default_path(url: &str) -> Result<PathBuf> {
    let name = format!("pgw-forwarder-{:016x}.pid", fingerprint(url));
    let user = geteuid().as_raw();
    let owner = fs::metadata(SYSTEM_DIRECTORY).map(|found| found.uid());
    if let (0, Ok(owner @ 1..)) = (user, owner) {
        // Root's lock would be another one than cron's.
        bail!("{SYSTEM_DIRECTORY} belongs to user {owner}. Run as that user, or set {OPTION}");
    }
    let usual = [SYSTEM_DIRECTORY.into(), PathBuf::from(format!("/run/user/{user}"))];
    if let Some(directory) = usual.iter().find(|path| is_own(path)) {
        return Ok(directory.join(name));
    }
    // A relative one would be another directory for each run.
    let temporary = Some(env::temp_dir()).filter(|directory| directory.is_absolute());
    let temporary = temporary.unwrap_or_else(|| "/tmp".into());
    let directory = temporary.join(format!("pgw-forwarder-{user}"));
    let why = match DirBuilder::new().mode(0o700).create(&directory) {
        _ if is_own(&directory) => return Ok(directory.join(name)),
        Err(e) if e.kind() != ErrorKind::AlreadyExists => e.to_string(),
        _ => "it is a link, or another user can change it".into(),
    };
    let shown = directory.display();
    bail!("the directory {shown} for the lock cannot be used: {why}. Check it, or set {OPTION}");
}

/// Whether it is a directory, not a link to one, in which no other user can put anything.
fn is_own(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0
    })
}
