//! The gateway's side: store a group, delete it, or read what all groups hold.

use std::io::{self, Read};
use std::time::Instant;
use std::{iter, thread};

use anyhow::Result;
use log::info;
use ureq::http::request::Builder;
use ureq::http::{Request, Uri, header};

use crate::exposition::{CONTENT_TYPE, Exposition};
use crate::group::Group;
use crate::http::{self, Address, Client, Limit, Response, Side, describe_response};
use crate::logging::{MAX_QUOTED, quote};
use crate::status::{Failures, Status};

/// What to do if a compressed push does not parse from its first byte on.
const GZIP: &str = ". For a gateway before 1.5.0, set --pgw-compression (PGW_COMPRESSION) to none";

/// A report, up to the status.
const REPORT: &str = "\
# HELP pgw_forwarder_exit_status Exit status of the last run that could not scrape its exporter.
# TYPE pgw_forwarder_exit_status gauge
pgw_forwarder_exit_status";

/// A gateway, and how to speak to it.
pub struct Gateway {
    /// Goes through a proxy if the environment names one.
    pub client: Client,
    /// The groups are below it, each at the path of its grouping key.
    pub address: Address,
    /// What this run is about: the group of this node, or the metrics of all groups.
    pub url: Uri,
    /// `POST` replaces the families that are pushed, `PUT` the whole group.
    pub method: String,
    /// For a whole request and its response.
    pub limit: Limit,
}

impl Gateway {
    /// Pushes an exposition to this node's group.
    pub fn push(&self, exposition: &Exposition) -> Result<()> {
        self.store(&self.url, &self.method, exposition)
    }

    /// Pushes the status of a run that could not scrape its exporter, to a group of its own.
    pub fn report(&self, group: &Group, status: Status) -> Result<()> {
        let body = format!("{REPORT} {}\n", status as u8).into_bytes();
        self.store(&self.url_of(group)?, "PUT", &Exposition { body, is_gzip: false })
    }

    /// Deletes a group.
    pub fn delete(&self, group: &Group) -> Result<()> {
        self.change(&self.url_of(group)?, Request::builder().method("DELETE"), None)
    }

    /// The metrics of all groups: the head of the response, and its body, which is still to be read.
    pub fn metrics(&self) -> Result<Response> {
        let request = Request::builder()
            // A label name that is not of the text format comes encoded, too.
            .header(header::ACCEPT, format!("{CONTENT_TYPE}; escaping=values"))
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CACHE_CONTROL, "no-cache");
        self.send(&self.url, request, None)
    }

    /// An error that this gateway gave no response to a request for `url`, or not all of it.
    pub fn unreachable(&self, url: &Uri, error: impl Into<http::Error>) -> anyhow::Error {
        let why = self.client.explain(&error.into());
        Status::GatewayUnreachable.error(format!("{} is unreachable: {why}", self.name(url)))
    }

    /// An error that this gateway's response to a request for `url` is not the wanted one.
    pub fn refused(&self, url: &Uri, why: &str) -> anyhow::Error {
        Status::GatewayRefused.error(format!("{} {why}", self.name(url)))
    }

    fn url_of(&self, group: &Group) -> Result<Uri> {
        self.address.join(&group.path()).map_err(|why| Status::GatewayRefused.error(why))
    }

    fn name(&self, url: &Uri) -> String {
        // A grouping key may be as long as a gateway takes it.
        let url = url.to_string();
        format!("gateway {url:.1000}{}", self.client.via())
    }

    fn store(&self, url: &Uri, method: &str, exposition: &Exposition) -> Result<()> {
        let mut request =
            Request::builder().method(method).header(header::CONTENT_TYPE, CONTENT_TYPE);
        if exposition.is_gzip {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
        self.change(url, request, Some(exposition))
    }

    /// Sends a request that changes a group, and checks that the gateway has made the change. A gateway's
    /// response to such a request has no body.
    fn change(&self, url: &Uri, request: Builder, push: Option<&Exposition>) -> Result<()> {
        let response = self.send(url, request, push)?;
        let status = response.status();
        let mut start = Vec::new();
        let read = response.into_body().into_reader().take(MAX_QUOTED).read_to_end(&mut start);
        match read {
            // An exporter, a login page, a default page: it has stored nothing.
            _ if !start.is_empty() => {
                let (body, option) = (quote(&start), Side::GATEWAY.option("addr"));
                let why = format!("it answered {status} with a body: {body}. Check {option}");
                Err(self.refused(url, &format!("is not a gateway: {why}")))
            }
            Err(e) => Err(self.unreachable(url, e)),
            Ok(_) => Ok(()),
        }
    }

    fn send(&self, url: &Uri, request: Builder, push: Option<&Exposition>) -> Result<Response> {
        let started = Instant::now();
        let body = push.map(|exposition| &exposition.body[..]);
        let sent = self.client.send(url, request, body, self.limit);
        let response = sent.map_err(|e| self.unreachable(url, e))?;
        let status = response.status();
        if !status.is_success() {
            let description = describe_response(response, Side::GATEWAY);
            let remedy = match push.is_some_and(|exposition| exposition.is_gzip) {
                true if description.contains("parsing error in line 1:") => GZIP,
                _ => "",
            };
            return Err(self.refused(url, &format!("refused: {description}{remedy}")));
        }
        if self.client.is_cut() {
            let why = format!("it answered {status} before it had read everything");
            return Err(self.unreachable(url, io::Error::other(why)));
        }
        info!("{} answered {status} after {} ms", self.name(url), started.elapsed().as_millis());
        Ok(response)
    }
}

/// Does the same for each gateway, at the same time: a hanging gateway delays no other, and the whole takes
/// no longer than the slowest may.
pub fn for_each_gateway(
    gateways: &[Gateway],
    action: impl Fn(&Gateway) -> Result<()> + Sync,
) -> Result<Status, Failures> {
    let Some((first, others)) = gateways.split_first() else {
        return Ok(Status::Done);
    };
    let action = &action;
    let failures: Vec<_> = thread::scope(|scope| {
        let start = |gateway| thread::Builder::new().spawn_scoped(scope, move || action(gateway));
        let others: Vec<_> = others.iter().map(|gateway| (gateway, start(gateway))).collect();
        let first = action(first);
        let others = others.into_iter().map(|(gateway, thread)| match thread {
            Ok(thread) => thread.join().expect("a panic ends the process"),
            // Without threads, they are served one after the other.
            Err(_) => action(gateway),
        });
        iter::once(first).chain(others).filter_map(Result::err).collect()
    });
    match failures.is_empty() {
        true => Ok(Status::Done),
        false => Err(Failures(failures)),
    }
}
