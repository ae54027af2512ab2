//! The HTTP client of both sides, and its errors in words.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::debug;
use ureq::http::request::Builder;
use ureq::http::{HeaderName, Response, StatusCode, Version, header};
use ureq::{Agent, Body, Error, SendBody, Timeout};

use crate::access::{Access, named};
use crate::body;
use crate::encoding::{self, Encoding};
use crate::exposition::excerpt;
use crate::names::Names;
use crate::proxy::Proxy;
use crate::socket::{Sending, Sockets};
use crate::tls;

/// Bytes of the head of an answer.
pub const MOST_HEAD: usize = 8 * 1024;

/// A client that follows no redirect and takes every status for an answer.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    /// What the options of this side begin with.
    side: &'static str,
    authorization: Option<String>,
    /// The proxy on the way, and whether it sees the requests.
    proxy: Option<(Arc<Proxy>, bool)>,
    request: Arc<Sending>,
}

impl Client {
    /// A client that goes through `proxy`, or straight to its server. Only with `keep_alive` a
    /// connection is used again.
    pub fn new(access: Access, proxy: Option<Proxy>, keep_alive: bool) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy is the connector's business, see proxy.rs.
            .proxy(None)
            .max_idle_connections(keep_alive.into())
            .max_response_header_size(MOST_HEAD)
            .user_agent(concat!("pgw-forwarder/", env!("CARGO_PKG_VERSION")))
            .build();
        let proxy = proxy.map(Arc::new);
        let is_tunnel = access.tls.is_some();
        let request = Arc::new(Sending::default());
        let sockets = Sockets {
            proxy: proxy.clone(),
            tls: access.tls,
            request: Arc::clone(&request),
            output: match keep_alive {
                // To ask an exporter takes little.
                true => access.authorization.as_ref().map_or(0, String::len) + 1024,
                // A Content-Type may be as long as the head that it was in.
                false => MOST_HEAD + 1024,
            },
        };
        let names = Names {
            proxy: proxy.clone(),
        };
        Client {
            agent: Agent::with_parts(config, sockets, names),
            side: access.side,
            authorization: access.authorization,
            proxy: proxy.map(|proxy| (proxy, !is_tunnel)),
            request,
        }
    }

    /// Sends a request and returns the head of the answer; `limit` covers its body too.
    pub fn send(
        &self,
        mut request: Builder,
        body: Option<&Arc<body::Body>>,
        limit: Duration,
    ) -> Result<Response<Body>, Error> {
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some((proxy, true)) = &self.proxy {
            if let Some(authorization) = &proxy.authorization {
                request = request.header(header::PROXY_AUTHORIZATION, authorization);
            }
        }
        let counted = match body {
            None => SendBody::none(),
            Some(body) => {
                request = request.header(header::CONTENT_LENGTH, body.len());
                SendBody::from_owned_reader(Count(body.len()))
            }
        };
        let request = self
            .agent
            .configure_request(request.body(counted)?)
            .timeout_global(Some(limit))
            .build();
        debug!("{} {}", request.method(), request.uri());
        self.request.cut.store(false, Ordering::Relaxed);
        self.request.replace_body(body.cloned());
        let response = self.agent.run(request)?;
        debug!("answer: {} {:?}", response.status(), response.headers());
        Ok(response)
    }

    /// Whether the server has answered before it had read all that was sent to it.
    pub fn was_cut(&self) -> bool {
        self.request.cut.load(Ordering::Relaxed)
    }

    /// Where requests go besides the server, for messages.
    pub fn route(&self) -> String {
        match &self.proxy {
            Some((proxy, _)) => format!(" (through the proxy {})", proxy.url),
            None => String::new(),
        }
    }

    /// Why there is no answer, and what an administrator can do.
    pub fn no_answer(&self, error: &Error, limit: Duration) -> String {
        self.cause(error, limit) + &self.remedy(error)
    }

    fn remedy(&self, error: &Error) -> String {
        match error {
            // What is said in words of our own or of TLS says it all.
            Error::Io(e) if matches!(e.kind(), ErrorKind::Other | ErrorKind::TimedOut) => {
                String::new()
            }
            _ => format!("; is it up, and is {} right?", named(self.side, "addr")),
        }
    }

    /// Why there is no answer, for an administrator.
    pub fn cause(&self, error: &Error, limit: Duration) -> String {
        let limit = limit.as_secs_f64();
        match error {
            Error::Timeout(Timeout::Resolve) => {
                format!("its name was not resolved within {limit} s")
            }
            Error::Timeout(Timeout::Connect) => format!("no connection within {limit} s"),
            Error::Timeout(_) => format!("no whole answer within {limit} s"),
            Error::HostNotFound => "its name has no address".into(),
            Error::Io(e) => match e.kind() {
                ErrorKind::ConnectionRefused => "connection refused".into(),
                ErrorKind::ConnectionReset => "connection reset by the server".into(),
                ErrorKind::UnexpectedEof => "the server closed the connection too early".into(),
                _ => tls::cause(e, self.side).unwrap_or_else(|| e.to_string()),
            },
            Error::Protocol(e) => format!("the answer is not valid HTTP ({e})"),
            Error::LargeResponseHeader(..) => "the head of the answer is too long".into(),
            Error::BodyStalled => "the answer is cut short".into(),
            e => e.to_string(),
        }
    }
}

