//! Copies a node exporter's metrics to a Pushgateway: once, all or nothing, from cron.
//!
//! Data flows one way: [`cli`] -> [`lock`] -> [`exporter`] -> [`gateway`] -> [`exit`].

mod access;
mod address;
mod body;
mod buffers;
mod cli;
mod encoding;
mod exit;
mod exporter;
mod exposition;
#[cfg(test)]
mod fuzz;
mod gateway;
mod group;
mod gzip;
mod http;
mod lock;
mod logging;
mod names;
mod protobuf;
mod proxy;
mod prune;
mod socket;
mod text;
mod tls;

use std::io::{self, ErrorKind, Write};
use std::process::{self, ExitCode};
use std::{env, mem, panic, thread};

use anyhow::{Context, Result};
use log::info;
use memmap2::MmapMut;
use ureq::http::Uri;

use cli::Cli;
use exit::{Failures, Status};
use gateway::{Gateway, at_each};
use lock::{Lock, Place};

fn main() -> ExitCode {
    // A bug has a status too, and one line.
    panic::set_hook(Box::new(|bug| {
        logging::fail(&format!("this is a bug, please report it: {bug}"));
        process::exit(Status::Unexpected as i32);
    }));
    let cli = match Cli::load() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            // --help or --version; if nobody can read them, nobody minds.
            let _ = e.print();
            return Status::Done.into();
        }
        Err(e) => {
            logging::fail(&cli::explain(&e));
            return Status::Usage.into();
        }
    };
    match run(&cli) {
        Ok(()) => Status::Done.into(),
        Err(failures) => {
            if !cli.quiet {
                for e in &failures.0 {
                    logging::fail(&format!("{e:#}"));
                }
            }
            failures.status().into()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failures> {
    // Where memory is short, a small piece of it cannot be had without an abort: so room for the
    // probe is found now, and room for the pushes is kept while the exposition grows.
    let for_pushes = room(cli.gateway_count())?;
    drop(room(1)?);
    // All that can be wrong with the options is found before anything is touched.
    let rust_log = env::var("RUST_LOG")
        .ok()
        .filter(|filters| !filters.is_empty());
    logging::init(cli.level(), rust_log).map_err(|why| Status::Usage.because(why))?;
    if cli.gateway_version {
        return at_each(&cli.statuses()?, |gateway, status| {
            print(format!("{}\n", gateway.version(status)?).as_bytes())
        });
    }
    if let Some(rule) = cli.prune() {
        let gateways = cli.pages()?;
        if cli.dry_run {
            return at_each(&gateways, |gateway, page| {
                let stale = prune::look(gateway, page, &rule, &mut None)?;
                let at = match gateways.len() {
                    1 => String::new(),
                    _ => format!("{}: ", gateway.address),
                };
                let lines = stale.iter().map(|stale| format!("{at}{stale}\n"));
                print(lines.collect::<String>().as_bytes())
            });
        }
        let _locks = take_locks(cli, &gateways)?;
        return at_each(&gateways, |gateway, page| {
            prune::prune(gateway, page, &rule)
        });
    }

    let exporter = cli.exporter()?;
    let group = cli.group()?;
    let gateways = cli.groups(&group)?;
    if cli.dry_run {
        drop(for_pushes);
        exporter.probe()?;
        print(&exporter.scrape()?.body)?;
        return Ok(());
    }
    let _locks = take_locks(cli, &gateways)?;
    if cli.delete {
        return at_each(&gateways, Gateway::delete);
    }
    let pause = cli.splay.mul_f64(group.share());
    if !pause.is_zero() {
        info!("sleeping {pause:.1?} of a splay of {:?}", cli.splay);
        thread::sleep(pause);
    }
    exporter.probe()?;
    let exposition = exporter.scrape()?;
    drop(for_pushes);
    at_each(&gateways, |gateway, url| gateway.push(url, &exposition))?;
    // They are as much work to take apart as to make, and end with the process.
    mem::forget((exporter, gateways, exposition));
    Ok(())
}

/// Bytes for all that a run does with a server, but for an exposition; half of them are for the thread
/// that looks up a name.
const ROOM: usize = 4 << 20;

/// Memory for so many servers at a time.
fn room(servers: usize) -> Result<MmapMut> {
    let bytes = servers.saturating_mul(ROOM);
    MmapMut::map_anon(bytes)
        .with_context(|| format!("no memory for the {bytes} bytes that a run needs"))
}

/// The locks of the runs that are about these places, or the one that the user has chosen.
fn take_locks(cli: &Cli, gateways: &[(Gateway, Uri)]) -> Result<Vec<Lock>> {
    if let Some(path) = &cli.lock_file {
        return Ok(vec![Lock::take(&Place::at(path))?]);
    }
    let mut urls: Vec<_> = gateways.iter().map(|(_, url)| url.to_string()).collect();
    // Or two runs with the same gateways in another order might turn each other away.
    urls.sort();
    let locks = urls
        .iter()
        .map(|url| Lock::take(&lock::default_place(url)?));
    locks.collect()
}

fn print(body: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(body).and_then(|()| stdout.flush()) {
        // A reader that has seen enough is no failure.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}
