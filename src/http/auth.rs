//! Credentials as the value of a header.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::HeaderValue;

use super::access::Access;
use super::address::Address;
use crate::logging;

/// Longest header with credentials, in bytes: a line of a request has to fit into ureq's buffer.
const MAX_HEADER: usize = 8192;

/// The value of `Authorization` for the server at `address`.
pub fn authorization(access: &Access, address: &Address) -> Result<Option<HeaderValue>, String> {
    let side = access.side;
    let user_error = |why: &str| format!("{}: {why}", side.option("user"));
    let by_user = match (access.options.get("user"), access.secret("password")?) {
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
    let token = access.secret("token")?;
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
