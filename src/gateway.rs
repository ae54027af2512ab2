//! The gateway's side: store a group, remove it, or read what all of them hold.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{iter, thread};

use anyhow::Result;
use log::info;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};
use ureq::{Body, http};

use crate::address::Address;
use crate::body;
use crate::encoding::{Encoding, TEXT};
use crate::exit::{Failures, Status};
use crate::exposition::Exposition;
use crate::http::{Client, access_remedy, check_coding, check_length, check_type, words};

/// A gateway, and how to speak to it.
#[derive(Debug)]
pub struct Gateway {
    /// Through a proxy where the environment names one.
    pub client: Client,
    /// Below it are the groups, each at the path of its key.
    pub address: Address,
    /// `POST` replaces the families that are pushed, `PUT` the whole group.
    pub method: Method,
    /// For a whole request and its answer.
    pub timeout: Duration,
}

impl Gateway {
    /// Pushes an exposition to the group at `url`.
    pub fn push(&self, url: &Uri, exposition: &Exposition) -> Result<()> {
        let mut request = Request::builder().header(header::CONTENT_TYPE, &exposition.content_type);
        if exposition.encoding.is_gzip() {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
        let request = request.method(&self.method);
        self.send(url, request, Some(&exposition.body)).map(drop)
    }

    /// Deletes the group at `url`.
    pub fn delete(&self, url: &Uri) -> Result<()> {
        let request = Request::builder().method(Method::DELETE);
        self.send(url, request, None).map(drop)
    }

    /// The page at `url` that has the metrics of all groups: its head, and a body that shows
    /// whether all of it has come.
    pub fn page(&self, url: &Uri) -> Result<Response<Body>> {
        // A name of a label that is none of the text format's comes as a URL has it, too.
        let text = format!("{TEXT}; escaping=values");
        let request = Request::builder()
            .header(header::ACCEPT, text)
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CACHE_CONTROL, "no-cache");
        let page = self.send(url, request, None)?;
        let check_status = match page.status() {
            StatusCode::OK => Ok(()),
            status => Err(format!("it answered {status}")),
        };
        check_status
            .and_then(|()| check_type(&page, Encoding::Text))
            .and_then(|_| check_coding(&page, Encoding::Text))
            .and_then(|_| check_length(&page))
            .map_err(|why| {
                Status::GatewayRefused.because(format!("{} is no gateway: {why}", self.at(url)))
            })?;
        Ok(page)
    }

    /// The version of this Pushgateway, by its own word at `url`.
    pub fn version(&self, url: &Uri) -> Result<String> {
        let answer = self.send(url, Request::builder(), None)?;
        // What it is built of comes first, and is short.
        let mut answer = answer.into_body().into_reader().take(4096);
        let mut start = Vec::new();
        let read = answer.read_to_end(&mut start);
        read.map_err(|e| self.unreachable(url, &self.client.cause(&e.into(), self.timeout)))?;
        let version = built_of(&String::from_utf8_lossy(&start)).map(String::from);
        version.ok_or_else(|| {
            let why = format!("{} is no Pushgateway: it tells no version", self.at(url));
            Status::GatewayRefused.because(why)
        })
    }

    /// The gateway in messages, as it was asked for `url`.
    pub fn at(&self, url: &Uri) -> String {
        // A name may be as long as a gateway takes it; a message is for people.
        let url = url.to_string();
        format!("gateway {url:.1000}{}", self.client.route())
    }

    /// An error that no answer came.
    pub fn unreachable(&self, url: &Uri, why: &str) -> anyhow::Error {
        Status::GatewayUnreachable.because(format!("{} is unreachable: {why}", self.at(url)))
    }

    fn send(
        &self,
        url: &Uri,
        request: http::request::Builder,
        body: Option<&Arc<body::Body>>,
    ) -> Result<Response<Body>> {
        let started = Instant::now();
        let response = self
            .client
            .send(request.uri(url), body, self.timeout)
            .map_err(|e| self.unreachable(url, &self.client.no_answer(&e, self.timeout)))?;
        let status = response.status();
        if !status.is_success() {
            let words = words(response);
            let why = match remedy(status, &words) {
                Some(remedy) => format!("{} refused: {words}; {remedy}", self.at(url)),
                None => format!("{} refused: {words}", self.at(url)),
            };
            return Err(Status::GatewayRefused.because(why));
        }
        let mut types = response.headers().get_all(header::CONTENT_TYPE).iter();
        let is_html = |start: &[u8]| start.eq_ignore_ascii_case(b"text/html");
        if types.any(|value| value.as_bytes().get(..9).is_some_and(is_html)) {
            // A login page, a default page, an exporter: whatever it is, it has stored nothing.
            let why = format!(
                "{} is no gateway: it answered {status} and an HTML page",
                self.at(url)
            );
            return Err(Status::GatewayRefused.because(why));
        }
        if self.client.was_cut() {
            let why = format!("it answered {status} before it had read all");
            return Err(self.unreachable(url, &why));
        }
        let took = started.elapsed().as_millis();
        info!("{} answered {status} after {took} ms", self.at(url));
        Ok(response)
    }
}

