//! The two sides that a run speaks to, as their options name them.

/// A side, by the word that begins its options and variables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Side(pub &'static str);

impl Side {
    /// The options that begin with `--exporter-`.
    pub const EXPORTER: Side = Side("exporter");
    /// The options that begin with `--pgw-`.
    pub const GATEWAY: Side = Side("pgw");

    /// An option and its variable, as messages name them: `--pgw-addr (PGW_ADDR)`.
    pub fn option(self, name: &str) -> String {
        format!("--{}-{name} ({})", self.0, self.variable(name))
    }

    /// A variable: `PGW_PASSWORD_FILE` for `password-file`.
    pub fn variable(self, name: &str) -> String {
        format!("{}_{name}", self.0).replace('-', "_").to_uppercase()
    }
}
