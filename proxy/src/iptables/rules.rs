//! Every chain as text. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thalweg_cluster::{Family, Name};

use super::address::{family_of, host};
use super::chain::{ChainId, Fixed, Tree, protocol_name};
use super::compile::{Action, Endpoint, PortKey, Set, Verdict};

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
    /// By source address: the cluster's pod networks, or this node's, of either family.
    Sources(Vec<IpNetwork>),
    /// By the interface they arrive on; a trailing `+` stands for any ending.
    Interfaces(Vec<String>),
}

/// Rules of one chain, without the chain's name, and the chains of the dispatch trees that they lead to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Rules {
    pub lines: Vec<String>,
    pub next: Vec<ChainId>,
}

/// What the chains that are always there depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    pub family: Family,
    pub options: &'a Options,
    /// Where cluster IPs come from.
    pub service_ranges: &'a [IpNetwork],
    /// NodePorts are served on 127.0.0.1.
    pub localnet: bool,
    /// Packets that fit no flow are let through.
    pub lenient: bool,
}

/// Rules of one dispatch entry.
pub(super) fn entry(vip: IpAddr, key: PortKey, owner: &Name, action: Action) -> impl Iterator<Item = String> + use<> {
    let mut matches = format!("-d {}", host(vip));
    if !key.wildcard {
        let protocol = protocol_name(key.protocol);
        matches += &format!(" -p {protocol} -m {protocol} --dport {}", key.port);
    }
    let admitted = action.sources.map(|sources| format!("{matches} -j {}", ChainId::Sources(sources)));
    let mark = matches!(action.verdict, Verdict::Serve { masquerade: true, .. });
    let marked = mark.then(|| format!("{matches} -j {}", ChainId::Fixed(Fixed::Masquerade)));
    let target = match action.verdict {
        Verdict::Refuse => ChainId::Fixed(Fixed::Refuse),
        Verdict::Drop => ChainId::Fixed(Fixed::Drop),
        Verdict::Serve { set, .. } => ChainId::Svc(set),
    };
    // A wildcard may be several services': an address that they share.
    let comment = if key.wildcard { String::new() } else { format!(" -m comment --comment \"{}\"", plain(&owner.to_string())) };
    admitted.into_iter().chain(marked).chain([format!("{matches}{comment} -g {target}")])
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
        format!("-s {} -j MARK --set-xmark {mark:#x}/{mark:#x}", host(to.ip())),
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

/// Comes back for who is admitted.
pub(super) fn sources(ranges: &[IpNetwork]) -> Rules {
    let admitted = ranges.iter().map(|range| format!("-s {}/{} -j RETURN", range.network(), range.prefix()));
    Rules::of(admitted.chain([format!("-g {}", ChainId::Fixed(Fixed::Drop))]))
}

pub(super) fn fixed(chain: Fixed, around: &Surroundings<'_>) -> Rules {
    let options = around.options;
    let (masquerade, refuse) = (options.masquerade_mark(), options.refuse_mark());
    let both = masquerade | refuse;
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
            // A neighbour on the wire must not reach what is served for processes of this node.
            let mut lines: Vec<String> = around.localnet.then(|| "-d 127.0.0.0/8 -j ACCEPT".to_owned()).into_iter().collect();
            let inside = ChainId::Fixed(if options.masquerade_all { Fixed::Output } else { Fixed::Inside });
            lines.extend(options.inside.matches(around.family).map(|matches| format!("{matches} -g {inside}")));
            lines.push(format!("-j {}", ChainId::Root(Tree::Outside)));
            lines.extend(around.masqueraded());
            Rules::of(lines)
        }
        Fixed::Inside => Rules::of([format!("-j {}", ChainId::Root(Tree::Inside))].into_iter().chain(around.nobodys())),
        // The source was chosen for the way to the service's address, the packet goes to an endpoint: the node may have
        // another address on that way, and an address of a service's own would never get an answer.
        Fixed::Output => Rules::of(around.masqueraded()),
        Fixed::Filter => Rules::of([
            format!("-m mark --mark {both:#x}/{both:#x} -j DROP"),
            "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
            format!("-j REJECT --reject-with {}", around.unreachable()),
        ]),
        Fixed::Forward => Rules::of([
            format!("-m mark --mark {masquerade:#x}/{both:#x} -j ACCEPT"),
            "-m conntrack --ctstate DNAT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
        ]),
        Fixed::Invalid if around.lenient => Rules::default(),
        Fixed::Invalid => {
            // Reset by whoever gets them: those protocols have connections.
            let drop = |matches: String| ["tcp", "sctp"].map(|protocol| format!("{matches} -p {protocol} -j DROP"));
            Rules::of(options.inside.matches(around.family).flat_map(drop))
        }
        // Whether we let packets to 127.0.0.1 leave the node or somebody else did.
        Fixed::Localnet => Rules::of(["-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP".to_owned()]),
    }
}

// === impl Surroundings ===

impl Surroundings<'_> {
    /// Marks on the way in, and takes the mark back from what is no service's.
    fn masqueraded(&self) -> impl Iterator<Item = String> {
        let masquerade = self.options.masquerade_mark();
        let mark = [format!("-j {}", ChainId::Fixed(Fixed::Masquerade)), format!("-j {}", ChainId::Root(Tree::Inside))];
        mark.into_iter().chain(self.nobodys()).chain([format!("-j MARK --set-xmark 0x0/{masquerade:#x}")])
    }

    /// What is left is no service's: it must not circle between this node and its gateway.
    fn nobodys(&self) -> impl Iterator<Item = String> {
        let ranges = self.service_ranges.iter().filter(|range| family_of(range.ip()) == self.family);
        ranges.map(|range| format!("-d {}/{} -g {}", range.network(), range.prefix(), ChainId::Fixed(Fixed::Drop)))
    }

    fn unreachable(&self) -> &'static str {
        match self.family {
            Family::V4 => "icmp-port-unreachable",
            Family::V6 => "icmp6-port-unreachable",
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
    fn matches(&self, family: Family) -> impl Iterator<Item = String> {
        let (sources, interfaces) = match self {
            Self::Sources(sources) => (sources.as_slice(), [].as_slice()),
            Self::Interfaces(names) => ([].as_slice(), names.as_slice()),
        };
        let sources = sources.iter().filter(move |net| family_of(net.ip()) == family);
        let source = |net: &IpNetwork| format!("-s {}/{}", net.network(), net.prefix());
        sources.map(source).chain(interfaces.iter().map(|name| format!("-i {name}")))
    }
}

// === impl Rules ===

impl Rules {
    pub fn of(lines: impl IntoIterator<Item = String>) -> Self {
        Self { lines: lines.into_iter().collect(), next: Vec::new() }
    }
}
