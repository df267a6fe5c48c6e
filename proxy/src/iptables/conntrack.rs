//! The kernel's connection table by netlink (ctnetlink): a filtered walk, and deletion of single flows.
//!
//! The walk is the kernel's, and so is the filter, where it has one (Linux 5.8 for addresses, 5.15 for translated flows only):
//! what does not match is never copied to us. Older kernels hand out all flows of the family; whatever comes is looked at
//! again. Nothing is kept of what was seen, so memory does not grow with the table.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thalweg_abi::Proto;
use thalweg_cluster::Family;

use super::flows::{Filter, Flow, Narrow};

/// A flow as it was read, with what deletes it.
struct Entry<'a> {
    flow: Flow,
    original: &'a [u8],
    status: u32,
    id: Option<&'a [u8]>,
    zone: Option<&'a [u8]>,
}

/// Attributes of netlink: a length, a type, a value, padding up to four bytes.
struct Attributes<'a>(&'a [u8]);

const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the kernel puts into one datagram.
const BUFFER: usize = 64 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Subsystem 1 of nfnetlink, and its messages.
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;

const NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;

const FILTER_SOURCE: u32 = 1;
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_SOURCE_PORT: u32 = 1 << 4;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
/// An answer to something has been seen, and what followed it. That there was an answer (`IPS_SEEN_REPLY`) says less: it may
/// have met an entry that knew nothing of what it answered.
const IPS_ASSURED: u32 = 1 << 2;
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;

/// Deletes the flows that match a filter and that `is_stale`, in the network namespace of the calling thread.
///
/// # Errors
/// When the kernel has no ctnetlink or does not let us.
pub(super) fn delete(filter: &Filter, is_stale: &dyn Fn(&Flow) -> bool) -> io::Result<usize> {
    let deleter = open()?;
    let mut deleted = 0;
    walk(filter, &mut |family, entry| {
        if is_stale(&entry.flow) && delete_one(&deleter, family, entry)? {
            deleted += 1;
        }
        Ok(())
    })?;
    Ok(deleted)
}

/// The flows that match a filter.
///
/// # Errors
/// As [`delete`].
pub(super) fn each(filter: &Filter, see: &mut dyn FnMut(&Flow)) -> io::Result<()> {
    walk(filter, &mut |_, entry| {
        see(&entry.flow);
        Ok(())
    })
}

fn walk(filter: &Filter, see: &mut dyn FnMut(u8, &Entry<'_>) -> io::Result<()>) -> io::Result<()> {
    let socket = open()?;
    socket.send(&request(filter))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = (&socket).read(&mut buffer)?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return errno(body),
                _ => {
                    // Behind four bytes that say of what family it is.
                    let Some((head, attributes)) = body.split_at_checked(4) else { continue };
                    if let Some(entry) = Entry::parse(attributes).filter(|entry| filter.takes(entry)) {
                        see(head[0], &entry)?;
                    }
                }
            }
        }
    }
}

