//! How numbers are read.

use std::time::Duration;

/// A day: no time limit or splay is longer.
const MAX_SECONDS: f64 = 86_400.0;

fn seconds(text: &str, least: f64, most: f64) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (least..=most).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("{text:?} is not a number of seconds from {least} to {most}")),
    }
}

/// A time limit in seconds.
pub fn limit(text: &str) -> Result<Duration, String> {
    seconds(text, 0.001, MAX_SECONDS)
}

/// A splay in seconds.
pub fn splay(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0, MAX_SECONDS)
}

/// The age of a group in seconds.
pub fn age(text: &str) -> Result<Duration, String> {
    seconds(text, 1.0, 3650.0 * MAX_SECONDS)
}

/// A number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is not a whole number of bytes, at least 1"))
}
