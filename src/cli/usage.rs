//! Usage errors, each on one line that names the option and its variable.

use std::env;
use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, Error};

/// What is wrong with the command line or the environment.
pub fn explain(error: &Error) -> String {
    let mut command = super::command();
    command.build();
    if error.kind() == ErrorKind::InvalidUtf8 {
        // clap does not say which one it is.
        let is_odd = |value: OsString| value.to_str().is_none();
        let is_wrong = |option: &&Arg| option.get_env().and_then(env::var_os).is_some_and(is_odd);
        let wrong = command.get_arguments().find(is_wrong).map(name);
        return format!("{}: the value is not UTF-8", wrong.as_deref().unwrap_or("an option"));
    }
    let wrong = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    let option = command.get_arguments().find(|arg| Some(arg.to_string()) == wrong).map(name);
    let text = error.to_string().replace("error: ", "");
    let line = text.split("\n\n").next().unwrap_or_default().replace("\n ", "");
    match (option, error.kind(), error.source()) {
        // clap's own line would show the value, which may be secret.
        (Some(option), ErrorKind::ValueValidation, Some(why)) => format!("{option}: {why}"),
        (Some(option), ..) => format!("{option}: {line}. See --help"),
        (None, ..) => format!("{line}. See --help"),
    }
}

/// An option and its variable: the user has set one of them.
fn name(option: &Arg) -> String {
    let long = option.get_long().unwrap_or_default();
    match option.get_env() {
        Some(variable) => format!("--{long} ({})", variable.to_string_lossy()),
        None => format!("--{long}"),
    }
}
