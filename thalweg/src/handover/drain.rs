//! A data path without a proxy, whose flows go on while iptables serve. A thread of its own works on it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use thalweg_abi::{Backend, BackendState, DRAINING, Frontend, FrontendFlags, FrontendKey, Proto, ServiceRanges, StateKey};
use thalweg_cluster::World;
use thalweg_loader::{Error, Maps, Table, conntrack, sockets};
use thalweg_proxy::iptables::{Flow, forget_half_seen};

use super::own_addresses;

/// Hooks that translate new connections; those that show old ones their peer stay until the end.
const NEW_CONNECTIONS: [&str; 3] = ["connect", "sendmsg", "post_bind"];

/// The loop's handle of a data path that drains.
pub struct Drain {
    pins: PathBuf,
    is_readable: bool,
    has_begun: bool,
    /// Whoever may still answer, whenever the thread has time for it.
    endpoints: SyncSender<BTreeSet<SocketAddr>>,
    progress: Arc<Progress>,
}

/// What the thread has done so far.
#[derive(Default)]
struct Progress {
    /// The host's stack sees both directions of all that iptables serve.
    is_left: AtomicBool,
    is_done: AtomicBool,
}

/// What there is of it.
struct Remains {
    pins: PathBuf,
    timeout: Duration,
    /// `None`: maps of another version, which nobody here can read.
    maps: Option<Maps>,
    /// Since iptables serve.
    deadline: Option<Instant>,
    /// Nobody else may work on the pins.
    lock: Option<File>,
}

// === impl Drain ===

impl Drain {
    /// The data path that an earlier proxy has left below `pins`; `None` when there is none.
    ///
    /// # Errors
    /// When a proxy that is still running has it, or there is no thread to be had.
    pub fn find(pins: &Path, timeout: Duration) -> Result<Option<Self>> {
        let has_pins = fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_some());
        if !has_pins {
            return Ok(None);
        }
        let lock = File::open(pins).with_context(|| format!("open {}", pins.display()))?;
        if lock.try_lock().is_err() {
            bail!("{} is in use by another agent: stop it before iptables take over", pins.display());
        }
        let maps = match Maps::open_pinned(pins) {
            Ok(maps) => Some(maps),
            Err(error) => {
                tracing::warn!("the flows of an earlier proxy cannot be kept: {error}");
                None
            }
        };
        let is_readable = maps.is_some();
        let remains = Remains { pins: pins.to_owned(), timeout, maps, deadline: None, lock: Some(lock) };
        let (endpoints, receiver) = mpsc::sync_channel(1);
        let progress = Arc::new(Progress::default());
        let told = Arc::clone(&progress);
        // Network namespaces are entered from here, so it is no thread of the runtime.
        let work = move || remains.work(&receiver, &told);
        thread::Builder::new().name("tw-drain".into()).spawn(work).context("start a thread")?;
        Ok(Some(Self { pins: pins.to_owned(), is_readable, has_begun: false, endpoints, progress }))
    }

    /// For whoever has to keep tables right while flows go on.
    ///
    /// # Errors
    /// When the maps cannot be opened.
    pub fn open_maps(&self) -> Result<Option<Maps>> {
        self.is_readable.then(|| Maps::open_pinned(&self.pins)).transpose().context("open the maps that drain")
    }

    /// iptables serve now: what tc has no entry for passes it from here on, and sockets connect as they dial. May be
    /// called again.
    pub fn begin(&mut self, world: &World) {
        if !self.has_begun {
            self.has_begun = true;
            self.tick(world);
        }
    }

    /// To be called every few seconds: true when all is over, and nothing is left.
    pub fn tick(&self, world: &World) -> bool {
        if self.has_begun {
            // Whoever is still at work hears it the next time.
            let _ = self.endpoints.try_send(endpoints(world));
        }
        self.progress.is_done.load(Ordering::Acquire)
    }

    /// Whether nothing goes past the host's stack any more but flows that were begun here: what fits none of the flows
    /// that the stack knows is invalid from then on.
    pub fn has_left(&self) -> bool {
        self.progress.is_left.load(Ordering::Acquire)
    }
}

// === impl Remains ===

