//! Copies a node exporter's metrics to a Pushgateway: once, all or nothing, from cron.
//!
//! Data flows one way: [`cli`] -> [`lock`] -> [`exporter`] -> [`exposition`] -> [`gateway`] -> [`status`].

mod cli;
mod exporter;
mod exposition;
mod gateway;
mod group;
mod http;
mod lock;
mod logging;
mod prune;
mod status;

use std::io::{self, ErrorKind, Write};
use std::{env, panic, process, thread};

use anyhow::{Context, Result, anyhow};
use log::{info, warn};

use cli::Cli;
use gateway::{Gateway, for_each_gateway};
use group::Group;
use lock::Lock;
use prune::Rule;
use status::{Failures, Status};

fn main() {
    // A bug has a status, too, and one line.
    panic::set_hook(Box::new(|bug| {
        let failures = Failures::from(anyhow!("this is a bug, please report it: {bug}"));
        process::exit(failures.print(false) as i32);
    }));
    let (is_quiet, result) = match Cli::load() {
        Ok(cli) => (cli.quiet, run(&cli)),
        Err(e) if !e.use_stderr() => {
            // --help or --version. A reader that is gone is no failure.
            let _ = e.print();
            return;
        }
        Err(e) => {
            let is_quiet = env::args_os().any(|arg| arg == "-q" || arg == "--quiet");
            (is_quiet, Err(Status::Usage.error(cli::explain(&e)).into()))
        }
    };
    process::exit(result.unwrap_or_else(|failures| failures.print(is_quiet)) as i32);
}

fn run(cli: &Cli) -> Result<Status, Failures> {
    logging::init(cli.level()).map_err(|why| Status::Usage.error(why))?;
    if let Some(rule) = cli.prune_rule() {
        return prune(cli, &rule);
    }
    // Every mistake in the options is found before anything is contacted.
    let exporter = cli.exporter()?;
    let group = cli.group()?;
    let gateways = cli.gateways(&group.path())?;
    if cli.dry_run {
        print(&exporter.scrape()?.body)?;
        return Ok(Status::Done);
    }
    let _locks = take_locks(cli, &gateways)?;
    if cli.delete {
        return for_each_gateway(&gateways, |gateway| {
            gateway.delete(&group)?;
            gateway.delete(&group.report())
        });
    }
    let pause = cli.splay.mul_f64(group.share());
    if !pause.is_zero() {
        info!("sleeping {pause:.1?} of a splay of {:?}", cli.splay);
        thread::sleep(pause);
    }
    let mut exposition = match exporter.scrape() {
        Err(e) if cli.report_failures => return Ok(report(cli, &gateways, &group, e)),
        scraped => scraped?,
    };
    if cli.has_compression() {
        exposition = exposition.compress().context("cannot compress")?;
    }
    for_each_gateway(&gateways, |gateway| gateway.push(&exposition))
}

/// Prints why there is nothing to push, and reports it, if it is about the exporter, to each gateway.
fn report(cli: &Cli, gateways: &[Gateway], group: &Group, error: anyhow::Error) -> Status {
    let status = Failures::from(error).print(cli.quiet);
    if matches!(status, Status::ExporterDown | Status::ScrapeUnusable) {
        let reported =
            for_each_gateway(gateways, |gateway| gateway.report(&group.report(), status));
        for e in reported.err().into_iter().flat_map(|failures| failures.0) {
            warn!("the failure was not reported: {e:#}");
        }
    }
    status
}

/// Deletes the stale groups of each gateway, or lists them.
fn prune(cli: &Cli, rule: &Rule) -> Result<Status, Failures> {
    let gateways = cli.gateways("metrics")?;
    if !cli.dry_run {
        let _locks = take_locks(cli, &gateways)?;
        return for_each_gateway(&gateways, |gateway| prune::prune(gateway, rule));
    }
    for_each_gateway(&gateways, |gateway| {
        let stale = prune::find_stale_groups(gateway, rule, &mut None)?;
        let prefix = match gateways.len() {
            1 => String::new(),
            _ => format!("{}: ", gateway.address),
        };
        print(stale.iter().map(|stale| format!("{prefix}{stale}\n")).collect::<String>().as_bytes())
    })
}

/// The locks of the runs that are about these URLs, or the one that the user has chosen.
fn take_locks(cli: &Cli, gateways: &[Gateway]) -> Result<Vec<Lock>> {
    if let Some(path) = &cli.lock_file {
        return Ok(vec![Lock::take(path)?]);
    }
    let mut urls: Vec<_> = gateways.iter().map(|gateway| gateway.url.to_string()).collect();
    // Otherwise two runs with the same gateways in another order might turn each other away.
    urls.sort();
    urls.iter().map(|url| Lock::take(&lock::default_path(url)?)).collect()
}

fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        // A reader that has seen enough is no failure.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}
