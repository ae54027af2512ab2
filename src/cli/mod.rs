//! The options, and the variables that cron files set instead of them.

mod access;
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
use crate::group::Group;
use crate::http::{Access, Address, Client, Limit, Side};
use crate::prune::Rule;
use crate::status::{self, Status};
use values::{DAY, bytes, seconds};

const PROXIES: &str = "\
Proxies:
  The gateway, never the exporter, is reached through the http:// proxy that
  http_proxy (for https:// addresses https_proxy) or all_proxy names, unless
  no_proxy lists its host, domain or network.";

/// The end of the address of a VictoriaMetrics that is used as a gateway.
const VICTORIA_METRICS: &str = "/api/v1/import/prometheus";

/// Copy a node exporter's metrics to a Pushgateway, once, and exit
///
/// Meant for cron: a run takes a lock, connects to the exporter, scrapes it, and pushes the response
/// unchanged, if it is a complete exposition; otherwise nothing is pushed. Silent on success; on failure
/// one line on stderr and an exit status that says what failed.
///
/// Each option can be set by the variable that is named with it; the option wins. A variable that
/// is set but empty is a value. In a file of /etc/cron.d: */1 * * * * USER PGW_ADDR=push.example:9091
/// /usr/local/bin/pgw-forwarder 2>&1 | logger -t pgw-forwarder
#[derive(Parser)]
#[command(version, after_help = format!("{PROXIES}\n\n{}", status::HELP))]
pub struct Cli {
    /// The exporter: host:port, [v6]:port, an http:// or https:// URL, or unix:/path of a socket
    #[arg(long, env, value_name = "ADDR", help_heading = "Exporter", hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:9014")]
    exporter_addr: Address,

    /// The path of its metrics; a query is allowed: metrics?collect[]=cpu
    #[arg(long, env, value_name = "PATH", help_heading = "Exporter")]
    #[arg(default_value = "metrics")]
    exporter_metric: String,

    /// Accept a response without Content-Length and chunks, whose end is that of the connection: its
    /// truncation may go undetected
    #[arg(long, env, help_heading = "Exporter", value_parser = BoolishValueParser::new())]
    exporter_allow_unframed: bool,

    #[arg(skip)]
    exporter_access: Access,

    /// Seconds (0.001 to 86400) within which the exporter has to accept the connection
    #[arg(long, env = "EXPORTER_PROBE_TIMEOUT", value_name = "SECONDS", help_heading = "Exporter")]
    #[arg(default_value = "2", value_parser = seconds(0.001, DAY), allow_hyphen_values = true)]
    probe_timeout: Duration,

    /// Seconds (0.001 to 86400) within which the response has to be complete
    #[arg(long, env = "EXPORTER_SCRAPE_TIMEOUT", value_name = "SECONDS")]
    #[arg(help_heading = "Exporter", default_value = "10", value_parser = seconds(0.001, DAY))]
    #[arg(allow_hyphen_values = true)]
    scrape_timeout: Duration,

    /// Refuse a response of more bytes
    #[arg(long, env = "EXPORTER_MAX_BYTES", value_name = "BYTES", help_heading = "Exporter")]
    #[arg(default_value = "67108864", value_parser = bytes, allow_hyphen_values = true)]
    max_bytes: u64,

    /// The Pushgateway: host:port, [v6]:port, or an http:// or https:// URL, with a path prefix if it has
    /// one; several, separated by commas, all get the same
    #[arg(long, env, value_name = "ADDR[,ADDR...]", help_heading = "Gateway")]
    #[arg(hide_env_values = true, default_value = "127.0.0.1:9091", value_delimiter = ',')]
    pgw_addr: Vec<Address>,

    /// The label job of the grouping key; for --prune, if it is given, the only job to prune
    /// [default: node]
    #[arg(long, env, value_name = "JOB", help_heading = "Gateway")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pgw_job: Option<String>,

    /// The label instance of the grouping key [default: this host's name]
    #[arg(long, env, value_name = "INSTANCE", help_heading = "Gateway")]
    pgw_instance: Option<String>,

    /// A further label of the grouping key; repeatable; the variable takes several, separated by commas
    #[arg(long, env = "PGW_LABELS", value_name = "NAME=VALUE", help_heading = "Gateway")]
    pgw_label: Vec<String>,

    /// post replaces the families of the group that are pushed, put replaces the whole group
    #[arg(long, env, value_name = "METHOD", help_heading = "Gateway")]
    #[arg(default_value = "post", value_parser = ["post", "put"], ignore_case = true)]
    pgw_method: String,

    /// Compress pushes: VictoriaMetrics and Pushgateways since 1.5.0 take gzip
    #[arg(long, env, value_name = "COMPRESSION", help_heading = "Gateway")]
    #[arg(default_value = "none", value_parser = ["none", "gzip"], ignore_case = true)]
    pgw_compression: String,

    /// Seconds (0.001 to 86400) within which a gateway has to read the push and answer
    #[arg(long, env = "PGW_PUSH_TIMEOUT", value_name = "SECONDS", help_heading = "Gateway")]
    #[arg(default_value = "10", value_parser = seconds(0.001, DAY), allow_hyphen_values = true)]
    push_timeout: Duration,

    /// If the exporter is down (exit status 4) or its response unusable (5), push that status to a group of
    /// its own: job pgw_forwarder, forwarded_job JOB
    #[arg(long, env = "PGW_REPORT_FAILURES", help_heading = "Gateway")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub report_failures: bool,

    #[arg(skip)]
    gateway_access: Access,

    /// Sleep a share of this many seconds (0 to 86400) first, fixed for each grouping key, so that a fleet
    /// does not push in the same second
    #[arg(long, env = "FORWARDER_SPLAY", value_name = "SECONDS", help_heading = "Run")]
    #[arg(default_value = "0", value_parser = seconds(0.0, DAY), allow_hyphen_values = true)]
    pub splay: Duration,

    /// The lock file [default: one for each gateway and grouping key, in /run/pgw-forwarder,
    /// /run/user/UID, or pgw-forwarder-UID in the directory for temporary files]
    #[arg(long, env = "FORWARDER_LOCK_FILE", value_name = "FILE", help_heading = "Run")]
    pub lock_file: Option<PathBuf>,

    /// Scrape, and write to stdout what would be pushed, or with --prune what would be deleted; takes no
    /// lock, sleeps no splay
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,

    /// Delete this node's group from the gateway, and do nothing else
    #[arg(long, conflicts_with = "dry_run", help_heading = "Run")]
    pub delete: bool,

    /// On the monitoring host: delete the groups whose last push is more than this many seconds (1 to
    /// 315360000) ago by the gateway's clock, and do nothing else; each of its requests may take as long as
    /// a push
    #[arg(long, value_name = "SECONDS", conflicts_with = "delete", help_heading = "Run")]
    #[arg(value_parser = seconds(1.0, 3650.0 * DAY), allow_hyphen_values = true)]
    prune: Option<Duration>,

    /// Log more: -v what is done, -vv how; without it, RUST_LOG decides [default: warn]
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Run")]
    verbose: u8,

    /// Print nothing, not even why a run failed
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
