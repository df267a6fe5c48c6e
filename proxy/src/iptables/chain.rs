//! Names of our chains, and what a chain is called in every version of ours.

use std::fmt;
use std::net::IpAddr;

use thalweg_abi::Proto;
use thalweg_cluster::Family;

use super::address;

/// Jumps into our chains carry this comment.
pub(super) const COMMENT: &str = "thalweg service proxy";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Table {
    Filter,
    Nat,
}

/// Which of the two scopes a dispatch tree is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Tree {
    Inside,
    Outside,
}

/// Chains that are always there, besides the roots of the two trees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Fixed {
    /// Marks a flow whose source is to become the node's.
    Masquerade,
    /// Marks a packet that is to be refused.
    Refuse,
    /// Marks a packet that is to be dropped.
    Drop,
    Postrouting,
    Prerouting,
    /// Packets of pods, before they are routed.
    Inside,
    Output,
    /// Refuses and drops what was marked: the nat table may not.
    Filter,
    /// Lets flows of services through where the machine's own rules would not forward them.
    Forward,
    /// Packets of pods that fit no flow end here instead of reaching somebody untranslated.
    Invalid,
    /// Keeps the wire from 127.0.0.1.
    Localnet,
}

/// One chain of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum ChainId {
    Fixed(Fixed),
    /// One endpoint.
    Sep(u64),
    /// One endpoint set of one service and protocol.
    Svc(u64),
    /// Whom one service admits: returns for them, drops all others.
    Sources(u64),
    /// Ports of one address that share their upper bits; `bits` are left to be told apart: 8 or 4.
    Ports {
        tree: Tree,
        vip: IpAddr,
        protocol: Proto,
        first: u16,
        bits: u8,
    },
    /// Addresses that share their first `digits` hexadecimal digits, at least one. All of them: one address.
    Node {
        tree: Tree,
        prefix: IpAddr,
        digits: u8,
    },
    Root(Tree),
}

/// A jump from a chain of the system into one of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Jump {
    pub table: Table,
    pub from: &'static str,
    pub to: ChainId,
    pub only: Only,
}

/// Which packets jump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Only {
    All,
    /// With the mark of refusal.
    Refused,
    /// That fit no flow of the kernel's.
    Invalid,
    /// From elsewhere to 127.0.0.0/8. There is no such jump for IPv6.
    Localnet,
}

/// All jumps there are for one family. In which order they come does not matter: no two are about the same packet, but
/// for what is refused, which nothing else accepts.
pub(super) fn jumps(family: Family) -> impl Iterator<Item = Jump> {
    let jump = |table, from, to, only| Jump { table, from, to: ChainId::Fixed(to), only };
    [
        jump(Table::Filter, "INPUT", Fixed::Localnet, Only::Localnet),
        jump(Table::Filter, "INPUT", Fixed::Invalid, Only::Invalid),
        jump(Table::Filter, "INPUT", Fixed::Filter, Only::Refused),
        jump(Table::Filter, "FORWARD", Fixed::Forward, Only::All),
        jump(Table::Filter, "FORWARD", Fixed::Invalid, Only::Invalid),
        jump(Table::Filter, "FORWARD", Fixed::Filter, Only::Refused),
        jump(Table::Filter, "OUTPUT", Fixed::Filter, Only::Refused),
        jump(Table::Nat, "PREROUTING", Fixed::Prerouting, Only::All),
        jump(Table::Nat, "OUTPUT", Fixed::Output, Only::All),
        jump(Table::Nat, "POSTROUTING", Fixed::Postrouting, Only::All),
    ]
    .into_iter()
    .filter(move |jump| family == Family::V4 || jump.only != Only::Localnet)
}

/// What stays while flows drain: see `drain`.
pub(super) const KEEPER: &str = "TW-KEEP";

/// True for a chain that this version or an earlier one made. Names are only ever added here.
pub(super) fn is_ours(name: &str) -> bool {
    const FIXED: [&str; 15] = [
        "PREROUTING",
        "INSIDE",
        "OUTPUT",
        "POSTROUTING",
        "SERVICES",
        "EXTERNAL",
        "MASQ",
        "REFUSE",
        "DROP",
        "FILTER",
        "FORWARD",
        "INVALID",
        "LOCALNET",
        "KEEP",
        "PROBE",
    ];
    let hex = |text: &str, most: usize| {
        !text.is_empty() && text.len() <= most && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let hash = |text: &str| text.len() == 16 && hex(text, 16);
    let Some(rest) = name.strip_prefix("TW-") else { return false };
    if FIXED.contains(&rest) {
        return true;
    }
    match rest.split_once('-') {
        Some(("SVC" | "SEP" | "SRC", name)) => hash(name),
        Some(("I" | "E", path)) => match path.split_once('-') {
            None => hex(path, 8) || hash(path),
            Some((vip, ports)) => {
                let address = (vip.len() == 8 && hex(vip, 8)) || hash(vip);
                address && ports.strip_prefix(['t', 'u', 's']).is_some_and(|digits| hex(digits, 3))
            }
        },
        _ => false,
    }
}

/// A stable number for a name: FNV-1a, whose value may be relied on across versions and machines.
pub(super) fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

pub(super) fn protocol_name(protocol: Proto) -> &'static str {
    match protocol {
        Proto::UDP => "udp",
        Proto::SCTP => "sctp",
        _ => "tcp",
    }
}

// === impl Table ===

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

// === impl ChainId ===

