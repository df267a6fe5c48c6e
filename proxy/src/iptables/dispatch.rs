//! From a packet's destination to a service in few steps: the addresses as a tree of chains. Pure.
//!
//! A chain with more than [`LEAF`] addresses below it splits by the next hexadecimal digit of the address, and digits
//! that all of them share are skipped. So a packet to no service at all leaves after the few rules of the root, and
//! one among 10,000 services meets some dozens of rules, not thousands. An address with more than [`INLINE`] rules has a
//! chain of its own; one with more than [`PORTS`] ports (a node's, with its NodePorts) splits by port as well. A change
//! rewrites the chain it is in, and its neighbours only when something splits or joins.
//!
//! nf_tables follows 16 jumps in a row and no more. The eight digits of IPv4 fit; the 32 of IPv6 would not, so a chain
//! that [`BRANCHES`] others lead to takes all that is below it. Service ranges are far narrower than that: such a chain
//! is longer than others only where addresses were chosen to part at eight digits one after the other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use thalweg_abi::Proto;
use thalweg_cluster::{Family, Name};

use super::address;
use super::chain::{ChainId, Tree, protocol_name};
use super::compile::{Action, PortKey};
use super::rules::{Rules, entry};

/// Addresses in one chain before it splits.
pub(super) const LEAF: usize = 16;
/// Ports of one address in its neighbours' chain before it gets its own.
pub(super) const INLINE: usize = 4;
/// Ports of one address in one chain before it splits.
pub(super) const PORTS: usize = 16;

/// Chains that split on the way to one address.
pub(super) const BRANCHES: usize = 7;

/// All that is dialled in one scope by one family.
#[derive(Debug)]
pub(super) struct Dispatch {
    tree: Tree,
    family: Family,
    vips: BTreeMap<IpAddr, Vip>,
}

/// Who claims each port; the first claim is the one that counts, the others wait.
type Vip = BTreeMap<PortKey, Vec<(Name, Action)>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Node {
    prefix: IpAddr,
    digits: u8,
}

// === impl Dispatch ===

impl Dispatch {
    pub fn new(tree: Tree, family: Family) -> Self {
        Self { tree, family, vips: BTreeMap::new() }
    }

    /// A service claims a port, or changes what it wants there. False when another one has it.
    pub fn claim(&mut self, vip: IpAddr, port: PortKey, owner: &Name, action: Action) -> bool {
        let claims = self.vips.entry(vip).or_default().entry(port).or_default();
        match claims.iter_mut().find(|(name, _)| name == owner) {
            Some((_, held)) => *held = action,
            None => claims.push((owner.clone(), action)),
        }
        port.wildcard || claims[0].0 == *owner
    }

    pub fn release(&mut self, vip: IpAddr, port: PortKey, owner: &Name) {
        let Some(ports) = self.vips.get_mut(&vip) else { return };
        if let Some(claims) = ports.get_mut(&port) {
            claims.retain(|(name, _)| name != owner);
            if claims.is_empty() {
                ports.remove(&port);
            }
        }
        if ports.is_empty() {
            self.vips.remove(&vip);
        }
    }

    /// Chains that say something of this address: a change of it may change these. Chains that came or went with the
    /// change follow from what these lead to and led to.
    pub fn path(&self, vip: IpAddr) -> Vec<ChainId> {
        let mut chains = Vec::new();
        let mut at = self.root();
        for level in 0.. {
            chains.push(self.chain(at));
            if self.is_leaf(at, level) {
                break;
            }
            let child = Node::holding(vip, at.digits + 1);
            if self.range(child).next().is_none() {
                break;
            }
            at = self.descend(child);
            if !at.holds(vip) {
                break;
            }
        }
        chains.push(self.chain(Node::whole(vip)));
        chains
    }

    /// The chains of this port, should its address be split by ports.
    pub fn port_chains(&self, vip: IpAddr, key: PortKey) -> impl Iterator<Item = ChainId> + use<> {
        let tree = self.tree;
        let bits: &[u8] = if key.wildcard { &[] } else { &[4, 8] };
        bits.iter().map(move |bits| ports_chain(tree, vip, key.protocol, key.port, *bits))
    }

    /// The rules of a chain of this tree; `None` when there is no such chain.
    pub fn rules(&self, chain: ChainId) -> Option<Rules> {
        match chain {
            ChainId::Root(_) => self.node(self.root()),
            ChainId::Node { prefix, digits, .. } if digits == address::digits(self.family) => self.own_chain(prefix),
            ChainId::Node { prefix, digits, .. } => self.node(Node { prefix, digits }),
            ChainId::Ports { vip, protocol, first, bits, .. } => self.ports(vip, protocol, first, bits),
            _ => None,
        }
    }

    /// Walks from the root towards the wanted node, as a packet does.
    fn node(&self, wanted: Node) -> Option<Rules> {
        let mut at = self.root();
        for level in 0.. {
            let reached = at == wanted;
            if self.is_leaf(at, level) {
                return reached.then(|| self.leaf(at));
            }
            if reached {
                return Some(self.branch(at));
            }
            if wanted.digits <= at.digits {
                return None;
            }
            let child = Node::holding(wanted.prefix, at.digits + 1);
            self.range(child).next()?;
            at = self.descend(child);
            if at.digits > wanted.digits || !at.holds(wanted.prefix) {
                return None;
            }
        }
        None
    }

