//! What the kernel says, byte by byte, and what it is asked.

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A tuple as the kernel writes it.
fn tuple_of(protocol: Proto, from: &str, to: &str) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let (mut ip, mut proto, mut all) = (Vec::new(), Vec::new(), Vec::new());
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            put(&mut ip, 1, &from.octets());
            put(&mut ip, 2, &to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            put(&mut ip, 3, &from.octets());
            put(&mut ip, 4, &to.octets());
        }
        _ => panic!("one family"),
    }
    put(&mut proto, CTA_PROTO_NUM, &[protocol.0]);
    put(&mut proto, CTA_PROTO_SRC_PORT, &from.port().to_be_bytes());
    put(&mut proto, CTA_PROTO_DST_PORT, &to.port().to_be_bytes());
    put(&mut all, CTA_TUPLE_IP | NESTED, &ip);
    put(&mut all, CTA_TUPLE_PROTO | NESTED, &proto);
    all
}

fn entry(protocol: Proto, original: (&str, &str), reply: (&str, &str)) -> Vec<u8> {
    let mut attributes = Vec::new();
    put(&mut attributes, CTA_TUPLE_ORIG | NESTED, &tuple_of(protocol, original.0, original.1));
    put(&mut attributes, CTA_TUPLE_REPLY | NESTED, &tuple_of(protocol, reply.0, reply.1));
    put(&mut attributes, CTA_ID, &[1, 2, 3, 4]);
    attributes
}

#[test]
fn flows_of_both_families_are_read() {
    for (protocol, original, reply) in [
        (Proto::UDP, ("10.244.0.9:4000", "10.96.0.10:53"), ("10.244.0.5:53", "10.244.0.9:4000")),
        (Proto::TCP, ("[fd00::9]:4000", "[fd00:10:96::7]:80"), ("[fd00::5]:8080", "[fd00::9]:4000")),
    ] {
        let attributes = entry(protocol, original, reply);
        let found = Entry::parse(&attributes).expect("a flow");
        let flow = Flow {
            protocol,
            original: (address(original.0), address(original.1)),
            reply: (address(reply.0), address(reply.1)),
        };
        assert_eq!(found.flow, flow);
        assert!(found.flow.is_translated());
        assert_eq!((found.id, found.zone), (Some([1, 2, 3, 4].as_slice()), None));
    }
}

#[test]
fn whatever_is_cut_short_is_no_flow_and_no_panic() {
    let attributes = entry(Proto::UDP, ("10.244.0.9:4000", "10.96.0.10:53"), ("10.244.0.5:53", "10.244.0.9:4000"));
    for length in 0..attributes.len() {
        if let Some(found) = Entry::parse(&attributes[..length]) {
            assert!(length >= attributes.len() - 8, "all but the id is there at {length}: {:?}", found.flow);
        }
    }
    let datagram = message(CT_GET, 0, 2, &attributes);
    for length in 0..datagram.len() {
        assert_eq!(messages(&datagram[..length]).count(), 0, "{length}");
    }
    assert_eq!(messages(&datagram).count(), 1);
    assert_eq!(messages(&[datagram.clone(), datagram].concat()).count(), 2);
}

#[test]
fn the_kernel_is_asked_for_no_more_than_what_is_wanted() {
    let ask = |protocol, narrow| {
        let family = Family::V4;
        let request = request(&Filter { family, protocol, narrow });
        let length = u32::from_ne_bytes(*request.first_chunk().expect("a length")) as usize;
        assert_eq!(length, request.len());
        let kinds: Vec<u16> = Attributes(&request[20..]).map(|(kind, _)| kind).collect();
        let flags = Attributes(&request[20..])
            .find(|(kind, _)| *kind == CTA_FILTER)
            .and_then(|(_, value)| Attributes(value).next())
            .map(|(_, value)| u32::from_ne_bytes(*value.first_chunk().expect("flags")));
        (kinds, flags.expect("flags"))
    };
    let endpoint = Narrow::Endpoint(address("10.244.0.5:53"));
    assert_eq!(ask(Proto::UDP, endpoint), (vec![CTA_TUPLE_REPLY, CTA_FILTER], 1 | 8 | 16));
    let dialled = Narrow::Dialled(address("10.96.0.10:53"));
    assert_eq!(ask(Proto::UDP, dialled), (vec![CTA_TUPLE_ORIG, CTA_FILTER], 2 | 8 | 32));
    let dialled = Narrow::Dialled(address("[fd00::10]:53"));
    assert_eq!(ask(Proto::UDP, dialled), (vec![CTA_TUPLE_ORIG, CTA_FILTER], 8 | 32), "no address of IPv6");
    assert_eq!(ask(Proto::TCP, Narrow::All), (vec![CTA_TUPLE_ORIG, CTA_FILTER, CTA_STATUS, CTA_STATUS_MASK], 8));
}

#[test]
fn what_the_kernel_has_seen_half_of_is_picked_by_its_status() {
    let filter = Filter { family: Family::V4, protocol: Proto::TCP, narrow: Narrow::HalfSeen };
    let takes = |status: u32| {
        let mut attributes = entry(Proto::TCP, ("10.244.0.9:4000", "10.244.1.5:80"), ("10.244.1.5:80", "10.244.0.9:4000"));
        put(&mut attributes, CTA_STATUS, &status.to_be_bytes());
        filter.takes(&Entry::parse(&attributes).expect("a flow"))
    };
    let seen_reply = 1 << 1;
    assert!(takes(0) && takes(1 << 3) && takes(seen_reply));
    for status in [IPS_ASSURED, IPS_SRC_NAT, IPS_DST_NAT, seen_reply | IPS_DST_NAT] {
        assert!(!takes(status), "{status:#x}");
    }
    let all = Filter { narrow: Narrow::All, ..filter };
    assert_eq!((filter.status(), all.status()), (Some((0, 0x34)), Some((0x20, 0x20))));
    assert_eq!(Filter { protocol: Proto::UDP, ..all }.status(), None);
}
