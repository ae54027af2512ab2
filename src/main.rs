//! Copies a node exporter's metrics to a Pushgateway: once, all or nothing, from cron.
//!
//! Data flows one way: [`cli`] -> [`lock`] -> [`exporter`] -> [`gateway`] -> [`exit`].

mod access;
mod address;
mod cli;
mod exit;
mod exporter;
mod exposition;
#[cfg(test)]
mod fuzz;
mod gateway;
mod group;
mod http;
mod lock;
mod logging;
mod proxy;
mod prune;
mod socket;
mod tls;

use std::hint::black_box;
use std::io::{self, ErrorKind, Write};
use std::process::{self, ExitCode};
use std::{env, panic, thread};

use anyhow::{Context, Result};
use log::info;
use ureq::http::Uri;

use cli::Cli;
use exit::Status;
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
        Err(e) => {
            if !cli.quiet {
                logging::fail(&format!("{e:#}"));
            }
            Status::of(&e).into()
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    // Where memory is short, a small piece of it cannot be had without an abort: so room for the
    // probe is found now, and room for the push is kept while the exposition grows.
    let (for_probe, for_push) = (room()?, room()?);
    drop(for_probe);
    // All that can be wrong with the options is found before anything is touched.
    let rust_log = env::var("RUST_LOG")
        .ok()
        .filter(|filters| !filters.is_empty());
    logging::init(cli.level(), rust_log).map_err(|why| Status::Usage.because(why))?;
    let gateway = cli.gateway()?;
    if let Some(rule) = cli.prune() {
        let page = cli.page()?;
        if cli.dry_run {
            let stale = prune::look(&gateway, &page, &rule, &mut None)?;
            let lines = stale.iter().map(|stale| format!("{stale}\n"));
            return print(lines.collect::<String>().as_bytes());
        }
        let _lock = take_lock(cli, &page)?;
        return prune::prune(&gateway, &page, &rule);
    }

    let exporter = cli.exporter()?;
    let group = cli.group()?;
    let url = cli.url(&group)?;
    if cli.dry_run {
        drop(for_push);
        exporter.probe()?;
        return print(&exporter.scrape()?.body);
    }
    let _lock = take_lock(cli, &url)?;
    if cli.delete {
        return gateway.delete(&url);
    }
    let pause = cli.splay.mul_f64(group.share());
    if !pause.is_zero() {
        info!("sleeping {pause:.1?} of a splay of {:?}", cli.splay);
        thread::sleep(pause);
    }
    exporter.probe()?;
    let exposition = exporter.scrape()?;
    drop(for_push);
    gateway.push(&url, &exposition)
}

/// Memory for all that a run does but for an exposition; half of it is for the thread that looks
/// up a name.
fn room() -> Result<Vec<u8>> {
    const ROOM: usize = 4 << 20;
    let mut room = Vec::new();
    room.try_reserve_exact(ROOM)
        .with_context(|| format!("no memory for the {ROOM} bytes that a run needs"))?;
    // Or the compiler leaves it out, since nobody writes to it.
    Ok(black_box(room))
}

/// The lock of the runs that are about `url`.
fn take_lock(cli: &Cli, url: &Uri) -> Result<Lock> {
    match &cli.lock_file {
        Some(path) => Lock::take(&Place::at(path)),
        None => Lock::take(&lock::default_place(&url.to_string())?),
    }
}

fn print(body: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(body).and_then(|()| stdout.flush()) {
        // A reader that has seen enough is no failure.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}
