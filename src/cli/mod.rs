//! The options, and the variables that cron files set instead of them.

mod access;
#[cfg(test)]
mod docs;
mod usage;
mod values;

pub use usage::explain;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, Command, CommandFactory, Error, FromArgMatches, Parser};
use log::LevelFilter;

use crate::exporter::Exporter;
use crate::gateway::Gateway;
use crate::group::{Group, REPORT_JOB};
use crate::http::{Access, Address, Client, Limit, Side};
use crate::prune::Rule;
use crate::status::{self, Status};
use values::{DAY, bytes, seconds};

/// A file for cron. No line is longer than a terminal has columns: it must survive copying.
const EXAMPLE: &str = "\
Example, a file in /etc/cron.d:
  PGW_ADDR=push.example:9091
  * * * * * nobody /usr/local/bin/pgw-forwarder 2>&1 | logger -t pgw-forwarder";

const PROXIES: &str = "\
Proxies:
  Requests to the gateway, not to the exporter, use the http:// proxy in
  http_proxy (https_proxy for an https:// address) or all_proxy, unless
  no_proxy lists the gateway's host, domain or network.";

/// The end of the address of a VictoriaMetrics that is used as a gateway.
const VICTORIA_METRICS: &str = "/api/v1/import/prometheus";

/// Copy a node exporter's metrics to a Pushgateway, once, and exit
///
/// Meant for cron. A run takes a lock, connects to the exporter, scrapes it, and pushes the response
/// unchanged. If the response is not a complete exposition, nothing is pushed. Success is silent. A failure
/// is an error line on stderr, one for each gateway that failed, and an exit status.
///
/// If an option is shown with a variable, the variable sets it as well. The option wins. A variable that is
/// set to nothing is an empty value.
#[derive(Parser)]
#[command(version, after_help = format!("{EXAMPLE}\n\n{PROXIES}\n\n{}", status::HELP))]
pub struct Cli {
    /// Address of the exporter: host:port, [v6]:port, an http:// or https:// URL, or unix:/path of a socket
    #[arg(long, env, value_name = "ADDR", help_heading = "Exporter", hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:9014")]
    exporter_addr: Address,

    /// Path of the metrics; a query selects some of them: metrics?collect[]=cpu
    #[arg(long, env, value_name = "PATH", help_heading = "Exporter")]
    #[arg(default_value = "metrics")]
    exporter_metric: String,

    /// Accept a response with neither Content-Length nor chunked encoding; its truncation may go undetected
    #[arg(long, env, help_heading = "Exporter", value_parser = BoolishValueParser::new())]
    exporter_allow_unframed: bool,

    #[arg(skip)]
    exporter_access: Access,

    /// Timeout for the connection to the exporter, in seconds (0.001 to 86400)
    #[arg(long, env = "EXPORTER_PROBE_TIMEOUT", value_name = "SECONDS", help_heading = "Exporter")]
    #[arg(default_value = "2", value_parser = seconds(0.001, DAY), allow_hyphen_values = true)]
    probe_timeout: Duration,

    /// Timeout for the exporter's complete response, in seconds (0.001 to 86400)
    #[arg(long, env = "EXPORTER_SCRAPE_TIMEOUT", value_name = "SECONDS")]
    #[arg(help_heading = "Exporter", default_value = "10", value_parser = seconds(0.001, DAY))]
    #[arg(allow_hyphen_values = true)]
    scrape_timeout: Duration,

    /// Refuse a response that is larger than this many bytes
    #[arg(long, env = "EXPORTER_MAX_BYTES", value_name = "BYTES", help_heading = "Exporter")]
    #[arg(default_value = "67108864", value_parser = bytes, allow_hyphen_values = true)]
    max_bytes: u64,

    /// Address of the Pushgateway: host:port, [v6]:port, or an http:// or https:// URL, with its path prefix;
    /// several, separated by commas, get the same push; a password in it belongs in the variable, since
    /// every user can read arguments
    #[arg(long, env, value_name = "ADDR[,ADDR...]", help_heading = "Gateway")]
    #[arg(hide_env_values = true, default_value = "127.0.0.1:9091", value_delimiter = ',')]
    pgw_addr: Vec<Address>,

    /// Label job of the grouping key; with --prune, the only job to prune [default: node; with --prune, all]
    #[arg(long, env, value_name = "JOB", help_heading = "Gateway")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pgw_job: Option<String>,

    /// Label instance of the grouping key [default: this host's name]
    #[arg(long, env, value_name = "INSTANCE", help_heading = "Gateway")]
    pgw_instance: Option<String>,

    /// Further label of the grouping key; repeatable; the variable takes several, separated by commas
    #[arg(long, env = "PGW_LABELS", value_name = "NAME=VALUE", help_heading = "Gateway")]
    pgw_label: Vec<String>,

    /// put replaces the whole group; post replaces only the families that are pushed
    #[arg(long, env, value_name = "METHOD", help_heading = "Gateway")]
    #[arg(default_value = "post", value_parser = ["post", "put"], ignore_case = true)]
    pgw_method: String,

    /// Compression of pushes; gzip needs Pushgateway 1.5.0 or VictoriaMetrics
    #[arg(long, env, value_name = "COMPRESSION", help_heading = "Gateway")]
    #[arg(default_value = "none", value_parser = ["none", "gzip"], ignore_case = true)]
    pgw_compression: String,

    /// Timeout for a push and the gateway's response, in seconds (0.001 to 86400)
    #[arg(long, env = "PGW_PUSH_TIMEOUT", value_name = "SECONDS", help_heading = "Gateway")]
    #[arg(default_value = "10", value_parser = seconds(0.001, DAY), allow_hyphen_values = true)]
    push_timeout: Duration,

    /// If the run ends with exit status 4 or 5, push that status to another group: job pgw_forwarder,
    /// forwarded_job JOB
    #[arg(long, env = "PGW_REPORT_FAILURES", help_heading = "Gateway")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub report_failures: bool,

    #[arg(skip)]
    gateway_access: Access,

    /// Spread the pushes of a fleet over this many seconds (0 to 86400); each grouping key waits for its own,
    /// fixed share of them
    #[arg(long, env = "FORWARDER_SPLAY", value_name = "SECONDS", help_heading = "Run")]
    #[arg(default_value = "0", value_parser = seconds(0.0, DAY), allow_hyphen_values = true)]
    pub splay: Duration,

    /// The lock file [default: one for each gateway and grouping key, in /run/pgw-forwarder,
    /// /run/user/UID or $TMPDIR/pgw-forwarder-UID]
    #[arg(long, env = "FORWARDER_LOCK_FILE", value_name = "FILE", help_heading = "Run")]
    pub lock_file: Option<PathBuf>,

    /// Scrape, and write to stdout what would be pushed; with --prune, what would be deleted; without lock
    /// and splay
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,

    /// Delete this node's group and its report from the gateway, and do nothing else
    #[arg(long, conflicts_with = "dry_run", help_heading = "Run")]
    pub delete: bool,

    /// On the monitoring host: delete the groups whose last push is more than this many seconds (1 to
    /// 315360000) ago by the gateway's clock, and do nothing else; --push-timeout applies to each request
    #[arg(long, value_name = "SECONDS", conflicts_with = "delete", help_heading = "Run")]
    #[arg(value_parser = seconds(1.0, 3650.0 * DAY), allow_hyphen_values = true)]
    prune: Option<Duration>,

    /// Log each step; -vv logs requests as well; overrides RUST_LOG [default: warn]
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Run")]
    verbose: u8,

    /// Log nothing, not even an error; the exit status and the output of --dry-run stay
    #[arg(short, long, help_heading = "Run")]
    pub quiet: bool,
}

fn command() -> Command {
    Cli::command()
        .args(access::options(Side::EXPORTER, "Exporter"))
        .args(access::options(Side::GATEWAY, "Gateway"))
}

impl Cli {
    /// Reads the command line and the environment.
    pub fn load() -> Result<Cli, Error> {
        let mut matches = command().try_get_matches()?;
        let source = |id| matches.value_source(id);
        let (instance, label) = (source("pgw_instance"), source("pgw_label"));
        let mut cli = Cli::from_arg_matches_mut(&mut matches)?;
        cli.exporter_access = access::read(Side::EXPORTER, &mut matches);
        cli.gateway_access = access::read(Side::GATEWAY, &mut matches);
        if label == Some(ValueSource::EnvVariable) {
            let labels = cli.pgw_label.concat();
            cli.pgw_label =
                labels.split(',').filter(|label| !label.is_empty()).map(String::from).collect();
        }
        // A variable is no error: the cron file of a node may have it for the node's own pushes.
        let is_option = |source| source == Some(ValueSource::CommandLine);
        if cli.prune.is_some() && (is_option(instance) || is_option(label)) {
            let why = "--prune is for all groups, or all of a job: it takes neither --pgw-instance nor --pgw-label";
            return Err(command().error(ErrorKind::ArgumentConflict, why));
        }
        Ok(cli)
    }

    /// The lowest level of messages to print; `None` if no option sets it.
    pub fn level(&self) -> Option<LevelFilter> {
        match (self.quiet, self.verbose) {
            (true, _) => Some(LevelFilter::Off),
            (false, 0) => None,
            (false, 1) => Some(LevelFilter::Info),
            (false, _) => Some(LevelFilter::Debug),
        }
    }

    /// Whether a push is compressed.
    pub fn has_compression(&self) -> bool {
        self.pgw_compression.eq_ignore_ascii_case("gzip")
    }

    /// The exporter that the options describe.
    pub fn exporter(&self) -> Result<Exporter> {
        let path = self.exporter_metric.trim_start_matches('/');
        let address = &self.exporter_addr;
        let client = Client::new(address, &self.exporter_access, false);
        let separator = if address.socket.is_some() { ":/" } else { "/" };
        Ok(Exporter {
            client: client.map_err(|why| Status::Usage.error(why))?,
            url: address.join(path).map_err(usage_error("--exporter-metric (EXPORTER_METRIC)"))?,
            name: format!("{address}{separator}{path:.1000}"),
            allow_unframed: self.exporter_allow_unframed,
            probe_limit: Limit(self.probe_timeout, "--probe-timeout (EXPORTER_PROBE_TIMEOUT)"),
            scrape_limit: Limit(self.scrape_timeout, "--scrape-timeout (EXPORTER_SCRAPE_TIMEOUT)"),
            max_bytes: self.max_bytes,
        })
    }

    /// The grouping key that the options describe.
    pub fn group(&self) -> Result<Group> {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let instance = self.pgw_instance.clone().unwrap_or_else(host);
        let job = self.pgw_job.as_deref().unwrap_or("node");
        if job == REPORT_JOB {
            // The rules would take its group for a report.
            return Err(usage_error("--pgw-job (PGW_JOB)")("it is the job of reports".into()));
        }
        Group::new(job, &instance, &self.pgw_label).map_err(usage_error("--pgw-label (PGW_LABELS)"))
    }

    /// What to prune, if that is what to do.
    pub fn prune_rule(&self) -> Option<Rule> {
        Some(Rule { age: self.prune?, job: self.pgw_job.clone() })
    }

    /// The gateways, for a run about the group at `path`.
    pub fn gateways(&self, path: &str) -> Result<Vec<Gateway>> {
        let addresses = &self.pgw_addr;
        let unusable = usage_error("--pgw-addr (PGW_ADDR)");
        let mut names: Vec<_> = addresses.iter().map(Address::to_string).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(unusable(format!("{} is given twice", twice[0])));
        }
        if addresses.iter().any(|address| address.socket.is_some()) {
            return Err(unusable("a gateway cannot be a Unix socket".into()));
        }
        if self.delete && names.iter().any(|name| name.ends_with(VICTORIA_METRICS)) {
            // It would answer as if it had deleted one.
            let why = "VictoriaMetrics has no groups; it keeps the samples that it has";
            return Err(usage_error("--delete")(why.into()));
        }
        let gateway = |address: &Address| {
            let client = Client::new(address, &self.gateway_access, true);
            Ok(Gateway {
                client: client.map_err(|why| Status::Usage.error(why))?,
                address: address.clone(),
                url: address.join(path).map_err(usage_error("--pgw-instance (PGW_INSTANCE)"))?,
                method: self.pgw_method.to_ascii_uppercase(),
                limit: Limit(self.push_timeout, "--push-timeout (PGW_PUSH_TIMEOUT)"),
            })
        };
        addresses.iter().map(gateway).collect()
    }
}

/// A usage error of an option, which is named with its variable.
fn usage_error(option: &'static str) -> impl Fn(String) -> anyhow::Error {
    move |why| Status::Usage.error(format!("{option}: {why}"))
}
