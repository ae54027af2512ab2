//! How numbers are read.

use std::time::Duration;

/// The seconds in a day: no time limit or splay is longer.
pub const DAY: f64 = 86_400.0;

/// Reads a number of seconds within these bounds.
pub fn seconds(least: f64, most: f64) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| match text.parse() {
        Ok(seconds) if (least..=most).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("{text:?} is not a number of seconds from {least} to {most}")),
    }
}

/// Reads a number of bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is not a whole number of bytes, at least 1"))
}