/// False when it was gone already.
fn delete_one(socket: &Socket, family: u8, entry: &Entry<'_>) -> io::Result<bool> {
    let mut attributes = Vec::new();
    put(&mut attributes, CTA_TUPLE_ORIG | NESTED, entry.original);
    for (kind, value) in [(CTA_ID, entry.id), (CTA_ZONE, entry.zone)] {
        if let Some(value) = value {
            put(&mut attributes, kind, value);
        }
    }
    socket.send(&message(CT_DELETE, REQUEST | ACK, family, &attributes))?;
    let mut buffer = [0; 4096];
    let mut reader: &Socket = socket;
    let length = reader.read(&mut buffer)?;
    for (kind, body) in messages(&buffer[..length]) {
        if kind == NLMSG_ERROR {
            return match errno(body) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            };
        }
    }
    Err(io::Error::other("the kernel did not say whether a flow was deleted"))
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn request(filter: &Filter) -> Vec<u8> {
    let mut attributes = Vec::new();
    let mut protocol = Vec::new();
    put(&mut protocol, CTA_PROTO_NUM, &[filter.protocol.0]);
    let mut flags = FILTER_PROTOCOL;
    let (tuple, kind, at) = match filter.narrow {
        Narrow::All | Narrow::HalfSeen => (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, None),
        Narrow::Dialled(at) => {
            flags |= FILTER_DESTINATION | FILTER_DESTINATION_PORT;
            put(&mut protocol, CTA_PROTO_DST_PORT, &at.port().to_be_bytes());
            (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, Some((at, false)))
        }
        Narrow::Endpoint(at) => {
            flags |= FILTER_SOURCE | FILTER_SOURCE_PORT;
            put(&mut protocol, CTA_PROTO_SRC_PORT, &at.port().to_be_bytes());
            (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, Some((at, true)))
        }
    };
    let mut parts = Vec::new();
    if let Some((at, source)) = at {
        if let IpAddr::V4(address) = at.ip() {
            let mut ip = Vec::new();
            put(&mut ip, if source { 1 } else { 2 }, &address.octets());
            put(&mut parts, CTA_TUPLE_IP | NESTED, &ip);
        } else {
            // Linux (seen on 6.18) takes an equal address of IPv6 for a different one here, and hands out all others: ports
            // alone will do.
            flags &= !(FILTER_SOURCE | FILTER_DESTINATION);
        }
    }
    put(&mut parts, CTA_TUPLE_PROTO | NESTED, &protocol);
    put(&mut attributes, tuple | NESTED, &parts);
    let mut wanted = Vec::new();
    put(&mut wanted, kind, &flags.to_ne_bytes());
    put(&mut attributes, CTA_FILTER | NESTED, &wanted);
    if let Some((status, mask)) = filter.status() {
        put(&mut attributes, CTA_STATUS, &status.to_be_bytes());
        put(&mut attributes, CTA_STATUS_MASK, &mask.to_be_bytes());
    }
    message(CT_GET, REQUEST | DUMP, family_number(filter.family), &attributes)
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = 20 + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one question at a time, the kernel fills in the port.
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((4 + value.len() as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Kind and body of each message of a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
        let body = datagram.get(16..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn errno(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("a short answer of the kernel")),
    }
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Protocol, source and destination.
fn tuple(value: &[u8]) -> Option<(Proto, SocketAddr, SocketAddr)> {
    let (mut source, mut destination, mut protocol) = (None, None, None);
    let (mut source_port, mut destination_port) = (0, 0);
    for (kind, value) in Attributes(value) {
        for (inner, value) in Attributes(value) {
            match (kind, inner) {
                (CTA_TUPLE_IP, 1) => source = Some(IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?))),
                (CTA_TUPLE_IP, 2) => destination = Some(IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?))),
                (CTA_TUPLE_IP, 3) => source = Some(IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?))),
                (CTA_TUPLE_IP, 4) => destination = Some(IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?))),
                (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = value.first().copied(),
                (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => source_port = u16::from_be_bytes(*value.first_chunk()?),
                (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => destination_port = u16::from_be_bytes(*value.first_chunk()?),
                _ => {}
            }
        }
    }
    Some((Proto(protocol?), SocketAddr::new(source?, source_port), SocketAddr::new(destination?, destination_port)))
}

// === impl Entry ===

impl<'a> Entry<'a> {
    fn parse(attributes: &'a [u8]) -> Option<Self> {
        let (mut original, mut reply, mut status, mut id, mut zone) = (None, None, None, None, None);
        for (kind, value) in Attributes(attributes) {
            match kind {
                CTA_TUPLE_ORIG => original = Some(value),
                CTA_TUPLE_REPLY => reply = Some(value),
                CTA_STATUS => status = value.first_chunk(),
                CTA_ID => id = Some(value),
                CTA_ZONE => zone = Some(value),
                _ => {}
            }
        }
        let ((protocol, from, to), (_, endpoint, seen)) = (tuple(original?)?, tuple(reply?)?);
        let flow = Flow { protocol, original: (from, to), reply: (endpoint, seen) };
        let status = status.map_or(0, |status| u32::from_be_bytes(*status));
        Some(Self { flow, original: original?, status, id, zone })
    }
}

// === impl Attributes ===

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

// === impl Filter ===

impl Filter {
    pub(super) fn matches(&self, flow: &Flow) -> bool {
        let narrow = match self.narrow {
            Narrow::All | Narrow::HalfSeen => true,
            Narrow::Dialled(at) => flow.original.1 == at,
            Narrow::Endpoint(at) => flow.reply.0 == at,
        };
        flow.protocol == self.protocol && narrow
    }

    /// As [`Self::matches`], with what the flow does not tell: kernels that cannot pick by it hand out all.
    fn takes(&self, entry: &Entry<'_>) -> bool {
        let is_so = |(status, mask)| self.narrow != Narrow::HalfSeen || entry.status & mask == status;
        self.matches(&entry.flow) && self.status().is_none_or(is_so)
    }

    /// What the kernel is to have noted of a flow: these bits, under this mask. Connections of TCP are otherwise only of
    /// interest when they are translated; of datagrams those too that were not.
    fn status(&self) -> Option<(u32, u32)> {
        match (self.narrow, self.protocol) {
            (Narrow::HalfSeen, _) => Some((0, IPS_ASSURED | IPS_SRC_NAT | IPS_DST_NAT)),
            (_, Proto::TCP) => Some((IPS_DST_NAT, IPS_DST_NAT)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
