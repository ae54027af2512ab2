//! The exporter's side: does it run, and what does it say?

use std::io::{ErrorKind, Read};
use std::time::Instant;

use anyhow::{Result, anyhow};
use log::info;
use ureq::http::{Request, StatusCode, Uri, header};

use crate::exposition::Exposition;
use crate::http::{
    Client, Limit, Response, Side, check_coding, describe_response, is_framed, values,
};
use crate::status::Status;

/// Why a response without framing is refused.
const UNFRAMED: &str = "the response has neither Content-Length nor chunked encoding: truncation would go \
    undetected. If the exporter cannot do better, set --exporter-allow-unframed (EXPORTER_ALLOW_UNFRAMED)";

/// Why OpenMetrics is refused.
const OPENMETRICS: &str = "the response is OpenMetrics, which a Pushgateway does not take. Make the exporter answer text/plain";

/// What to do about a response that is no exposition.
const CHECK: &str = ". Check what it exports, and --exporter-metric (EXPORTER_METRIC)";

/// An exporter, and the limits that it has to keep.
pub struct Exporter {
    /// Goes straight to the exporter, never through a proxy.
    pub client: Client,
    /// The URL that runs the collectors.
    pub url: Uri,
    /// The same for messages: a Unix socket is no part of a URL.
    pub name: String,
    /// Whether the end of the connection may be the end of the body.
    pub allow_unframed: bool,
    /// For the connection.
    pub probe_limit: Limit,
    /// For the whole response.
    pub scrape_limit: Limit,
    /// A larger response is refused.
    pub max_bytes: u64,
}

impl Exporter {
    /// Scrapes the metrics: a complete exposition, or an error. The connection that the request goes over is
    /// the probe: the exporter may serve only one at a time, and any request may run its collectors.
    pub fn scrape(&self) -> Result<Exposition> {
        let connected = self.client.connect(&self.url, self.probe_limit);
        connected.map_err(|e| self.down(&self.client.explain(&e)))?;
        info!("exporter {} is alive", self.name);

        let started = Instant::now();
        let limit = self.scrape_limit;
        let request = Request::get(&self.url)
            .header(header::ACCEPT, "text/plain;version=0.0.4, */*;q=0.1")
            .header(header::ACCEPT_ENCODING, "identity");
        let response = self.client.send(&self.url, request, None, limit).map_err(|e| {
            let why = match Client::is_gone(&e) {
                true => "alive at the probe, gone during the scrape. Check its log".into(),
                false => self.client.explain(&e),
            };
            self.down(&why)
        })?;
        if response.status() != StatusCode::OK {
            let description = describe_response(response, Side::EXPORTER);
            return Err(self.unusable(&format!("it answered {description}")));
        }
        let is_framed = is_framed(&response);
        self.check_head(&response, is_framed).map_err(|why| self.unusable(&why))?;

        let mut body = Vec::new();
        let announced = response.body().content_length().unwrap_or_default();
        let mut reader = response.into_body().into_reader().take(self.max_bytes.saturating_add(1));
        let read = reader.read_to_end(&mut body);
        if announced.max(body.len() as u64) > self.max_bytes {
            let option = "--max-bytes (EXPORTER_MAX_BYTES)";
            let why = format!("the response is larger than {} bytes, see {option}", self.max_bytes);
            return Err(self.unusable(&why));
        }
        read.map_err(|e| match e.kind() {
            ErrorKind::OutOfMemory => anyhow!("no memory for the response of {}", self.name),
            _ => self.unusable(&self.client.explain(&e.into())),
        })?;
        if !is_framed && !body.ends_with(b"\n") {
            return Err(self.unusable("the response is truncated: it does not end with a newline"));
        }
        let bytes = body.len();
        let exposition = Exposition::new(body).map_err(|why| self.unusable(&(why + CHECK)))?;
        info!("scraped {}: {bytes} bytes, {} ms", self.name, started.elapsed().as_millis());
        Ok(exposition)
    }

    /// Checks what a head can say against its body.
    fn check_head(&self, response: &Response, is_framed: bool) -> Result<(), String> {
        let media_type = values(response, header::CONTENT_TYPE).to_ascii_lowercase();
        if media_type.contains("application/openmetrics-text") {
            return Err(OPENMETRICS.into());
        }
        let is_coded = response.headers().contains_key(header::TRANSFER_ENCODING);
        if !is_framed && (is_coded || !self.allow_unframed) {
            return Err(UNFRAMED.into());
        }
        check_coding(response)
    }

    fn down(&self, why: &str) -> anyhow::Error {
        Status::ExporterDown.error(format!("exporter {} is down: {why}", self.name))
    }

    fn unusable(&self, why: &str) -> anyhow::Error {
        Status::ScrapeUnusable.error(format!("exporter {}: nothing was pushed: {why}", self.name))
    }
}
