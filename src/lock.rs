//! The run lock: one run at a time for each gateway and grouping key.
//!
//! A file that holds the PID of its holder and is locked by `flock`, which the kernel releases
//! when a holder dies. It is never unlinked: whoever had it open would then hold a lock that
//! nobody else sees.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, process, thread};

use anyhow::{Context, Result, bail};
use fs4::{FileExt, TryLockError};
use log::info;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::process::geteuid;

use crate::exit::Status;
use crate::group::fingerprint;

/// Where `install.sh` and tmpfiles.d provide for the lock.
const SYSTEM_DIRECTORY: &str = "/run/pgw-forwarder";

/// Where a lock file lies.
#[derive(Debug)]
pub struct Place {
    /// This user's own, held open so that nobody can put another in its place.
    directory: Option<File>,
    /// From that directory, or from the one in which the run was started.
    name: PathBuf,
    path: PathBuf,
}

impl Place {
    /// The place that a user has chosen, and answers for its directories.
    pub fn at(path: &Path) -> Place {
        Place {
            directory: None,
            name: path.into(),
            path: path.into(),
        }
    }

    fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().map_or(CWD, AsFd::as_fd)
    }
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock at `place`, or ends the run with [`Status::Locked`] and the holder's PID.
    pub fn take(place: &Place) -> Result<Lock> {
        let path = place.path.display();
        let unusable =
            || format!("lock file {path} cannot be used (see --lock-file, FORWARDER_LOCK_FILE)");
        let mut file = open(place).with_context(unusable)?;
        match FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(place).unwrap_or_else(|| "unknown".into());
                return Err(Status::Locked.because(format!(
                    "another run (PID {holder}) for this gateway and group holds the lock {path}"
                )));
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock {path}"));
            }
        }
        let is_empty = check(place, &mut file).with_context(unusable)?;
        info!("holding the lock {path}");
        // Only now: before, the content is another run's. It is there if that one was killed.
        let clear = match is_empty {
            true => Ok(()),
            false => file.set_len(0).and_then(|()| file.rewind()),
        };
        clear
            .and_then(|()| file.write_all(format!("{}\n", process::id()).as_bytes()))
            .with_context(|| format!("cannot write the PID into {path}"))?;
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
fn open(place: &Place) -> Result<File> {
    // Neither a FIFO, a terminal nor a file that is leased makes a run wait, or becomes its own.
    let flags = OFlags::RDWR
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    // Who can open a file can lock it, and so keep this user's metrics from leaving.
    let mode = Mode::RUSR | Mode::WUSR;
    let file = match openat(place.directory(), &place.name, flags, mode) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => bail!("it is a symbolic link"),
        Err(e) => return Err(std::io::Error::from(e).into()),
    };
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

/// Checks that a file that was opened and locked is the lock file. What it was when it was opened
/// does not tell: somebody may have linked a file of this user there, and removed the link at once.
/// Returns whether it is empty.
fn check(place: &Place, file: &mut File) -> Result<bool> {
    let found = file.metadata()?;
    match statat(place.directory(), &place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(now) if (now.st_dev, now.st_ino, now.st_nlink) == (found.dev(), found.ino(), 1) => {}
        _ => bail!("it was replaced just now"),
    }
    // A PID has at most seven digits. A crash of the machine may have left as many zero bytes.
    let mut content = Vec::new();
    file.take(16).read_to_end(&mut content)?;
    let is_lock = |b: &u8| b.is_ascii_digit() || b.is_ascii_whitespace() || *b == 0;
    if content.len() == 16 || !content.iter().all(is_lock) {
        bail!("it holds something else than a PID");
    }
    Ok(content.is_empty())
}

/// The PID in a lock file. A holder writes it just after it took the lock: wait that long.
fn holder(place: &Place) -> Option<String> {
    for _ in 0..20 {
        let mut text = String::new();
        let mut file = open(place).ok()?.take(16);
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
pub fn default_place(url: &str) -> Result<Place> {
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
    let found = [SYSTEM_DIRECTORY.into(), PathBuf::from(session)]
        .into_iter()
        .find_map(|path| Some((open_own(&path, OFlags::empty()).ok()?, path)));
    let (directory, path) = match found {
        Some(found) => found,
        None => temporary_directory()?,
    };
    Ok(Place {
        directory: Some(directory),
        path: path.join(&name),
        name: name.into(),
    })
}

/// Opens a directory that nobody else can put anything into.
fn open_own(path: &Path, flags: OFlags) -> Result<File> {
    let flags = flags | OFlags::DIRECTORY;
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    if !is_own(&directory.metadata()?) {
        bail!("it is not a directory that only this user can write to");
    }
    Ok(directory)
}

/// Whether nobody else can put anything into this directory.
fn is_own(found: &Metadata) -> bool {
    found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0
}

fn temporary_directory() -> Result<(File, PathBuf)> {
    let temporary = Some(env::temp_dir()).filter(|directory| directory.is_absolute());
    let path = temporary.unwrap_or_else(|| "/tmp".into());
    let path = path.join(format!("pgw-forwarder-{}", geteuid().as_raw()));
    let directory = match DirBuilder::new().mode(0o700).create(&path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e.into()),
        // Whether made just now or found: not a link, and this user's alone.
        _ => open_own(&path, OFlags::NOFOLLOW),
    }
    .with_context(|| {
        format!(
            "the directory {} for the lock cannot be used (see --lock-file, FORWARDER_LOCK_FILE)",
            path.display()
        )
    })?;
    Ok((directory, path))
}
