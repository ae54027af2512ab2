//! The forms of an exposition, as HTTP names them.

use std::fmt;

use clap::ValueEnum;

/// The media type of Prometheus's text format.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the exporter is asked for: any form up to this one. What it answers in is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    Text,
    #[value(name = "text+gzip")]
    TextGzip,
    Protobuf,
    #[value(name = "protobuf+gzip")]
    ProtobufGzip,
}

impl Encoding {
    /// The form of these two properties.
    pub fn of(is_protobuf: bool, is_gzip: bool) -> Encoding {
        match (is_protobuf, is_gzip) {
            (false, false) => Encoding::Text,
            (false, true) => Encoding::TextGzip,
            (true, false) => Encoding::Protobuf,
            (true, true) => Encoding::ProtobufGzip,
        }
    }

    /// Whether it is made of messages of the protocol buffers `io.prometheus.client.MetricFamily`,
    /// each after its length; else it is text.
    pub fn is_protobuf(self) -> bool {
        matches!(self, Encoding::Protobuf | Encoding::ProtobufGzip)
    }

    /// Whether it is compressed.
    pub fn is_gzip(self) -> bool {
        matches!(self, Encoding::TextGzip | Encoding::ProtobufGzip)
    }

    /// The value of `Accept` that asks for it. An exporter that knows only text says that.
    pub fn accept(self) -> &'static str {
        match self.is_protobuf() {
            false => TEXT,
            true => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited, text/plain; version=0.0.4; q=0.5"
            }
        }
    }

    /// The value of `Accept-Encoding` that asks for it.
    pub fn accept_encoding(self) -> &'static str {
        match self.is_gzip() {
            false => "identity",
            true => "gzip",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        f.write_str(name.as_ref().map_or("", |name| name.get_name()))
    }
}

/// Reads a media type: whether it is that of the protocol buffers; `None` if it is not that of the
/// text format either.
pub fn is_protobuf(media_type: &str) -> Option<bool> {
    let lower = media_type.to_ascii_lowercase();
    let (name, parameters) = lower.split_once(';').unwrap_or((&lower, ""));
    let values = |name: &'static str| {
        let parameters = parameters.split(';').map(str::trim);
        parameters
            .filter_map(move |p| p.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    // Without it, the text format is of the one version that a gateway takes.
    let are = |name, wanted| values(name).all(|value| value == wanted);
    let is = |name, wanted| values(name).next().is_some() && are(name, wanted);
    match name.trim() {
        // A comma is between two types, of which one is as good as the other.
        _ if lower.contains(',') => None,
        "text/plain" => are("version", "0.0.4").then_some(false),
        "application/vnd.google.protobuf" => {
            let is_whole = is("proto", "io.prometheus.client.metricfamily");
            (is_whole && is("encoding", "delimited")).then_some(true)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_by_its_two_properties_and_goes_by_its_options_name() {
        let (protobuf, gzip) = ([false, false, true, true], [false, true, false, true]);
        let names = ["text", "text+gzip", "protobuf", "protobuf+gzip"];
        for (index, encoding) in Encoding::value_variants().iter().enumerate() {
            assert_eq!(encoding.is_protobuf(), protobuf[index]);
            assert_eq!(encoding.is_gzip(), gzip[index]);
            assert_eq!(Encoding::of(protobuf[index], gzip[index]), *encoding);
            assert_eq!(encoding.to_string(), names[index]);
            // What is asked for first is what is taken for it.
            let first = encoding.accept().split(", ").next().unwrap();
            assert_eq!(is_protobuf(first), Some(protobuf[index]));
            assert!(encoding.accept().contains("text/plain; version=0.0.4"));
            let coding = if gzip[index] { "gzip" } else { "identity" };
            assert_eq!(encoding.accept_encoding(), coding);
        }
    }

    #[test]
    fn media_types_are_told_apart() {
        for (media_type, expected) in [
            ("text/plain", Some(false)),
            ("TEXT/plain ; charset=utf-8;version=\"0.0.4\"", Some(false)),
            ("text/plain; version=0.0.4; escaping=values", Some(false)),
            ("text/plain; version=1.0.0", None),
            ("text/plain; version=0.0.4; version=1.0.0", None),
            ("text/plain, text/plain", None),
            ("text/plainer", None),
            ("text/html", None),
            ("", None),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
                Some(true),
            ),
            (
                "application/vnd.google.protobuf;encoding=delimited;proto=\"io.prometheus.client.MetricFamily\";escaping=values",
                Some(true),
            ),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text",
                None,
            ),
            (
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily",
                None,
            ),
            ("application/vnd.google.protobuf; encoding=delimited", None),
            (
                "application/vnd.google.protobuf; proto=a.B; encoding=delimited",
                None,
            ),
            ("application/openmetrics-text; version=1.0.0", None),
        ] {
            assert_eq!(is_protobuf(media_type), expected, "{media_type}");
        }
    }
}
