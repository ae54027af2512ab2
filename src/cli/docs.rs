//! Man page, completions and reference, which are checked in under `docs`. `UPDATE_DOCS=1 cargo test docs::`
//! writes them anew.

use std::path::Path;
use std::{env, fs};

use clap::Arg;
use clap_complete::{Generator, Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{EXAMPLE, PROXIES, command};
use crate::status;

const NAME: &str = "pgw-forwarder";

/// The variables that no option has.
const VARIABLES: [(&str, &str); 4] = [
    (
        "EXPORTER_PASSWORD, PGW_PASSWORD",
        "The password of --exporter-user or --pgw-user, instead of its file.",
    ),
    ("EXPORTER_TOKEN, PGW_TOKEN", "A bearer token, instead of its file."),
    ("RUST_LOG", "The messages to log if neither -v nor -q is given: error, warn, info or debug."),
    ("TMPDIR", "The directory for temporary files, /tmp if it is not set."),
];

const FILES: [(&str, &str); 5] = [
    ("/etc/cron.d/pgw-forwarder", "The cron entry that install.sh writes."),
    (
        "/etc/pgw-forwarder/",
        "The copies of credentials and certificates that install.sh makes for cron's user.",
    ),
    ("/run/pgw-forwarder/", "The lock files of cron's user. Each has the PID of the last run."),
    ("/run/user/UID/", "The lock files of another user."),
    ("$TMPDIR/pgw-forwarder-UID/", "The lock files of a user who has none of these directories."),
];

#[test]
fn checked_in_docs_match_the_options() {
    let completions = |shell: Shell| {
        let mut script = Vec::new();
        generate(shell, &mut command(), NAME, &mut script);
        (format!("completions/{}", shell.file_name(NAME)), String::from_utf8(script).unwrap())
    };
    let docs = [
        ("pgw-forwarder.1".into(), man_page()),
        ("reference.md".into(), reference()),
        completions(Shell::Bash),
        completions(Shell::Zsh),
        completions(Shell::Fish),
    ];
    for (name, text) in docs {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let is_current = fs::read_to_string(&path).is_ok_and(|current| current == text);
        assert!(is_current, "{path:?} is not current: UPDATE_DOCS=1 cargo test docs::");
    }
}

/// What a status means, by its number, as `--help` says it.
fn statuses() -> Vec<(&'static str, String)> {
    let mut statuses: Vec<(&str, String)> = Vec::new();
    for line in status::HELP.lines().skip(1) {
        match (line.trim_start().split_once("  "), statuses.last_mut()) {
            (Some((number, meaning)), _) => statuses.push((number, meaning.to_owned())),
            (None, Some((_, meaning))) => *meaning += &format!(" {}", line.trim_start()),
            (None, None) => panic!("{line}"),
        }
    }
    statuses
}

/// The one sentence about proxies.
fn proxies() -> String {
    PROXIES.lines().skip(1).map(str::trim).collect::<Vec<_>>().join(" ")
}

fn long(option: &Arg) -> String {
    format!("--{}", option.get_long().unwrap())
}

fn man_page() -> String {
    let usage = "pgw-forwarder [OPTION]...\npgw-forwarder --delete [OPTION]...\n\
                 pgw-forwarder --prune SECONDS [OPTION]...";
    // The help names the values, in less room than a list.
    let hide_values = |option: Arg| {
        let has_value = option.get_action().takes_values();
        option.hide_possible_values(has_value)
    };
    let command = command().override_usage(usage).mut_args(hide_values);
    let man = Man::new(command.clone()).title("PGW-FORWARDER").manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();

    let mut roff = Roff::default();
    let mut item = |section: Option<&str>, term, meaning: String| {
        if let Some(section) = section {
            roff.control("SH", [section]);
        }
        roff.control("TP", []).text([term]).text([roman(meaning)]);
    };
    let first = |n, section| (n == 0).then_some(section);
    for (n, (number, meaning)) in statuses().into_iter().enumerate() {
        item(first(n, "EXIT STATUS"), bold(number), meaning);
    }
    let options = command.get_arguments().filter_map(|option| Some((option.get_env()?, option)));
    for (n, (variable, option)) in options.enumerate() {
        let variable = bold(variable.to_str().unwrap());
        item(first(n, "ENVIRONMENT"), variable, format!("See {}.", long(option)));
    }
    for (variable, meaning) in VARIABLES {
        item(None, bold(variable), meaning.into());
    }
    item(None, bold("http_proxy, https_proxy, all_proxy, no_proxy"), proxies());
    for (n, (file, meaning)) in FILES.into_iter().enumerate() {
        item(first(n, "FILES"), italic(file), meaning.into());
    }
    roff.control("SH", ["EXAMPLE"]).text([roman("A file in /etc/cron.d:")]).control("nf", []);
    for line in EXAMPLE.lines().skip(1) {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("fi", []);
    let page = String::from_utf8(page).unwrap() + &roff.to_roff();
    let page: String = page.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    // An empty date, which roff leaves out. The groups of options are parts of their section.
    page.replacen(" 1  ", " 1 \"\" ", 1)
        .replace("\n.SH EXPORTER", "\n.SS Exporter")
        .replace("\n.SH GATEWAY", "\n.SS Gateway")
        .replace("\n.SH RUN", "\n.SS Run")
}

fn reference() -> String {
    let mut text = format!(
        "<!-- Generated by src/cli/docs.rs. Change the options there, not this file. -->\n\n\
         # Reference of pgw-forwarder {}\n\n\
         An option with a variable can be set by either. The option wins.\n",
        env!("CARGO_PKG_VERSION")
    );
    for heading in ["Exporter", "Gateway", "Run"] {
        text += &format!("\n## {heading}\n\n");
        text += &table(
            ["Option", "Variable", "Default", "Meaning"],
            command().get_arguments().filter(|o| o.get_help_heading() == Some(heading)).map(row),
        );
    }
    text += "\n## Variables without an option\n\n";
    let variables = VARIABLES.iter().map(|(name, meaning)| [code(name), meaning.to_string()]);
    let proxies = [code("http_proxy, https_proxy, all_proxy, no_proxy"), proxies()];
    text += &table(["Variable", "Meaning"], variables.chain([proxies]));
    text += "\n## Exit statuses\n\n";
    let statuses = statuses().into_iter().map(|(number, meaning)| [number.to_owned(), meaning]);
    text += &table(["Status", "Meaning"], statuses);
    text += "\n## Files\n\n";
    text += &table(["File", "Meaning"], FILES.map(|(file, meaning)| [code(file), meaning.into()]));
    text
}

/// A row of the table of options. A default that is no value stands at the end of the help.
fn row(option: &Arg) -> [String; 4] {
    let short = option.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let value = option.get_value_names().filter(|_| option.get_action().takes_values());
    let value = value.map(|names| format!(" {}", names[0])).unwrap_or_default();
    let help = option.get_help().unwrap().to_string();
    let (meaning, default) = match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning.to_owned(), default.replace(']', "")),
        None => {
            let defaults = option.get_default_values().iter().filter(|_| !value.is_empty());
            (help, defaults.map(|default| code(default.to_str().unwrap())).collect())
        }
    };
    let variable = option.get_env().map(|variable| code(variable.to_str().unwrap()));
    let option = code(&format!("{short}{}{value}", long(option)));
    [option, variable.unwrap_or_default(), default, meaning]
}

fn code(words: &str) -> String {
    words.split(", ").map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line =
        |cells: [String; N]| format!("| {} |\n", cells.map(|c| c.replace('|', "\\|")).join(" | "));
    let rows = rows.into_iter().map(line).collect::<String>();
    line(head.map(String::from)) + &line([(); N].map(|()| "---".into())) + &rows
}
