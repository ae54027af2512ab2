//! A compressed body, as far as it shows without being decompressed.

/// Bytes of the shortest header, of the shortest content, and of the checksum and length that end it.
const LEAST: usize = 10 + 2 + 8;

/// How many bytes are compressed in `body`, modulo 2^32, by [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952).
/// Whether they are all there, the gateway finds out when it compares the checksum.
pub fn length(body: &[u8]) -> Result<usize, String> {
    match (body, body.last_chunk()) {
        ([0x1f, 0x8b, 8, ..], Some(length)) if body.len() >= LEAST => {
            Ok(u32::from_le_bytes(*length) as usize)
        }
        _ => Err("the answer is not compressed with gzip, as it says".into()),
    }
}
