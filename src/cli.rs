//! The options, and the variables that cron files set instead of them.

use std::error::Error as _;
use std::path::PathBuf;
use std::slice;
use std::time::Duration;
use std::{env, mem};

use anyhow::Result;
use clap::error::{ContextKind, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum};
use log::LevelFilter;
use ureq::http::{Method, Uri};

use crate::access::{ExporterAccess, GatewayAccess};
use crate::address::{Address, Addresses};
use crate::encoding::Encoding;
use crate::exit::{self, Status};
use crate::exporter::Exporter;
use crate::gateway::Gateway;
use crate::group::Group;
use crate::http::Client;
use crate::proxy;
use crate::prune::Rule;

const PROXIES: &str = "\
Proxies:
  The gateway, never the exporter, is reached through the http:// proxy that
  http_proxy (for https:// addresses https_proxy) or all_proxy name, unless
  no_proxy lists its host or domain.";

/// Bytes that a path of the exporter's may have; a line of a request has to fit into 16 KiB.
const MOST_PATH: usize = 8192;

/// The end of the address of a VictoriaMetrics that is to be a gateway.
const VICTORIA_METRICS: &str = "/api/v1/import/prometheus";

/// A day: no time limit or splay is longer.
const MOST_SECONDS: f64 = 86_400.0;

/// Copy a node exporter's metrics to a Pushgateway, once, and exit
///
/// Meant for cron: a run takes a lock, probes the exporter, scrapes it, and pushes its answer as
/// it is, if that is whole and plausible; else nothing is pushed. Silent on success; on failure
/// one line on stderr and an exit status that says what failed.
///
/// Each option can be set by the variable that is named with it; the option wins. A variable that
/// is set but empty is a value. In a file of /etc/cron.d: */1 * * * * USER PGW_ADDR=push.example:9091
/// /usr/local/bin/pgw-forwarder 2>&1 | logger -t pgw-forwarder
#[derive(Debug, Parser)]
#[command(version, after_help = format!("{PROXIES}\n\n{}", exit::HELP))]
pub struct Cli {
    /// The exporter: host:port, [v6]:port, or an http:// or https:// URL
    #[arg(long, env, value_name = "ADDR", help_heading = "Exporter")]
    #[arg(hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:9014")]
    exporter_addr: Address,

    /// The path of its metrics; a query is allowed: metrics?collect[]=cpu
    #[arg(long, env, value_name = "PATH", help_heading = "Exporter")]
    #[arg(default_value = "metrics")]
    exporter_metric: String,

    /// Seconds (0.001 to 86400) that the exporter has for a sign of life
    #[arg(
        long,
        env = "EXPORTER_PROBE_TIMEOUT",
        value_name = "SECONDS",
        help_heading = "Exporter"
    )]
    #[arg(default_value = "2", value_parser = limit, allow_hyphen_values = true)]
    probe_timeout: Duration,

    /// Seconds (0.001 to 86400) that the exporter has for all of its metrics
    #[arg(
        long,
        env = "EXPORTER_SCRAPE_TIMEOUT",
        value_name = "SECONDS",
        help_heading = "Exporter"
    )]
    #[arg(default_value = "10", value_parser = limit, allow_hyphen_values = true)]
    scrape_timeout: Duration,

    /// Refuse an exposition of more bytes
    #[arg(
        long,
        env = "EXPORTER_MAX_BYTES",
        value_name = "BYTES",
        help_heading = "Exporter"
    )]
    #[arg(default_value = "67108864", value_parser = bytes, allow_hyphen_values = true)]
    max_bytes: u64,

    /// The form to ask the exporter for; what it answers, in this form or a plainer one, is passed
    /// on undecoded
    #[arg(long, env = "PGW_ENCODING", help_heading = "Exporter")]
    #[arg(default_value = "text", ignore_case = true)]
    encoding: Encoding,

    #[command(flatten)]
    exporter_access: ExporterAccess,

    /// The Pushgateway: host:port, [v6]:port, or an http:// or https:// URL, with a path prefix if
    /// it has one; several, with commas between, all get the same
    #[arg(long, env, value_name = "ADDR[,ADDR...]", help_heading = "Gateway")]
    #[arg(hide_env_values = true)]
    #[arg(default_value = "127.0.0.1:9091")]
    pgw_addr: Addresses,

    /// The label job of the grouping key; for --prune, if it is given, the only one to prune
    #[arg(long, env, value_name = "JOB", help_heading = "Gateway")]
    #[arg(default_value = "node", value_parser = not_empty)]
    pgw_job: String,

    #[arg(skip)]
    job_is_given: bool,

    /// The label instance of the grouping key [default: this host's name]
    #[arg(long, env, value_name = "INSTANCE", help_heading = "Gateway")]
    pgw_instance: Option<String>,

    /// A further label of the grouping key; repeatable, in the variable separated by commas
    #[arg(
        long,
        env = "PGW_LABELS",
        value_name = "NAME=VALUE",
        help_heading = "Gateway"
    )]
    pgw_label: Vec<String>,

    /// post replaces those families of the group that are pushed, put replaces the whole group
    #[arg(long, env, value_name = "METHOD", help_heading = "Gateway")]
    #[arg(default_value = "post", ignore_case = true)]
    pgw_method: PushMethod,

    /// Seconds (0.001 to 86400) that a gateway has to take the push and answer
    #[arg(
        long,
        env = "PGW_PUSH_TIMEOUT",
        value_name = "SECONDS",
        help_heading = "Gateway"
    )]
    #[arg(default_value = "10", value_parser = limit, allow_hyphen_values = true)]
    push_timeout: Duration,

    #[command(flatten)]
    pgw_access: GatewayAccess,

    /// Sleep a share of this many seconds (0 to 86400) before the probe, fixed for each grouping
    /// key, so that a fleet does not push in the same second
    #[arg(
        long,
        env = "FORWARDER_SPLAY",
        value_name = "SECONDS",
        help_heading = "Run"
    )]
    #[arg(default_value = "0", value_parser = splay, allow_hyphen_values = true)]
    pub splay: Duration,

    /// The lock file [default: one for each gateway and grouping key, in /run/pgw-forwarder,
    /// /run/user/UID, or pgw-forwarder-UID in the directory for temporary files]
    #[arg(
        long,
        env = "FORWARDER_LOCK_FILE",
        value_name = "FILE",
        help_heading = "Run"
    )]
    pub lock_file: Option<PathBuf>,

    /// Probe and scrape, and write to stdout what would be pushed, or with --prune what would be
    /// deleted; takes no lock, sleeps no splay
    #[arg(long, help_heading = "Run")]
    pub dry_run: bool,

    /// Remove this node's group from the gateway, and do nothing else
    #[arg(long, conflicts_with = "dry_run", help_heading = "Run")]
    pub delete: bool,

    /// On the monitoring host: delete the groups whose last push is more than this many seconds (1
    /// to 315360000) ago by the gateway's clock, and do nothing else; each of its requests may take
    /// as long as a push
    #[arg(
        long,
        value_name = "SECONDS",
        conflicts_with = "delete",
        help_heading = "Run"
    )]
    #[arg(value_parser = age, allow_hyphen_values = true)]
    prune: Option<Duration>,

    /// Write to stdout the version that the gateway tells, a line for each of several, and do nothing
    /// else
    #[arg(
        long,
        conflicts_with_all = ["dry_run", "delete", "prune"],
        help_heading = "Run"
    )]
    pub gateway_version: bool,

    /// Say more: -v what is done, -vv how; without it, RUST_LOG tells [default: warn]
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", help_heading = "Run")]
    verbose: u8,

    /// Say nothing, not even why a run failed
    #[arg(short, long, help_heading = "Run")]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PushMethod {
    Post,
    Put,
}