impl ChainId {
    pub fn table(self) -> Table {
        match self {
            Self::Fixed(Fixed::Filter | Fixed::Forward | Fixed::Invalid | Fixed::Localnet) => Table::Filter,
            _ => Table::Nat,
        }
    }

    /// Chains are written in this order: those that are jumped to before those that jump.
    pub fn order(self) -> u8 {
        match self {
            Self::Fixed(Fixed::Prerouting) => 83,
            Self::Fixed(Fixed::Inside) => 82,
            Self::Fixed(Fixed::Output) => 81,
            Self::Root(_) => 80,
            Self::Node { digits, .. } => 64 - digits,
            Self::Ports { bits, .. } => 3 + bits,
            Self::Svc(_) => 2,
            Self::Sep(_) | Self::Sources(_) => 1,
            Self::Fixed(_) => 0,
        }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fixed(fixed) => f.write_str(match fixed {
                Fixed::Masquerade => "TW-MASQ",
                Fixed::Refuse => "TW-REFUSE",
                Fixed::Drop => "TW-DROP",
                Fixed::Postrouting => "TW-POSTROUTING",
                Fixed::Prerouting => "TW-PREROUTING",
                Fixed::Inside => "TW-INSIDE",
                Fixed::Output => "TW-OUTPUT",
                Fixed::Filter => "TW-FILTER",
                Fixed::Forward => "TW-FORWARD",
                Fixed::Invalid => "TW-INVALID",
                Fixed::Localnet => "TW-LOCALNET",
            }),
            Self::Sep(hash) => write!(f, "TW-SEP-{hash:016x}"),
            Self::Svc(hash) => write!(f, "TW-SVC-{hash:016x}"),
            Self::Sources(hash) => write!(f, "TW-SRC-{hash:016x}"),
            Self::Root(Tree::Inside) => f.write_str("TW-SERVICES"),
            Self::Root(Tree::Outside) => f.write_str("TW-EXTERNAL"),
            Self::Node { tree, prefix, digits } => write!(f, "TW-{}-{}", tree.letter(), path(prefix, digits)),
            Self::Ports { tree, vip, protocol, first, bits } => {
                let (vip, letter) = (path(vip, address::digits(address::family_of(vip))), &protocol_name(protocol)[..1]);
                let width = usize::from((16 - bits) / 4);
                write!(f, "TW-{}-{vip}-{letter}{:0width$x}", tree.letter(), first >> bits)
            }
        }
    }
}

/// A node of the tree in 16 characters at most: a name may have 28, which are too few for the digits of IPv6.
fn path(prefix: IpAddr, digits: u8) -> String {
    match prefix {
        IpAddr::V4(prefix) => address::text(prefix, digits),
        IpAddr::V6(_) => format!("{:016x}", hash(&["node", &address::network(prefix, digits)])),
    }
}

// === impl Tree ===

impl Tree {
    fn letter(self) -> char {
        match self {
            Self::Inside => 'I',
            Self::Outside => 'E',
        }
    }
}

// === impl Jump ===

impl Jump {
    /// The rule, without the chain it is in. `mark`: the mark of refusal.
    pub fn rule(&self, mark: u32) -> String {
        let only = match self.only {
            Only::All => String::new(),
            Only::Refused => format!(" -m mark --mark {mark:#x}/{mark:#x}"),
            Only::Invalid => " -m conntrack --ctstate INVALID".to_owned(),
            Only::Localnet => " ! -s 127.0.0.0/8 -d 127.0.0.0/8".to_owned(),
        };
        format!("-m comment --comment \"{COMMENT}\"{only} -j {}", self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_and_fit() {
        let vip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let node = |prefix, digits| ChainId::Node { tree: Tree::Inside, prefix: vip(prefix), digits };
        let ports =
            |address, protocol, first, bits| ChainId::Ports { tree: Tree::Outside, vip: vip(address), protocol, first, bits };
        for (chain, expected) in [
            (ChainId::Sep(7), "TW-SEP-0000000000000007"),
            (ChainId::Svc(u64::MAX), "TW-SVC-ffffffffffffffff"),
            (ChainId::Sources(1), "TW-SRC-0000000000000001"),
            (ChainId::Root(Tree::Inside), "TW-SERVICES"),
            (ChainId::Root(Tree::Outside), "TW-EXTERNAL"),
            (node("10.96.0.0", 1), "TW-I-0"),
            (node("10.96.0.0", 4), "TW-I-0a60"),
            (node("10.96.0.7", 8), "TW-I-0a600007"),
            (node("fd00:10:96::", 27), "TW-I-f61423ede050940f"),
            (ports("172.30.0.11", Proto::UDP, 0x7500, 8), "TW-E-ac1e000b-u75"),
            (ports("172.30.0.11", Proto::SCTP, 0x0050, 4), "TW-E-ac1e000b-s005"),
            (ports("fd00:172:30::11", Proto::TCP, 0x0050, 4), "TW-E-96a54d99c71b8b8e-t005"),
            (ChainId::Fixed(Fixed::Postrouting), "TW-POSTROUTING"),
            (ChainId::Fixed(Fixed::Localnet), "TW-LOCALNET"),
        ] {
            assert_eq!(chain.to_string(), expected);
            assert!(is_ours(expected), "{expected}");
            assert!(expected.len() <= 28, "{expected}: iptables takes 28 characters");
        }
        for foreign in
            ["INPUT", "KUBE-SERVICES", "TW-", "TW-MINE", "TW-SVC-1", "TW-I-", "TW-I-0A60", "TW-I-0a600007-x75", "TW-SEP-zz"]
        {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(hash(&[]), 0xcbf2_9ce4_8422_2325);
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