/// Does the same at each gateway, at the same time: one that hangs keeps no other from being served,
/// and the whole takes no longer than the slowest may.
pub fn at_each(
    gateways: &[(Gateway, Uri)],
    action: impl Fn(&Gateway, &Uri) -> Result<()> + Sync,
) -> Result<(), Failures> {
    let Some((first, others)) = gateways.split_first() else {
        return Ok(());
    };
    let act = |(gateway, url): &(Gateway, Uri)| action(gateway, url);
    let act = &act;
    let failures: Vec<_> = thread::scope(|scope| {
        let start = |place| thread::Builder::new().spawn_scoped(scope, move || act(place));
        let others: Vec<_> = others.iter().map(|place| (place, start(place))).collect();
        let first = act(first);
        let others = others.into_iter().map(|(place, thread)| match thread {
            Ok(thread) => thread.join().expect("a panic has ended the process"),
            // Where there is no thread to be had, one is served after the other.
            Err(_) => act(place),
        });
        let results = iter::once(first).chain(others);
        results.filter_map(Result::err).collect()
    });
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failures(failures)),
    }
}

/// The version in the status of a Pushgateway, which has its names sorted, no white space, and no
/// quote within a value that is not escaped.
fn built_of(status: &str) -> Option<&str> {
    let start = r#"{"status":"success","data":{"build_information":{"#;
    let (build, _) = status.strip_prefix(start)?.split_once('}')?;
    let (_, version) = build.split_once(r#""version":""#)?;
    let (version, _) = version.split_once('"')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    version.split('.').all(is_number).then_some(version)
}

/// What an administrator can do about a refusal.
fn remedy(status: StatusCode, words: &str) -> Option<String> {
    Some(match status {
        StatusCode::NOT_FOUND => "is the path prefix in --pgw-addr (PGW_ADDR) right?".into(),
        StatusCode::PAYLOAD_TOO_LARGE => "raise the limit of what stands before the gateway".into(),
        _ => access_remedy(status, words, "pgw")?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::access::Access;

    fn gateways(hosts: &[&str]) -> Vec<(Gateway, Uri)> {
        let gateways = hosts.iter().map(|host| {
            let gateway = Gateway {
                client: Client::new(Access::default(), None, false),
                address: host.parse().unwrap(),
                method: Method::POST,
                timeout: Duration::from_secs(1),
            };
            let url = gateway.address.join("metrics").unwrap();
            (gateway, url)
        });
        gateways.collect()
    }

    #[test]
    fn all_are_served_at_the_same_time() {
        let begun = AtomicUsize::new(0);
        let start = Instant::now();
        // None ends before all have begun.
        let ended = at_each(&gateways(&["a", "b", "c", "d"]), |_, _| {
            begun.fetch_add(1, Ordering::SeqCst);
            while begun.load(Ordering::SeqCst) < 4 {
                anyhow::ensure!(start.elapsed() < Duration::from_secs(30), "it is alone");
                thread::yield_now();
            }
            Ok(())
        });
        ended.unwrap();
    }

    #[test]
    fn each_failure_is_told_in_the_order_of_the_gateways() {
        let all = gateways(&["a", "b", "c", "d", "e"]);
        // The later ones end first.
        let ended = AtomicUsize::new(5);
        let start = Instant::now();
        let failures = at_each(&all, |gateway, url| {
            assert!(url.to_string().starts_with(&gateway.address.to_string()));
            let place = usize::from(url.host().unwrap().as_bytes()[0] - b'a');
            while ended.load(Ordering::SeqCst) > place + 1 {
                anyhow::ensure!(start.elapsed() < Duration::from_secs(30), "it is alone");
                thread::yield_now();
            }
            ended.fetch_sub(1, Ordering::SeqCst);
            anyhow::ensure!(place % 2 == 0, "{place}");
            Err(Status::GatewayUnreachable.because(place.to_string()))
        });
        let said: Vec<_> = failures
            .unwrap_err()
            .0
            .iter()
            .map(|e| e.to_string())
            .collect();
        assert_eq!(said, ["0", "1", "2", "3", "4"]);

        let failures = at_each(&all, |_, url| match url.host() {
            Some("b" | "e") => Err(Status::GatewayRefused.because(url.to_string())),
            _ => Ok(()),
        });
        let said: Vec<_> = failures
            .unwrap_err()
            .0
            .iter()
            .map(|e| e.to_string())
            .collect();
        assert_eq!(said, ["http://b/metrics", "http://e/metrics"]);
        assert!(at_each(&all, |_, _| Ok(())).is_ok());
        assert!(at_each(&[], |_, _| Err(anyhow::anyhow!("nobody asked"))).is_ok());
    }
}
