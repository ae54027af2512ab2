//! An independent reader of HTTP responses and of the text format, by which random responses are judged. It
//! follows RFC 9112, with no more tolerance than its comments say.

use std::str;

/// A response as a client should see it.
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// `None` if it is truncated, or its framing is wrong.
    pub body: Option<Vec<u8>>,
    /// Whether truncation would show.
    pub is_framed: bool,
}

impl Response {
    /// The first final response, if its head is complete and right.
    pub fn read(mut bytes: &[u8]) -> Option<Response> {
        loop {
            // Empty lines may precede it.
            while let Some(rest) = bytes.strip_prefix(b"\r\n").or(bytes.strip_prefix(b"\n")) {
                bytes = rest;
            }
            let (version, rest) = next_line(&mut bytes)?.split_at_checked(9)?;
            let (status, reason) = rest.split_at_checked(3)?;
            let is_right = [b"HTTP/1.0 ", b"HTTP/1.1 "].iter().any(|right| *right == version)
                && status[0] != b'0'
                && status.iter().all(u8::is_ascii_digit)
                && (reason.is_empty() || reason[0] == b' ')
                && reason.iter().all(is_visible);
            let status = str::from_utf8(status).ok()?.parse().ok().filter(|_| is_right)?;
            let headers = read_headers(&mut bytes)?;
            if status == 101 || status >= 200 {
                let mut response = Response { status, headers, body: None, is_framed: true };
                response.read_body(version == b"HTTP/1.1 ", bytes);
                return Some(response);
            }
        }
    }

    /// The value of a header in lower case; several are joined.
    pub fn header(&self, name: &str) -> String {
        let values = self.headers.iter().filter(|(found, _)| found == name);
        values.map(|(_, value)| value.to_ascii_lowercase()).collect::<Vec<_>>().join(",")
    }

    fn read_body(&mut self, is_11: bool, rest: &[u8]) {
        let length = self.header("content-length");
        let coding = self.header("transfer-encoding");
        self.body = if matches!(self.status, 101 | 204 | 304) {
            Some(vec![])
        } else if is_11 && coding == "chunked" {
            read_chunks(rest)
        } else {
            // A coding that has no meaning here leaves the length in doubt.
            self.is_framed = !length.is_empty() && coding.is_empty();
            if length.is_empty() { Some(rest.into()) } else { read_length(&length, rest) }
        };
    }
}

/// The next line, without its end, which may be a lone LF (RFC 9112, 2.2).
fn next_line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn is_visible(byte: &u8) -> bool {
    *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)
}

fn read_headers(bytes: &mut &[u8]) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = next_line(bytes)?;
        if line.is_empty() {
            return Some(headers);
        }
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_in_name = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(is_in_name) || !value.iter().all(is_visible) {
            return None;
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        headers.push((text(name).to_ascii_lowercase(), text(value)));
    }
}

/// A body of one length, however often that is repeated (RFC 9110, 8.6).
fn read_length(values: &str, rest: &[u8]) -> Option<Vec<u8>> {
    let mut values = values.split(',').map(str::trim);
    let length = values.next().filter(|value| value.bytes().all(|b| b.is_ascii_digit()))?;
    let is_one = values.all(|value| value == length);
    rest.get(..length.parse().ok().filter(|_| is_one)?).map(Vec::from)
}

fn read_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|end| end == b"\r\n")?;
        let size = rest[..end].split(|b| *b == b';').next()?;
        // White space and a plus sign make no other number of it.
        let size = usize::from_str_radix(str::from_utf8(size).ok()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            // Everything is there, whatever the trailers are.
            return Some(body);
        }
        body.extend(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

/// Whether each line may be one of an exposition's, and one is a sample: by its first character and its last
/// word.
pub fn is_exposition(body: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(body) else {
        return false;
    };
    let lines = text.split('\n').map(|line| line.trim_matches([' ', '\t']));
    let mut samples = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    samples.peek().is_some()
        && samples.all(|line| {
            let value = line.rsplit(['}', ' ', '\t']).next().unwrap();
            line.starts_with(|c: char| c.is_ascii_alphabetic() || "_:{".contains(c))
                && value.parse::<f64>().is_ok()
        })
}
