//! Kubernetes quantities (`500m`, `128Mi`, `1e3`) as numbers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::runtime::Resources;

/// The value in thousandths, rounded up. `None` when it is not a quantity, negative, or too large.
pub fn thousandths(text: &str) -> Option<u128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 15 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let decimals = u32::try_from(fraction.len()).ok()?;
    let (factor, divisor): (u128, u128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10u128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1_000, size) } else { (size.checked_mul(1_000)?, 1) }
        }
    };
    let divisor = divisor.checked_mul(10u128.pow(decimals))?;
    Some(digits.checked_mul(factor)?.div_ceil(divisor))
}

/// Whole units, rounded up.
pub fn units(quantity: &Quantity) -> Option<u64> {
    u64::try_from(thousandths(&quantity.0)?.div_ceil(1000)).ok()
}

pub fn millis(quantity: &Quantity) -> Option<u64> {
    u64::try_from(thousandths(&quantity.0)?).ok()
}

/// What a container may take of the machine.
pub fn resources(requirements: Option<&ResourceRequirements>) -> Resources {
    let get = |map: Option<&BTreeMap<String, Quantity>>, name: &str| map.and_then(|m| m.get(name)).cloned();
    let limits = requirements.and_then(|r| r.limits.as_ref());
    let requests = requirements.and_then(|r| r.requests.as_ref());
    Resources {
        memory_limit: get(limits, "memory").and_then(|q| units(&q)),
        cpu_limit: get(limits, "cpu").and_then(|q| millis(&q)),
        cpu_request: get(requests, "cpu").and_then(|q| millis(&q)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("128Mi", Some(134_217_728_000)),
            ("1e3", Some(1_000_000)),
            ("5e-1", Some(500)),
            ("100n", Some(1)),
            ("2E", Some(2_000_000_000_000_000_000_000)),
            ("0", Some(0)),
            (".5", Some(500)),
            ("", None),
            (".", None),
            ("-1", None),
            ("1.2.3", None),
            ("1X", None),
            ("1e99", None),
            ("Mi", None),
        ] {
            assert_eq!(thousandths(text), expected, "{text:?}");
        }
    }
}