    fn leaf(&self, node: Node) -> Rules {
        let mut rules = Rules::default();
        for (vip, ports) in self.range(node) {
            if ports.len() > INLINE {
                let chain = self.chain(Node::whole(*vip));
                rules.lines.push(format!("-d {} -g {chain}", address::host(*vip)));
                rules.next.push(chain);
            } else {
                rules.lines.extend(ports.iter().flat_map(|(key, claims)| served(*vip, *key, claims)));
            }
        }
        rules
    }

    fn branch(&self, node: Node) -> Rules {
        let mut rules = Rules::default();
        for digit in 0..16 {
            let child = Node { prefix: address::child(node.prefix, node.digits, digit), digits: node.digits + 1 };
            if self.range(child).next().is_none() {
                continue;
            }
            let child = self.descend(child);
            let chain = self.chain(child);
            rules.lines.push(format!("-d {} -g {chain}", address::network(child.prefix, child.digits)));
            rules.next.push(chain);
        }
        rules
    }

    /// The chain of one address, when it has too many ports to stand among others.
    fn own_chain(&self, vip: IpAddr) -> Option<Rules> {
        let ports = self.vips.get(&vip).filter(|ports| ports.len() > INLINE)?;
        let mut rules = Rules::default();
        if ports.len() <= PORTS {
            rules.lines.extend(ports.iter().flat_map(|(key, claims)| served(vip, *key, claims)));
            return Some(rules);
        }
        self.split(&mut rules, vip, ports.keys().filter(|key| !key.wildcard), 8);
        // Reached when no port chain took the packet: those are jumped to and come back.
        let wildcards = ports.iter().filter(|(key, _)| key.wildcard);
        rules.lines.extend(wildcards.flat_map(|(key, claims)| served(vip, *key, claims)));
        Some(rules)
    }

    fn ports(&self, vip: IpAddr, protocol: Proto, first: u16, bits: u8) -> Option<Rules> {
        let ports = self.vips.get(&vip).filter(|ports| ports.len() > PORTS)?;
        let key = |port| PortKey { wildcard: false, protocol, port };
        let last = first | ((1 << bits) - 1);
        let mut within = ports.range(key(first)..=key(last)).peekable();
        within.peek()?;
        let mut rules = Rules::default();
        if bits == 8 {
            self.split(&mut rules, vip, within.map(|(key, _)| key), 4);
        } else {
            rules.lines.extend(within.flat_map(|(key, claims)| served(vip, *key, claims)));
        }
        Some(rules)
    }

    /// One rule per group of ports that differ in no more than their last `bits` bits.
    fn split<'a>(&self, rules: &mut Rules, vip: IpAddr, keys: impl Iterator<Item = &'a PortKey>, bits: u8) {
        for key in keys {
            let chain = ports_chain(self.tree, vip, key.protocol, key.port, bits);
            if rules.next.last() == Some(&chain) {
                continue;
            }
            let protocol = protocol_name(key.protocol);
            let first = key.port >> bits << bits;
            let last = first | ((1 << bits) - 1);
            rules.lines.push(format!("-p {protocol} -m {protocol} --dport {first}:{last} -j {chain}"));
            rules.next.push(chain);
        }
    }

    fn root(&self) -> Node {
        Node { prefix: address::zero(self.family), digits: 0 }
    }

    fn chain(&self, node: Node) -> ChainId {
        match node.digits {
            0 => ChainId::Root(self.tree),
            digits => ChainId::Node { tree: self.tree, prefix: node.prefix, digits },
        }
    }

    fn range(&self, node: Node) -> impl DoubleEndedIterator<Item = (&IpAddr, &Vip)> {
        self.vips.range(node.prefix..=address::last(node.prefix, node.digits))
    }

    /// `level`: how many chains lead here.
    fn is_leaf(&self, node: Node, level: usize) -> bool {
        level >= BRANCHES || self.few(node)
    }

    fn few(&self, node: Node) -> bool {
        self.range(node).nth(LEAF).is_none()
    }

    /// The node that really splits, or is a leaf, at or below this one.
    fn descend(&self, node: Node) -> Node {
        let (first, last) = (self.range(node).next(), self.range(node).next_back());
        match (first, last) {
            (Some((first, _)), Some((last, _))) if !self.few(node) => Node::holding(*first, address::common(*first, *last)),
            _ => node,
        }
    }
}

fn served(vip: IpAddr, key: PortKey, claims: &[(Name, Action)]) -> impl Iterator<Item = String> + use<> {
    claims.first().map(|(owner, action)| entry(vip, key, owner, *action)).into_iter().flatten()
}

fn ports_chain(tree: Tree, vip: IpAddr, protocol: Proto, port: u16, bits: u8) -> ChainId {
    ChainId::Ports { tree, vip, protocol, first: port >> bits << bits, bits }
}

// === impl Node ===

impl Node {
    fn holding(address: IpAddr, digits: u8) -> Self {
        Self { prefix: address::prefix(address, digits), digits }
    }

    fn whole(address: IpAddr) -> Self {
        Self { prefix: address, digits: address::digits(address::family_of(address)) }
    }

    fn holds(self, address: IpAddr) -> bool {
        Self::holding(address, self.digits) == self
    }
}
