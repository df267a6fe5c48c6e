//! A service plan as chains, and every chain as text. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnetwork::Ipv4Network;
use thalweg_abi::{FrontendFlags, Proto, Scope};
use thalweg_cluster::Name;

use super::chain::{ChainId, Fixed, Tree, hash, protocol_name};
use crate::plan::{PlannedFrontend, ServicePlan};

/// What is not in the plans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    pub inside: Inside,
    /// Flows from inside get the node's address as their source too, as kube-proxy's `masqueradeAll`.
    pub masquerade_all: bool,
    /// Bit of the packet mark for flows whose source becomes the node's: kube-proxy's `masqueradeBit`.
    pub masquerade_bit: u8,
    /// Bit of the packet mark for packets to refuse; with the other bit too, to drop.
    pub refuse_bit: u8,
}

/// Which arriving packets come from this cluster's pods. The node's own packets need no rule; all others are from
/// outside, where the external traffic policy holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inside {
    /// By source address: the cluster's pod networks, or this node's.
    Sources(Vec<Ipv4Network>),
    /// By the interface they arrive on; a trailing `+` stands for any ending.
    Interfaces(Vec<String>),
}

/// Rules of one chain, without the chain's name, and the chains of the dispatch trees that they lead to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Rules {
    pub lines: Vec<String>,
    pub next: Vec<ChainId>,
}

/// A service plan in the terms of this backend.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Compiled {
    pub entries: Vec<(EntryKey, Action)>,
    pub sets: BTreeMap<u64, Set>,
    pub endpoints: BTreeMap<u64, Endpoint>,
    /// Endpoints that UDP flows may have, and the frontends by which.
    pub udp_endpoints: Vec<SocketAddr>,
    pub udp_frontends: Vec<SocketAddr>,
}

/// What is dialled. Wildcards sort behind the ports of their address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct EntryKey {
    pub tree: Tree,
    pub vip: u32,
    pub port: PortKey,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PortKey {
    pub wildcard: bool,
    pub protocol: Proto,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Refuse,
    Drop,
    Serve { set: u64, masquerade: bool },
}

/// One endpoint set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Set {
    pub endpoints: Vec<u64>,
    /// 0 without affinity.
    pub affinity_seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    pub to: SocketAddr,
    pub protocol: Proto,
    /// Remembers who was sent here.
    pub affinity: bool,
}

pub(super) fn compile(plan: &ServicePlan) -> Compiled {
    let mut compiled = Compiled::default();
    let service = plan.name.to_string();
    // A chain is named after the first frontend that uses it, so that it keeps its name when endpoints change.
    let mut names: BTreeMap<(usize, Proto), u64> = BTreeMap::new();
    for frontend in &plan.frontends {
        let (Some(set), IpAddr::V4(vip)) = (plan.sets.get(frontend.set), frontend.vip) else { continue };
        let action = if set.endpoints.is_empty() {
            if frontend.flags.has(FrontendFlags::DROP_WHEN_EMPTY) { Action::Drop } else { Action::Refuse }
        } else {
            let name = *names.entry((frontend.set, frontend.protocol)).or_insert_with(|| set_name(&service, frontend));
            compiled.add_set(name, &service, frontend, &set.endpoints);
            let outside = frontend.scope == Scope::EXTERNAL && !frontend.flags.has(FrontendFlags::LOCAL_ONLY);
            Action::Serve { set: name, masquerade: outside || frontend.vip.is_loopback() }
        };
        compiled.entries.push((EntryKey::of(frontend, vip), action));
        if frontend.protocol == Proto::UDP && !set.endpoints.is_empty() {
            compiled.udp_frontends.push(SocketAddr::new(frontend.vip, frontend.port));
            compiled.udp_endpoints.extend(&set.endpoints);
        }
    }
    if !compiled.udp_endpoints.is_empty() {
        compiled.udp_endpoints.extend(&plan.draining);
    }
    for list in [&mut compiled.udp_endpoints, &mut compiled.udp_frontends] {
        list.sort_unstable();
        list.dedup();
    }
    compiled
}

fn set_name(service: &str, frontend: &PlannedFrontend) -> u64 {
    let dialled = format!("{}:{} {}", frontend.vip, frontend.port, frontend.scope.0);
    hash(&["set", service, protocol_name(frontend.protocol), &dialled])
}

