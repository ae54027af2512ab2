//! Messages `io.prometheus.client.MetricFamily`, as far as it shows without decoding metrics:
//! <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>.

use crate::text::is_family;

/// The numbers of a family's fields.
const NAME: u64 = 1;
const METRIC: u64 = 4;

/// Counts the metrics of families that follow each other, each after its length. All are whole and
/// have a name.
pub fn metrics(mut body: &[u8]) -> Result<usize, String> {
    let (mut families, mut metrics) = (0, 0);
    while !body.is_empty() {
        families += 1;
        metrics += delimited(&mut body)
            .and_then(metrics_of)
            .ok_or_else(|| format!("family {families} is no whole MetricFamily"))?;
    }
    Ok(metrics)
}

/// Counts the metrics of a family; `None` if it is none.
fn metrics_of(mut family: &[u8]) -> Option<usize> {
    let (mut has_name, mut metrics) = (false, 0);
    while !family.is_empty() {
        let key = varint(&mut family)?;
        // By the wire types of <https://protobuf.dev/programming-guides/encoding/>.
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (_, 0) => drop(varint(&mut family)?),
            (_, 1) => drop(take(&mut family, 8)?),
            (field, 2) => {
                let value = delimited(&mut family)?;
                has_name |= field == NAME;
                // A gateway may take another, and Prometheus then nothing of the gateway.
                if field == NAME && !is_family(value) {
                    return None;
                }
                metrics += usize::from(field == METRIC);
            }
            (_, 5) => drop(take(&mut family, 4)?),
            _ => return None,
        }
    }
    has_name.then_some(metrics)
}

/// Takes a length and as many bytes.
fn delimited<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = varint(bytes)?;
    take(bytes, length.try_into().ok()?)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Takes a number: seven bits a byte, the lowest first, and one that says that more follow.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    /// What follows its length.
    fn after_length(content: &[u8]) -> Vec<u8> {
        [number(content.len() as u64), content.to_vec()].concat()
    }

    /// A field of some length.
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        [self::number(number << 3 | 2), after_length(content)].concat()
    }

    fn family(fields: &[Vec<u8>]) -> Vec<u8> {
        after_length(&fields.concat())
    }

    fn named(name: &str, more: &[Vec<u8>]) -> Vec<u8> {
        family(&[&[field(NAME, name.as_bytes())], more].concat())
    }

    #[test]
    fn the_metrics_of_all_families_are_counted() {
        let metric = field(METRIC, b"not looked at");
        assert_eq!(metrics(b""), Ok(0));
        assert_eq!(metrics(&named("a", &[])), Ok(0));
        assert_eq!(metrics(&named("a", std::slice::from_ref(&metric))), Ok(1));
        let two = named("a", &[metric.clone(), metric.clone()]);
        assert_eq!(metrics(&[&two[..], &named("b", &[]), &two].concat()), Ok(4));
        // In any order, and among what later versions may add: of each type of field, one that
        // is unknown.
        let any = [
            metric,
            vec![9 << 3, 0xff, 0x01],
            [&[10 << 3 | 1][..], &[0; 8]].concat(),
            field(11, b"\x0a\x01b"),
            [&[12 << 3 | 5][..], &[0; 4]].concat(),
            field(1 << 28, b""),
            field(2, b"help"),
            vec![3 << 3, 1],
            field(METRIC, b""),
            field(NAME, b"a"),
        ];
        assert_eq!(metrics(&family(&any)), Ok(2));
    }

    #[test]
    fn what_is_no_whole_family_is_refused_and_told_which() {
        let metric = field(METRIC, b"");
        let good = named("a", std::slice::from_ref(&metric));
        for bad in [
            family(&[]),
            family(std::slice::from_ref(&metric)),
            named("", &[metric]),
            // A name of another type, and none at all.
            family(&[vec![1 << 3, b'a']]),
            family(&[field(2, b"a")]),
            // A field without a number.
            named("a", &[vec![2, 0]]),
            named("a", &[vec![0, 0]]),
            // Groups, which nobody makes any more, and types that there are not.
            named("a", &[vec![9 << 3 | 3]]),
            named("a", &[vec![9 << 3 | 4]]),
            named("a", &[vec![9 << 3 | 6, 0]]),
            named("a", &[vec![9 << 3 | 7, 0]]),
            // What is longer than its family.
            named("a", &[vec![METRIC as u8 * 8 + 2, 1]]),
            named("a", &[vec![9 << 3]]),
            named("a", &[vec![9 << 3 | 1, 0, 0, 0, 0, 0, 0, 0]]),
            named("a", &[vec![9 << 3 | 5, 0, 0, 0]]),
            named(
                "a",
                &[[&[METRIC as u8 * 8 + 2][..], &number(u64::MAX)].concat()],
            ),
            number(u64::MAX),
            number(1 << 63),
            vec![0x80; 9],
            vec![0x80; 20],
        ] {
            let first = metrics(&bad).expect_err(&bad.escape_ascii().to_string());
            assert!(first.starts_with("family 1 is"), "{first}");
            let second = metrics(&[&good[..], &bad].concat()).unwrap_err();
            assert!(second.starts_with("family 2 is"), "{second}");
        }
    }

    proptest! {
        #[test]
        fn any_families_are_counted_and_none_that_is_cut(
            families in prop::collection::vec(("[a-z_:][a-z0-9_:]{0,200}", prop::collection::vec(any::<Vec<u8>>(), 0..5)), 1..5)
        ) {
            let (mut body, mut ends, mut count) = (Vec::new(), Vec::new(), 0);
            for (name, contents) in &families {
                let fields: Vec<_> = contents.iter().map(|content| field(METRIC, content)).collect();
                body.extend(named(name, &fields));
                count += fields.len();
                ends.push(body.len());
            }
            prop_assert_eq!(metrics(&body), Ok(count));
            for end in 1..body.len() {
                prop_assert_eq!(metrics(&body[..end]).is_ok(), ends.contains(&end), "{}", end);
            }
        }

        #[test]
        fn any_bytes_end_in_a_count_or_a_refusal(bytes in any::<Vec<u8>>()) {
            let _ = metrics(&bytes);
        }
    }
}
