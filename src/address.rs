//! The address of an exporter or a gateway.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

/// An `http://` or `https://` URL up to and without the slash that a path is joined with:
/// host, port, and for a service behind a reverse proxy a path prefix.
#[derive(Clone)]
pub struct Address {
    url: String,
    /// `USER:PASSWORD`, which no message shows.
    credentials: Option<Vec<u8>>,
}

impl Address {
    /// The URL of `path` (no leading slash; a query is allowed) below this address.
    pub fn join(&self, path: &str) -> Result<Uri, String> {
        if !is_encoded(path) {
            return Err(format!(
                "{path:?} has to be percent-encoded: printable ASCII without '#'"
            ));
        }
        let url = format!("{self}/{path}");
        url.parse()
            .map_err(|e| format!("{url:.100}... is no URL: {e}"))
    }

    /// Whether it is spoken to by TLS.
    pub fn is_https(&self) -> bool {
        self.url.starts_with("https:")
    }

    /// The `USER:PASSWORD` that it was given with.
    pub fn credentials(&self) -> Option<&[u8]> {
        self.credentials.as_deref()
    }
}

/// One or more addresses, with commas between.
#[derive(Debug, Clone)]
pub struct Addresses(pub Vec<Address>);

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut addresses: Vec<Address> = Vec::new();
        for part in text.split(',') {
            let address = part.parse::<Address>().map_err(|why| {
                // A password with a comma in it has become two parts.
                let hides = text.contains('@') && text.contains(',');
                let hint = "one of them is no address (in a password, %2C is a comma)";
                if hides { hint.into() } else { why }
            })?;
            if addresses.iter().any(|other| other.url == address.url) {
                return Err(format!("{address} is given twice"));
            }
            addresses.push(address);
        }
        Ok(Addresses(addresses))
    }
}

/// Whether a text can be part of a URL as it is. A fragment cannot: it would be dropped in
/// silence, and so would what the user meant by it.
fn is_encoded(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| match text.contains('@') {
            // Without the text: it may hold a password.
            true => Err(format!("it is no address: {why}")),
            false => Err(format!("{text:?} is no address: {why}")),
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return bad("give host:port, [v6]:port or an http(s):// URL"),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, authority),
        };
        let credentials = credentials.map(|credentials| {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let decoded =
                [user, password].map(|part| percent_decode_str(part).collect::<Vec<u8>>());
            decoded.join(&b':')
        });
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let in_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match v6.map(str::parse::<Ipv6Addr>) {
            Some(Ok(address)) => format!("[{address}]"),
            Some(Err(_)) => return bad("between [ and ] goes an IPv6 address"),
            None if host.contains(':') => {
                return bad("an IPv6 address goes in brackets: [v6]:port");
            }
            None if host.is_empty() => return bad("the host is missing"),
            None if !host.chars().all(in_name) => {
                return bad("a host has letters, digits, '-', '.' and '_'");
            }
            None => host.to_ascii_lowercase(),
        };
        let port = match port.map(str::parse::<u16>) {
            None => default_port,
            // The parser takes a sign, too.
            Some(Ok(port)) if port > 0 && !authority.contains('+') => port,
            _ => return bad("a port is a number from 1 to 65535"),
        };
        if path.contains('?') || !is_encoded(path) {
            return bad("its path is percent-encoded, and no query or fragment follows");
        }
        if path.contains('@') {
            // Most likely a password that is not encoded, or a slip before it.
            return bad("credentials go before the host, percent-encoded");
        }
        // One address has one form, since the lock's name is made of it.
        let authority = match port == default_port {
            true => host,
            false => format!("{host}:{port}"),
        };
        let url = format!("{scheme}://{authority}/{path}");
        Ok(Address {
            url: url.trim_end_matches('/').into(),
            credentials,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_become_a_url() {
        for (text, url) in [
            ("127.0.0.1:9014", "http://127.0.0.1:9014/metrics"),
            ("push.example", "http://push.example/metrics"),
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
            let address: Address = text.parse().unwrap();
            assert_eq!(
                address.join("metrics").unwrap().to_string(),
                url,
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":9091",
            "host:",
            "host:0",
            "host:+80",
            "host:65536",
            "host:http",
            "::1:9091",
            "[::1",
            "[::1]9091",
            "[::1]:",
            "[host]:1",
            "a b:1",
            "höst:1",
            "a:1,b:1",
            "http://",
            "ftp://host",
            "https://",
            "u:p@",
            "u:p@:1",
            "://host",
            "host/p?q=1",
            "host/p#f",
            "host/ö",
            "host\n",
            "host:1/a b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_not_shown() {
        for (text, credentials) in [
            ("http://user:geheim@host", "user:geheim"),
            ("user:geheim@host:1", "user:geheim"),
            ("https://user:p%40%2F:x@y@host/", "user:p@/:x@y"),
            ("https://user@host", "user:"),
        ] {
            let address = text.parse::<Address>().unwrap();
            assert_eq!(address.credentials(), Some(credentials.as_bytes()));
            let shown = format!("{address} {address:?} {}", address.join("").unwrap());
            assert!(
                !shown.contains("user") && shown.contains("//host"),
                "{shown}"
            );
        }
        for text in [
            "http://user:geheim@",
            "user:geheim/x@host",
            "http:/user:geheim@host",
            "http//user:geheim@host",
            "host/p?user:geheim@",
        ] {
            let refusal = text.parse::<Address>().unwrap_err();
            assert!(!refusal.contains("geheim"), "{refusal}");
        }
    }

    #[test]
    fn several_are_separated_by_commas_and_each_is_another_one() {
        let Addresses(all) = "a:1,https://u:p%2C@b/x,[::1]".parse().unwrap();
        let urls: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["http://a:1", "https://b/x", "http://[::1]"]);
        assert_eq!(all[1].credentials(), Some(&b"u:p,"[..]));
        for text in [
            "",
            "a:1,",
            ",a:1",
            "a:1,,b:1",
            "a:1, b:1",
            "a:80,b,http://A/",
        ] {
            assert!(text.parse::<Addresses>().is_err(), "{text:?}");
        }
        for text in [
            "https://user:ge,heim@b",
            "a:1,user:geheim@",
            "user:geheim@a, b",
        ] {
            let refusal = text.parse::<Addresses>().unwrap_err();
            assert!(!refusal.contains("ge"), "{refusal}");
        }
    }

    #[test]
    fn a_query_stays_and_a_fragment_is_refused() {
        let address: Address = "host:1".parse().unwrap();
        let url = address.join("metrics?collect[]=cpu&collect[]=meminfo");
        assert_eq!(
            url.unwrap().to_string(),
            "http://host:1/metrics?collect[]=cpu&collect[]=meminfo"
        );
        assert!(address.join("metrics#x").is_err());
        assert!(address.join("met rics").is_err());
        assert!(address.join("métrics").is_err());
    }
}
