//! The service proxy's mode changes on a live node: flows that the other mode began go on.
//!
//! To eBPF ([`Switch`]): `take_over` writes what the kernel's connection table translates into CONNTRACK, before the programs are
//! attached and once more after; then the rules go, and [`drain_rules`] looks after what is left of them. To iptables:
//! [`Drain`] leaves the tc programs where they are, on tables without frontends, until their flows have ended or the time
//! is over. `thalweg_proxy::iptables` says why in that order.

mod drain;
mod rules;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use thalweg_abi::{Backend, BackendState, Be16, Be128, CtDirection, CtEntry, CtFlags, CtState, Frontend, Proto, Scope, Tuple};
use thalweg_cluster::sysctl;
use thalweg_loader::{Error, Maps, Table, conntrack};
use thalweg_proxy::inspect::explain::Lookup;
use thalweg_proxy::iptables::{Flow, translated_flows};
use thalweg_proxy::plan::Key;
use tokio::sync::oneshot;

use crate::interfaces;
pub use drain::Drain;
pub use rules::drain_rules;

/// The way from iptables to eBPF. What takes time is done by threads, so that nobody waits for it who need not.
pub enum Switch {
    /// Whatever is written takes effect at once.
    Over,
    /// Nothing is attached yet, and the maps are not prepared.
    Waiting(Box<Maps>),
    /// [`prepare`] is at work: nothing may be written.
    Preparing(oneshot::Receiver<Box<Maps>>),
    /// To be written, and then attached.
    Prepared(Box<Maps>),
    Attaching(oneshot::Receiver<Result<()>>),
}

// === impl Switch ===

impl Switch {
    /// Begins, when everything that is to be written is known; does nothing later.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn prepare(&mut self) -> Result<()> {
        match std::mem::replace(self, Self::Over) {
            Self::Waiting(mut maps) => {
                *self = Self::Preparing(on_a_thread(move || {
                    prepare(&mut maps);
                    maps
                })?);
            }
            other => *self = other,
        }
        Ok(())
    }

    /// Whether what is written may be: see [`prepare`].
    pub fn may_write(&self) -> bool {
        !matches!(self, Self::Waiting(_) | Self::Preparing(_))
    }

    /// Whether what has been written is in effect.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Whether what has been written is about to take effect.
    pub fn is_attaching(&self) -> bool {
        matches!(self, Self::Attaching(_))
    }

    /// The maps are complete: attaches the programs, as [`take_over`] does; does nothing later.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn attach(&mut self, timeout: Duration, attach: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        match std::mem::replace(self, Self::Over) {
            Self::Prepared(maps) => *self = Self::Attaching(on_a_thread(move || take_over(*maps, timeout, attach))?),
            other => *self = other,
        }
        Ok(())
    }

    /// Before the process ends: links that are half exchanged, and a kernel that was told to be liberal meanwhile, are brought
    /// to their end. What fails then the next process finds.
    pub async fn end(&mut self) {
        if self.is_attaching()
            && let Err(error) = self.step().await
        {
            tracing::warn!("{error:#}");
        }
    }

    /// Until a step is done, if one is under way. Nothing is lost when this is dropped before it is done.
    ///
    /// # Errors
    /// When the programs cannot be attached.
    pub async fn step(&mut self) -> Result<()> {
        *self = match self {
            Self::Preparing(maps) => Self::Prepared(maps.await.context("the take-over from iptables was not prepared")?),
            Self::Attaching(attached) => {
                attached.await.context("the take-over from iptables did not come to its end")??;
                Self::Over
            }
            _ => std::future::pending().await,
        };
        Ok(())
    }
}

fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        // Whoever does not listen any more is about to end.
        let _ = sender.send(work());
    };
    thread::Builder::new().name("tw-takeover".into()).spawn(work).context("start a thread")?;
    Ok(receiver)
}

/// Attaches the programs, on maps that are complete. Flows that iptables began, ours or another proxy's, stay with their
/// endpoints; then our rules go, as [`drain_rules`] does it.
///
/// # Errors
/// When the programs cannot be attached. What else fails is logged: a flow may break, but no service does.
fn take_over(mut maps: Maps, timeout: Duration, attach: impl FnOnce() -> Result<()>) -> Result<()> {
    let liberal = Liberal::begin();
    let before = import(&mut maps, Known::Frontends);
    attach()?;
    drop(liberal);
    // What began meanwhile.
    let meanwhile = import(&mut maps, Known::Frontends);
    if before + meanwhile > 0 {
        tracing::info!(flows = before + meanwhile, "flows that iptables began go on");
    }
    drain_rules(maps, timeout);
    Ok(())
}

