//! The proxy that the environment names for a gateway, by the conventions of curl.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::Uri;

/// A plain HTTP proxy.
#[derive(Debug)]
pub struct Proxy {
    /// Its URL, credentials included: not for messages.
    pub url: Uri,
    /// Its `host:port`, for messages.
    pub address: String,
    /// The value of `Proxy-Authorization`, where the URL has credentials.
    pub authorization: Option<String>,
}

/// The proxy for `url`: `http_proxy`, else `all_proxy`, unless `no_proxy` lists the host, one of
/// its parent domains, or `*`. Each variable may also be in capitals; an empty one is not set.
pub fn for_url(
    url: &Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, String> {
    let set = |name: &'static str| {
        [name.to_owned(), name.to_uppercase()]
            .into_iter()
            .find_map(|name| Some((variable(&name).filter(|v| !v.is_empty())?, name)))
    };
    let Some((value, name)) = set("http_proxy").or_else(|| set("all_proxy")) else {
        return Ok(None);
    };
    let host = url.host().unwrap_or_default();
    if set("no_proxy").is_some_and(|(list, _)| list.split(',').any(|entry| covers(entry, host))) {
        return Ok(None);
    }
    // Without the value, which may hold a password.
    let bad = |why: &str| format!("the variable {name} names no usable proxy: {why}");
    let with_scheme = match value.contains("://") {
        true => value,
        false => format!("http://{value}"),
    };
    let parsed = ureq::Proxy::new(&with_scheme).map_err(|e| bad(&e.to_string()))?;
    if parsed.protocol() != ureq::ProxyProtocol::Http {
        return Err(bad("only http:// proxies are supported"));
    }
    let credentials = parsed.username().map(|user| {
        let password = parsed.password().unwrap_or_default();
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    });
    Ok(Some(Proxy {
        url: parsed.uri().clone(),
        address: format!("{}:{}", parsed.host(), parsed.port()),
        authorization: credentials,
    }))
}

/// Whether an entry of `no_proxy` covers a host.
fn covers(entry: &str, host: &str) -> bool {
    let entry = entry.trim().trim_start_matches('.').to_ascii_lowercase();
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let parent = host
        .strip_suffix(&entry)
        .is_some_and(|sub| sub.ends_with('.'));
    entry == "*" || entry == host || (parent && !entry.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(host: &str, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let url: Uri = format!("http://{host}:9091/metrics").parse().unwrap();
        let find = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        for_url(&url, find).map(|proxy| proxy.map(|p| p.address))
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
        assert_eq!(
            proxy("h", &[("http_proxy", ""), ("all_proxy", "a:1")]),
            is("a:1")
        );
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
            ("h", "*"),
        ] {
            assert_eq!(with(host, list), Ok(None), "{host} {list}");
        }
        for (host, list) in [
            ("push.example", "ample"),
            ("h", ""),
            ("h", ","),
            ("h", "x.h"),
        ] {
            assert!(with(host, list).unwrap().is_some(), "{host} {list}");
        }
    }

    #[test]
    fn an_unusable_proxy_is_refused_without_its_password() {
        for value in [
            "socks5://u:geheim@p:1",
            "https://u:geheim@p",
            "http://u:geheim@",
            "x://p",
        ] {
            let refusal = proxy("h", &[("http_proxy", value)]).unwrap_err();
            assert!(refusal.contains("http_proxy"), "{refusal}");
            assert!(!refusal.contains("geheim"), "{refusal}");
        }
    }

    #[test]
    fn credentials_become_a_header() {
        let url: Uri = "http://h/".parse().unwrap();
        let find = |name: &str| (name == "http_proxy").then(|| "http://u:p%40@p:1".to_owned());
        let proxy = for_url(&url, find).unwrap().unwrap();
        assert_eq!(proxy.authorization.as_deref(), Some("Basic dTpwQA=="));
        assert!(!proxy.address.contains('@'));
    }
}
