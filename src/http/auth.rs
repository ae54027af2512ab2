//! What the options of one side say about access to its servers: credentials and files.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt;
use std::{env, fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use log::warn;
use ureq::http::HeaderValue;

use super::address::Address;
use super::side::Side;
use crate::logging;

/// Largest file with a secret or certificates, in bytes; a system's trust store has a quarter of it.
const MAX_FILE: u64 = 1 << 20;

/// Longest header with credentials, in bytes: a line of a request has to fit into ureq's buffer.
const MAX_HEADER: usize = 8192;

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
    fn secret(&self, kind: &str) -> Result<Option<Vec<u8>>, String> {
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

    /// The value of `Authorization` for the server at `address`.
    pub fn authorization(&self, address: &Address) -> Result<Option<HeaderValue>, String> {
        let side = self.side;
        let user_error = |why: &str| format!("{}: {why}", side.option("user"));
        let by_user = match (self.options.get("user"), self.secret("password")?) {
            (None, None) => None,
            (Some(user), Some(_)) if user.contains(':') => {
                return Err(user_error("a user name has no colon"));
            }
            (Some(user), Some(password)) => Some([user.as_bytes(), b":", &password].concat()),
            (Some(_), None) => {
                let (option, variable) = (side.option("password-file"), side.variable("password"));
                return Err(user_error(&format!(
                    "its password is missing. Set {option} or {variable}"
                )));
            }
            (None, Some(_)) => return Err(user_error("a password is set, but no user")),
        };
        let token = self.secret("token")?;
        if token.as_ref().is_some_and(|t| t.is_empty() || !t.iter().all(u8::is_ascii_graphic)) {
            let option = side.option("token-file");
            return Err(format!("{option}: a token is one word of printable ASCII"));
        }
        let bearer = token.map(|token| format!("Bearer {}", String::from_utf8_lossy(&token)));
        let basic =
            [by_user.as_deref(), address.credentials.as_deref()].into_iter().flatten().map(basic);
        let values = basic.chain(bearer.map(header_value)).collect::<Result<Vec<_>, _>>();
        let mut values = values.map_err(|why| user_error(&why))?;
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(user_error("use only one of: user, token, credentials in the address")),
        }
    }
}

/// The value of `Authorization` for basic auth with `USER:PASSWORD`.
pub fn basic(credentials: &[u8]) -> Result<HeaderValue, String> {
    let encoded = STANDARD.encode(credentials);
    logging::register_secret(&encoded);
    if let Some((_, password)) = String::from_utf8_lossy(credentials).split_once(':') {
        logging::register_secret(password);
    }
    header_value(format!("Basic {encoded}"))
}

fn header_value(value: String) -> Result<HeaderValue, String> {
    if value.len() > MAX_HEADER {
        return Err(format!("the credentials are longer than {MAX_HEADER} bytes"));
    }
    let mut value = HeaderValue::try_from(value).map_err(|e| e.to_string())?;
    // Its Debug form does not show it.
    value.set_sensitive(true);
    Ok(value)
}
