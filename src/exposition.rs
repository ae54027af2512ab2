//! What an exporter said, and whether it can be the truth.

use crate::logging::without_secrets;

/// A whole scrape in Prometheus's text format.
#[derive(Debug)]
pub struct Exposition {
    /// The bytes as received; the one thing that may be added is a missing final newline.
    pub body: Vec<u8>,
    /// The Content-Type that the exporter gave them.
    pub content_type: String,
    /// How many samples there are.
    pub samples: usize,
}

impl Exposition {
    /// Checks that `body` is an exposition in the text format 0.0.4: each line is blank, a comment
    /// or a sample, and one at least is a sample. The format's rules are Prometheus's:
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.
    pub fn new(mut body: Vec<u8>, content_type: String) -> Result<Exposition, String> {
        if body.is_empty() {
            return Err("the answer is empty".into());
        }
        let Ok(text) = std::str::from_utf8(&body) else {
            return Err("the answer is not UTF-8, as the text format must be".into());
        };
        let mut samples = 0;
        let mut last = "";
        for (index, line) in text.split('\n').enumerate() {
            let line = line.trim_matches(BLANK);
            if line.is_empty() {
                continue;
            }
            last = line;
            if line.starts_with('#') {
                continue;
            }
            if !is_sample(line) {
                let line = beginning(line);
                return Err(format!("line {} is not a sample: {line:?}", index + 1));
            }
            samples += 1;
        }
        if last == "# EOF" {
            return Err("the answer ends in # EOF: OpenMetrics, not the text format".into());
        }
        if samples == 0 {
            return Err("the answer has no sample".into());
        }
        if !body.ends_with(b"\n") {
            body.push(b'\n');
        }
        Ok(Exposition {
            body,
            content_type,
            samples,
        })
    }
}

/// The white space of the text format.
const BLANK: [char; 2] = [' ', '\t'];

/// Whether a line reads `name value`, `name{labels} value`, or one of these and a timestamp.
/// What is between the braces is left to the gateway, which parses it.
fn is_sample(line: &str) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let name_end = line.find(|c| !in_name(c)).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let unlabelled = rest;
    let rest = rest.trim_start_matches(BLANK);
    let rest = match rest.strip_prefix('{') {
        // A value has no brace, so the last one closes the labels, whatever they hold.
        Some(labelled) => match labelled.rfind('}') {
            Some(end) => &labelled[end + 1..],
            None => return false,
        },
        // Else one could not tell where the name ends: a-1, or ab0.5 that was ab 0.5.
        None if unlabelled == rest => return false,
        None => rest,
    };
    let mut words = rest.split(BLANK).filter(|word| !word.is_empty());
    words.next().is_some_and(|v| v.parse::<f64>().is_ok())
        && words.next().is_none_or(|t| t.parse::<i64>().is_ok())
        && words.next().is_none()
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
        Exposition::new(text.into(), "text/plain".into())
    }

    #[test]
    fn every_form_of_a_sample_is_taken() {
        let text = "\n# HELP a b\n# TYPE a gauge\n# EOF is said in a comment only\na 1\n  a:b_2\t-1.5e-3  \n\
            c{} +Inf\nd {x=\"}\",y=\"{ \\\" 1 2 3\"} NaN 1700000000000\n\ne{z=\"ü\"}0\n";
        let exposition = check(text).unwrap();
        assert_eq!(exposition.samples, 5);
        assert_eq!(exposition.body, text.as_bytes());
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
        assert!(Exposition::new(b"a{x=\"\xff\"} 1\n".to_vec(), String::new()).is_err());
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b" a\r\n\tb \xff\n"), "a b \u{fffd}");
        assert_eq!(excerpt("ü".repeat(1000).as_bytes()).chars().count(), 303);
        assert_eq!(excerpt(&[b'x'; 300]).len(), 300);
        assert_eq!(excerpt(&[0x1b; 300]), "\x1b".repeat(50) + "...");
    }
}