/// Rules of one dispatch entry.
pub(super) fn entry(vip: u32, key: PortKey, owner: &Name, action: Action) -> impl Iterator<Item = String> + use<> {
    let mut matches = format!("-d {}/32", Ipv4Addr::from(vip));
    if !key.wildcard {
        let protocol = protocol_name(key.protocol);
        matches += &format!(" -p {protocol} -m {protocol} --dport {}", key.port);
    }
    let mark = matches!(action, Action::Serve { masquerade: true, .. });
    let first = mark.then(|| format!("{matches} -j {}", ChainId::Fixed(Fixed::Masquerade)));
    let target = match action {
        Action::Refuse => ChainId::Fixed(Fixed::Refuse),
        Action::Drop => ChainId::Fixed(Fixed::Drop),
        Action::Serve { set, .. } => ChainId::Svc(set),
    };
    // A wildcard may be several services': an address that they share.
    let comment = if key.wildcard { String::new() } else { format!(" -m comment --comment \"{}\"", plain(&owner.to_string())) };
    first.into_iter().chain([format!("{matches}{comment} -g {target}")])
}

/// A name as a comment: whatever the source of the cluster's state lets through cannot end the quotation.
fn plain(name: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || "./-_".contains(c) { c } else { '_' };
    name.chars().take(200).map(harmless).collect()
}

pub(super) fn endpoint(id: u64, endpoint: &Endpoint, options: &Options) -> Rules {
    let mark = options.masquerade_mark();
    let Endpoint { to, protocol, affinity } = *endpoint;
    let protocol = protocol_name(protocol);
    let remember = if affinity { format!(" -m recent --name {} --set", ChainId::Sep(id)) } else { String::new() };
    Rules::of([
        // Who dials itself must get the answer from the address it dialled: by way of this node. No jump to the chain that
        // does the same: nf_tables allows 16 in a row, and the deepest tree of addresses has come here by 15.
        format!("-s {}/32 -j MARK --set-xmark {mark:#x}/{mark:#x}", to.ip()),
        format!("-p {protocol} -m {protocol}{remember} -j DNAT --to-destination {to}"),
    ])
}

pub(super) fn set(set: &Set) -> Rules {
    let mut lines = Vec::with_capacity(set.endpoints.len());
    if set.affinity_seconds > 0 {
        lines.extend(set.endpoints.iter().map(|id| {
            let (chain, seconds) = (ChainId::Sep(*id), set.affinity_seconds);
            format!("-m recent --name {chain} --rcheck --seconds {seconds} --reap -j {chain}")
        }));
    }
    let count = set.endpoints.len();
    lines.extend(set.endpoints.iter().enumerate().map(|(index, id)| {
        let left = count - index;
        let chain = ChainId::Sep(*id);
        if left == 1 {
            return format!("-j {chain}");
        }
        format!("-m statistic --mode random --probability {:.10} -j {chain}", 1.0 / left as f64)
    }));
    Rules { lines, next: Vec::new() }
}

pub(super) fn fixed(chain: Fixed, options: &Options) -> Rules {
    let (masquerade, refuse) = (options.masquerade_mark(), options.refuse_mark());
    let both = masquerade | refuse;
    let services = ChainId::root(Tree::Inside);
    // Marks on the way in, and takes the mark back from what is no service's.
    let masqueraded = || {
        [
            format!("-j {}", ChainId::Fixed(Fixed::Masquerade)),
            format!("-j {services}"),
            format!("-j MARK --set-xmark 0x0/{masquerade:#x}"),
        ]
    };
    match chain {
        Fixed::Masquerade => Rules::of([format!("-j MARK --set-xmark {masquerade:#x}/{masquerade:#x}")]),
        Fixed::Refuse => Rules::of([format!("-j MARK --set-xmark {refuse:#x}/{both:#x}"), "-j ACCEPT".to_owned()]),
        Fixed::Drop => Rules::of([format!("-j MARK --set-xmark {both:#x}/{both:#x}"), "-j ACCEPT".to_owned()]),
        Fixed::Postrouting => Rules::of([
            format!("-m mark ! --mark {masquerade:#x}/{masquerade:#x} -j RETURN"),
            // The mark must not outlive this hook: the packet may pass it again inside a tunnel.
            format!("-j MARK --set-xmark 0x0/{masquerade:#x}"),
            "-j MASQUERADE --random-fully".to_owned(),
        ]),
        Fixed::Prerouting => {
            let mut lines = Vec::new();
            if !options.masquerade_all {
                lines.extend(options.inside.matches().map(|matches| format!("{matches} -g {services}")));
            } else {
                let all = ChainId::Fixed(Fixed::Output);
                lines.extend(options.inside.matches().map(|matches| format!("{matches} -g {all}")));
            }
            lines.push(format!("-j {}", ChainId::root(Tree::Outside)));
            lines.extend(masqueraded());
            Rules::of(lines)
        }
        Fixed::Output if options.masquerade_all => Rules::of(masqueraded()),
        Fixed::Output => Rules::of([format!("-j {services}")]),
        Fixed::Filter => Rules::of([
            format!("-m mark --mark {both:#x}/{both:#x} -j DROP"),
            "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
            "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
        ]),
        Fixed::Forward => {
            let invalid = |matches: String| format!("{matches} -m conntrack --ctstate INVALID -j DROP");
            Rules::of(options.inside.matches().map(invalid))
        }
    }
}

