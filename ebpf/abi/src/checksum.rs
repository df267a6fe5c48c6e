//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).
//!
//! Everything is in 16-bit words as they stand in memory: the ones' complement sum does not care about byte
//! order as long as both the words and the result are kept in the same one, which is what the kernel does too.

/// An unfolded ones' complement sum: any 32-bit value that is congruent to the sum of the words modulo 0xffff.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sum(pub u32);

impl Sum {
    pub const ZERO: Self = Self(0);

    /// Adds two words, or four bytes, at once.
    #[inline(always)]
    pub const fn add(self, words: u32) -> Self {
        let sum = self.0 as u64 + words as u64;
        Self((sum as u32).wrapping_add((sum >> 32) as u32))
    }

    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        self.add(other.0)
    }

    /// What changes in a sum when `old` becomes `new`.
    #[inline(always)]
    pub const fn replace(self, old: u32, new: u32) -> Self {
        self.add(!old).add(new)
    }

    /// The sum in 16 bits, not complemented: what an offloading sender leaves in the checksum field for the
    /// pseudo-header.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let once = (self.0 & 0xffff) + (self.0 >> 16);
        (once + (once >> 16)) as u16
    }

    /// The checksum of what was summed.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// A checksum after the covered words have changed by `difference` (see [`Sum::replace`]).
#[inline(always)]
pub const fn update(checksum: u16, difference: Sum) -> u16 {
    difference.add(!checksum as u32).checksum()
}

/// The sum of a pseudo-header: addresses, protocol, and the length of the transport header and its data.
#[inline(always)]
pub const fn pseudo_header(src: crate::Be32, dst: crate::Be32, proto: crate::Proto, len: u16) -> Sum {
    Sum::ZERO.add(src.0).add(dst.0).add((proto.0 as u16).to_be() as u32).add(len.to_be() as u32)
}

/// The same for IPv6, whose length and protocol have 32 bits each.
#[inline(always)]
pub const fn pseudo_header6(src: crate::Be128, dst: crate::Be128, proto: crate::Proto, len: u16) -> Sum {
    src.sum().plus(dst.sum()).add((proto.0 as u16).to_be() as u32).add(len.to_be() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Be32, Be128, Proto};

    /// The definition: sum of the words, complemented. An odd last byte is padded with zero.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn sum_of(bytes: &[u8]) -> Sum {
        bytes.chunks(4).fold(Sum::ZERO, |sum, word| {
            let mut padded = [0; 4];
            padded[..word.len()].copy_from_slice(word);
            sum.add(u32::from_ne_bytes(padded))
        })
    }

    /// Bytes that are neither regular nor random, so that a failure repeats.
    fn bytes(seed: u32, len: usize) -> [u8; 64] {
        let mut out = [0; 64];
        let mut state = seed;
        for byte in out.iter_mut().take(len) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        out
    }

    #[test]
    fn whole_sums_agree_with_the_definition() {
        for seed in 0..200 {
            let len = 1 + seed as usize % 64;
            let data = bytes(seed, len);
            assert_eq!(sum_of(&data[..len]).checksum(), reference(&data[..len]), "seed {seed}");
        }
        assert_eq!(sum_of(&[0xff; 64]).checksum(), reference(&[0xff; 64]));
    }

    #[test]
    fn an_incremental_update_is_a_whole_sum_of_the_new_bytes() {
        for seed in 0..500 {
            let old = bytes(seed, 64);
            let mut new = old;
            let (from, to) = (u32::from_ne_bytes([old[8], old[9], old[10], old[11]]), seed.wrapping_mul(0x9e37_79b9));
            new[8..12].copy_from_slice(&to.to_ne_bytes());
            let updated = update(reference(&old), Sum::ZERO.replace(from, to));
            assert_eq!(updated, reference(&new), "seed {seed}");
        }
    }

    #[test]
    fn nothing_changed_changes_nothing() {
        for checksum in [0u16, 1, 0x1234, 0xfffe] {
            assert_eq!(update(checksum, Sum::ZERO.replace(77, 77)), checksum);
        }
    }

    /// The example of RFC 1624, section 4: the older formula gives 0xffff here.
    #[test]
    fn the_example_of_rfc_1624() {
        assert_eq!(update(0xdd2f, Sum::ZERO.replace(0x5555, 0x3285)), 0x0000);
    }

    #[test]
    fn a_pseudo_header_is_its_twelve_bytes() {
        let (src, dst) = (Be32::from_octets([10, 244, 1, 2]), Be32::from_octets([10, 96, 0, 1]));
        let plain = [10, 244, 1, 2, 10, 96, 0, 1, 0, 17, 0x01, 0x02];
        assert_eq!(pseudo_header(src, dst, Proto::UDP, 0x0102).checksum(), reference(&plain));
    }
    #[test]
    fn a_pseudo_header_of_ipv6_is_its_forty_bytes() {
        let (src, dst) = ([0xfd; 16], [7; 16]);
        let mut plain = [0; 40];
        plain[..16].copy_from_slice(&src);
        plain[16..32].copy_from_slice(&dst);
        plain[32..].copy_from_slice(&[0, 0, 0x01, 0x02, 0, 0, 0, 58]);
        let sum = pseudo_header6(Be128::from_octets(src), Be128::from_octets(dst), Proto::ICMPV6, 0x0102);
        assert_eq!(sum.checksum(), reference(&plain));
    }
}
