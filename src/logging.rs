//! Messages: to stderr, each on one line, with nothing in it that deceives a terminal, and no secret.

use std::env;
use std::io::Write;
use std::sync::Mutex;

use env_logger::{Builder, WriteStyle};
use log::LevelFilter;

/// Most characters of a text from the network that a message quotes.
const MAX_QUOTE: usize = 300;

/// Most bytes of that text to read. A secret in it may be as long as the head of a request, and would not be
/// masked if it were cut.
pub const MAX_QUOTED: u64 = 16 * 1024;

/// Shows this program's messages from `level` on. Without it, `RUST_LOG` decides, which the error is about
/// if it does not parse. Without that, warnings are shown.
pub fn init(level: Option<LevelFilter>) -> Result<(), String> {
    let filters = match (level, env::var("RUST_LOG")) {
        (Some(level), _) => format!("pgw_forwarder={level}"),
        (None, Ok(filters)) if !filters.is_empty() => filters,
        _ => "warn".into(),
    };
    // env_logger itself would only warn.
    let parsed = env_filter::Builder::new().try_parse(&filters).map(drop);
    parsed.map_err(|e| format!("RUST_LOG: {e}"))?;
    Builder::new()
        .parse_filters(&filters)
        .write_style(WriteStyle::Never)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            // Other crates show heads. Our own messages quote texts from the network, and are not masked as a
            // whole: a gap in words that everybody knows would reveal the secret.
            let is_own = record.target().starts_with("pgw_forwarder");
            let message = record.args().to_string();
            let message = if is_own { message } else { mask_secrets(&message) };
            writeln!(out, "{}", line(&level, &message))
        })
        .init();
    Ok(())
}

/// Prints why the run failed, whatever is filtered.
pub fn print_error(message: &str) {
    // In one piece: other runs may write to the same file. If nobody reads it, the status still counts.
    let line = line("error", message) + "\n";
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn line(level: &str, message: &str) -> String {
    format!("pgw-forwarder: {level}: {}", sanitize(message))
}

/// Escapes control and other invisible characters.
pub fn sanitize(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '"' | '\'' | '\\' => text.push(c),
            c => text.extend(c.escape_debug()),
        }
    }
    text
}

/// The secrets of this run.
static SECRETS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a secret out of every text that a server sends: it may repeat what it was sent.
pub fn register_secret(secret: &str) {
    if let (false, Ok(mut secrets)) = (secret.is_empty(), SECRETS.lock()) {
        secrets.push(secret.to_owned());
        // The longest first, since one may contain another.
        secrets.sort_by_key(|secret| usize::MAX - secret.len());
    }
}

fn mask_secrets(text: &str) -> String {
    let secrets = SECRETS.lock().expect("a panic ends the process");
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

/// The beginning of a text from the network, on one line, without secrets.
pub fn quote(bytes: &[u8]) -> String {
    // The text may be as long as its sender likes.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_QUOTED as usize)]);
    // Masked first: a secret that is cut would not be known any more. One that the end of the text cuts is
    // not shown, either: no secret is longer than half of the text.
    let text = mask_secrets(&text).chars().take(MAX_QUOTED as usize / 2).collect::<String>();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown = 0;
    // An invisible character is shown as several, which count: system logs cut long lines.
    let end = line.char_indices().find(|(_, c)| {
        shown += c.escape_debug().count();
        shown > MAX_QUOTE
    });
    match end {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        assert_eq!(sanitize("a\nb\x1b[2Jc\u{9b}\u{202e}"), "a\\nb\\u{1b}[2Jc\\u{9b}\\u{202e}");
        assert_eq!(sanitize("it's \"ü\" \\ 日本"), "it's \"ü\" \\ 日本");
    }

    #[test]
    fn quote_is_one_short_line() {
        assert_eq!(quote(b" a\r\n\tb \xff\n"), "a b \u{fffd}");
        assert_eq!(quote("ü".repeat(1000).as_bytes()).chars().count(), 303);
        assert_eq!(quote(&[b'y'; 300]).len(), 300);
        assert_eq!(quote(&[0x1b; 300]), "\x1b".repeat(50) + "...");
    }

    #[test]
    fn secret_of_any_length_is_masked_in_a_quote() {
        register_secret("");
        register_secret("x7");
        register_secret("x7-and-more");
        assert_eq!(quote(b"got x7-and-more, x7"), "got ***, ***");
        let long = "z9".repeat(4000);
        register_secret(&long);
        assert_eq!(quote(format!("got {long}").as_bytes()), "got ***");
    }
}
