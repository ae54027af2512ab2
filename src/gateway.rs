//! The gateway's side: store this node's group, or remove it.

use std::time::{Duration, Instant};

use anyhow::Result;
use log::info;
use ureq::http::{Method, Request, StatusCode, Uri, header};
use ureq::{AsSendBody, http};

use crate::exit::Status;
use crate::exposition::Exposition;
use crate::http::{Client, cause, words};

/// One group on a gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Through a proxy where the environment names one.
    pub client: Client,
    /// The group's URL.
    pub url: Uri,
    /// `POST` replaces the families that are pushed, `PUT` the whole group.
    pub method: Method,
    /// For a whole request and its answer.
    pub timeout: Duration,
}

impl Gateway {
    /// Pushes an exposition.
    pub fn push(&self, exposition: &Exposition) -> Result<()> {
        let request = Request::builder().header(header::CONTENT_TYPE, &exposition.content_type);
        self.send(request.method(&self.method), &exposition.body[..])
    }

    /// Deletes the group.
    pub fn delete(&self) -> Result<()> {
        self.send(Request::builder().method(Method::DELETE), ())
    }

    fn send(&self, request: http::request::Builder, body: impl AsSendBody) -> Result<()> {
        let side = || format!("gateway {}{}", self.url, self.client.route());
        let unreachable = |why: String| {
            Status::GatewayUnreachable.because(format!(
                "{} is unreachable: {why}; is it up, and is --pgw-addr (PGW_ADDR) right?",
                side()
            ))
        };
        let started = Instant::now();
        let response = self
            .client
            .send(request.uri(&self.url), body, self.timeout)
            .map_err(|e| unreachable(cause(&e, self.timeout)))?;
        let status = response.status();
        if !status.is_success() {
            let why = format!("{} refused: {}{}", side(), words(response), remedy(status));
            return Err(Status::GatewayRefused.because(why));
        }
        let content_type = response.headers().get(header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/html")) {
            // A login page, a default page, an exporter: whatever it is, it has stored nothing.
            let why = format!(
                "{} is no gateway: it answered {status} and an HTML page",
                side()
            );
            return Err(Status::GatewayRefused.because(why));
        }
        if self.client.was_cut() {
            let why = format!("it answered {status} before it had read all");
            return Err(unreachable(why));
        }
        let took = started.elapsed().as_millis();
        info!("{} answered {status} after {took} ms", side());
        Ok(())
    }
}

/// What an administrator can do about a refusal.
fn remedy(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "; is the path prefix in --pgw-addr (PGW_ADDR) right?",
        StatusCode::PAYLOAD_TOO_LARGE => "; raise the limit of what stands before the gateway",
        _ => "",
    }
}