/// To be called before anything is written, too: tc programs that iptables mode has left to drain are live, and would take
/// the flows that began since for new ones as soon as there are frontends.
fn prepare(maps: &mut Maps) {
    let flows = import(maps, Known::Backends);
    if flows > 0 {
        tracing::info!(flows, "flows that iptables began meet the eBPF data path that was about to drain");
    }
}

/// While one link after the other gets its programs, the kernel sees only one direction of some flows. It would take their
/// packets for out of the window, translate them no more, and answer them itself: with a reset.
struct Liberal(bool);

const LIBERAL: &str = "netfilter/nf_conntrack_tcp_be_liberal";

/// By what a flow is known to be a service's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// By what it dialled.
    Frontends,
    /// There are no frontends yet: by who answers.
    Backends,
}

/// The node's addresses.
fn own_addresses() -> HashSet<IpAddr> {
    interfaces::look().map(|local| local.addresses.into_iter().map(|local| local.address).collect()).unwrap_or_default()
}

/// Whether a service of ours is dialled at this address.
fn is_frontend(maps: &Maps, protocol: Proto, dialled: SocketAddr) -> bool {
    let key = |scope| Key { vip: dialled.ip(), port: dialled.port(), protocol, scope };
    let has = |scope| matches!(maps.frontend(&key(scope)), Ok(Some(_)));
    has(Scope::INTERNAL) || has(Scope::EXTERNAL)
}

fn import(maps: &mut Maps, known: Known) -> usize {
    import_flows(maps, &own_addresses(), known).unwrap_or_else(|error| {
        tracing::warn!("flows that iptables began may break: {error:#}");
        0
    })
}

/// Writes the flows that the kernel translates into CONNTRACK, as if tc had begun them, and returns how many. `own`: the
/// node's addresses; its own connections stay with the kernel, which translates their answers by itself.
///
/// # Errors
/// When the kernel's table or the maps cannot be used.
fn import_flows(maps: &mut Maps, own: &HashSet<IpAddr>, known: Known) -> Result<usize> {
    let mut backends: HashMap<SocketAddr, (u32, Backend)> = HashMap::new();
    for (id, backend) in maps.backends.entries()? {
        let at = SocketAddr::new(backend.addr.into(), backend.port.to_host());
        // One that drains may have the address of one that is ready: flows of either go on.
        if backend.state == BackendState::READY || !backends.contains_key(&at) {
            backends.insert(at, (id, backend));
        }
    }
    if backends.is_empty() {
        return Ok(0);
    }
    let flows = translated_flows(&|protocol, dialled| known == Known::Backends || is_frontend(maps, protocol, dialled))?;
    let (mut v4, mut v6, now) = (Vec::new(), Vec::new(), conntrack::now());
    let mut imported = 0;
    for flow in flows.iter().filter(|flow| !own.contains(&flow.original.0.ip())) {
        let Some((id, backend)) = backends.get(&flow.reply.0) else { continue };
        let (scope, frontend) = match frontend_of(maps, flow)? {
            Some(found) => found,
            // Its service is found out too late for the entry to say it.
            None if known == Known::Backends => (Scope::INTERNAL, Frontend::default()),
            None => continue,
        };
        let from = Begun { scope, service: frontend.service, backend: *id, generation: backend.generation, now };
        match (flow.original.0, flow.original.1) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => {
                let pair = entries(flow, &from, |addr| Be128::from(addr).v4());
                if is_free(maps.conntrack.get(&pair[0].0)?) {
                    v4.extend(pair);
                    imported += 1;
                }
            }
            _ => {
                let pair = entries(flow, &from, Be128::from);
                if is_free(maps.conntrack6.get(&pair[0].0)?) {
                    v6.extend(pair);
                    imported += 1;
                }
            }
        }
    }
    maps.conntrack.update(&v4)?;
    maps.conntrack6.update(&v6)?;
    Ok(imported)
}

/// Whether the place of a flow's first direction is to be had. Otherwise tc has begun the flow again, or had it before; but if
/// tc has met an answer only, it took that for the beginning of a flow that is no service's.
fn is_free<A>(entry: Option<CtEntry<A>>) -> bool {
    entry.is_none_or(|entry| entry.flags.0 & CtFlags::DIRECT != 0)
}

/// What is known of a flow besides its addresses.
struct Begun {
    scope: Scope,
    service: u32,
    backend: u32,
    generation: u32,
    now: u32,
}

fn frontend_of(maps: &Maps, flow: &Flow) -> Result<Option<(Scope, Frontend)>, Error> {
    let dialled = flow.original.1;
    for scope in [Scope::INTERNAL, Scope::EXTERNAL] {
        let key = Key { vip: dialled.ip(), port: dialled.port(), protocol: flow.protocol, scope };
        if let Some(frontend) = maps.frontend(&key)? {
            return Ok(Some((scope, frontend)));
        }
    }
    Ok(None)
}

