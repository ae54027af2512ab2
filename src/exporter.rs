//! The exporter's side: is it alive, and what does it say?

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use log::info;
use ureq::Error;
use ureq::http::{HeaderValue, Request, Response, StatusCode, Uri, header};

use crate::body::Body;
use crate::encoding::{Encoding, TEXT};
use crate::exit::Status;
use crate::exposition::Exposition;
use crate::http::{Client, access_remedy, check_coding, check_length, check_type, words};
use crate::socket::is_gone;
use crate::text::Samples;

/// The likeliest remedy when something else answers than metrics.
const HINT: &str = " (is --exporter-metric, EXPORTER_METRIC, right?)";

/// An exporter, and the bounds that it has to keep.
#[derive(Debug)]
pub struct Exporter {
    /// Straight to the exporter, never through a proxy.
    pub client: Client,
    /// A page that costs the exporter nothing.
    pub landing_page: Uri,
    /// The page that runs the collectors.
    pub metrics: Uri,
    /// The form to ask for.
    pub encoding: Encoding,
    /// For the landing page's first words.
    pub probe_timeout: Duration,
    /// For the whole answer.
    pub scrape_timeout: Duration,
    /// A larger exposition is refused.
    pub max_bytes: u64,
}

impl Exporter {
    /// Asks for the landing page. Any answer below 500 is a sign of life: an exporter without
    /// such a page says 404.
    pub fn probe(&self) -> Result<()> {
        let down = |why: String| {
            Status::ExporterDown.because(format!("exporter {} is down: {why}", self.landing_page))
        };
        let request = Request::get(&self.landing_page);
        let response = self
            .client
            .send(request, None, self.probe_timeout)
            .map_err(|e| down(self.client.no_answer(&e, self.probe_timeout)))?;
        if response.status().is_server_error() {
            return Err(down(words(response)));
        }
        info!(
            "exporter {} is alive: {}",
            self.landing_page,
            response.status()
        );
        // The scrape can reuse the connection if this page is read, up to a sensible length.
        let _ = response
            .into_body()
            .into_reader()
            .take(64 * 1024)
            .read_to_end(&mut Vec::new());
        Ok(())
    }

    /// Scrapes the metrics: a whole and plausible exposition, or an error.
    pub fn scrape(&self) -> Result<Exposition> {
        let unusable = |why: String| {
            Status::ScrapeUnusable.because(format!(
                "exporter {}: {why}; nothing was pushed",
                self.metrics
            ))
        };
        let started = Instant::now();
        let response = match self.request(self.scrape_timeout) {
            // The connection was the probe's, and the exporter may have closed it meanwhile.
            Err(Error::Io(e)) if is_gone(&e) => {
                self.request(self.scrape_timeout.saturating_sub(started.elapsed()))
            }
            other => other,
        }
        .map_err(|e| unusable(self.client.cause(&e, self.scrape_timeout)))?;

        if response.status() != StatusCode::OK {
            let (status, words) = (response.status(), words(response));
            let hint = match access_remedy(status, &words, "exporter") {
                Some(remedy) => format!(" ({remedy})"),
                None => HINT.into(),
            };
            return Err(unusable(format!("it answered {words}{hint}")));
        }
        let is_protobuf =
            check_type(&response, self.encoding).map_err(|why| unusable(why + HINT))?;
        let is_gzip = check_coding(&response, self.encoding).map_err(unusable)?;
        let encoding = Encoding::of(is_protobuf, is_gzip);
        let length = check_length(&response).map_err(unusable)?;
        if length.is_some_and(|length| length > self.max_bytes) {
            return Err(unusable(self.too_large()));
        }
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type
            .cloned()
            .unwrap_or(HeaderValue::from_static(TEXT));

        let no_memory = |bytes| format!("no memory for the {bytes} bytes of {}", self.metrics);
        let mut body = Body::new(length, self.max_bytes)
            .with_context(|| no_memory(length.unwrap_or(self.max_bytes)))?;
        let mut samples = Samples::default();
        let look = |so_far: &[u8]| {
            if encoding == Encoding::Text {
                samples.look(so_far);
            }
        };
        body.fill(response.into_body().into_reader(), look)
            .map_err(|e| unusable(self.client.cause(&e.into(), self.scrape_timeout)))?;
        if body.is_too_long() {
            return Err(match body.room() < self.max_bytes {
                true => anyhow!(no_memory(body.room() + 1)),
                false => unusable(self.too_large()),
            });
        }

        let exposition =
            Exposition::new(body, content_type, encoding, samples).map_err(unusable)?;
        info!(
            "scraped {}: {} bytes of {encoding}, {} ms",
            self.metrics,
            exposition.body.len(),
            started.elapsed().as_millis()
        );
        Ok(exposition)
    }

    fn request(&self, limit: Duration) -> Result<Response<ureq::Body>, Error> {
        let request = Request::get(&self.metrics)
            .header(header::ACCEPT, self.encoding.accept())
            .header(header::ACCEPT_ENCODING, self.encoding.accept_encoding());
        self.client.send(request, None, limit)
    }

    fn too_large(&self) -> String {
        format!(
            "its answer is larger than {} bytes (see --max-bytes, EXPORTER_MAX_BYTES)",
            self.max_bytes
        )
    }
}
