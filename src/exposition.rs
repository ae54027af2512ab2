//! What an exporter said, and whether it can be the truth.

use std::sync::Arc;

use ureq::http::HeaderValue;

use crate::body::Body;
use crate::encoding::Encoding;
use crate::logging::without_secrets;
use crate::text::Samples;
use crate::{gzip, protobuf};

/// A whole scrape.
#[derive(Debug)]
pub struct Exposition {
    /// The bytes as received; the one thing that may be added is the final newline of a text.
    pub body: Arc<Body>,
    /// The Content-Type that the exporter gave them.
    pub content_type: HeaderValue,
    /// The form they are in.
    pub encoding: Encoding,
}

impl Exposition {
    /// Checks that `body` is an exposition of this form, as far as it shows undecoded: of a
    /// compressed one, that there is something in it; of a text, what `samples` has not seen yet.
    pub fn new(
        mut body: Body,
        content_type: HeaderValue,
        encoding: Encoding,
        samples: Samples,
    ) -> Result<Exposition, String> {
        let amount = match encoding {
            _ if body.is_empty() => return Err("the answer is empty".into()),
            Encoding::Text => samples.conclude(&body)?,
            Encoding::Protobuf => protobuf::metrics(&body)?,
            Encoding::TextGzip | Encoding::ProtobufGzip => gzip::length(&body)?,
        };
        if amount == 0 {
            return Err("the answer has no sample".into());
        }
        if encoding == Encoding::Text {
            body.end_line();
        }
        Ok(Exposition {
            body: Arc::new(body),
            content_type,
            encoding,
        })
    }
}

/// How many characters a message may take to quote what came over the network.
const EXCERPT: usize = 300;

/// As much of a text as a message may quote. What cannot be seen is shown as several characters,
/// and they count, or the line would become too long for a system log.
pub fn beginning(text: &str) -> &str {
    let mut shown = 0;
    let rest = text.char_indices().find(|(_, c)| {
        shown += c.escape_debug().count();
        shown > EXCERPT
    });
    rest.map_or(text, |(start, _)| &text[..start])
}

/// The beginning of a text that came over the network, on one line.
pub fn excerpt(bytes: &[u8]) -> String {
    // Looked at no further than it can matter: the text may be as long as its sender likes.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(8 * EXCERPT)]);
    // Before a secret is cut and so not known any more.
    let text = without_secrets(&text);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match beginning(&line) {
        all if all.len() == line.len() => line,
        some => format!("{some}..."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Exposition, String> {
        Exposition::new(
            text.as_bytes().into(),
            HeaderValue::from_static("text/plain"),
            Encoding::Text,
            Samples::default(),
        )
    }

    #[test]
    fn only_a_missing_final_newline_is_added() {
        assert_eq!(check("a 1").unwrap().body[..], *b"a 1\n");
        assert_eq!(check("a 1\n\n").unwrap().body[..], *b"a 1\n\n");
    }

    #[test]
    fn a_text_without_a_sample_or_with_another_line_is_refused() {
        for text in ["", "\n", "# only a comment\n", "a 1\n<html>\n"] {
            assert!(check(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_plain_text_stays_as_it_is() {
        let family = &b"\x05\x0a\x01a\x22\0"[..];
        let gzip = &b"\x1f\x8b\x08\0\0\0\0\0\0\x03\0\0\0\0\0\0\x01\0\0\0"[..];
        let empty = &[&gzip[..16], &[0; 4]].concat()[..];
        for (encoding, good, bad) in [
            (Encoding::Protobuf, family, &b"\x03\x0a\x01a"[..]),
            (Encoding::TextGzip, gzip, empty),
            (Encoding::ProtobufGzip, gzip, empty),
        ] {
            let check = |body: &[u8]| {
                let content_type = HeaderValue::from_static("a/b");
                Exposition::new(body.into(), content_type, encoding, Samples::default())
            };
            let found = check(good).unwrap();
            assert_eq!(
                (found.content_type.as_bytes(), found.encoding),
                (&b"a/b"[..], encoding)
            );
            assert_eq!(found.body[..], *good);
            assert_eq!(check(bad).unwrap_err(), "the answer has no sample");
            assert_eq!(check(b"").unwrap_err(), "the answer is empty");
            assert!(check(b"a 1\n").is_err(), "{encoding}");
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b" a\r\n\tb \xff\n"), "a b \u{fffd}");
        assert_eq!(excerpt("ü".repeat(1000).as_bytes()).chars().count(), 303);
        assert_eq!(excerpt(&[b'x'; 300]).len(), 300);
        assert_eq!(excerpt(&[0x1b; 300]), "\x1b".repeat(50) + "...");
    }
}
