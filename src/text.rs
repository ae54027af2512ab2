//! Prometheus's text format 0.0.4, as far as a line shows without its labels:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.

use std::str;

use memchr::{memchr_iter, memrchr};

use crate::exposition::beginning;

/// The samples of a text, whose every line is blank, a comment or a sample. It is looked at while it
/// comes, since what has come just now is still at hand.
#[derive(Debug, Default)]
pub struct Samples {
    count: usize,
    lines: usize,
    /// Bytes of these lines, and of all that has come so far.
    seen: usize,
    come: usize,
    /// Why this is no such text.
    refusal: Option<String>,
}

impl Samples {
    /// Looks at those lines that are whole, and new, in what has come of the text so far.
    pub fn look(&mut self, text: &[u8]) {
        // Not from the line's beginning: there may be no end to it.
        let end = memrchr(b'\n', &text[self.come..]).map(|end| self.come + end);
        self.come = text.len();
        if let Some(end) = end {
            self.look_at(&text[self.seen..=end]);
        }
    }

    /// How many samples are in the text, of which this is all.
    pub fn conclude(mut self, text: &[u8]) -> Result<usize, String> {
        self.look_at(&text[self.seen..]);
        let mut lines = text.rsplit(|&b| b == b'\n').map(trim);
        let last = lines.find(|line| !line.is_empty());
        match self.refusal {
            Some(why) => Err(why),
            None if last == Some(b"# EOF") => {
                Err("the answer ends in # EOF: OpenMetrics, not the text format".into())
            }
            None => Ok(self.count),
        }
    }

    fn look_at(&mut self, lines: &[u8]) {
        if self.refusal.is_none() {
            self.refusal = self.judge(lines).err();
            self.seen += lines.len();
        }
    }

    fn judge(&mut self, lines: &[u8]) -> Result<(), String> {
        // Most are ASCII, which shows faster.
        if !lines.is_ascii() && str::from_utf8(lines).is_err() {
            return Err("the answer is not UTF-8, as the text format must be".into());
        }
        let (mut start, mut family) = (0, &b""[..]);
        // The last may lack its newline.
        let unended = (!lines.ends_with(b"\n")).then_some(lines.len());
        for end in memchr_iter(b'\n', lines).chain(unended) {
            let line = trim(&lines[start..end]);
            start = end + 1;
            self.lines += 1;
            if let [] | [b'#', ..] = line {
                continue;
            }
            if !is_sample(line, &mut family) {
                let line = String::from_utf8_lossy(line);
                let line = beginning(&line);
                return Err(format!("line {} is not a sample: {line:?}", self.lines));
            }
            self.count += 1;
        }
        Ok(())
    }
}

/// Without the white space of the text format at its ends.
#[inline(always)]
fn trim(text: &[u8]) -> &[u8] {
    // Most have none, which shows where it is asked.
    match text {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => trimmed(text),
        _ => text,
    }
}

#[inline(never)]
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whether a line reads `name value`, `name{labels} value`, or one of these and a timestamp.
/// What is between the braces is left to the gateway, which parses it.
/// `family` is the name of the sample before, and becomes that of this one.
fn is_sample<'a>(line: &'a [u8], family: &mut &'a [u8]) -> bool {
    // Most values are digits alone.
    let before = line.iter().rposition(|b| !b.is_ascii_digit());
    if let Some(blank) = before.filter(|&end| line[end] == b' ' && end + 1 < line.len()) {
        if is_series(&line[..blank], family) {
            return true;
        }
    }
    let Some((rest, last)) = split_last(line) else {
        return false;
    };
    if is_series(rest, family) {
        return is_value(last);
    }
    let stamped = split_last(rest).filter(|(series, _)| is_series(series, family));
    stamped.is_some_and(|(_, value)| is_value(value) && is_timestamp(last))
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

fn is_value(text: &[u8]) -> bool {
    // Most are plain, and need not be computed.
    is_decimal(text) || str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

fn is_timestamp(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok_and(|text| text.parse::<i64>().is_ok())
}

/// Whether a text reads `digits[.digits][e(+|-)digits]`, as exporters write a number.
fn is_decimal(text: &[u8]) -> bool {
    let (mut is_some, mut rest) = digits(text);
    if let [b'.', fraction @ ..] = rest {
        (_, rest) = digits(fraction);
    }
    if let [b'e', b'+' | b'-', exponent @ ..] = rest {
        let (has_exponent, end) = digits(exponent);
        (is_some, rest) = (is_some && has_exponent, end);
    }
    is_some && rest.is_empty()
}

/// Whether a text begins with digits, and what follows them.
fn digits(text: &[u8]) -> (bool, &[u8]) {
    let end = text.iter().position(|b| !b.is_ascii_digit());
    let end = end.unwrap_or(text.len());
    (end > 0, &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples(text: &[u8]) -> Result<usize, String> {
        Samples::default().conclude(text)
    }

    #[test]
    fn every_form_of_a_sample_is_taken() {
        let text = "\n# HELP a b\n# TYPE a gauge\n# EOF is said in a comment only\na 1\n  a:b_2\t-1.5e-3  \n\
            c{} +Inf\nd {x=\"}\",y=\"{ \\\" 1 2 3\"} NaN 1700000000000\n\ne{z=\"ü\"}0\n";
        assert_eq!(samples(text.as_bytes()), Ok(5));
        assert_eq!(samples(b"a 1\n# EOF\r\n"), Ok(1));
    }

    #[test]
    fn what_is_no_text_of_samples_is_refused() {
        for text in [
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
            "a 1\n# EOF \n \n\t",
            "a 1\n# EOF",
            "\u{feff}a 1\n",
        ] {
            assert!(samples(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(samples(b"a{x=\"\xff\"} 1\n").is_err());
        for nothing in ["", "\n", "# only a comment\n", " \t", "#"] {
            assert_eq!(samples(nothing.as_bytes()), Ok(0), "{nothing:?}");
        }
    }

    #[test]
    fn a_name_that_begins_like_the_last_one_is_another() {
        assert_eq!(samples(b"a 1\nab 1\na{b=\"c\"} 1\nab:c 1\n"), Ok(4));
        assert!(samples(b"ab 1\nab-c 1\n").is_err());
        assert!(samples(b"ab 1\nab{c 1\n").is_err());
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_a_text_comes_make_no_difference(
            lines in prop::collection::vec(
                prop::sample::select(vec!["a 1\n", "b{c=\"ü\"} 2.5\n", "# d\n", "\n", "a", "\n\n", "-\n"]), 0..12),
            pieces in prop::collection::vec(0..100usize, 0..8),
        ) {
            let text = lines.concat();
            let mut pieced = Samples::default();
            let mut come = 0;
            for piece in pieces {
                come = text.len().min(come + piece);
                pieced.look(&text.as_bytes()[..come]);
            }
            prop_assert_eq!(pieced.conclude(text.as_bytes()), samples(text.as_bytes()));
        }

        #[test]
        fn what_reads_as_a_decimal_is_a_number(text in "[0-9]{0,3}[.e+-]{0,2}[0-9]{0,3}[.e+-]{0,2}[0-9]{0,30}") {
            if is_decimal(text.as_bytes()) {
                prop_assert!(text.parse::<f64>().is_ok());
            }
        }

        #[test]
        fn what_an_exporter_writes_of_a_number_is_a_decimal(number in any::<f64>()) {
            let text = format!("{:e}", number.abs()).replace("e-", "e~").replace('e', "e+").replace("+~", "-");
            prop_assert_eq!(is_decimal(text.as_bytes()), number.is_finite(), "{}", text);
        }
    }
}
