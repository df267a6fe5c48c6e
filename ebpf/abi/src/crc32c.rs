//! CRC32c, the checksum of SCTP: patched when the first bytes of a packet change, without reading the rest.
//!
//! A CRC is a remainder of polynomials over GF(2), so the CRC of a packet changes by the CRC of what changed in it, alone
//! and followed by zeros. Zeros multiply by a power of x, whose remainder a table has for every digit of a length.
//! Polynomials stand reflected, as everywhere with this CRC: the highest bit is the coefficient of x^0.

use core::hint::black_box;

const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;
/// Digits of a length, of four bits each.
const DIGITS: usize = 4;

/// `SHIFTS[digit][value]` is x to the power of the bits in `value * 16^digit` bytes.
static SHIFTS: [[u32; 16]; DIGITS] = shifts();

const fn shifts() -> [[u32; 16]; DIGITS] {
    let mut table = [[ONE; 16]; DIGITS];
    // One byte: eight times x.
    let mut unit = ONE;
    let mut bit = 0;
    while bit < 8 {
        unit = times_x(unit);
        bit += 1;
    }
    let mut digit = 0;
    while digit < DIGITS {
        let mut value = 1;
        while value < 16 {
            table[digit][value] = times(table[digit][value - 1], unit);
            value += 1;
        }
        unit = times(table[digit][15], unit);
        digit += 1;
    }
    table
}

/// `value` if a bit, the lowest of `bit`, is set. The compiler must not see that: it would make a branch of it, and a verifier
/// that walks both ways of each never comes to an end.
#[inline(always)]
const fn only_if(bit: u32, value: u32) -> u32 {
    value & black_box(bit & 1).wrapping_neg()
}

#[inline(always)]
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ only_if(a, POLYNOMIAL)
}

/// The product of two polynomials.
#[inline(always)]
const fn times(a: u32, b: u32) -> u32 {
    let (mut sum, mut factor, mut bit) = (0, b, 0);
    while bit < 32 {
        sum ^= only_if(a >> (31 - bit), factor);
        factor = times_x(factor);
        bit += 1;
    }
    sum
}

/// The checksum of a packet of `len` bytes whose first four were `old` and are `new`. All as they stand in memory; the
/// packet is not longer than 65,535 bytes.
#[inline(always)]
pub fn patch(checksum: u32, old: u32, new: u32, len: u32) -> u32 {
    let mut difference = u32::from_le(old ^ new);
    for (digit, shifts) in SHIFTS.iter().enumerate() {
        difference = times(difference, shifts[(len >> (4 * digit)) as usize & 15]);
    }
    checksum ^ difference.to_le()
}

/// The checksum of some words, as they stand in memory.
#[inline(always)]
pub const fn of(words: &[u32]) -> u32 {
    let (mut crc, mut index) = (u32::MAX, 0);
    while index < words.len() {
        crc ^= u32::from_le(words[index]);
        let mut bit = 0;
        while bit < 32 {
            crc = times_x(crc);
            bit += 1;
        }
        index += 1;
    }
    (!crc).to_le()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, byte by byte.
    fn reference(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL };
            }
        }
        (!crc).to_le()
    }

    #[test]
    fn the_check_value_of_the_standard() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(reference(b"123456789"), 0xe306_9283_u32.to_le());
        assert_eq!(reference(&[0; 32]), 0x8a91_36aa_u32.to_le());
        assert_eq!(of(&[0; 8]), 0x8a91_36aa_u32.to_le());
        assert_eq!(of(&[u32::MAX; 8]), 0x62a8_ab43_u32.to_le());
    }

    #[test]
    fn a_patch_is_the_checksum_of_the_new_bytes() {
        let mut packet = [0u8; 3000];
        let mut state = 1u32;
        for byte in &mut packet {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        for len in (4..64).chain([255, 256, 257, 1499, 1500, 2048, 3000]) {
            let mut new = packet;
            new[..4].copy_from_slice(&(state ^ len as u32).to_ne_bytes());
            let word = |bytes: &[u8; 3000]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let patched = patch(reference(&packet[..len]), word(&packet), word(&new), len as u32);
            assert_eq!(patched, reference(&new[..len]), "{len} bytes");
        }
    }

    #[test]
    fn the_longest_packet_and_no_change() {
        static LONG: [u8; 65_535] = [7; 65_535];
        let mut head = [0u32; 1];
        head[0] = u32::from_ne_bytes([7; 4]);
        assert_eq!(patch(reference(&LONG), head[0], head[0], 65_535), reference(&LONG));
        let mut tail = u32::MAX;
        // The same bytes with another beginning.
        for byte in [1, 2, 3, 4].into_iter().chain(LONG[4..].iter().copied()) {
            tail ^= u32::from(byte);
            for _ in 0..8 {
                tail = if tail & 1 == 0 { tail >> 1 } else { tail >> 1 ^ POLYNOMIAL };
            }
        }
        assert_eq!(patch(reference(&LONG), head[0], u32::from_ne_bytes([1, 2, 3, 4]), 65_535), (!tail).to_le());
    }
}
