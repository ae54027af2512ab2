//! What the options of one side say about access to its servers: credentials and files.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt;
use std::{env, fs, io};

use log::warn;

use super::side::Side;
use crate::logging;

/// Largest file with a secret or certificates, in bytes; a system's trust store has a quarter of it.
const MAX_FILE: u64 = 1 << 20;

/// The options of one side for access to its servers.
#[derive(Debug, Default)]
pub struct Access {
    /// The side, for messages and for the variables that have no option.
    pub side: Side,
    /// The options that are set, by their names after the side: `user`, `password-file`, `token-file`,
    /// `cacert`, `cert`, `key`. All but the first name files.
    pub options: HashMap<&'static str, String>,
}

impl Access {
    /// Reads the file that the option `name` names, if it is set. Warns if the file is secret and every
    /// user of this host can read it.
    pub fn read_file(&self, name: &str, is_secret: bool) -> Result<Option<Vec<u8>>, String> {
        let Some(path) = self.options.get(name) else {
            return Ok(None);
        };
        let error = |e: io::Error| self.file_error(name, &e.to_string());
        // Reading a FIFO would wait for its writer.
        let found = fs::metadata(path).map_err(error)?;
        if !found.is_file() || found.len() > MAX_FILE {
            return Err(self.file_error(name, "not a regular file of at most 1 MiB"));
        }
        if is_secret && found.mode() & 0o004 != 0 {
            let option = self.side.option(name);
            warn!("{option}: every user of this host can read {path}. Run: chmod o= {path}");
        }
        fs::read(path).map(Some).map_err(error)
    }

    /// An error about the file that the option `name` names.
    pub fn file_error(&self, name: &str, why: &str) -> String {
        let path = self.options.get(name).map_or("", String::as_str);
        format!("{}: {path}: {why}", self.side.option(name))
    }

    /// The secret of this kind: from its file, without the newline at the end, or from its variable.
    pub fn secret(&self, kind: &str) -> Result<Option<Vec<u8>>, String> {
        let (option, variable) = (format!("{kind}-file"), self.side.variable(kind));
        let secret = match (self.read_file(&option, true)?, env::var_os(&variable)) {
            (None, None) => return Ok(None),
            (None, Some(secret)) => secret.into_vec(),
            (Some(content), None) => {
                let secret = content.strip_suffix(b"\n").unwrap_or(&content);
                secret.strip_suffix(b"\r").unwrap_or(secret).to_owned()
            }
            (Some(_), Some(_)) => {
                let option = self.side.option(&option);
                return Err(format!("{option}: {variable} is set as well. Use one"));
            }
        };
        logging::register_secret(&String::from_utf8_lossy(&secret));
        Ok(Some(secret))
    }
}
