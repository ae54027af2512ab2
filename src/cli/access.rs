//! The options for credentials and certificates, the same for both sides.

use clap::{Arg, ArgMatches};

use crate::http::{Access, Side};

/// For each option: its name after the side, what its value is called, and its help.
const OPTIONS: [(&str, &str, &str); 6] = [
    (
        "user",
        "USER",
        "User for basic auth; the password is in SIDE_PASSWORD or in the file of the next option",
    ),
    ("password-file", "FILE", "File with the password; a newline at its end is ignored"),
    (
        "token-file",
        "FILE",
        "File with a bearer token, instead of SIDE_TOKEN; a newline at its end is ignored",
    ),
    ("cacert", "FILE", "PEM file of the CAs to trust instead of the system's"),
    (
        "cert",
        "FILE",
        "PEM file of this host's certificate and its chain, for a server that requires one",
    ),
    ("key", "FILE", "PEM file of the private key of that certificate, not encrypted"),
];

/// The options of one side.
pub fn options(side: Side, heading: &'static str) -> impl Iterator<Item = Arg> {
    OPTIONS.into_iter().map(move |(name, value, help)| {
        Arg::new(id(side, name))
            .long(id(side, name))
            .env(side.variable(name))
            .value_name(value)
            .help_heading(heading)
            .help(help.replace("SIDE_", &side.variable("")))
    })
}

fn id(side: Side, name: &str) -> String {
    format!("{}-{name}", side.0)
}

/// What they are set to.
pub fn read(side: Side, matches: &mut ArgMatches) -> Access {
    let options = OPTIONS.iter().map(|(name, ..)| *name);
    let options = options.filter_map(|name| Some((name, matches.remove_one(&id(side, name))?)));
    Access { side, options: options.collect() }
}