/// Both directions of a flow.
fn entries<A: Copy + Default>(flow: &Flow, begun: &Begun, addr: impl Fn(IpAddr) -> A) -> [(Tuple<A>, CtEntry<A>); 2] {
    let tuple = |src: SocketAddr, dst: SocketAddr| Tuple {
        src: addr(src.ip()),
        dst: addr(dst.ip()),
        sport: Be16::from_host(src.port()),
        dport: Be16::from_host(dst.port()),
        proto: flow.protocol,
        pad: [0; 3],
    };
    let dialled = tuple(flow.original.0, flow.original.1);
    let translated = tuple(flow.reply.1, flow.reply.0);
    // Its beginning was not seen: nothing is concluded from what comes first.
    let mut flags = CtFlags::PICKED_UP;
    if flow.reply.1.ip() != flow.original.0.ip() {
        flags |= CtFlags::SNAT;
    }
    if begun.scope == Scope::EXTERNAL {
        flags |= CtFlags::EXTERNAL;
    }
    let forward = CtEntry {
        to: translated,
        service: begun.service,
        backend: begun.backend,
        generation: begun.generation,
        last_seen: begun.now,
        direction: CtDirection::FORWARD,
        state: CtState::ESTABLISHED,
        flags: CtFlags(flags),
        packets: 0,
        bytes: 0,
    };
    let reply = CtEntry { to: dialled.reversed(), direction: CtDirection::REPLY, ..forward };
    [(dialled, forward), (translated.reversed(), reply)]
}

// === impl Liberal ===

impl Liberal {
    fn begin() -> Self {
        // Without connection tracking there is no such setting, and no flow to keep.
        let is_strict = fs::read_to_string(sysctl::path(LIBERAL)).is_ok_and(|value| value.trim() == "0");
        let changed =
            is_strict && fs::write(sysctl::path(LIBERAL), "1").map_err(|error| tracing::warn!("{LIBERAL}: {error}")).is_ok();
        Self(changed)
    }
}

impl Drop for Liberal {
    fn drop(&mut self) {
        if self.0
            && let Err(error) = fs::write(sysctl::path(LIBERAL), "0")
        {
            tracing::warn!("{LIBERAL} stays 1: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use thalweg_abi::Be32;

    use super::*;

    fn flow(client: &str, dialled: &str, endpoint: &str, source: &str) -> Flow {
        let at = |text: &str| text.parse().expect(text);
        Flow { protocol: Proto::TCP, original: (at(client), at(dialled)), reply: (at(endpoint), at(source)) }
    }

    const BEGUN: Begun = Begun { scope: Scope::INTERNAL, service: 7, backend: 3, generation: 2, now: 99 };

    #[test]
    fn a_flow_of_the_kernel_is_written_as_tc_would() {
        let flow = flow("10.244.0.5:40000", "10.96.0.7:80", "10.244.1.6:8080", "10.244.0.5:40000");
        let [(dialled, forward), (answer, reply)] = entries(&flow, &BEGUN, |addr| Be128::from(addr).v4());
        assert_eq!(forward.to.reversed(), answer);
        assert_eq!(reply.to.reversed(), dialled);
        assert_eq!((forward.direction, reply.direction), (CtDirection::FORWARD, CtDirection::REPLY));
        assert_eq!((dialled.dst, dialled.dport.to_host()), (Be32::from_octets([10, 96, 0, 7]), 80));
        assert_eq!((forward.to.dst, forward.to.dport.to_host()), (Be32::from_octets([10, 244, 1, 6]), 8080));
        assert_eq!((forward.service, forward.backend, forward.generation, forward.last_seen), (7, 3, 2, 99));
        assert!(!forward.flags.has(CtFlags::SNAT) && forward.state == CtState::ESTABLISHED);
    }

    #[test]
    fn a_masqueraded_flow_keeps_its_translated_source() {
        let flow = flow("198.51.100.7:40000", "172.30.0.11:30080", "10.244.1.6:8080", "172.30.0.11:61000");
        let begun = Begun { scope: Scope::EXTERNAL, ..BEGUN };
        let [(_, forward), _] = entries(&flow, &begun, Be128::from);
        assert!(forward.flags.has(CtFlags::SNAT) && forward.flags.has(CtFlags::EXTERNAL));
        assert_eq!(IpAddr::from(forward.to.src), IpAddr::from([172, 30, 0, 11]));
        assert_eq!(forward.to.sport.to_host(), 61_000);
    }
}
