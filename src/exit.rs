//! The exit statuses, a stable interface. Only this file knows the numbers.

use std::fmt;
use std::process::ExitCode;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Pushed; or the dry run, the delete or the prune is done.
    Done = 0,
    /// The lock file cannot be used, the machine itself failed, or a bug.
    Unexpected = 1,
    /// An option or variable does not parse, or its file cannot be used; nothing was contacted.
    Usage = 2,
    /// Another run holds the lock; nothing was contacted.
    Locked = 3,
    /// The probe got no HTTP answer in time, or a 5xx.
    ExporterDown = 4,
    /// The scrape is not a whole, plausible exposition; nothing was pushed.
    ScrapeUnusable = 5,
    /// No answer from the gateway; the push may not have been stored.
    GatewayUnreachable = 6,
    /// The gateway answered, but not with a 2xx, or as no gateway does.
    GatewayRefused = 7,
}

/// The statuses as `--help` shows them.
pub const HELP: &str = "\
Exit status:
  0  pushed (or: dry run, delete or prune done)
  1  unexpected: the lock file cannot be used, the machine itself failed, or a
     bug
  2  usage: an option or variable does not parse, or a file that it names cannot
     be used; nothing was contacted
  3  another run holds the lock; nothing was contacted
  4  exporter down: the probe got no HTTP answer in time, or a 5xx
  5  scrape unusable: wrong status or type, empty, no sample, cut short, too
     large, too slow; nothing was pushed
  6  gateway unreachable: name, connection, TLS or time limit; the push may not
     have been stored
  7  gateway refused: any answer that is not 2xx, or an HTML page; its words are
     shown";

/// A failure that has a status of its own. Every other error is [`Status::Unexpected`].
#[derive(Debug)]
struct Failure {
    status: Status,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Status {
    /// An error that ends the run with this status.
    pub fn because(self, message: impl Into<String>) -> anyhow::Error {
        let message = message.into();
        Failure {
            status: self,
            message,
        }
        .into()
    }

    /// The status that an error ends the run with.
    pub fn of(error: &anyhow::Error) -> Status {
        error
            .downcast_ref::<Failure>()
            .map_or(Status::Unexpected, |failure| failure.status)
    }
}

/// Why a run failed: what each gateway that failed says, or the one thing that ended it before.
#[derive(Debug)]
pub struct Failures(pub Vec<anyhow::Error>);

impl Failures {
    /// The status that ends the run: the highest, since a refusal (7) will not pass by itself, and
    /// an outage (6) may.
    pub fn status(&self) -> Status {
        let statuses = self.0.iter().map(Status::of);
        statuses.max().unwrap_or(Status::Unexpected)
    }
}

impl From<anyhow::Error> for Failures {
    fn from(error: anyhow::Error) -> Failures {
        Failures(vec![error])
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_status_survives_added_context_and_other_errors_are_unexpected() {
        let failure = Err::<(), _>(Status::GatewayRefused.because("no")).context("more");
        assert_eq!(Status::of(&failure.unwrap_err()), Status::GatewayRefused);
        assert_eq!(Status::of(&anyhow::anyhow!("odd")), Status::Unexpected);
    }

    #[test]
    fn of_several_failures_the_highest_status_ends_the_run() {
        use Status::{GatewayRefused, GatewayUnreachable, Unexpected, Usage};
        for (statuses, expected) in [
            (&[GatewayUnreachable][..], GatewayUnreachable),
            (
                &[GatewayUnreachable, GatewayUnreachable],
                GatewayUnreachable,
            ),
            (&[GatewayUnreachable, GatewayRefused], GatewayRefused),
            (&[GatewayRefused, GatewayUnreachable], GatewayRefused),
            (&[Unexpected, GatewayUnreachable], GatewayUnreachable),
            // None of them would be success.
            (&[], Unexpected),
        ] {
            let failures = statuses.iter().map(|status| status.because("no"));
            assert_eq!(Failures(failures.collect()).status(), expected);
        }
        let one = Failures::from(Usage.because("no"));
        assert_eq!((one.0.len(), one.status()), (1, Usage));
        assert_eq!(Failures::from(anyhow::anyhow!("odd")).status(), Unexpected);
    }
}
