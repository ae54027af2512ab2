//! The run lock: one run at a time for each gateway and grouping key.
//!
//! A file that holds the PID of its holder and is locked by `flock`, which the kernel releases
//! when a holder dies. It is never unlinked: whoever had it open would then hold a lock that
//! nobody else sees.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process, thread};

use anyhow::{Context, Result, bail};
use fs4::{FileExt, TryLockError};
use log::info;
use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::exit::Status;
use crate::group::fingerprint;

/// Where `install.sh` and tmpfiles.d provide for the lock.
const SYSTEM_DIRECTORY: &str = "/run/pgw-forwarder";

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock at `path`, or ends the run with [`Status::Locked`] and the holder's PID.
    pub fn take(path: &Path) -> Result<Lock> {
        let mut file = open(path).with_context(|| {
            let path = path.display();
            format!("lock file {path} cannot be used (see --lock-file, FORWARDER_LOCK_FILE)")
        })?;
        match FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(path).unwrap_or_else(|| "unknown".into());
                return Err(Status::Locked.because(format!(
                    "another run (PID {holder}) for this gateway and group holds the lock {}",
                    path.display()
                )));
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        info!("holding the lock {}", path.display());
        // Only now: before, the content is another run's.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", process::id()))
            .with_context(|| format!("cannot write the PID into {}", path.display()))?;
        Ok(Lock(file))
    }
}

impl Drop for Lock {
    /// Empties the file, so that the next run that is turned away is not told this PID.
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
    }
}

/// Opens the lock file, and refuses what somebody else may have put in its place.
fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // Who can open a file can lock it, and so keep this user's metrics from leaving.
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|e| match rustix::io::Errno::from_io_error(&e) {
            Some(rustix::io::Errno::LOOP) => anyhow::anyhow!("it is a symbolic link"),
            _ => e.into(),
        })?;
    let found = file.metadata()?;
    if !found.is_file() {
        bail!("it is not a regular file");
    }
    if found.uid() != geteuid().as_raw() {
        bail!(
            "it belongs to user {}, and this run is user {}",
            found.uid(),
            geteuid().as_raw()
        );
    }
    if found.nlink() != 1 {
        bail!("it has a second name (a hard link)");
    }
    Ok(file)
}

/// The PID in a lock file. A holder writes it just after it took the lock: wait that long.
fn holder(path: &Path) -> Option<String> {
    for _ in 0..20 {
        let mut text = String::new();
        // A PID has at most seven digits.
        let mut file = open(path).ok()?.take(16);
        file.read_to_string(&mut text).ok()?;
        if text.ends_with('\n') && text.trim().parse::<u32>().is_ok() {
            return Some(text.trim().to_owned());
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// The lock file for pushes to `url`, which names gateway and grouping key. It lies in the first
/// of these directories that is this user's: `/run/pgw-forwarder`, `/run/user/UID`, and, made when
/// it is missing, `pgw-forwarder-UID` in the directory for temporary files. (Not in
/// `$XDG_RUNTIME_DIR`: a login shell has it and cron has not, and the two would not see each
/// other's lock.)
pub fn default_path(url: &str) -> Result<PathBuf> {
    let name = format!("pgw-forwarder-{:016x}.pid", fingerprint(url));
    let system = fs::metadata(SYSTEM_DIRECTORY);
    if let (Ok(found), true) = (&system, geteuid().is_root()) {
        if found.uid() != 0 {
            // Its lock would be another one than cron's.
            bail!(
                "{SYSTEM_DIRECTORY} belongs to user {}: run as that user, or give --lock-file",
                found.uid()
            );
        }
    }
    let session = format!("/run/user/{}", geteuid().as_raw());
    let directory = [SYSTEM_DIRECTORY.into(), PathBuf::from(session)]
        .into_iter()
        .find(|directory| fs::metadata(directory).is_ok_and(|found| is_own(&found)));
    Ok(match directory {
        Some(directory) => directory,
        None => temporary_directory()?,
    }
    .join(name))
}

/// Whether nobody else can put anything into this directory.
fn is_own(found: &Metadata) -> bool {
    found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0
}

fn temporary_directory() -> Result<PathBuf> {
    let temporary = Some(env::temp_dir()).filter(|directory| directory.is_absolute());
    let directory = temporary.unwrap_or_else(|| "/tmp".into());
    let directory = directory.join(format!("pgw-forwarder-{}", geteuid().as_raw()));
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e.into()),
        // Whether made just now or found: not a link, and this user's alone.
        _ => fs::symlink_metadata(&directory).map_err(anyhow::Error::from),
    }
    .and_then(|found| match is_own(&found) {
        true => Ok(()),
        false => bail!("it is not a directory that only this user can write to"),
    })
    .with_context(|| {
        format!(
            "the directory {} for the lock cannot be used (see --lock-file, FORWARDER_LOCK_FILE)",
            directory.display()
        )
    })?;
    Ok(directory)
}
