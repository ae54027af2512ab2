//! Messages `io.prometheus.client.MetricFamily`, as far as it shows without decoding metrics:
//! <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>.

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
                has_name |= field == NAME && !value.is_empty();
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
