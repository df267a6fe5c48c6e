//! Quantities (`250m`, `1.5Gi`, `1e3`): parsing, comparing, and the one way that Kubernetes writes each of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A number in steps of 10⁻⁹, rounded up as Kubernetes does, and the family of suffixes that it was written with.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// n, u, m, k, M, …
    Decimal,
    /// Ki, Mi, …
    Binary,
    /// e3, E6
    Exponent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

// === impl Quantity ===

impl Quantity {
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whole units, rounded up.
    pub fn ceil(&self) -> i64 {
        i64::try_from(div_ceil(self.nano, NANO)).unwrap_or(i64::MAX)
    }

    /// Thousandths, rounded up: the unit of CPU.
    pub fn milli(&self) -> i64 {
        i64::try_from(div_ceil(self.nano, NANO / 1000)).unwrap_or(i64::MAX)
    }

    /// A whole number of units.
    pub fn is_integer(&self) -> bool {
        self.nano % NANO == 0
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match s.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, s.strip_prefix('+').unwrap_or(s)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (format, multiplier, exponent) = suffix_of(suffix)?;

        // digits × multiplier × 10^(exponent + 9 − decimals), capped and rounded up.
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let shift = exponent + 9 - i32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        let nano = scale(digits, multiplier, shift);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

fn suffix_of(suffix: &str) -> Result<(Format, i128, i32), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(word, _)| *word == suffix) {
        return Ok((Format::Decimal, 1, *exponent));
    }
    if let Some(power) = BINARY.iter().position(|word| *word == suffix) {
        return Ok((Format::Binary, 1 << (10 * power), 0));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
    Ok((Format::Exponent, 1, exponent))
}

/// `digits` as a number × `multiplier` × 10^`shift`, rounded up, at most [`MAX`].
fn scale(digits: &str, multiplier: i128, shift: i32) -> i128 {
    if digits.is_empty() {
        return 0;
    }
    // More digits than any quantity has: the number is capped, or what is beyond is rounded.
    let magnitude = i32::try_from(digits.len()).unwrap_or(i32::MAX).saturating_add(shift);
    if magnitude > 40 {
        return MAX;
    }
    if magnitude < -20 {
        return 1;
    }
    let kept = digits.len().min(19);
    let (head, tail) = digits.split_at(kept);
    let shift = shift + i32::try_from(tail.len()).unwrap_or(0);
    let number = head.parse::<i128>().unwrap_or(i128::MAX).saturating_add(i128::from(tail.bytes().any(|b| b != b'0')));
    let product = number.saturating_mul(multiplier);
    let scaled = match u32::try_from(shift) {
        Ok(up) => 10i128.checked_pow(up).map_or(i128::MAX, |p| product.saturating_mul(p)),
        Err(_) => 10i128.checked_pow(shift.unsigned_abs()).map_or(1, |p| div_ceil(product, p)),
    };
    scaled.min(MAX)
}

/// Rounded away from zero.
fn div_ceil(number: i128, by: i128) -> i128 {
    let (quotient, rest) = (number / by, number % by);
    if rest == 0 { quotient } else { quotient + number.signum() }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.nano.abs() >= 1024 * NANO {
            let (mut number, mut power) = (div_ceil(self.nano, NANO), 0);
            while number % 1024 == 0 && power + 1 < BINARY.len() {
                number /= 1024;
                power += 1;
            }
            return write!(f, "{number}{}", BINARY[power]);
        }
        let (mut number, mut exponent) = (self.nano, -9);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::Exponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        let suffix = DECIMAL.iter().find(|(_, e)| *e == exponent).map_or("", |(word, _)| word);
        write!(f, "{number}{suffix}")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_one_way() {
        let check = |written: &str, canonical: &str| {
            let parsed: Quantity = written.parse().unwrap_or_else(|e| panic!("{written}: {e}"));
            assert_eq!(parsed.to_string(), canonical, "{written}");
            assert_eq!(canonical.parse::<Quantity>().unwrap(), parsed, "{written} keeps its value");
        };
        check("0", "0");
        check("0Gi", "0");
        check("1", "1");
        check("+1", "1");
        check("1000m", "1");
        check("0.5", "500m");
        check(".5", "500m");
        check("1500m", "1500m");
        check("100000", "100k");
        check("1.5Gi", "1536Mi");
        check("1024Mi", "1Gi");
        check("512Ki", "512Ki");
        check("1000Ki", "1000Ki");
        check("0.5Ki", "512");
        check("12e6", "12e6");
        check("1E3", "1e3");
        check("1e0", "1");
        check("-200m", "-200m");
        check("9223372036854775807", "9223372036854775807");
        check("8Ei", "9223372036854775807");
        check("123456789012345678901234", "9223372036854775807");
        check("0.1n", "1n");
        check("0.0000000001", "1n");
        check("2500.5", "2500500m");
    }

    #[test]
    fn other_words_are_no_quantities() {
        for bad in ["", "m", "1.2.3", "1 Gi", "1gi", "1KB", "1e", "abc", "--1", "1Mi2", ".", "1e99999999999"] {
            assert_eq!(bad.parse::<Quantity>(), Err(QuantityError), "{bad:?}");
        }
    }

    #[test]
    fn values_compare_across_suffixes() {
        let quantity = |s: &str| s.parse::<Quantity>().unwrap();
        assert!(quantity("1Gi") > quantity("1G"));
        assert_eq!(quantity("1k"), quantity("1000"));
        assert_eq!(quantity("1500m").ceil(), 2);
        assert_eq!(quantity("0.1").milli(), 100);
        assert!(quantity("-1").is_negative());
        assert!(!quantity("1.5").is_integer());
    }
}
