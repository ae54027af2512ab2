//! Where messages go: to stderr, each on one line.

use std::io::Write;
use std::sync::Mutex;

use env_logger::{Builder, WriteStyle};
use log::LevelFilter;

/// Shows this program's messages from `level` on; else what `RUST_LOG`, which does not parse in
/// the error, says; else warnings.
pub fn init(level: Option<LevelFilter>, rust_log: Option<String>) -> Result<(), String> {
    let mut builder = Builder::new();
    match (level, rust_log) {
        (Some(level), _) => {
            builder.filter_module("pgw_forwarder", level);
        }
        (None, Some(filters)) => {
            let parsed = env_filter::Builder::new().try_parse(&filters).map(drop);
            parsed.map_err(|e| format!("RUST_LOG: {e}"))?;
            builder.parse_filters(&filters);
        }
        (None, None) => {
            builder.filter_level(LevelFilter::Warn);
        }
    };
    builder
        .write_style(WriteStyle::Never)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "{}", line(&level, &record.args().to_string()))
        })
        .init();
    Ok(())
}

/// Says why the run failed, whatever is filtered.
pub fn fail(why: &str) {
    // Written at once, since other runs may write to the same file. If nobody can read it, the status
    // still tells.
    let line = line("error", why) + "\n";
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// What no message shows, whoever puts it there: a server may repeat what it was sent.
static CONCEALED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a text from being shown, unless it is so short that it is part of many words.
pub fn conceal(text: &str) {
    if let (4.., Ok(mut concealed)) = (text.len(), CONCEALED.lock()) {
        concealed.push(text.to_owned());
        // One may be part of another.
        concealed.sort_by_key(|text| usize::MAX - text.len());
    }
}

/// A text without what is concealed.
pub fn without_secrets(text: &str) -> String {
    let mut text = text.to_owned();
    if let Ok(concealed) = CONCEALED.lock() {
        for secret in concealed.iter() {
            text = text.replace(secret, "***");
        }
    }
    text
}

fn line(level: &str, message: &str) -> String {
    let message = without_secrets(message);
    format!("pgw-forwarder: {level}: {}", printable(&message))
}

/// Escapes what is not to be seen: a message may quote what came over the network, and neither a
/// terminal nor a log that is read line by line may be deceived by it.
pub fn printable(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '"' | '\'' | '\\' => text.push(c),
            c => text.extend(c.escape_debug()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_seen_is_shown() {
        assert_eq!(
            printable("a\nb\x1b[2Jc\u{9b}\u{202e}"),
            "a\\nb\\u{1b}[2Jc\\u{9b}\\u{202e}"
        );
        assert_eq!(printable("it's \"ü\" \\ 日本"), "it's \"ü\" \\ 日本");
    }
}
