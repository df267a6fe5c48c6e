//! A packet that opens a connection, and what has become of its destination.

use std::net::{IpAddr, SocketAddr};

use thalweg_abi::checksum::Sum;
use thalweg_abi::header::{ETH_LEN, IPV4_LEN, TCP_LEN};

const IPV6_LEN: usize = 40;
const TCP: u8 = 6;
const SYN: u8 = 2;

/// The first packet of a connection of TCP, behind an Ethernet header that names nobody: as the loopback carries it. Both
/// addresses must be of one family.
pub fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut tcp = [0; TCP_LEN];
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    (tcp[12], tcp[13]) = (5 << 4, SYN);
    tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let addresses = [octets(from.ip()), octets(to.ip())].concat();
    let pseudo = sum(&addresses).plus(sum(&[0, TCP])).plus(sum(&(TCP_LEN as u16).to_be_bytes()));
    let checksum = pseudo.plus(sum(&tcp)).checksum();
    tcp[16..18].copy_from_slice(&checksum.to_ne_bytes());

    let mut packet = vec![0; ETH_LEN - 2];
    if to.is_ipv4() {
        packet.extend([0x08, 0x00]);
        let mut ip = [0; IPV4_LEN];
        (ip[0], ip[8], ip[9]) = (0x45, 64, TCP);
        ip[2..4].copy_from_slice(&((IPV4_LEN + TCP_LEN) as u16).to_be_bytes());
        ip[12..].copy_from_slice(&addresses);
        let checksum = sum(&ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_ne_bytes());
        packet.extend(ip);
    } else {
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        packet.extend((TCP_LEN as u16).to_be_bytes());
        packet.extend([TCP, 64]);
        packet.extend(addresses);
    }
    packet.extend(tcp);
    packet
}

/// Where a packet as [`syn`] makes it goes; `None` when it is not one any more.
pub fn destination(packet: &[u8]) -> Option<SocketAddr> {
    let ip = packet.get(ETH_LEN..)?;
    let (address, tcp) = match ip.first()? >> 4 {
        4 => (IpAddr::from(*ip.get(16..)?.first_chunk::<4>()?), ip.get(IPV4_LEN..)?),
        6 => (IpAddr::from(*ip.get(24..)?.first_chunk::<16>()?), ip.get(IPV6_LEN..)?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*tcp.get(2..)?.first_chunk()?)))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn sum(bytes: &[u8]) -> Sum {
    let word = |pair: &[u8]| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]));
    bytes.chunks(2).fold(Sum::ZERO, |sum, pair| sum.add(word(pair)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_where_it_was_sent() {
        for (from, to, length) in [("192.0.2.1:40000", "10.96.0.7:80", 54), ("[2001:db8::1]:40000", "[fd00:96::7]:80", 74)] {
            let at = |text: &str| text.parse::<SocketAddr>().expect(text);
            let packet = syn(at(from), at(to));
            assert_eq!((packet.len(), destination(&packet)), (length, Some(at(to))));
            for short in 0..length - TCP_LEN + 4 {
                assert_eq!(destination(&packet[..short]), None, "{short} bytes");
            }
            // What was summed with its checksum sums to nothing.
            let ip = &packet[ETH_LEN..];
            if at(to).is_ipv4() {
                assert_eq!(sum(&ip[..IPV4_LEN]).checksum(), 0);
            }
            let (addresses, tcp) = if at(to).is_ipv4() { (&ip[12..20], &ip[20..]) } else { (&ip[8..40], &ip[40..]) };
            let pseudo = sum(addresses).plus(sum(&[0, TCP])).plus(sum(&[0, 20]));
            assert_eq!(pseudo.plus(sum(tcp)).checksum(), 0);
        }
        assert_eq!(destination(&[0xff; 80]), None);
    }
}
