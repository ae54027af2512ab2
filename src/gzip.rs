//! A compressed body, as far as it shows without being decompressed.

/// Bytes of the shortest header, of the shortest content, and of the checksum and length that end it.
const LEAST: usize = 10 + 2 + 8;

/// How many bytes are compressed in `body`, modulo 2^32, by [RFC 1952](https://www.rfc-editor.org/rfc/rfc1952).
/// That all of it is there, the length of the answer tells; what it holds, the gateway judges.
pub fn length(body: &[u8]) -> Result<usize, String> {
    match (body, body.last_chunk()) {
        ([0x1f, 0x8b, 8, ..], Some(length)) if body.len() >= LEAST => {
            Ok(u32::from_le_bytes(*length) as usize)
        }
        _ => Err("the answer is not compressed with gzip, as it says".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `a 1` and a newline, by gzip itself.
    const GZIP: &[u8] =
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x54\x30\xe4\x02\0\x36\xe7\x1b\xbc\x04\0\0\0";

    #[test]
    fn the_last_four_bytes_tell_how_much_is_compressed() {
        assert_eq!(length(GZIP), Ok(4));
        let with_length = |end: [u8; 4]| length(&[&GZIP[..GZIP.len() - 4], &end].concat());
        assert_eq!(with_length([0; 4]), Ok(0));
        assert_eq!(with_length([0, 0, 0, 1]), Ok(1 << 24));
        assert_eq!(with_length([0xff; 4]), Ok(u32::MAX as usize));
    }

    #[test]
    fn what_is_not_gzip_is_refused() {
        for place in 0..3 {
            let mut other = GZIP.to_vec();
            other[place] ^= 1;
            assert!(length(&other).is_err(), "{place}");
        }
        // The shortest stream is that of nothing.
        for cut in 0..20 {
            assert!(length(&GZIP[..cut]).is_err(), "{cut}");
        }
        assert!(length(&GZIP[..20]).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_by_their_ends(bytes in any::<Vec<u8>>()) {
            let is_gzip = bytes.starts_with(&GZIP[..3]) && bytes.len() >= 20;
            prop_assert_eq!(length(&bytes).is_ok(), is_gzip);
            let zipped = [&GZIP[..16], &bytes, &GZIP[20..]].concat();
            prop_assert_eq!(length(&zipped).is_ok(), true);
        }
    }
}
