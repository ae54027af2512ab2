//! The options for credentials and certificates, the same for both sides.

use clap::{Arg, ArgMatches};

use crate::http::{Access, Side};

/// For each option: its name after the side, what its value is called, and its help.
const OPTIONS: [(&str, &str, &str); 6] = [
    (
        "user",
        "USER",
        "User for basic auth; the password comes from SIDE_PASSWORD or the next option",
    ),
    ("password-file", "FILE", "File with the password; a newline at its end is not part of it"),
    ("token-file", "FILE", "File with a bearer token, which can also come from SIDE_TOKEN"),
    ("cacert", "FILE", "Trust the CAs in this PEM file, not the system's"),
    ("cert", "FILE", "This host's certificate (PEM, with its chain), for a server that wants one"),
    ("key", "FILE", "The private key of that certificate (PEM, not encrypted)"),
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
