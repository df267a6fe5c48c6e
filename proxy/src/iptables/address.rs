//! Addresses of both families as hexadecimal digits: what the dispatch trees branch by. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thalweg_cluster::Family;

pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Bits of a digit.
const DIGIT: u32 = 4;

/// The address of which all digits are 0.
pub(super) fn zero(family: Family) -> IpAddr {
    from_bits(family, 0)
}

/// How many digits an address has.
pub(super) fn digits(family: Family) -> u8 {
    match family {
        Family::V4 => 8,
        Family::V6 => 32,
    }
}

/// The first `count` digits of an address, the others 0.
pub(super) fn prefix(address: IpAddr, count: u8) -> IpAddr {
    from_bits(family_of(address), bits(address) & mask(count))
}

/// The first `count` digits of an address, the others f.
pub(super) fn last(address: IpAddr, count: u8) -> IpAddr {
    from_bits(family_of(address), bits(address) | !mask(count))
}

/// How many digits two different addresses of one family share at the front.
pub(super) fn common(one: IpAddr, other: IpAddr) -> u8 {
    // At most 31: less than a byte.
    ((bits(one) ^ bits(other)).leading_zeros() / DIGIT) as u8
}

/// A prefix of `count` digits with one digit more.
pub(super) fn child(prefix: IpAddr, count: u8, digit: u8) -> IpAddr {
    from_bits(family_of(prefix), bits(prefix) | (u128::from(digit) << (124 - DIGIT * u32::from(count))))
}

/// The first `count` digits as text; of IPv4 only, whose names of chains people can read.
pub(super) fn text(prefix: Ipv4Addr, count: u8) -> String {
    let shifted = prefix.to_bits().checked_shr(32 - DIGIT * u32::from(count)).unwrap_or(0);
    format!("{shifted:0width$x}", width = usize::from(count))
}

/// `10.96.0.0/16`: the addresses that share so many digits.
pub(super) fn network(prefix: IpAddr, count: u8) -> String {
    format!("{prefix}/{}", DIGIT * u32::from(count))
}

/// `10.96.0.7/32`: as iptables lists a single address.
pub(super) fn host(address: IpAddr) -> String {
    network(address, digits(family_of(address)))
}

pub(super) fn family_of(address: IpAddr) -> Family {
    crate::plan::family::family_of(address)
}

/// All bits at the upper end, whatever the family.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits((bits >> 96) as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

fn mask(count: u8) -> u128 {
    u128::MAX.checked_shl(128 - DIGIT * u32::from(count)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, count: u8, expected: [&str; 3]) {
        let address: IpAddr = address.parse().expect("an address");
        let found = [network(prefix(address, count), count), last(address, count).to_string()];
        assert_eq!(found, [expected[0], expected[1]], "{address} {count}");
        let below = child(prefix(address, count), count, 0xa);
        assert_eq!(below.to_string(), expected[2], "{address} {count}");
    }

    #[test]
    fn digits_of_both_families() {
        check("10.96.0.7", 0, ["0.0.0.0/0", "255.255.255.255", "160.0.0.0"]);
        check("10.96.0.7", 3, ["10.96.0.0/12", "10.111.255.255", "10.106.0.0"]);
        check("10.96.0.7", 7, ["10.96.0.0/28", "10.96.0.15", "10.96.0.10"]);
        check("fd00:10:96::7", 0, ["::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "a000::"]);
        check("fd00:10:96::7", 31, ["fd00:10:96::/124", "fd00:10:96::f", "fd00:10:96::a"]);
        let address = |text: &str| text.parse().expect("an address");
        assert_eq!(common(address("10.96.0.7"), address("10.97.0.7")), 3);
        assert_eq!(common(address("fd00::7"), address("fd00::8")), 31);
        assert_eq!(common(address("10.0.0.0"), address("192.0.0.0")), 0);
        assert_eq!(host("fd00::1".parse().expect("an address")), "fd00::1/128");
        assert_eq!(text(Ipv4Addr::new(10, 96, 0, 7), 8), "0a600007");
        assert_eq!(text(Ipv4Addr::new(10, 96, 0, 0), 1), "0");
    }
}
