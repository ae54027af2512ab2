//! Sends one request within a time limit, and returns the response. Everything else about HTTP is below.

mod address;
mod auth;
mod connect;
mod proxy;
mod resolver;
mod response;
mod side;
#[cfg(target_feature = "crt-static")]
mod static_libc;
mod tls;
mod transport;

use std::env;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard};

use log::debug;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::request::Builder;
use ureq::http::{HeaderName, HeaderValue, Uri, header};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

pub use address::Address;
pub use auth::Access;
pub use response::{Response, check_coding, describe as describe_response, is_framed, values};
pub use side::Side;
pub use transport::Limit;
pub use ureq::Error;

use crate::logging::quote;
use connect::{MAX_HEAD, Route};
use transport::{Connection, is_gone};

/// Speaks to one server. It follows no redirect, and every status is a response, not an error.
pub struct Client {
    side: Side,
    route: Route,
    headers: Vec<(HeaderName, HeaderValue)>,
    agent: Agent,
    ready: Ready,
}

impl Client {
    /// A client for the server at `address`. With `use_proxy`, it goes through the proxy that the
    /// environment names. The error names the option or variable that is wrong.
    pub fn new(address: &Address, access: &Access, use_proxy: bool) -> Result<Client, String> {
        // A value that is not UTF-8 must not count as unset. It will not parse.
        let variable = |name: &str| Some(env::var_os(name)?.to_string_lossy().into_owned());
        let proxy = if use_proxy { proxy::for_server(address, variable)? } else { None };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // ureq's own would go by a tunnel, which proxies allow to few ports.
            .proxy(None)
            .max_idle_connections(0)
            .max_response_header_size(MAX_HEAD)
            .user_agent(concat!("pgw-forwarder/", env!("CARGO_PKG_VERSION")))
            .build();
        let route = Route {
            address: address.clone(),
            proxy,
            tls: tls::configure(access, address)?,
            state: Arc::default(),
        };
        let own = access.authorization(address)?;
        let proxys = route.request_proxy().and_then(|proxy| proxy.authorization.clone());
        let headers = [(header::AUTHORIZATION, own), (header::PROXY_AUTHORIZATION, proxys)];
        let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let ready = Ready::default();
        let agent = Agent::with_parts(config, ready.clone(), ready.clone());
        Ok(Client { side: access.side, route, headers: headers.collect(), agent, ready })
    }

    /// Connects within `limit`, for the next request, which is for `url`.
    pub fn connect(&self, url: &Uri, limit: Limit) -> Result<(), Error> {
        let state = &self.route.state;
        state.begin(limit);
        // An error that comes when time has run out comes from that.
        let connection =
            self.route.connect(url).map_err(|e| state.time_left().err().unwrap_or(e))?;
        *self.ready.lock() = Some(connection);
        Ok(())
    }

    /// Sends a request and returns the head of the response; `limit` covers its body, too.
    pub fn send(
        &self,
        url: &Uri,
        request: Builder,
        body: Option<&[u8]>,
        limit: Limit,
    ) -> Result<Response, Error> {
        let is_connected = self.ready.lock().is_some();
        match is_connected {
            true => self.route.state.begin(limit),
            false => self.connect(url, limit)?,
        }
        self.route.state.expect("no complete response");
        let mut request = request.uri(url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        debug!("request for {url}");
        let response = match body {
            None => self.agent.run(request.body(())?)?,
            Some(body) => self.agent.run(request.body(body)?)?,
        };
        debug!("response: {}", response.status());
        for (name, value) in response.headers() {
            debug!("{name}: {}", quote(value.as_bytes()));
        }
        Ok(response)
    }

    /// Whether the server has answered before it had read everything that was sent to it.
    pub fn is_cut(&self) -> bool {
        self.route.state.is_cut()
    }

    /// What requests pass on the way to the server, for messages.
    pub fn via(&self) -> String {
        match &self.route.proxy {
            Some(proxy) => format!(" (through the proxy {})", proxy.address),
            None => String::new(),
        }
    }

    /// Why there is no response, or no more of it, and what an administrator can do.
    pub fn explain(&self, error: &Error) -> String {
        let cause = match error {
            Error::Io(e) if is_gone(e) => "the server closed the connection too early".into(),
            // These words are our own or those of TLS, and name the remedy if there is one.
            Error::Io(e) if matches!(e.kind(), ErrorKind::Other | ErrorKind::InvalidData) => {
                return tls::describe(e, self.side).unwrap_or_else(|| e.to_string());
            }
            Error::Io(e) => e.to_string(),
            Error::Protocol(e) => format!("the response is not valid HTTP ({e})"),
            Error::BodyStalled => "the response is truncated".into(),
            e => e.to_string(),
        };
        let running = if self.route.proxy.is_some() { "both run" } else { "it runs" };
        format!("{cause}. Check that {running}, and {}", self.side.option("addr"))
    }

    /// Whether an error says that the server has closed the connection.
    pub fn is_gone(error: &Error) -> bool {
        matches!(error, Error::Io(e) if is_gone(e))
    }
}

/// The connection for the next request. ureq takes it from here, and makes none of its own.
#[derive(Debug, Clone, Default)]
struct Ready(Arc<Mutex<Option<Connection>>>);

impl Ready {
    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.0.lock().expect("a panic ends the process")
    }
}

impl Connector for Ready {
    type Out = Connection;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Connection>, Error> {
        Ok(self.lock().take())
    }
}

impl Resolver for Ready {
    /// Looks up no name: the connection is there already.
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use ureq::http::Request;

    /// A gateway that answers before it has read everything, and reads no further, must not keep the
    /// next request of a prune from being sent.
    #[test]
    fn request_after_one_that_was_cut_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let address = addr.parse().unwrap_or_else(|why| panic!("{why}"));
        let server = thread::spawn(move || {
            // Kept open: the client must not learn of the end by an error.
            let streams = [(); 2].map(|()| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; 16]).unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                stream
            });
            drop(streams);
        });
        let client =
            Client::new(&address, &Access::default(), false).unwrap_or_else(|e| panic!("{e}"));
        let url = address.join("").unwrap();
        let send = |body: Option<&[u8]>| {
            let request = Request::builder().method("DELETE");
            client.send(&url, request, body, Limit(Duration::from_secs(30), "")).unwrap().status()
        };
        let large = vec![b'x'; 100 << 20];
        assert_eq!(send(Some(&large)), 204);
        assert!(client.is_cut());
        assert_eq!(send(None), 204);
        assert!(!client.is_cut());
        server.join().unwrap();
    }
}
