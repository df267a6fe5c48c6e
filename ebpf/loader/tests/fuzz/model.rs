//! What there is on the node that packets are run on: addresses, services, and how the tables may change between packets.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use thalweg_abi::{BackendState, FrontendFlags, Scope};

use crate::wire::{SCTP, TCP, UDP};

/// One party in both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

const fn on_link(last: u8) -> Party {
    Party { v4: Ipv4Addr::new(172, 31, 0, last), v6: Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, hex_of(last)) }
}

const fn pod(net: u8, last: u8) -> Party {
    Party { v4: Ipv4Addr::new(10, 244, net, last), v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, net as u16, 0, 0, 0, hex_of(last)) }
}

const fn vip(last: u8) -> Party {
    Party { v4: Ipv4Addr::new(10, 96, 0, last), v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, hex_of(last)) }
}

/// Addresses of both families look alike: the decimal digits of one are the hexadecimal digits of the other.
const fn hex_of(decimal: u8) -> u16 {
    let decimal = decimal as u16;
    decimal / 100 * 256 + decimal / 10 % 10 * 16 + decimal % 10
}

pub const NODE: Party = on_link(11);
/// The way to the remote pods.
pub const OTHER_NODE: Party = on_link(12);
/// Outside the cluster.
pub const CLIENT: Party = on_link(100);
pub const POD_A: Party = pod(1, 2);
pub const POD_B: Party = pod(1, 3);
pub const REMOTE: Party = pod(2, 5);
/// A pod of another node behind a link with a small MTU.
pub const NARROW: Party = pod(3, 5);
pub const LB: Party = Party { v4: Ipv4Addr::new(198, 51, 100, 10), v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10) };
/// An address of a service by its wildcard alone, and one from the services' range that nobody has.
pub const WILD: Party = vip(82);
pub const NOBODY: Party = vip(99);

/// Who may stand behind a service; a set of them is a mask by position.
pub const ENDPOINTS: [Party; 5] = [POD_A, POD_B, REMOTE, NARROW, NODE];
pub const BACKEND_PORT: u16 = 8080;

/// Whom services that check their clients admit, when they do.
pub const ADMITTED: [Party; 5] = [CLIENT, POD_A, POD_B, NODE, REMOTE];

/// Everybody whose address a mutation may write.
pub const PARTIES: [Party; 18] = [
    NODE,
    OTHER_NODE,
    CLIENT,
    POD_A,
    POD_B,
    REMOTE,
    NARROW,
    LB,
    WILD,
    NOBODY,
    vip(80),
    vip(81),
    vip(83),
    vip(84),
    vip(85),
    vip(86),
    Party { v4: Ipv4Addr::BROADCAST, v6: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) },
    Party { v4: Ipv4Addr::UNSPECIFIED, v6: Ipv6Addr::UNSPECIFIED },
];

/// A service port in both families.
pub struct Service {
    pub addr: Party,
    pub proto: u8,
    pub port: u16,
    pub scope: Scope,
    pub flags: u32,
    /// Of [`ENDPOINTS`].
    pub set: u8,
}

const fn internal(last: u8, proto: u8, port: u16, flags: u32, set: u8) -> Service {
    Service { addr: vip(last), proto, port, scope: Scope::INTERNAL, flags, set }
}

const fn external(addr: Party, proto: u8, port: u16, flags: u32, set: u8) -> Service {
    Service { addr, proto, port, scope: Scope::EXTERNAL, flags, set }
}

/// As every case finds them.
pub const SERVICES: [Service; 12] = [
    internal(80, TCP, 80, 0, 0b00011),
    internal(80, UDP, 53, 0, 0b00110),
    internal(80, SCTP, 3868, 0, 0b00101),
    internal(81, TCP, 80, 0, 0),
    internal(83, TCP, 80, FrontendFlags::AFFINITY, 0b00111),
    internal(84, UDP, 53, FrontendFlags::CHECK_SOURCE, 0b00010),
    internal(85, TCP, 80, FrontendFlags::DROP_WHEN_EMPTY, 0),
    internal(86, UDP, 53, 0, 0b10000),
    external(NODE, TCP, 30080, FrontendFlags::NODE_PORT, 0b00110),
    external(NODE, UDP, 30053, FrontendFlags::NODE_PORT, 0b10101),
    external(LB, TCP, 443, FrontendFlags::LOCAL_ONLY, 0b01001),
    external(LB, UDP, 443, 0, 0b11111),
];