/// A body as far as ureq has to know it, for the connection has it already: its length.
struct Count(usize);

impl Read for Count {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = self.0.min(buffer.len());
        self.0 -= amount;
        Ok(amount)
    }
}

/// What an administrator can do about an answer of this status, with these words, from the side
/// whose options begin with `side`.
pub fn access_remedy(status: StatusCode, words: &str, side: &str) -> Option<String> {
    match status {
        StatusCode::BAD_REQUEST if words.contains("HTTPS") => {
            Some("its address begins with https://".into())
        }
        StatusCode::UNAUTHORIZED => Some(format!(
            "see {}, {}",
            named(side, "user"),
            named(side, "token_file")
        )),
        _ => None,
    }
}

/// What an answer other than the wanted one says: its status, and where it redirects to or the
/// beginning of its body.
pub fn words(response: Response<Body>) -> String {
    let (head, body) = response.into_parts();
    if head.status.is_redirection() {
        let target = head.headers.get(header::LOCATION);
        let target = target.map_or("nowhere".into(), |t| excerpt(t.as_bytes()));
        return format!("{}, a redirect to {target}; none is followed", head.status);
    }
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        return head.status.to_string();
    }
    let mut text = Vec::new();
    // What has arrived before an error is worth showing too.
    let _ = body.into_reader().take(2048).read_to_end(&mut text);
    match excerpt(&text) {
        text if text.is_empty() => head.status.to_string(),
        text => format!("{}: {text}", head.status),
    }
}

/// Whether an answer is of protocol buffers, if these were asked for; else it has to be text.
pub fn check_type(response: &Response<Body>, asked: Encoding) -> Result<bool, String> {
    let Some(found) = text(response, header::CONTENT_TYPE) else {
        return Ok(false);
    };
    match encoding::is_protobuf(&found) {
        Some(is_protobuf) if asked.is_protobuf() || !is_protobuf => Ok(is_protobuf),
        _ => Err(format!(
            "its answer is {}, not the text format",
            excerpt(found.as_bytes())
        )),
    }
}

/// Whether an answer is compressed, if that was asked for; else it has to be as it is.
pub fn check_coding(response: &Response<Body>, asked: Encoding) -> Result<bool, String> {
    match text(response, header::CONTENT_ENCODING) {
        Some(coding) if asked.is_gzip() && coding.eq_ignore_ascii_case("gzip") => Ok(true),
        Some(coding) if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") => {
            let coding = excerpt(coding.as_bytes());
            Err(format!("its answer is encoded ({coding}), unasked"))
        }
        _ => Ok(false),
    }
}

/// Checks that an answer is of a length that shows whether all of it has come. Returns that length
/// where it is known beforehand.
pub fn check_length(response: &Response<Body>) -> Result<Option<u64>, String> {
    let has_length = response.headers().contains_key(header::CONTENT_LENGTH);
    let transfer = text(response, header::TRANSFER_ENCODING);
    match transfer {
        None if has_length => {}
        // Which of the two holds is a matter of opinion, and so is what the answer says.
        Some(_) if has_length => {
            return Err("its answer has both a length and a transfer encoding".into());
        }
        Some(coding) if response.version() == Version::HTTP_11 => {
            if !coding.eq_ignore_ascii_case("chunked") {
                let coding = excerpt(coding.as_bytes());
                return Err(format!("its answer is in another form ({coding}), unasked"));
            }
        }
        _ => {
            let why = "its answer has neither a length nor chunks, so a part looks like all";
            return Err(why.into());
        }
    }
    Ok(response.body().content_length())
}

/// All that an answer says under this name, as if it had said it on one line.
fn text(response: &Response<Body>, name: HeaderName) -> Option<Cow<'_, str>> {
    let values = response.headers().get_all(name).into_iter();
    values
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .reduce(|all, value| format!("{all}, {value}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;
    use ureq::http::Request;

    #[test]
    fn a_request_after_one_that_was_cut_is_sent_all_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .unwrap();
        });
        let client = Client::new(Access::default(), None, true);
        client.request.cut.store(true, Ordering::Relaxed);
        let answer = client.send(Request::get(url), None, Duration::from_secs(10));
        assert_eq!(answer.unwrap().status(), 204);
        server.join().unwrap();
    }
}
