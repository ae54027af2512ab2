//! Where messages go: to stderr, each on one line.

use std::io::Write;

use env_logger::{Builder, Env, WriteStyle};
use log::LevelFilter;

/// Shows messages from `level` on, else what `RUST_LOG` says, else warnings.
pub fn init(level: Option<LevelFilter>) {
    let mut builder = Builder::new();
    match level {
        Some(level) => builder.filter_level(level),
        None => builder.parse_env(Env::new().default_filter_or("warn")),
    };
    builder
        .write_style(WriteStyle::Never)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            let message = format!("pgw-forwarder: {level}: {}", record.args());
            writeln!(out, "{}", one_line(&message))
        })
        .init();
}

/// Escapes control characters: a message may quote what came over the network, and neither a
/// terminal nor a log that is read line by line may be deceived by it.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left() {
        assert_eq!(one_line("a\nb\x1b[2Jc\u{9b}ü"), "a\\nb\\u{1b}[2Jc\\u{9b}ü");
    }
}
