//! Groups that are no longer pushed: found in the gateway's own metrics, and deleted.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use log::{info, warn};
use ureq::http::{StatusCode, header};

use crate::gateway::Gateway;
use crate::group::{FORWARDED_JOB, Group, is_label_name};
use crate::http::{Response, check_coding, is_framed};
use crate::logging::{quote, sanitize};
use crate::status::Status;

/// How long deletions may rely on one reading of the metrics, from its beginning. The gateway knows no
/// conditional deletion, so a push may come unseen in this gap, or, if that is longer, during one reading
/// and one deletion, and go with its group. The node's next push brings the group back.
const FRESH: Duration = Duration::from_secs(5);

/// Largest difference between the clocks of gateway and host, in seconds. Beyond it, a group that is still
/// pushed could count as stale.
const MAX_SKEW: f64 = 60.0;

/// Longest line about a push, in bytes. No group has a longer key: Go's servers take no head of a request
/// that is much longer than 1 MiB, and escaping at most doubles it.
const MAX_LINE: u64 = (2 << 20) + (64 << 10);

/// Most bytes of lines about pushes in one reading: those of half a million groups, which are kept in the
/// worst case.
const MAX_LINES: usize = 64 << 20;

/// Which groups to delete.
#[derive(Debug)]
pub struct Rule {
    /// Those whose last push is longer ago.
    pub age: Duration,
    /// Only those of this job.
    pub job: Option<String>,
}

/// A group that is no longer pushed.
#[derive(Debug)]
pub struct StaleGroup {
    /// The grouping key as the gateway writes it; [`parse_key`] has read it.
    labels: String,
    /// Seconds since the last push that was stored; `None` if none ever was.
    age: Option<f64>,
}

impl fmt::Display for StaleGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = sanitize(&self.labels);
        match self.age {
            Some(age) => write!(f, "{{{labels:.1000}}}, last pushed {age:.0} s ago"),
            None => write!(f, "{{{labels:.1000}}}, every push was refused"),
        }
    }
}

/// Deletes the stale groups. A refused deletion does not stop the others.
pub fn prune(gateway: &Gateway, rule: &Rule) -> Result<()> {
    let (mut tried, mut refused) = (HashSet::new(), 0);
    // The first reading decides which pushes are old. Otherwise there might always be one more.
    let mut oldest = None;
    let mut started = Instant::now();
    let mut stale = find_stale_groups(gateway, rule, &mut oldest)?;
    while let Some(group) = stale.pop_front() {
        refused += usize::from(!delete(gateway, &group)?);
        tried.insert(group.labels);
        if !stale.is_empty() && started.elapsed() > FRESH {
            started = Instant::now();
            stale = find_stale_groups(gateway, rule, &mut oldest)?;
            stale.retain(|group| !tried.contains(&group.labels));
        }
    }
    match refused {
        0 => Ok(()),
        _ => {
            let why = format!("refused to delete {refused} of {} stale groups", tried.len());
            Err(gateway.refused(&gateway.url, &(why + ", see the warnings")))
        }
    }
}

/// Deletes a group; whether the gateway accepted that.
fn delete(gateway: &Gateway, stale: &StaleGroup) -> Result<bool> {
    for group in parse_key(&stale.labels).map(possible_groups).into_iter().flatten() {
        match gateway.delete(&group) {
            Err(e) if Status::of(&e) == Status::GatewayRefused => {
                warn!("not deleted: {stale}: {e:#}");
                return Ok(false);
            }
            other => other?,
        }
    }
    info!("deleted {stale}");
    Ok(true)
}

/// Reads the gateway's metrics for the stale groups. Nothing else is kept in memory, and incomplete metrics
/// are not believed. `oldest` is the oldest push that is not stale, as a Unix time by the gateway's clock;
/// the first reading sets it.
pub fn find_stale_groups(
    gateway: &Gateway,
    rule: &Rule,
    oldest: &mut Option<f64>,
) -> Result<VecDeque<StaleGroup>> {
    let not_a_gateway =
        |why: String| gateway.refused(&gateway.url, &format!("is not a Pushgateway: {why}"));
    let response = gateway.metrics()?;
    check_coding(&response).map_err(not_a_gateway)?;
    if response.status() != StatusCode::OK {
        return Err(not_a_gateway(format!("it answered {}", response.status())));
    }
    if !is_framed(&response) {
        return Err(not_a_gateway("the truncation of its response would go undetected".into()));
    }
    let now = date(&response).ok_or_else(|| not_a_gateway("the response has no date".into()))?;
    let here = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
    if (now - here).abs() > MAX_SKEW {
        let why = format!("has a clock that differs from this host's by {:.0} s", now - here);
        return Err(gateway.refused(&gateway.url, &(why + "; nothing is deleted")));
    }
    let oldest = *oldest.get_or_insert(now - rule.age.as_secs_f64());
    let is_old = |time: f64| time < oldest;

    let mut lines = BufReader::with_capacity(64 * 1024, response.into_body().into_reader());
    let mut line = Vec::new();
    let mut is_gateway = false;
    let mut tried_lately = HashSet::new();
    let mut found = VecDeque::new();
    let mut bytes = 0;
    while next_line(&mut lines, &mut line).map_err(|e| gateway.unreachable(&gateway.url, e))? {
        is_gateway |= line.starts_with(b"pushgateway_build_info{");
        let failure = line.strip_prefix(b"push_failure_time_seconds{");
        let Some(rest) = failure.or_else(|| line.strip_prefix(b"push_time_seconds{")) else {
            continue;
        };
        bytes += line.len();
        if bytes > MAX_LINES {
            return Err(not_a_gateway("there is no end to its groups".into()));
        }
        let unreadable = || not_a_gateway(format!("it has the line {}", quote(&line)));
        let (labels, time) = parse_sample(rest).ok_or_else(unreadable)?;
        if failure.is_some() {
            // These lines come first: the families are sorted by name.
            if !is_old(time) {
                tried_lately.insert(labels.to_owned());
            }
        } else if is_old(time) && (time != 0.0 || !tried_lately.contains(labels)) {
            let key = parse_key(labels).ok_or_else(unreadable)?;
            let label = |name| key.iter().find(|(found, _)| found == name).map(|(_, value)| value);
            // With a job, the reports about it go as well.
            let jobs = [Some(label("job").ok_or_else(unreadable)?), label(FORWARDED_JOB)];
            if rule.job.is_none() || jobs.contains(&rule.job.as_ref()) {
                let age = (time != 0.0).then_some(now - time);
                found.push_back(StaleGroup { labels: labels.to_owned(), age });
            }
        }
    }
    match is_gateway {
        true => Ok(found),
        false => Err(not_a_gateway("it has no pushgateway_build_info".into())),
    }
}

