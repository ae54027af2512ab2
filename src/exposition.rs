//! What an exporter said, and whether it can be the truth.

use std::mem;
use std::str::FromStr;

use memchr::memchr;
use ureq::http::HeaderValue;

use crate::encoding::Encoding;
use crate::logging::without_secrets;
use crate::{gzip, protobuf};

/// A whole scrape.
#[derive(Debug)]
pub struct Exposition {
    /// The bytes as received; the one thing that may be added is the final newline of a text.
    pub body: Vec<u8>,
    /// The Content-Type that the exporter gave them.
    pub content_type: HeaderValue,
    /// The form they are in.
    pub encoding: Encoding,
}

impl Exposition {
    /// Checks that `body` is an exposition of this form, as far as it shows undecoded: of a
    /// compressed one, that there is something in it.
    pub fn new(
        mut body: Vec<u8>,
        content_type: HeaderValue,
        encoding: Encoding,
    ) -> Result<Exposition, String> {
        let amount = match encoding {
            _ if body.is_empty() => return Err("the answer is empty".into()),
            Encoding::Text => samples(&body)?,
            Encoding::Protobuf => protobuf::metrics(&body)?,
            Encoding::TextGzip | Encoding::ProtobufGzip => gzip::length(&body)?,
        };
        if amount == 0 {
            return Err("the answer has no sample".into());
        }
        if encoding == Encoding::Text && !body.ends_with(b"\n") {
            body.push(b'\n');
        }
        Ok(Exposition {
            body,
            content_type,
            encoding,
        })
    }
}

/// Counts the samples of a text in the format 0.0.4: each line is blank, a comment or a sample. The
/// format's rules are Prometheus's:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.
fn samples(text: &[u8]) -> Result<usize, String> {
    // Most are ASCII, which shows faster.
    if !text.is_ascii() && std::str::from_utf8(text).is_err() {
        return Err("the answer is not UTF-8, as the text format must be".into());
    }
    let (mut rest, mut last) = (text, &b""[..]);
    let (mut lines, mut samples, mut family) = (0, 0, &b""[..]);
    while !rest.is_empty() {
        let line = trim(next_line(&mut rest));
        lines += 1;
        if !line.is_empty() {
            last = line;
        }
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        if !is_sample(line, &mut family) {
            let line = String::from_utf8_lossy(line);
            return Err(format!(
                "line {lines} is not a sample: {:?}",
                beginning(&line)
            ));
        }
        samples += 1;
    }
    match last {
        b"# EOF" => Err("the answer ends in # EOF: OpenMetrics, not the text format".into()),
        _ => Ok(samples),
    }
}

/// Takes the next line, without its end.
fn next_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    match memchr(b'\n', rest) {
        Some(end) => {
            let line = &rest[..end];
            *rest = &rest[end + 1..];
            line
        }
        None => mem::take(rest),
    }
}

/// Without the white space of the text format at its ends.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whether a line reads `name value`, `name{labels} value`, or one of these and a timestamp.
/// What is between the braces is left to the gateway, which parses it.
/// `family` is the name of the sample before, and becomes that of this one.
fn is_sample<'a>(line: &'a [u8], family: &mut &'a [u8]) -> bool {
    let Some((rest, last)) = split_last(line) else {
        return false;
    };
    if is_series(rest, family) {
        return is_number::<f64>(last);
    }
    let stamped = split_last(rest).filter(|(series, _)| is_series(series, family));
    stamped.is_some_and(|(_, value)| is_number::<f64>(value) && is_number::<i64>(last))
}

/// The last word, and what comes before it: a blank, or the brace that closes the labels.
fn split_last(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // A number has no brace, so the last one closes the labels, whatever they hold.
    let is_end = |b: &u8| matches!(b, b' ' | b'\t' | b'}');
    let end = text.iter().rposition(is_end)?;
    let (rest, last) = text.split_at(end + 1);
    Some((trim(rest), last))
}

/// Whether a text reads `name` or `name{labels}`.
fn is_series<'a>(text: &'a [u8], family: &mut &'a [u8]) -> bool {
    let is_end = |b: &u8| !IN_NAME[usize::from(*b)];
    // Samples of a family follow each other.
    let end = match text.strip_prefix(*family) {
        Some(rest) if rest.first().is_none_or(is_end) => Some(family.len()),
        _ => text.iter().position(is_end),
    };
    let (name, labels) = text.split_at(end.unwrap_or(text.len()));
    *family = name;
    starts_a_name(name)
        && (labels.is_empty() || (labels.ends_with(b"}") && trim(labels).starts_with(b"{")))
}

/// Whether a text is the name of a family.
pub fn is_family(text: &[u8]) -> bool {
    starts_a_name(text) && text.iter().all(|b| IN_NAME[usize::from(*b)])
}

fn starts_a_name(text: &[u8]) -> bool {
    text.first().is_some_and(|b| !b.is_ascii_digit())
}

/// Whether a byte can be part of a name, for each of them.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric() || b == b'_' || b == b':';
        byte += 1;
    }
    table
};

/// Whether a text is a number of this kind.
fn is_number<T: FromStr>(text: &[u8]) -> bool {
    // Most are digits, and need not be computed. More of them might be too many for an integer.
    let is_plain = (1..=15).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_plain || std::str::from_utf8(text).is_ok_and(|text| text.parse::<T>().is_ok())
}

/// How many characters a message may take to quote what came over the network.
const EXCERPT: usize = 300;

/// As much of a text as a message may quote. What cannot be seen is shown as several characters,
/// and they count, or the line would become too long for a system log.
fn beginning(text: &str) -> &str {
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
            text.into(),
            HeaderValue::from_static("text/plain"),
            Encoding::Text,
        )
    }

    #[test]
    fn every_form_of_a_sample_is_taken() {
        let text = "\n# HELP a b\n# TYPE a gauge\n# EOF is said in a comment only\na 1\n  a:b_2\t-1.5e-3  \n\
            c{} +Inf\nd {x=\"}\",y=\"{ \\\" 1 2 3\"} NaN 1700000000000\n\ne{z=\"ü\"}0\n";
        assert_eq!(samples(text.as_bytes()), Ok(5));
        assert_eq!(check(text).unwrap().body, text.as_bytes());
    }

    #[test]
    fn only_a_missing_final_newline_is_added() {
        assert_eq!(check("a 1").unwrap().body, b"a 1\n");
        assert_eq!(check("a 1\n\n").unwrap().body, b"a 1\n\n");
    }

    #[test]
    fn what_is_no_exposition_is_refused() {
        for text in [
            "",
            "\n",
            "# only a comment\n",
            "<html>\n",
            "{\"a\": 1}\n",
            "Internal error: 500\n",
            "a\n",
            "a \n",
            "a one\n",
            "a 1 2 3\n",
            "a 1 2.5\n",
            "1a 1\n",
            "a{x=\"1\" 1\n",
            "a-b 1\n",
            "a-1\n",
            "ab0.5\n",
            "a+Inf 1\n",
            "a 1\r\n",
            "a 1\n<html>\n",
            "a 1\n# EOF\n",
            "a 1\n# EOF",
            "\u{feff}a 1\n",
        ] {
            assert!(check(text).is_err(), "{text:?}");
        }
        assert!(samples(b"a{x=\"\xff\"} 1\n").is_err());
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
                Exposition::new(body.into(), HeaderValue::from_static("a/b"), encoding)
            };
            let found = check(good).unwrap();
            assert_eq!(
                (found.content_type.as_bytes(), found.encoding),
                (&b"a/b"[..], encoding)
            );
            assert_eq!(found.body, good);
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