impl Remains {
    fn work(mut self, endpoints: &Receiver<BTreeSet<SocketAddr>>, progress: &Progress) {
        let mut said = None;
        while let Ok(endpoints) = endpoints.recv() {
            let begun = self.begin().inspect(|()| progress.is_left.store(true, Ordering::Release));
            match begun.and_then(|()| self.tick(&endpoints)) {
                Ok(true) => return progress.is_done.store(true, Ordering::Release),
                Ok(false) => said = None,
                Err(error) => {
                    let text = format!("{error:#}");
                    if said.as_ref() != Some(&text) {
                        tracing::warn!("drain the eBPF data path: {text}; trying again");
                        said = Some(text);
                    }
                }
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        if self.deadline.is_some() {
            return Ok(());
        }
        if let Some(maps) = &mut self.maps {
            // Who comes next finds maps that are not complete.
            maps.set_state(StateKey::Synced, DRAINING)?;
            // The ranges first: an address in them without a frontend would be nobody's.
            maps.service_ranges.update(&[(0, ServiceRanges::default())])?;
            empty(&mut maps.frontends)?;
            empty(&mut maps.frontends6)?;
        }
        // What went past it until now it has seen half of, and would take what follows for invalid.
        let own = own_addresses();
        let is_others = |flow: &Flow| !own.contains(&flow.original.0.ip()) && !own.contains(&flow.original.1.ip());
        match forget_half_seen(&is_others) {
            Ok(flows) => tracing::debug!(flows, "connections that the kernel takes up in their middle"),
            Err(error) => tracing::warn!("connections that the kernel has seen half of may break: {error}"),
        }
        let links = self.pins.join("links");
        for link in fs::read_dir(&links).into_iter().flatten().flatten() {
            let name = link.file_name();
            if NEW_CONNECTIONS.iter().any(|hook| name.to_string_lossy().starts_with(hook)) {
                fs::remove_file(link.path()).with_context(|| format!("detach {}", link.path().display()))?;
            }
        }
        self.deadline = Some(Instant::now() + self.timeout);
        tracing::info!(timeout = ?self.timeout, "iptables serve; flows of the eBPF data path go on until they end");
        Ok(())
    }

    fn tick(&mut self, endpoints: &BTreeSet<SocketAddr>) -> Result<bool> {
        let flows = match &mut self.maps {
            Some(maps) => {
                if forget_gone(maps, |at| !endpoints.contains(&at))? {
                    sockets::destroy_gone(maps, &[])?;
                }
                conntrack::sweep(maps, conntrack::now())?.kept
            }
            None => 0,
        };
        let is_over = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if flows > 0 && !is_over {
            return Ok(false);
        }
        if flows > 0 {
            tracing::warn!(flows, "the time to drain is over: these flows of the eBPF data path break");
        }
        if let Some(maps) = &mut self.maps
            && let Err(error) = end_datagram_sockets(maps)
        {
            tracing::warn!("connected UDP sockets keep the endpoints that they have: {error}");
        }
        // Cleaning up takes the lock itself.
        self.lock = None;
        let removed = thalweg_loader::cleanup(&self.pins)?;
        tracing::info!(pins = removed.len(), "the eBPF data path is drained and removed");
        Ok(true)
    }
}

/// Addresses before their ports: one whose port is gone already would refuse who dials it.
fn empty<A: Copy>(table: &mut impl Table<FrontendKey<A>, Frontend>) -> Result<(), Error> {
    let frontends = table.entries()?.into_iter();
    let (addresses, ports): (Vec<_>, Vec<_>) = frontends.partition(|(_, frontend)| frontend.flags.has(FrontendFlags::WILDCARD));
    for part in [addresses, ports] {
        table.delete(&part.into_iter().map(|(key, _)| key).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Whoever may still answer.
fn endpoints(world: &World) -> BTreeSet<SocketAddr> {
    let mut endpoints = BTreeSet::new();
    for service in world.services() {
        for slice in world.slices(&service.name) {
            let serving = slice.endpoints.iter().filter(|endpoint| endpoint.condition.ready || endpoint.condition.serving);
            for endpoint in serving {
                endpoints.extend(slice.ports.iter().map(|port| SocketAddr::new(endpoint.address, port.port)));
            }
        }
    }
    endpoints
}

/// Marks these backends as gone, so that their flows end with a reset; true when there were some.
fn forget_gone(maps: &mut Maps, is_gone: impl Fn(SocketAddr) -> bool) -> Result<bool, Error> {
    let gone: Vec<(u32, Backend)> = maps
        .backends
        .entries()?
        .into_iter()
        .filter(|(_, backend)| backend.state != BackendState::FREE)
        .filter(|(_, backend)| is_gone(SocketAddr::new(backend.addr.into(), backend.port.to_host())))
        .map(|(id, backend)| (id, Backend { state: BackendState::FREE, ..backend }))
        .collect();
    maps.backends.update(&gone)?;
    Ok(!gone.is_empty())
}

/// A socket of UDP that was translated at connect sends to its endpoint for ever, and once the maps are gone nobody knows of
/// it. It ends with them, and dials again: through the rules. A TCP connection ends by itself.
fn end_datagram_sockets(maps: &mut Maps) -> Result<(), Error> {
    let sockets = maps.sock_backends.entries()?;
    let streams: Vec<u64> =
        sockets.into_iter().filter(|(_, socket)| socket.proto != Proto::UDP).map(|(cookie, _)| cookie).collect();
    maps.sock_backends.delete(&streams)?;
    forget_gone(maps, |_| true)?;
    let ended = sockets::destroy_gone(maps, &[])?;
    tracing::debug!(?ended, "sockets of the eBPF data path");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drained_where_nothing_is() {
        let nowhere = std::env::temp_dir().join(format!("tw-no-pins-{}", std::process::id()));
        assert!(Drain::find(&nowhere, Duration::from_secs(1)).is_ok_and(|drain| drain.is_none()));
    }
}
