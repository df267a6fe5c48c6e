//! Resource quantities: decimal numbers with a binary or decimal suffix.

use std::fmt;

/// A text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct QuantityError(pub String);

impl fmt::Display for QuantityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no quantity: a number with an optional suffix such as m, k, M, Ki or Mi", self.0)
    }
}

/// The quantity in thousandths, rounded up: `1` is 1000, `100m` is 100, `1Ki` is 1024000.
///
/// # Errors
/// When the text is no quantity, or too large for 63 bits.
pub fn milli(text: &str) -> Result<i64, QuantityError> {
    let error = || QuantityError(text.to_owned());
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    // `1e3` is an exponent, `1E` is exa: told apart by the digit that follows.
    let (number, exponent, suffix) = match suffix.strip_prefix(['e', 'E']) {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') => {
            (number, rest.parse::<i32>().map_err(|_| error())?, "")
        }
        _ => (number, 0, suffix),
    };
    let (base, power): (i128, u32) = match suffix {
        "" => (10, 3),
        "n" | "u" | "m" => (10, 0),
        "k" => (10, 6),
        "M" => (10, 9),
        "G" => (10, 12),
        "T" => (10, 15),
        "P" => (10, 18),
        "E" => (10, 21),
        "Ki" => (1024, 1),
        "Mi" => (1024, 2),
        "Gi" => (1024, 3),
        "Ti" => (1024, 4),
        "Pi" => (1024, 5),
        "Ei" => (1024, 6),
        _ => return Err(error()),
    };
    let mut factor = base.checked_pow(power).ok_or_else(error)?;
    if base == 1024 {
        factor *= 1000;
    }
    let mut divisor: i128 = match suffix {
        "n" => 1_000_000,
        "u" => 1_000,
        _ => 1,
    };
    match exponent {
        0..=18 => factor *= 10_i128.pow(exponent.unsigned_abs()),
        -18..0 => divisor *= 10_i128.pow(exponent.unsigned_abs()),
        _ => return Err(error()),
    }
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 || whole.len() > 19 {
        return Err(error());
    }
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let scale = 10_i128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| error())? };
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
    let product = (whole * scale + part).checked_mul(factor).ok_or_else(error)?;
    let divisor = divisor * scale;
    let value = (product + divisor - 1) / divisor;
    i64::try_from(if negative { -value } else { value }).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::milli;

    #[test]
    fn quantities_in_thousandths() {
        for (text, wanted) in [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("0.5", 500),
            (".5", 500),
            ("1.5Gi", 1_610_612_736_000),
            ("128Mi", 134_217_728_000),
            ("1e3", 1_000_000),
            ("2E", 2_000_000_000_000_000_000_i64),
            ("1u", 1),
            ("-1", -1000),
            ("500e-3", 500),
        ] {
            match (text, milli(text)) {
                // 2E in thousandths does not fit: refused, not wrapped.
                ("2E", result) => assert!(result.is_err()),
                (_, result) => assert_eq!(result.ok(), Some(wanted), "{text}"),
            }
        }
    }

    #[test]
    fn what_is_no_quantity_is_an_error_that_quotes_it() {
        for text in ["", "m", "1x", "1.2.3", "1KiB", "--1", "1e99", "99999999999999999999"] {
            let error = milli(text).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
