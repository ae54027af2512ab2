//! The exit statuses, a stable interface. Only this file knows the numbers.

use std::fmt;

use crate::logging::print_error;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Pushed; or the dry run, the delete or the prune is done.
    Done = 0,
    /// The lock cannot be used, the machine itself failed, or a bug.
    Unexpected = 1,
    /// An option or variable does not parse, or its file cannot be used; nothing was contacted.
    Usage = 2,
    /// Another run holds the lock; nothing was contacted.
    Locked = 3,
    /// No connection within the probe's limit, or no HTTP response to the scrape.
    ExporterDown = 4,
    /// The response is not a complete exposition; nothing was pushed.
    ScrapeUnusable = 5,
    /// No response from the gateway; the push may not have been stored.
    GatewayUnreachable = 6,
    /// The gateway did not answer 2xx, or answered as no gateway does.
    GatewayRefused = 7,
}

/// The statuses as `--help` shows them.
pub const HELP: &str = "\
Exit status:
  0  pushed (or: dry run, delete or prune done)
  1  unexpected: the lock cannot be used, the machine itself failed, or a bug
  2  usage: an option or variable does not parse, or a file that it names cannot
     be used; nothing was contacted
  3  another run holds the lock; nothing was contacted
  4  exporter down: no connection within the probe's limit, or no HTTP response
     to the scrape
  5  scrape unusable: status other than 200, empty, no sample, a line that is no
     sample, not UTF-8, truncated, too large, too slow; nothing was pushed
  6  gateway unreachable: name, connection, TLS or time limit; the push may not
     have been stored
  7  gateway refused: not 2xx, or a 2xx with a body; its words are shown";

/// A failure with a status of its own. Every other error is [`Status::Unexpected`].
#[derive(Debug)]
struct Failure(Status, String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Failure {}

impl Status {
    /// An error that ends the run with this status.
    pub fn error(self, message: impl Into<String>) -> anyhow::Error {
        Failure(self, message.into()).into()
    }

    /// The status that an error ends the run with.
    pub fn of(error: &anyhow::Error) -> Status {
        error.downcast_ref::<Failure>().map_or(Status::Unexpected, |failure| failure.0)
    }
}

/// Why a run failed: an error for each gateway that failed, or the one that ended the run before.
#[derive(Debug)]
pub struct Failures(pub Vec<anyhow::Error>);

impl Failures {
    /// The status that ends the run: the highest, since an outage (6) may pass by itself, and a refusal
    /// (7) does not.
    pub fn status(&self) -> Status {
        self.0.iter().map(Status::of).max().unwrap_or(Status::Unexpected)
    }

    /// Prints a line for each failure, with its status, which a log would otherwise not show, unless the
    /// user wants none. Returns the status of the run.
    pub fn print(&self, is_quiet: bool) -> Status {
        for e in self.0.iter().filter(|_| !is_quiet) {
            print_error(&format!("{e:#}. (exit status {})", Status::of(e) as u8));
        }
        self.status()
    }
}

impl From<anyhow::Error> for Failures {
    fn from(error: anyhow::Error) -> Failures {
        Failures(vec![error])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn status_survives_added_context_and_other_errors_are_unexpected() {
        let failure = Err::<(), _>(Status::GatewayRefused.error("no")).context("more");
        assert_eq!(Status::of(&failure.unwrap_err()), Status::GatewayRefused);
        assert_eq!(Status::of(&anyhow::anyhow!("odd")), Status::Unexpected);
    }

    #[test]
    fn highest_status_of_several_failures_ends_the_run() {
        use Status::{GatewayRefused, GatewayUnreachable, Unexpected, Usage};
        for (statuses, expected) in [
            (&[GatewayUnreachable][..], GatewayUnreachable),
            (&[GatewayUnreachable, GatewayUnreachable], GatewayUnreachable),
            (&[GatewayUnreachable, GatewayRefused], GatewayRefused),
            (&[GatewayRefused, GatewayUnreachable], GatewayRefused),
            (&[Unexpected, GatewayUnreachable], GatewayUnreachable),
            // None of them would be success.
            (&[], Unexpected),
        ] {
            let failures = statuses.iter().map(|status| status.error("no"));
            assert_eq!(Failures(failures.collect()).status(), expected);
        }
        let one = Failures::from(Usage.error("no"));
        assert_eq!(one.status(), Usage);
        assert_eq!(Failures::from(anyhow::anyhow!("odd")).status(), Unexpected);
    }
}
