//! Groups that nobody pushes any more: found on the gateway's own page, and deleted.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use log::{info, warn};
use ureq::http::{Uri, header};

use crate::exit::Status;
use crate::exposition::excerpt;
use crate::gateway::Gateway;
use crate::group::{Group, is_name};
use crate::logging::printable;

/// How long deletions may rely on one look at the page, from its beginning. The gateway knows no
/// deletion with a condition, so this is the gap in which a push can come unseen and go with its
/// group (or, if that is longer, the time of one look and one deletion); the node's next push
/// brings the group back.
const FRESH: Duration = Duration::from_secs(5);

/// How much the clocks of gateway and host may differ: whichever is wrong, a group that is pushed
/// could be taken for old.
const SKEW: f64 = 60.0;

/// Bytes of a line about a push. No group has a longer key: Go's servers take no head of a request
/// that is much longer than 1 MiB, and escaping at most doubles it.
const MOST_LINE: u64 = (2 << 20) + (64 << 10);

/// Bytes of grouping keys that are kept at a time: those of half a million groups.
const MOST_KEPT: usize = 64 << 20;

/// Bytes that it takes to keep a grouping key, besides its own.
const KEEPING: usize = 100;

/// Which groups to delete.
#[derive(Debug)]
pub struct Rule {
    /// Those that were last pushed longer ago than this.
    pub age: Duration,
    /// Of this job alone.
    pub job: Option<String>,
}

/// A group that nobody pushes any more.
#[derive(Debug)]
pub struct Stale {
    /// The grouping key as the page has it; that [`key`] can read it has been tried.
    labels: String,
    /// Seconds since the last push that was stored; `None` if there was none.
    age: Option<f64>,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = printable(&self.labels);
        match self.age {
            Some(age) => write!(f, "{{{labels:.1000}}}, last pushed {age:.0} s ago"),
            None => write!(f, "{{{labels:.1000}}}, never pushed, only tried to"),
        }
    }
}