impl Cli {
    /// Reads the command line and the environment.
    pub fn load() -> Result<Cli, clap::Error> {
        let mut command = Cli::command();
        let mut matches = command.try_get_matches_from_mut(env::args_os())?;
        // They are as much work to take apart as to make, and end with the process.
        mem::forget(command);
        let [job, instance, label] =
            ["pgw_job", "pgw_instance", "pgw_label"].map(|id| matches.value_source(id));
        let mut cli = Cli::from_arg_matches_mut(&mut matches)?;
        if label == Some(ValueSource::EnvVariable) {
            let labels = cli.pgw_label.concat();
            cli.pgw_label = labels
                .split(',')
                .filter(|l| !l.is_empty())
                .map(String::from)
                .collect();
        }
        cli.job_is_given = job != Some(ValueSource::DefaultValue);
        if cli.prune.is_some() {
            // Not so a variable, which the cron file of a node may have for the node's own pushes.
            for (option, source) in [("--pgw-instance", instance), ("--pgw-label", label)] {
                if source == Some(ValueSource::CommandLine) {
                    let why =
                        format!("--prune is for all groups, or all of a job: not for {option}");
                    return Err(Cli::command().error(ErrorKind::ArgumentConflict, why));
                }
            }
        }
        Ok(cli)
    }