// === impl Options ===

impl Default for Options {
    /// Kubernetes' own bits. Nothing is inside yet: see [`Inside`].
    fn default() -> Self {
        Self { inside: Inside::Sources(Vec::new()), masquerade_all: false, masquerade_bit: 14, refuse_bit: 15 }
    }
}

impl Options {
    pub(super) fn masquerade_mark(&self) -> u32 {
        1 << (self.masquerade_bit & 31)
    }

    pub(super) fn refuse_mark(&self) -> u32 {
        1 << (self.refuse_bit & 31)
    }

    /// What is wrong with them, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        if self.masquerade_bit > 31 || self.refuse_bit > 31 || self.masquerade_bit == self.refuse_bit {
            let (masquerade, refuse) = (self.masquerade_bit, self.refuse_bit);
            return Some(format!("bits of the packet mark are two different ones of 0 to 31, not {masquerade} and {refuse}"));
        }
        let Inside::Interfaces(names) = &self.inside else { return None };
        let valid = |name: &&String| {
            (1..=15).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'/!\\".contains(&byte))
        };
        names.iter().find(|name| !valid(name)).map(|name| format!("{name:?} is no name of an interface"))
    }
}

// === impl Inside ===

impl Inside {
    fn matches(&self) -> impl Iterator<Item = String> {
        let (sources, interfaces) = match self {
            Self::Sources(sources) => (sources.as_slice(), [].as_slice()),
            Self::Interfaces(names) => ([].as_slice(), names.as_slice()),
        };
        let source = |net: &Ipv4Network| format!("-s {}/{}", net.network(), net.prefix());
        sources.iter().map(source).chain(interfaces.iter().map(|name| format!("-i {name}")))
    }
}

// === impl Rules ===

impl Rules {
    pub fn of(lines: impl IntoIterator<Item = String>) -> Self {
        Self { lines: lines.into_iter().collect(), next: Vec::new() }
    }
}

// === impl Compiled ===

impl Compiled {
    fn add_set(&mut self, name: u64, service: &str, frontend: &PlannedFrontend, endpoints: &[SocketAddr]) {
        if self.sets.contains_key(&name) {
            return;
        }
        let affinity = frontend.affinity_seconds > 0;
        let protocol = frontend.protocol;
        // Without affinity a chain says nothing of its service, and all services share it.
        let owner = if affinity { service } else { "" };
        let members = endpoints
            .iter()
            .map(|to| {
                let id = hash(&["endpoint", owner, protocol_name(protocol), &to.to_string()]);
                self.endpoints.insert(id, Endpoint { to: *to, protocol, affinity });
                id
            })
            .collect();
        self.sets.insert(name, Set { endpoints: members, affinity_seconds: frontend.affinity_seconds });
    }
}

// === impl EntryKey ===

impl EntryKey {
    fn of(frontend: &PlannedFrontend, vip: Ipv4Addr) -> Self {
        let tree = if frontend.scope == Scope::EXTERNAL { Tree::Outside } else { Tree::Inside };
        let wildcard = frontend.flags.has(FrontendFlags::WILDCARD);
        let port = PortKey { wildcard, protocol: frontend.protocol, port: frontend.port };
        Self { tree, vip: vip.into(), port }
    }
}
