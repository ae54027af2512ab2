//! The grouping key: the labels under which a gateway keeps what was pushed together.

use std::mem;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters is percent-encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The job of all reports.
pub const REPORT_JOB: &str = "pgw_forwarder";

/// The label of a report that names the job of the node's own group.
pub const FORWARDED_JOB: &str = "forwarded_job";

/// A grouping key in its one canonical order: job, instance, the other labels by name.
#[derive(Debug)]
pub struct Group(Vec<(String, String)>);

impl Group {
    /// Checks the further `labels` of the form `NAME=VALUE`. A name matches
    /// `[a-zA-Z_][a-zA-Z0-9_]*`, does not begin with `__` (reserved by Prometheus),
    /// and occurs once; `job`, `instance` and the label of reports are taken already.
    pub fn new(job: &str, instance: &str, labels: &[String]) -> Result<Group, String> {
        let mut all = vec![("job".to_owned(), job.to_owned())];
        all.push(("instance".to_owned(), instance.to_owned()));
        for label in labels {
            let (name, value) = label
                .split_once('=')
                .ok_or_else(|| format!("{label:?} is not of the form NAME=VALUE"))?;
            if !is_label_name(name) || name.starts_with("__") {
                return Err(format!(
                    "{name:?} is not a label name: [a-zA-Z_][a-zA-Z0-9_]*, not beginning with __"
                ));
            }
            if ["job", "instance", FORWARDED_JOB].contains(&name) {
                return Err(format!(
                    "{name} is taken. Use another name (or --pgw-job, --pgw-instance)"
                ));
            }
            if all.iter().any(|(other, _)| other == name) {
                return Err(format!("{name} is given twice"));
            }
            all.push((name.to_owned(), value.to_owned()));
        }
        Ok(Group::of(all))
    }

    /// The grouping key of these labels, a job among them.
    pub fn of(mut labels: Vec<(String, String)>) -> Group {
        labels.sort_by(|(a, _), (b, _)| {
            let rank = |name: &str| (name != "job", name != "instance");
            (rank(a), a).cmp(&(rank(b), b))
        });
        Group(labels)
    }

    /// The group of the reports about this one: the same, but for the job.
    pub fn report(&self) -> Group {
        let mut labels = self.0.clone();
        let job = mem::replace(&mut labels[0].1, REPORT_JOB.into());
        labels.push((FORWARDED_JOB.into(), job));
        Group::of(labels)
    }

    /// The path of the group below the gateway's address, by the rules of
    /// <https://github.com/prometheus/pushgateway#url>.
    pub fn path(&self) -> String {
        let mut path = String::from("metrics");
        for (name, value) in &self.0 {
            path.push('/');
            path.push_str(name);
            // A URL path cannot carry these: no segment may be empty, a router splits at a slash even when it
            // is encoded, and drops dot segments.
            if value.is_empty() {
                path.push_str("@base64/=");
            } else if value.contains('/') || value == "." || value == ".." {
                path.push_str("@base64/");
                URL_SAFE_NO_PAD.encode_string(value, &mut path);
            } else {
                path.push('/');
                path.extend(utf8_percent_encode(value, RESERVED));
            }
        }
        path
    }