    /// How much to say; `None` where no option tells.
    pub fn level(&self) -> Option<LevelFilter> {
        match (self.quiet, self.verbose) {
            (true, _) => Some(LevelFilter::Off),
            (false, 0) => None,
            (false, 1) => Some(LevelFilter::Info),
            (false, _) => Some(LevelFilter::Debug),
        }
    }

    /// The exporter that the options describe.
    pub fn exporter(&self) -> Result<Exporter> {
        let path = self.exporter_metric.trim_start_matches('/');
        if path.len() > MOST_PATH {
            return Err(usage("exporter_metric")(format!(
                "longer than {MOST_PATH} bytes"
            )));
        }
        let server = slice::from_ref(&self.exporter_addr);
        let access = self.exporter_access.access(server);
        let access = access.map_err(|why| Status::Usage.because(why))?;
        Ok(Exporter {
            // The scrape follows the probe at once.
            client: Client::new(access.into_iter().next().unwrap_or_default(), None, true),
            landing_page: self
                .exporter_addr
                .join("")
                .map_err(usage("exporter_addr"))?,
            metrics: self
                .exporter_addr
                .join(path)
                .map_err(usage("exporter_metric"))?,
            encoding: self.encoding,
            probe_timeout: self.probe_timeout,
            scrape_timeout: self.scrape_timeout,
            max_bytes: self.max_bytes,
        })
    }

    /// The grouping key that the options describe.
    pub fn group(&self) -> Result<Group> {
        let host = || {
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned()
        };
        let instance = self.pgw_instance.clone().unwrap_or_else(host);
        Group::new(&self.pgw_job, &instance, &self.pgw_label).map_err(usage("pgw_label"))
    }

    /// What to prune, if that is what to do.
    pub fn prune(&self) -> Option<Rule> {
        Some(Rule {
            age: self.prune?,
            job: self.job_is_given.then(|| self.pgw_job.clone()),
        })
    }

    /// How many gateways there are.
    pub fn gateway_count(&self) -> usize {
        self.pgw_addr.0.len()
    }

    /// The gateways that the options describe, each with the place on it of this group.
    pub fn groups(&self, group: &Group) -> Result<Vec<(Gateway, Uri)>> {
        let mut addresses = self.pgw_addr.0.iter().map(Address::to_string);
        if addresses.any(|a| a.ends_with(VICTORIA_METRICS)) {
            // What it cannot do it does not do, and says 200.
            if self.encoding.is_protobuf() {
                let why = "VictoriaMetrics takes text or text+gzip, and drops the rest in silence";
                return Err(usage("encoding")(why.into()));
            }
            if self.delete {
                let why = "VictoriaMetrics has no groups; it keeps what it was told";
                return Err(usage("delete")(why.into()));
            }
        }
        self.gateways(&group.path(), "pgw_instance")
    }

    /// The gateways, each with the place of its own metrics, and those of all groups.
    pub fn pages(&self) -> Result<Vec<(Gateway, Uri)>> {
        self.gateways("metrics", "pgw_addr")
    }