/// The gateway's own time, as a Unix time: its clock has measured the pushes.
fn date(response: &Response) -> Option<f64> {
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    let date = httpdate::parse_http_date(date).ok()?;
    Some(date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Reads the next line, of one that is longer than [`MAX_LINE`] the beginning; whether there is one.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    lines.take(MAX_LINE).read_until(b'\n', line)?;
    if !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}

/// The labels and the value of a line, from behind its first brace.
fn parse_sample(line: &[u8]) -> Option<(&str, f64)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    // No value has a brace, so the last one closes the labels, whatever they hold.
    let (labels, value) = line.rsplit_once("} ")?;
    Some((labels, value.parse().ok()?))
}

/// Reads `name="value",...` as the text format escapes it:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#comments-help-text-and-type-information>.
fn parse_key(labels: &str) -> Option<Vec<(String, String)>> {
    let mut key = Vec::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"")?;
        if !is_label_name(name) {
            return None;
        }
        let mut value = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                c => value.push(c),
            }
        }
        key.push((name.to_owned(), value));
        rest = match chars.as_str() {
            "" => "",
            more => more.strip_prefix(',')?,
        };
    }
    Some(key)
}

/// The groups that this key may mean: the gateway shows an empty instance for a group that has none. (There
/// is at most one of the two. With both, the gateway shows no metrics at all.)
fn possible_groups(key: Vec<(String, String)>) -> Vec<Group> {
    let is_empty = |(name, value): &(String, String)| name == "instance" && value.is_empty();
    let without: Vec<_> = key.iter().filter(|label| !is_empty(label)).cloned().collect();
    match without.len() == key.len() {
        true => vec![Group::of(key)],
        false => vec![Group::of(key), Group::of(without)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_complete_lines_of_the_text_format_are_read() {
        assert_eq!(parse_sample(b"job=\"} 1\"} 2.5e+09\n"), Some(("job=\"} 1\"", 2.5e9)));
        for line in ["job=\"a\"} 1", "job=\"a\"}\n", "job=\"a\"} 1 2\n", "\n"] {
            assert_eq!(parse_sample(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(parse_sample(b"job=\"\xff\"} 1\n"), None);
        for labels in [
            "job",
            "job=",
            "job=\"",
            "job=\"a",
            "job=\"a\"x=\"b\"",
            "job=\"a\\x\"",
            "job=\"a\\",
            "a-b=\"c\"",
            "=\"c\"",
            "\"a.b\"=\"c\"",
        ] {
            assert_eq!(parse_key(labels), None, "{labels:?}");
        }
    }

    #[test]
    fn empty_instance_may_mean_none() {
        let paths = |labels| {
            let groups = possible_groups(parse_key(labels).unwrap());
            groups.iter().map(Group::path).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("a=\"\",instance=\"\",job=\"j\""),
            ["metrics/job/j/instance@base64/=/a@base64/=", "metrics/job/j/a@base64/="]
        );
        assert_eq!(paths("instance=\"i\",job=\"j\""), ["metrics/job/j/instance/i"]);
    }

    #[test]
    fn endless_line_is_not_kept() {
        let mut text = vec![b'x'; 2 * MAX_LINE as usize];
        text.extend(b"push_time_seconds{\nlast");
        let (mut lines, mut line) = (&text[..], Vec::new());
        assert!(next_line(&mut lines, &mut line).unwrap());
        assert_eq!(line.len(), MAX_LINE as usize);
        assert!(next_line(&mut lines, &mut line).unwrap());
        assert_eq!(line, b"last");
        assert!(!next_line(&mut lines, &mut line).unwrap());
    }

    proptest! {
        #[test]
        fn any_value_is_read_as_it_was_written(a in any::<String>(), b in any::<String>()) {
            let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels = format!("a=\"{}\",b=\"{}\"", escaped(&a), escaped(&b));
            prop_assert_eq!(parse_key(&labels), Some(vec![("a".to_owned(), a), ("b".to_owned(), b)]));
        }
    }
}
