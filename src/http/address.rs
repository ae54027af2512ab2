//! The address of an exporter, a gateway or a proxy.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

/// An `http://` or `https://` URL without the slash that a path follows: host, port, and a path prefix if
/// the service is behind a reverse proxy. Or a Unix socket. It has no Debug form, which might show a
/// password.
#[derive(Clone)]
pub struct Address {
    url: String,
    /// The name or IP address of the host, IPv6 in brackets.
    pub host: String,
    /// The port on that host.
    pub port: u16,
    /// The Unix socket, which takes the place of host and port.
    pub socket: Option<PathBuf>,
    /// `USER:PASSWORD`, which no message shows.
    pub credentials: Option<Vec<u8>>,
}

impl Address {
    /// The URL of `path` (no leading slash; a query is allowed) below this address.
    pub fn join(&self, path: &str) -> Result<Uri, String> {
        if !is_encoded(path) {
            return Err(format!("{path:?} must be percent-encoded: printable ASCII without '#'"));
        }
        let url = format!("{}/{path}", self.url);
        url.parse().map_err(|e| format!("{url:.100}... is not a URL: {e}"))
    }

    /// Whether TLS is spoken.
    pub fn is_https(&self) -> bool {
        self.url.starts_with("https:")
    }

    /// `scheme://host[:port]`.
    pub fn origin(&self) -> String {
        self.url.split('/').take(3).collect::<Vec<_>>().join("/")
    }

    /// An absolute path of a Unix socket. HTTP needs a host name all the same.
    fn from_socket(path: &str) -> Result<Address, String> {
        // The kernel takes 108, of which one ends the path.
        if !path.starts_with('/') || path.len() > 107 {
            return Err("use an absolute path of at most 107 bytes: unix:/run/x.sock".into());
        }
        Ok(Address {
            url: "http://localhost".into(),
            host: "localhost".into(),
            port: 80,
            socket: Some(path.into()),
            credentials: None,
        })
    }
}

/// Whether a text can be part of a URL as it is. A fragment cannot: it would be dropped, and with it what
/// the user meant by it.
fn is_encoded(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(path) => write!(f, "unix:{}", path.display()),
            None => f.write_str(&self.url),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            return Address::from_socket(path);
        }
        // No error shows the text, which may hold a password.
        let unusable = || "use host:port, [v6]:port, an http(s):// URL or unix:/path".to_owned();
        if text.contains(['?', '#']) {
            return Err("a query or fragment is not part of an address".into());
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let uri: Uri = format!("{scheme}://{rest}").parse().map_err(|_| unusable())?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(unusable()),
        };
        let authority = uri.authority().ok_or_else(unusable)?.as_str();
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(decode(credentials)), authority),
            None => (None, authority),
        };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => format!("[{}]", v6.parse::<Ipv6Addr>().map_err(|_| unusable())?),
            None => host,
        };
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || "-._[:]".contains(c);
        if host.is_empty() || !host.chars().all(is_in_name) {
            return Err(unusable());
        }
        let port = match authority.strip_prefix(uri.host().unwrap_or_default()) {
            Some("") => default_port,
            Some(port) => match port.strip_prefix(':').map(str::parse) {
                // The parser takes a sign, too.
                Some(Ok(number)) if number > 0 && !port.contains('+') => number,
                _ => return Err("a port is a number from 1 to 65535".into()),
            },
            None => return Err(unusable()),
        };
        // An at sign in it is most likely part of a password that is not encoded.
        let path = uri.path();
        if !is_encoded(path) || path.contains('@') {
            return Err("its path and credentials must be percent-encoded".into());
        }
        // One address has one form: the name of the lock is derived from it.
        let shown_port = if port == default_port { String::new() } else { format!(":{port}") };
        let url = format!("{}://{host}{shown_port}{path}", uri.scheme_str().unwrap_or_default());
        let url = url.trim_end_matches('/').into();
        Ok(Address { url, host, port, socket: None, credentials })
    }
}