    /// The gateways, each with the place of what it tells about itself.
    pub fn statuses(&self) -> Result<Vec<(Gateway, Uri)>> {
        self.gateways("api/v1/status", "pgw_addr")
    }

    /// The gateways, each with the place of `path` on it, which the option with the identifier `id`
    /// gives.
    fn gateways(&self, path: &str, id: &'static str) -> Result<Vec<(Gateway, Uri)>> {
        let Addresses(addresses) = &self.pgw_addr;
        let unusable = |why: String| Status::Usage.because(why);
        let accesses = self.pgw_access.access(addresses).map_err(unusable)?;
        let mut gateways = Vec::new();
        for (address, access) in addresses.iter().zip(accesses) {
            let url = address.join(path).map_err(usage(id))?;
            // What is not UTF-8 does not become unset: it will not parse.
            let variable = |name: &str| Some(env::var_os(name)?.to_string_lossy().into_owned());
            let proxy = proxy::for_url(&url, variable).map_err(unusable)?;
            let gateway = Gateway {
                // There is one request, or, with --prune, some that are to succeed each by itself.
                client: Client::new(access, proxy, false),
                address: address.clone(),
                method: match self.pgw_method {
                    PushMethod::Post => Method::POST,
                    PushMethod::Put => Method::PUT,
                },
                timeout: self.push_timeout,
            };
            gateways.push((gateway, url));
        }
        Ok(gateways)
    }
}

/// Says on one line why the command line or the environment is no good.
pub fn explain(error: &clap::Error) -> String {
    let mut command = Cli::command();
    command.build();
    let context = |kind| error.get(kind).map(ToString::to_string);
    let wrong = context(ContextKind::InvalidArg);
    let option = command
        .get_arguments()
        .find(|arg| Some(arg.to_string()) == wrong);
    match (error.kind(), option, error.source()) {
        (ErrorKind::ValueValidation, Some(option), Some(why)) => format!("{}: {why}", name(option)),
        (ErrorKind::InvalidValue, Some(option), _) => {
            let value = context(ContextKind::InvalidValue).filter(|value| !value.is_empty());
            match (value, context(ContextKind::ValidValue)) {
                (Some(value), Some(valid)) => {
                    format!("{}: {value:?} is not one of {valid}", name(option))
                }
                _ => format!("{}: a value is missing", name(option)),
            }
        }
        (ErrorKind::InvalidUtf8, ..) => {
            let is_odd = |arg: &&clap::Arg| {
                let value = arg.get_env().and_then(env::var_os);
                value.is_some_and(|value| value.to_str().is_none())
            };
            let option = command.get_arguments().find(is_odd).map(name);
            format!(
                "{}: not UTF-8",
                option.unwrap_or_else(|| "an argument".into())
            )
        }
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{}; see --help", line.trim_start_matches("error: "))
        }
    }
}

/// An option and its variable: a user has set one of them.
fn name(option: &clap::Arg) -> String {
    let long = option.get_long().unwrap_or_default();
    match option.get_env() {
        Some(variable) => format!("--{long} ({})", variable.to_string_lossy()),
        None => format!("--{long}"),
    }
}

/// A usage error of the option with the identifier `id`.
fn usage(id: &'static str) -> impl Fn(String) -> anyhow::Error {
    move |why| {
        let command = Cli::command();
        let option = command.get_arguments().find(|arg| arg.get_id() == id);
        let name = option.map(name).unwrap_or_default();
        Status::Usage.because(format!("{name}: {why}"))
    }
}

fn seconds(text: &str, least: f64, most: f64) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (least..=most).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!(
            "{text:?} is not a number of seconds from {least} to {most}"
        )),
    }
}

fn limit(text: &str) -> Result<Duration, String> {
    seconds(text, 0.001, MOST_SECONDS)
}

fn splay(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0, MOST_SECONDS)
}

fn age(text: &str) -> Result<Duration, String> {
    seconds(text, 1.0, 3650.0 * MOST_SECONDS)
}

fn bytes(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(format!("{text:?} is not a number of bytes, 1 at least")),
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it cannot be empty".into()),
        text => Ok(text.into()),
    }
}