/// Flags that a state may give a service.
pub const FLAGS: [u32; 6] = [
    0,
    FrontendFlags::AFFINITY,
    FrontendFlags::CHECK_SOURCE,
    FrontendFlags::DROP_WHEN_EMPTY,
    FrontendFlags::LOCAL_ONLY,
    FrontendFlags::AFFINITY | FrontendFlags::CHECK_SOURCE,
];

/// What happens to the tables between packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Other endpoints or flags, in one step as the proxy does it.
    Service {
        service: usize,
        set: u8,
        flags: u32,
    },
    Backend {
        endpoint: usize,
        state: BackendState,
        generation: u32,
    },
    /// A pod of this node comes or goes.
    Pod {
        endpoint: usize,
        present: bool,
    },
    /// Whether the services that check their clients admit any.
    Admit {
        any: bool,
    },
    /// CONNTRACK is filled until so many entries are free, with flows of others.
    Fill {
        free: usize,
    },
    /// Every flow has been idle for so much longer.
    Age {
        seconds: u32,
    },
    /// The agent's sweep.
    Sweep,
}

// === impl Party ===

impl Party {
    pub fn of(self, is_v6: bool) -> IpAddr {
        if is_v6 { self.v6.into() } else { self.v4.into() }
    }

    pub fn is(self, addr: IpAddr) -> bool {
        addr == self.v4 || addr == self.v6
    }
}

// === impl State ===

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, set, flags } => write!(f, "service {service} {set} {flags}"),
            Self::Backend { endpoint, state, generation } => write!(f, "backend {endpoint} {} {generation}", state.0),
            Self::Pod { endpoint, present } => write!(f, "pod {endpoint} {}", u8::from(*present)),
            Self::Admit { any } => write!(f, "admit {}", u8::from(*any)),
            Self::Fill { free } => write!(f, "fill {free}"),
            Self::Age { seconds } => write!(f, "age {seconds}"),
            Self::Sweep => write!(f, "sweep"),
        }
    }
}

impl FromStr for State {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let name = words.next().context("an empty line")?;
        let numbers =
            words.map(|word| Ok(word.parse()?)).collect::<Result<Vec<u32>>>().with_context(|| format!("in {text:?}"))?;
        let state = match (name, &numbers[..]) {
            ("service", [service, set, flags]) => {
                Self::Service { service: *service as usize, set: u8::try_from(*set)?, flags: *flags }
            }
            ("backend", [endpoint, state, generation]) => {
                let state = BackendState(u8::try_from(*state)?);
                Self::Backend { endpoint: *endpoint as usize, state, generation: *generation }
            }
            ("pod", [endpoint, present]) => Self::Pod { endpoint: *endpoint as usize, present: *present != 0 },
            ("admit", [any]) => Self::Admit { any: *any != 0 },
            ("fill", [free]) => Self::Fill { free: *free as usize },
            ("age", [seconds]) => Self::Age { seconds: *seconds },
            ("sweep", []) => Self::Sweep,
            _ => bail!("no such state: {text:?}"),
        };
        match state {
            Self::Service { service, .. } => ensure!(service < SERVICES.len(), "no such service: {text:?}"),
            Self::Backend { endpoint, .. } | Self::Pod { endpoint, .. } => {
                ensure!(endpoint < ENDPOINTS.len(), "no such endpoint: {text:?}");
            }
            _ => {}
        }
        Ok(state)
    }
}

#[test]
fn addresses_of_both_families_look_alike() {
    for (party, v4, v6) in [
        (CLIENT, "172.31.0.100", "fd00:172:31::100"),
        (NODE, "172.31.0.11", "fd00:172:31::11"),
        (vip(80), "10.96.0.80", "fd00:10:96::80"),
        (POD_A, "10.244.1.2", "fd00:10:244:1::2"),
    ] {
        assert_eq!((party.v4.to_string(), party.v6.to_string()), (v4.to_owned(), v6.to_owned()));
    }
}