/// Decodes `USER:PASSWORD`, each percent-encoded.
fn decode(credentials: &str) -> Vec<u8> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    [user, password].map(|part| percent_decode_str(part).collect::<Vec<u8>>()).join(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        text.parse()
    }

    #[test]
    fn every_form_becomes_a_url() {
        for (text, url) in [
            ("127.0.0.1:9014", "http://127.0.0.1:9014/metrics"),
            ("push.example", "http://push.example/metrics"),
            (" push.example\t", "http://push.example/metrics"),
            ("my_node-1.lan:80", "http://my_node-1.lan/metrics"),
            ("LOCALHOST:09091", "http://localhost:9091/metrics"),
            ("[0:0::1]:9091", "http://[::1]:9091/metrics"),
            ("[::1]:9091", "http://[::1]:9091/metrics"),
            ("[::1]", "http://[::1]/metrics"),
            ("HTTP://host:1/", "http://host:1/metrics"),
            ("http://host/a/b/", "http://host/a/b/metrics"),
            ("host:9091/prefix", "http://host:9091/prefix/metrics"),
            ("https://HOST", "https://host/metrics"),
            ("https://host:443/a", "https://host/a/metrics"),
            ("HTTPS://host:80", "https://host:80/metrics"),
            ("http://host:443", "http://host:443/metrics"),
            ("https://u:p@[::1]:1/a", "https://[::1]:1/a/metrics"),
        ] {
            let address = parse(text).unwrap_or_else(|why| panic!("{text:?}: {why}"));
            assert_eq!(address.join("metrics").unwrap().to_string(), url, "{text:?}");
            assert_eq!(format!("{address}/metrics"), url);
        }
    }

    #[test]
    fn socket_is_shown_and_is_no_part_of_the_url() {
        let address = parse("unix:/run/x y.sock").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(address.to_string(), "unix:/run/x y.sock");
        assert_eq!(address.socket, Some("/run/x y.sock".into()));
        assert_eq!(address.join("metrics").unwrap(), "http://localhost/metrics");
        let of_length = |length: usize| parse(&format!("unix:/{}", "x".repeat(length - 1)));
        assert!(of_length(107).is_ok() && of_length(108).is_err());
        assert!(parse("unix:").is_err() && parse("unix:run/x.sock").is_err());
    }

    #[test]
    fn other_text_is_refused_with_the_reason() {
        let query = "a query or fragment is not part of an address";
        let port = "a port is a number from 1 to 65535";
        let general = "use host:port, [v6]:port, an http(s):// URL or unix:/path";
        for (text, reason) in [
            ("", general),
            (":9091", general),
            ("host:", port),
            ("host:0", port),
            ("host:+80", port),
            ("host:65536", port),
            ("host:http", port),
            ("::1:9091", general),
            ("[::1", general),
            ("[::1]9091", port),
            ("[::1]:", port),
            ("[host]:1", general),
            ("a b:1", general),
            ("höst:1", general),
            ("a:1,b:1", general),
            ("a,b", general),
            ("http://", general),
            ("ftp://host", general),
            ("https://", general),
            ("u:p@", general),
            ("u:p@:1", general),
            ("://host", general),
            ("host/p?q=1", query),
            ("http://h:1?x", query),
            ("host/p#f", query),
            ("host/ö", "its path and credentials must be percent-encoded"),
            ("host:1/a b", general),
        ] {
            assert_eq!(parse(text).err().as_deref(), Some(reason), "{text:?}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_not_shown() {
        for (text, credentials) in [
            ("http://user:geheim@host", "user:geheim"),
            ("user:geheim@host:1", "user:geheim"),
            ("https://user:p%40%2F:x%2C@host/", "user:p@/:x,"),
            ("https://user@host", "user:"),
        ] {
            let address = parse(text).unwrap_or_else(|why| panic!("{text:?}: {why}"));
            assert_eq!(address.credentials.as_deref(), Some(credentials.as_bytes()));
            let shown = format!("{address} {}", address.join("").unwrap());
            assert!(!shown.contains("user") && shown.contains("//host"), "{shown}");
        }
        for text in [
            "http://user:geheim@",
            "user:geheim/x@host",
            "user:geheim",
            "http:/user:geheim@host",
            "http//user:geheim@host",
            "host/p?user:geheim@",
        ] {
            let why = parse(text).err().unwrap_or_else(|| panic!("{text:?}"));
            assert!(!why.contains("geheim"), "{why}");
        }
    }

    #[test]
    fn query_of_a_path_stays_and_a_fragment_is_refused() {
        let address = parse("host:1").unwrap_or_else(|why| panic!("{why}"));
        let url = address.join("metrics?collect[]=cpu&collect[]=meminfo").unwrap();
        assert_eq!(url, "http://host:1/metrics?collect[]=cpu&collect[]=meminfo");
        for path in ["metrics#x", "met rics", "métrics"] {
            assert!(address.join(path).is_err(), "{path:?}");
        }
    }
}