/// Deletes the stale groups, and waits until they are gone. A group whose deletion is refused does
/// not keep the others from being deleted.
pub fn prune(gateway: &Gateway, page: &Uri, rule: &Rule) -> Result<()> {
    // Whether the gateway has taken the deletion of the group with these labels.
    let mut tried = HashMap::new();
    let mut ended = Instant::now();
    // When a push is old is not judged anew: else there might always be one more.
    let mut oldest = None;
    loop {
        let looked = Instant::now();
        let stale = look(gateway, page, rule, &mut oldest)?;
        let (left, new): (Vec<_>, Vec<_>) = stale
            .into_iter()
            .partition(|stale| tried.contains_key(&stale.labels));
        if new.is_empty() {
            // A deletion is queued behind the pushes: on a busy gateway it takes a while.
            match left.iter().find(|stale| tried[&stale.labels]) {
                None => break,
                Some(stale) if ended.elapsed() > gateway.timeout => {
                    return Err(Status::GatewayRefused.because(format!(
                        "{} took the deletion of {stale}, but still has it",
                        gateway.at(page)
                    )));
                }
                Some(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
        for (index, stale) in new.into_iter().enumerate() {
            if index > 0 && looked.elapsed() > FRESH {
                break;
            }
            let is_taken = delete(gateway, &stale)?;
            tried.insert(stale.labels, is_taken);
            ended = Instant::now();
        }
    }
    let refused = tried.values().filter(|is_taken| !**is_taken).count();
    match refused {
        0 => Ok(()),
        _ => Err(Status::GatewayRefused.because(format!(
            "{}: {refused} of {} stale groups could not be deleted, see the warnings",
            gateway.at(page),
            tried.len()
        ))),
    }
}

/// Deletes a group; tells whether the gateway has taken that.
fn delete(gateway: &Gateway, stale: &Stale) -> Result<bool> {
    for group in key(&stale.labels).map(groups).into_iter().flatten() {
        let deleted = match gateway.address.join(&group.path()) {
            Ok(url) => gateway.delete(&url),
            Err(why) => Err(Status::GatewayRefused.because(why)),
        };
        match deleted {
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

/// Reads the gateway's page for the stale groups. Nothing else of it is kept in memory, and of a
/// page that is not whole nothing is believed.
/// `oldest` is the time since when a push is not old, by the gateway's clock; the first look sets it.
pub fn look(
    gateway: &Gateway,
    page: &Uri,
    rule: &Rule,
    oldest: &mut Option<f64>,
) -> Result<Vec<Stale>> {
    let no_gateway = |why: String| {
        let at = gateway.at(page);
        Status::GatewayRefused.because(format!("{at} is no Pushgateway: {why}"))
    };
    let response = gateway.page(page)?;
    // Its own clock has measured its pushes, so it measures their age too.
    let mut dates = response.headers().get_all(header::DATE).into_iter();
    let now = match (dates.next(), dates.next()) {
        (Some(date), None) => date.to_str().ok(),
        _ => None,
    };
    let now = now
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok())
        .ok_or_else(|| no_gateway("its answer has no date".into()))?
        .as_secs_f64();
    let here = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let skew = now - here.as_secs_f64();
    if skew.abs() > SKEW {
        let at = gateway.at(page);
        return Err(Status::GatewayRefused.because(format!(
            "{at}: its clock and this host's differ by {skew:.0} s, so nothing is deleted"
        )));
    }
    let oldest = *oldest.get_or_insert(now - rule.age.as_secs_f64());
    let is_old = |time: f64| time < oldest;

    let broken =
        |e: io::Error| gateway.unreachable(page, &gateway.client.cause(&e.into(), gateway.timeout));
    let mut lines = BufReader::with_capacity(64 * 1024, response.into_body().into_reader());
    let mut line = Vec::new();
    let mut is_gateway = false;
    let mut tried_lately = HashSet::new();
    let mut found = Vec::new();
    let mut kept = 0;
    while next_line(&mut lines, &mut line).map_err(broken)? {
        is_gateway |= line.starts_with(b"pushgateway_build_info{");
        let failure = line.strip_prefix(b"push_failure_time_seconds{");
        let Some(rest) = failure.or_else(|| line.strip_prefix(b"push_time_seconds{")) else {
            continue;
        };
        let (labels, time) =
            sample(rest).ok_or_else(|| no_gateway(format!("it has {}", excerpt(&line))))?;
        if failure.is_some() {
            // These lines come first: the page is sorted by the families' names.
            if !is_old(time) {
                kept += labels.len() + KEEPING;
                tried_lately.insert(labels.to_owned());
            }
        } else if is_old(time) && (time != 0.0 || !tried_lately.contains(labels)) {
            let key = key(labels).filter(|key| key.iter().any(|(name, _)| name == "job"));
            let key = key.ok_or_else(|| no_gateway(format!("it has {}", excerpt(&line))))?;
            let is_chosen = |(name, value): &(String, String)| {
                name == "job" && rule.job.as_ref().is_none_or(|job| job == value)
            };
            if key.iter().any(is_chosen) {
                kept += labels.len() + KEEPING;
                found.push(Stale {
                    labels: labels.to_owned(),
                    age: (time != 0.0).then_some(now - time),
                });
            }
        }
        if kept > MOST_KEPT {
            return Err(no_gateway("there is no end to its groups".into()));
        }
    }
    if !is_gateway {
        return Err(no_gateway("it does not tell pushgateway_build_info".into()));
    }
    Ok(found)
}

/// Reads the next line, of one that is longer than [`MOST_LINE`] the beginning; whether there is
/// one.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    lines.take(MOST_LINE).read_until(b'\n', line)?;
    if !line.ends_with(b"\n") {
        lines.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}

/// The labels and the value of a line, from behind its first brace.
fn sample(line: &[u8]) -> Option<(&str, f64)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    // No value has a brace, so the last one ends the labels, whatever they hold.
    let (labels, value) = line.rsplit_once("} ")?;
    Some((labels, value.parse().ok()?))
}

/// Reads `name="value",...` as the text format escapes it:
/// <https://prometheus.io/docs/instrumenting/exposition_formats/#comments-help-text-and-type-information>.
fn key(labels: &str) -> Option<Vec<(String, String)>> {
    let mut key = Vec::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"")?;
        if !is_name(name) {
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

/// The groups that the page may mean by this key: it gives an empty instance to one that has none.
/// (There is one of the two at most: with both, the gateway has no page at all.)
fn groups(key: Vec<(String, String)>) -> Vec<Group> {
    let instance = |(name, value): &(String, String)| name == "instance" && value.is_empty();
    let without = key.iter().filter(|label| !instance(label)).cloned();
    let without = key
        .iter()
        .any(instance)
        .then(|| Group::of(without.collect()));
    [Group::of(key)].into_iter().chain(without).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_whole_lines_of_the_text_format_are_read() {
        assert_eq!(
            sample(b"job=\"} 1\"} 2.5e+09\n"),
            Some(("job=\"} 1\"", 2.5e9))
        );
        for line in ["job=\"a\"} 1", "job=\"a\"}\n", "job=\"a\"} 1 2\n", "\n"] {
            assert_eq!(sample(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(sample(b"job=\"\xff\"} 1\n"), None);
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
            assert_eq!(key(labels), None, "{labels:?}");
        }
    }

    #[test]
    fn an_empty_instance_may_be_none() {
        let paths = |labels| {
            let groups = groups(key(labels).unwrap());
            groups.iter().map(Group::path).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("a=\"\",instance=\"\",job=\"j\""),
            [
                "metrics/job/j/instance@base64/=/a@base64/=",
                "metrics/job/j/a@base64/="
            ]
        );
        assert_eq!(
            paths("instance=\"i\",job=\"j\""),
            ["metrics/job/j/instance/i"]
        );
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut text = vec![b'x'; 2 * MOST_LINE as usize];
        text.extend(b"push_time_seconds{\nlast");
        let (mut lines, mut line) = (&text[..], Vec::new());
        assert!(next_line(&mut lines, &mut line).unwrap());
        assert_eq!(line.len(), MOST_LINE as usize);
        assert!(next_line(&mut lines, &mut line).unwrap());
        assert_eq!(line, b"last");
        assert!(!next_line(&mut lines, &mut line).unwrap());
    }

    proptest! {
        #[test]
        fn any_value_is_read_as_it_was_written(a in any::<String>(), b in any::<String>()) {
            let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels = format!("a=\"{}\",b=\"{}\"", escaped(&a), escaped(&b));
            prop_assert_eq!(key(&labels), Some(vec![("a".to_owned(), a), ("b".to_owned(), b)]));
        }
    }
}
