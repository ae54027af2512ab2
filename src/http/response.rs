//! What the head of a response says about its body, and what a refusal says.

use std::io::Read;

use ureq::http::{HeaderName, StatusCode, Version, header};

use super::side::Side;
use crate::logging::{MAX_QUOTED, quote};

/// The head of a response, and its body, which is still to be read.
pub type Response = ureq::http::Response<ureq::Body>;

/// The codings in use (<https://www.iana.org/assignments/http-parameters>). A Content-Encoding that is none
/// of them, like `text/plain` or `utf-8`, is a slip that changes no byte.
const CODINGS: [&str; 9] =
    ["br", "compress", "dcb", "dcz", "deflate", "gzip", "x-compress", "x-gzip", "zstd"];

/// Checks that the body is not compressed.
pub fn check_coding(response: &Response) -> Result<(), String> {
    let codings = values(response, header::CONTENT_ENCODING).to_ascii_lowercase();
    match codings.split(',').map(str::trim).find(|coding| CODINGS.contains(coding)) {
        Some(coding) => Err(format!("the response is compressed ({coding}), unasked")),
        None => Ok(()),
    }
}

/// Whether truncation of the body would be detected.
pub fn is_framed(response: &Response) -> bool {
    let coding = values(response, header::TRANSFER_ENCODING);
    // RFC 9112, 6.1 and 6.3: it overrides a length, and has no meaning in HTTP/1.0.
    let is_chunked = coding.eq_ignore_ascii_case("chunked");
    (is_chunked && response.version() == Version::HTTP_11)
        || (coding.is_empty() && response.headers().contains_key(header::CONTENT_LENGTH))
}

/// All values of a header as one, as RFC 9110, 5.3 joins them.
pub fn values(response: &Response, name: HeaderName) -> String {
    let values = response.headers().get_all(name).into_iter();
    values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
}

/// What a response other than the wanted one says, and what an administrator can do: its status, and the
/// target of its redirect or the beginning of its body.
pub fn describe(response: Response, side: Side) -> String {
    let (head, body) = response.into_parts();
    let status = head.status;
    if let (true, Some(target)) = (status.is_redirection(), head.headers.get(header::LOCATION)) {
        let (target, option) = (quote(target.as_bytes()), side.option("addr"));
        return format!("{status}, a redirect to {target}, which is not followed. Check {option}");
    }
    let mut text = Vec::new();
    if !head.headers.contains_key(header::CONTENT_ENCODING) {
        // What came before an error is worth showing, too.
        let _ = body.into_reader().take(MAX_QUOTED).read_to_end(&mut text);
    }
    let remedy = match status {
        StatusCode::BAD_REQUEST if String::from_utf8_lossy(&text).contains("HTTPS") => {
            format!(". Use https:// in {}", side.option("addr"))
        }
        StatusCode::UNAUTHORIZED => {
            format!(
                ". Check {} and its password, or {}",
                side.option("user"),
                side.option("token-file")
            )
        }
        StatusCode::NOT_FOUND if side == Side::EXPORTER => {
            format!(". Check {}", side.option("metric"))
        }
        StatusCode::NOT_FOUND => format!(". Check the path prefix in {}", side.option("addr")),
        StatusCode::PAYLOAD_TOO_LARGE => ". Raise the limit of the server before it".into(),
        _ => String::new(),
    };
    let separator = if text.is_empty() { "" } else { ": " };
    format!("{status}{separator}{}{remedy}", quote(&text))
}
