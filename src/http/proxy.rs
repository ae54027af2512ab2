//! The proxy that the environment names for a gateway, by the conventions of curl.

use std::net::IpAddr;

use ureq::http::HeaderValue;

use super::address::Address;
use super::auth::basic;

/// A plain HTTP proxy.
pub struct Proxy {
    /// Its address.
    pub address: Address,
    /// The value of `Proxy-Authorization`, if the variable has credentials.
    pub authorization: Option<HeaderValue>,
}

/// The proxy for `server`: `http_proxy` or `https_proxy` by its scheme, else `all_proxy`, unless `no_proxy`
/// covers the host. Each variable may also be in capitals; an empty one counts as unset.
pub fn for_server(
    server: &Address,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let set = |name: &'static str| {
        [name.to_owned(), name.to_uppercase()]
            .into_iter()
            .find_map(|name| Some((variable(&name).filter(|v| !v.is_empty())?, name)))
    };
    let own = if server.is_https() { "https_proxy" } else { "http_proxy" };
    let Some((value, name)) = set(own).or_else(|| set("all_proxy")) else {
        return Ok(None);
    };
    let host = server.host.trim_matches(['[', ']']).trim_end_matches('.');
    let is_covered = |(list, _): (String, _)| list.split([',', ' ']).any(|e| covers(e, host));
    if set("no_proxy").is_some_and(is_covered) {
        return Ok(None);
    }

    let error = |why: &str| format!("the variable {name} does not name a usable proxy: {why}");
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", &value));
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(error("only http:// proxies are supported"));
    }
    let address = rest.parse::<Address>().map_err(|why| error(&why))?;
    let authorization =
        address.credentials.as_deref().map(basic).transpose().map_err(|why| error(&why))?;
    Ok(Some(Proxy { address, authorization }))
}

/// Whether an entry of `no_proxy` covers a host: it is the host, a domain that the host is in, a
/// network that the address is in, or `*`.
fn covers(entry: &str, host: &str) -> bool {
    let entry = entry.trim_matches(['.', '[', ']']).to_ascii_lowercase();
    if let (Some((network, bits)), Ok(address)) = (entry.split_once('/'), host.parse()) {
        return is_in(address, network, bits).unwrap_or(false);
    }
    let parent = host.strip_suffix(&entry);
    entry == "*" || entry == host || parent.is_some_and(|sub| sub.ends_with('.'))
}

/// Whether `address` is in `network/bits`; `None` if that is not a network of its kind.
fn is_in(address: IpAddr, network: &str, bits: &str) -> Option<bool> {
    // Both kinds as 128 bits: an IPv4 address is the upper 32.
    let wide = |address| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    };
    let network: IpAddr = network.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    let max_bits = if network.is_ipv4() { 32 } else { 128 };
    if network.is_ipv4() != address.is_ipv4() || bits > max_bits {
        return None;
    }
    let difference = wide(address) ^ wide(network);
    Some(bits == 0 || difference >> (128 - bits) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(host: &str, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let server = format!("http://{host}:9091").parse()?;
        let find = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        for_server(&server, find)
            .map(|proxy| proxy.map(|p| p.address.origin().replace("http://", "")))
    }

    #[test]
    fn the_usual_variables_are_honoured() {
        let is = |address: &str| Ok(Some(address.to_owned()));
        assert_eq!(proxy("h", &[]), Ok(None));
        assert_eq!(proxy("h", &[("http_proxy", "http://p:3128")]), is("p:3128"));
        assert_eq!(proxy("h", &[("HTTP_PROXY", "p:3128/")]), is("p:3128"));
        assert_eq!(proxy("h", &[("ALL_PROXY", "http://a:1")]), is("a:1"));
        assert_eq!(proxy("h", &[("https_proxy", "http://s:1")]), Ok(None));
        let both = [("http_proxy", "p:1"), ("all_proxy", "a:1")];
        assert_eq!(proxy("h", &both), is("p:1"));
        assert_eq!(proxy("h", &[("http_proxy", ""), ("all_proxy", "a:1")]), is("a:1"));
    }

    #[test]
    fn no_proxy_lists_hosts_and_domains() {
        let with = |host, list| proxy(host, &[("http_proxy", "p:1"), ("no_proxy", list)]);
        for (host, list) in [
            ("push.example", "push.example"),
            ("push.example", "a, EXAMPLE"),
            ("push.example", ".example"),
            ("127.0.0.1", "localhost,127.0.0.1"),
            ("[::1]", "::1"),
            ("[::1]", "[::1]"),
            ("localhost", "a localhost."),
            ("127.0.0.1", "127.0.0.0/8"),
            ("10.1.2.3", "a,10.1.2.0/23,b"),
            ("[fd00::5]", "fd00::/8"),
            ("9.9.9.9", "0.0.0.0/0"),
            ("h", "*"),
        ] {
            assert_eq!(with(host, list), Ok(None), "{host} {list}");
        }
        for (host, list) in [("push.example", "ample"), ("h", ""), ("h", ","), ("h", "x.h")] {
            assert!(with(host, list).unwrap().is_some(), "{host} {list}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_refused_without_its_password() {
        for value in ["socks5://u:geheim@p:1", "https://u:geheim@p", "http://u:geheim@", "x://p"] {
            let refusal = proxy("h", &[("http_proxy", value)]).expect_err(value);
            assert!(refusal.contains("http_proxy"), "{refusal}");
            assert!(!refusal.contains("geheim"), "{refusal}");
        }
    }

    #[test]
    fn credentials_become_a_header() {
        let server = "http://h/".parse().unwrap_or_else(|why| panic!("{why}"));
        let find = |name: &str| (name == "http_proxy").then(|| "http://u:p%40@p:1".to_owned());
        let proxy = for_server(&server, find).unwrap().unwrap();
        assert_eq!(proxy.authorization.unwrap(), "Basic dTpwQA==");
        assert_eq!(proxy.address.to_string(), "http://p:1");
    }
}