    /// This group's fixed share of the splay, from 0 up to 1. The shares of many groups are evenly spread,
    /// and the same in every version: a fleet may be upgraded node by node.
    pub fn share(&self) -> f64 {
        // An f64 holds 53 bits exactly.
        (fingerprint(&self.path()) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Whether this is the name of a label.
pub fn is_label_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// 64 bits of `text`: FNV-1a, and MurmurHash3's finalizer, which spreads the names that differ only in
/// their last letter.
pub fn fingerprint(text: &str) -> u64 {
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::URL_SAFE;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    fn path(job: &str, instance: &str, labels: &[&str]) -> String {
        let labels: Vec<_> = labels.iter().map(|l| (*l).to_owned()).collect();
        Group::new(job, instance, &labels).unwrap().path()
    }

    /// Reads a path as a gateway does: split at the slashes, decode each segment, then the base64.
    fn read_back(path: &str) -> Vec<(String, String)> {
        let segments: Vec<_> = path.split('/').collect();
        assert_eq!(segments[0], "metrics");
        segments[1..]
            .chunks(2)
            .map(|pair| {
                assert!(!["", ".", ".."].contains(&pair[1]), "{path}");
                let value = percent_decode_str(pair[1]).decode_utf8().unwrap();
                let Some(name) = pair[0].strip_suffix("@base64") else {
                    return (pair[0].to_owned(), value.into_owned());
                };
                let padding = "=".repeat((4 - value.len() % 4) % 4);
                let bytes = match value.as_ref() {
                    "=" => Vec::new(),
                    value => URL_SAFE.decode(format!("{value}{padding}")).unwrap(),
                };
                (name.to_owned(), String::from_utf8(bytes).unwrap())
            })
            .collect()
    }

    #[test]
    fn value_is_encoded_by_the_gateways_rules() {
        for (value, segment) in [
            ("node1.example", "instance/node1.example"),
            ("a b", "instance/a%20b"),
            ("50%+", "instance/50%25%2B"),
            ("", "instance@base64/="),
            (".", "instance@base64/Lg"),
            ("..", "instance@base64/Li4"),
            ("/var/tmp", "instance@base64/L3Zhci90bXA"),
            ("a/?>b", "instance@base64/YS8_PmI"),
            ("ü", "instance/%C3%BC"),
        ] {
            assert_eq!(path("node", value, &[]), format!("metrics/job/node/{segment}"));
        }
    }

    #[test]
    fn further_labels_follow_by_name() {
        let url = "metrics/job/j/instance/i/a/2/b/1%3D1";
        assert_eq!(path("j", "i", &["b=1=1", "a=2"]), url);
        assert_eq!(path("j", "i", &["a=2", "b=1=1"]), url);
    }

    #[test]
    fn report_is_of_another_job_and_has_all_labels() {
        let labels = ["zone=eu".to_owned(), "a=1".to_owned()];
        let report = Group::new("a/b", "i", &labels).unwrap().report();
        let url = "metrics/job/pgw_forwarder/instance/i/a/1/forwarded_job@base64/YS9i/zone/eu";
        assert_eq!(report.path(), url);
    }

    #[test]
    fn bad_label_is_refused() {
        for labels in [
            &["a"][..],
            &["=v"],
            &["1a=v"],
            &["__a=v"],
            &["a-b=v"],
            &["ä=v"],
            &["job=v"],
            &["instance=v"],
            &["forwarded_job=v"],
            &["a=1", "a=2"],
        ] {
            let labels: Vec<_> = labels.iter().map(|l| (*l).to_owned()).collect();
            assert!(Group::new("j", "i", &labels).is_err(), "{labels:?}");
        }
    }

    #[test]
    fn share_is_the_same_in_all_versions() {
        let share = |instance| Group::new("node", instance, &[]).unwrap().share();
        assert_eq!(share("node1.example"), 0.9862003522528113);
        assert_eq!(share("node2.example"), 0.9692975058394866);
        let labels = ["zone=eu".to_owned()];
        let all = Group::new("batch", "a/b", &labels).unwrap();
        assert_eq!(all.share(), 0.21319391505647378);
    }

    #[test]
    fn shares_are_spread_evenly() {
        let mut buckets = [0u32; 60];
        for n in 0..10_000 {
            let group = Group::new("node", &format!("node-{n:05}"), &[]).unwrap();
            buckets[(group.share() * 60.0) as usize] += 1;
        }
        let expected = 10_000.0 / 60.0;
        let chi_square: f64 =
            buckets.iter().map(|&seen| (f64::from(seen) - expected).powi(2) / expected).sum();
        // The 99.9th percentile of chi-square with 59 degrees of freedom.
        assert!(chi_square < 98.3, "{chi_square}");
    }

    proptest! {
        #[test]
        fn any_value_is_read_back_unchanged(job in ".+", instance in any::<String>(), zone in any::<String>()) {
            let path = path(&job, &instance, &[&format!("zone={zone}")]);
            prop_assert!(path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#'));
            prop_assert_eq!(
                read_back(&path),
                [("job", job), ("instance", instance), ("zone", zone)]
                    .map(|(name, value)| (name.to_owned(), value))
            );
        }
    }
}
