//! Names of our chains, and what a chain is called in every version of ours.

use std::fmt;
use std::net::Ipv4Addr;

use thalweg_abi::Proto;

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
    Output,
    /// Refuses and drops what was marked: the nat table may not.
    Filter,
    /// Packets of pods that belong to no flow end here instead of reaching a client untranslated.
    Forward,
}

/// One chain of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum ChainId {
    Fixed(Fixed),
    /// One endpoint.
    Sep(u64),
    /// One endpoint set of one service and protocol.
    Svc(u64),
    /// Ports of one address that share their upper bits; `bits` are left to be told apart: 8 or 4.
    Ports {
        tree: Tree,
        vip: u32,
        protocol: Proto,
        first: u16,
        bits: u8,
    },
    /// Addresses that share their first `digits` hexadecimal digits. 0: the root. 8: one address.
    Node {
        tree: Tree,
        prefix: u32,
        digits: u8,
    },
}

/// A jump from a chain of the system into one of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Jump {
    pub table: Table,
    pub from: &'static str,
    pub to: ChainId,
    /// Only packets that carry the mark of refusal.
    pub marked: bool,
}

pub(super) const JUMPS: [Jump; 7] = [
    Jump { table: Table::Filter, from: "INPUT", to: ChainId::Fixed(Fixed::Filter), marked: true },
    Jump { table: Table::Filter, from: "FORWARD", to: ChainId::Fixed(Fixed::Forward), marked: false },
    Jump { table: Table::Filter, from: "FORWARD", to: ChainId::Fixed(Fixed::Filter), marked: true },
    Jump { table: Table::Filter, from: "OUTPUT", to: ChainId::Fixed(Fixed::Filter), marked: true },
    Jump { table: Table::Nat, from: "PREROUTING", to: ChainId::Fixed(Fixed::Prerouting), marked: false },
    Jump { table: Table::Nat, from: "OUTPUT", to: ChainId::Fixed(Fixed::Output), marked: false },
    Jump { table: Table::Nat, from: "POSTROUTING", to: ChainId::Fixed(Fixed::Postrouting), marked: false },
];

/// True for a chain that this version or an earlier one made. Names are only ever added here.
pub(super) fn is_ours(name: &str) -> bool {
    const FIXED: [&str; 11] =
        ["PREROUTING", "OUTPUT", "POSTROUTING", "SERVICES", "EXTERNAL", "MASQ", "REFUSE", "DROP", "FILTER", "FORWARD", "PROBE"];
    let hex = |text: &str, most: usize| {
        !text.is_empty() && text.len() <= most && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let Some(rest) = name.strip_prefix("TW-") else { return false };
    if FIXED.contains(&rest) {
        return true;
    }
    match rest.split_once('-') {
        Some(("SVC" | "SEP", hash)) => hash.len() == 16 && hex(hash, 16),
        Some(("I" | "E", path)) => match path.split_once('-') {
            None => hex(path, 8),
            Some((vip, ports)) => {
                vip.len() == 8 && hex(vip, 8) && ports.strip_prefix(['t', 'u']).is_some_and(|digits| hex(digits, 3))
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
    if protocol == Proto::UDP { "udp" } else { "tcp" }
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
    pub fn root(tree: Tree) -> Self {
        Self::Node { tree, prefix: 0, digits: 0 }
    }

    pub fn table(self) -> Table {
        match self {
            Self::Fixed(Fixed::Filter | Fixed::Forward) => Table::Filter,
            _ => Table::Nat,
        }
    }

    /// Chains are written in this order: those that are jumped to before those that jump.
    pub fn order(self) -> u8 {
        match self {
            Self::Fixed(Fixed::Prerouting | Fixed::Output) => 40,
            Self::Fixed(_) => 0,
            Self::Sep(_) => 1,
            Self::Svc(_) => 2,
            Self::Ports { bits, .. } => 3 + bits,
            Self::Node { digits, .. } => 30 - digits,
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
                Fixed::Output => "TW-OUTPUT",
                Fixed::Filter => "TW-FILTER",
                Fixed::Forward => "TW-FORWARD",
            }),
            Self::Sep(hash) => write!(f, "TW-SEP-{hash:016x}"),
            Self::Svc(hash) => write!(f, "TW-SVC-{hash:016x}"),
            Self::Node { tree: Tree::Inside, digits: 0, .. } => f.write_str("TW-SERVICES"),
            Self::Node { tree: Tree::Outside, digits: 0, .. } => f.write_str("TW-EXTERNAL"),
            Self::Node { tree, prefix, digits } => {
                let shifted = prefix >> (32 - 4 * u32::from(digits));
                write!(f, "TW-{}-{shifted:0width$x}", tree.letter(), width = usize::from(digits))
            }
            Self::Ports { tree, vip, protocol, first, bits } => {
                let letter = &protocol_name(protocol)[..1];
                let width = usize::from((16 - bits) / 4);
                write!(f, "TW-{}-{vip:08x}-{letter}{:0width$x}", tree.letter(), first >> bits)
            }
        }
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
        let marked = if self.marked { format!(" -m mark --mark {mark:#x}/{mark:#x}") } else { String::new() };
        format!("-m comment --comment \"{COMMENT}\"{marked} -j {}", self.to)
    }
}

/// `10.96.0.0/16`: the addresses below a node.
pub(super) fn network(prefix: u32, digits: u8) -> String {
    format!("{}/{}", Ipv4Addr::from(prefix), 4 * u32::from(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_and_fit() {
        let node = |prefix, digits| ChainId::Node { tree: Tree::Inside, prefix, digits };
        let ports = |first, bits| ChainId::Ports { tree: Tree::Outside, vip: 0xac1e_000b, protocol: Proto::UDP, first, bits };
        for (chain, expected) in [
            (ChainId::Sep(7), "TW-SEP-0000000000000007"),
            (ChainId::Svc(u64::MAX), "TW-SVC-ffffffffffffffff"),
            (ChainId::root(Tree::Inside), "TW-SERVICES"),
            (ChainId::root(Tree::Outside), "TW-EXTERNAL"),
            (node(0x0a60_0000, 1), "TW-I-0"),
            (node(0x0a60_0000, 4), "TW-I-0a60"),
            (node(0x0a60_0007, 8), "TW-I-0a600007"),
            (ports(0x7500, 8), "TW-E-ac1e000b-u75"),
            (ports(0x0050, 4), "TW-E-ac1e000b-u005"),
            (ChainId::Fixed(Fixed::Postrouting), "TW-POSTROUTING"),
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
