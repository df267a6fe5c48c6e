//! Keeps the kernel's tables at the newest snapshot of the zone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use thalweg_abi::{DnsName, DnsNode, DnsZone, MAX_DNS_ZONES};
use thalweg_loader::{Error, Table};

use super::export;
use crate::config::{Config, max_udp};
use crate::corefile::{Log, LogClass, ServerBlock};
use crate::name::{self, WireName};
use crate::zone::Zone;

/// What the server is set to, as far as the kernel must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The largest message over UDP that the server takes and sends, in octets; at least 512.
    pub udp_size: u16,
    /// The kernel may answer at all. Not when something is done here with queries for names of the cluster that it would
    /// not do; see [`Settings::new`].
    pub may_answer: bool,
    /// Names that are not there may be denied. Not when they are completed here from search paths.
    pub may_deny: bool,
    /// The kernel stops answering when nothing has been heard of the agent for so long.
    pub lease: Duration,
}

/// Brings DNS_NAMES (`N`) and DNS_ZONES (`Z`) to one snapshot after the other. It remembers the last one, which shares most of
/// its memory with the next, so that a change costs in proportion to itself.
pub struct Follower<N, Z> {
    pub(super) names: N,
    pub(super) zones: Z,
    settings: Settings,
    /// What the tables hold; `None` when that is not known: at the start, they may hold what an earlier agent wrote.
    shown: Option<Arc<Zone>>,
    /// Not all names have found room: what is not there may exist.
    overflows: bool,
}

/// What is to be done to DNS_NAMES.
#[derive(Default)]
struct Changes {
    updates: Vec<(DnsName, DnsNode)>,
    deletes: Vec<DnsName>,
}

// === impl Settings ===

impl Settings {
    /// For a server of this configuration. Nothing is left to the kernel when names that may be in the cluster's zones have
    /// access lists, hosts or rules that rewrite them, when their answers are logged, or when clients have a rate.
    pub fn new(config: &Config, lease: Duration) -> Self {
        let may_answer = config.client_rate == 0 && !config.servers.iter().any(|server| meets_zone(server, config));
        let may_deny = config.servers.iter().all(|server| server.autopath.is_none());
        Self { udp_size: max_udp(&config.servers) as u16, may_answer, may_deny, lease }
    }
}

/// Whether a block does something with names that may be in the cluster's zones, other than to look them up.
fn meets_zone(server: &ServerBlock, config: &Config) -> bool {
    let origins = config.zone.iter().flat_map(|zone| &zone.origins);
    let origins: Vec<WireName> = origins.filter_map(|origin| name::encode(origin)).collect();
    let meets = |zone: &WireName| origins.iter().any(|origin| name::is_within(zone, origin) || name::is_within(origin, zone));
    let block = server.keys.iter().any(|key| meets(&key.zone));
    // Without zones of its own, a line is for those of its block.
    let concerned = |zones: &[WireName]| if zones.is_empty() { block } else { zones.iter().any(meets) };
    // The kernel answers with no failure, so that there is none to log.
    let is_logged = |log: &Log| log.classes.is_empty() || log.classes.iter().any(|class| *class != LogClass::Error);
    block && !server.rewrites.is_empty()
        || server.acl.iter().any(|list| concerned(&list.zones))
        || server.hosts.iter().any(|hosts| concerned(&hosts.zones))
        || server.log.iter().any(|log| concerned(&log.zones) && is_logged(log))
}

// === impl Follower ===

impl<N: Table<DnsName, DnsNode>, Z: Table<u32, DnsZone>> Follower<N, Z> {
    /// Touches nothing: what an earlier agent wrote is answered on.
    pub fn new(names: N, zones: Z, settings: Settings) -> Self {
        Self { names, zones, settings, shown: None, overflows: false }
    }

    /// Shows this snapshot, or nothing when the kernel may not answer. As long as it is not synced, what was shown before
    /// stays. `now`: nanoseconds of CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// The kernel's refusal to read or write a table; the kernel then answers nothing until a later call succeeds. A table
    /// without room is no error: what is not in it is left to user space.
    pub fn follow(&mut self, zone: &Arc<Zone>, now: u64) -> Result<(), Error> {
        if !self.settings.may_answer {
            return self.withdraw();
        }
        if !zone.synced {
            return Ok(());
        }
        let result = self.write(zone, now);
        self.shown = result.is_ok().then(|| zone.clone());
        if result.is_err() {
            self.withdraw()?;
        }
        result
    }

    /// Says that the agent is alive, so that the kernel answers on.
    ///
    /// # Errors
    /// As [`Follower::follow`].
    pub fn renew(&mut self, now: u64) -> Result<(), Error> {
        match self.shown.clone() {
            Some(_) if !self.settings.may_answer => self.withdraw(),
            Some(zone) => self.write_zones(&zone, now),
            None => Ok(()),
        }
    }

    /// Changes the settings; they count from the next call on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Stops the kernel from answering.
    ///
    /// # Errors
    /// As [`Follower::follow`].
    pub fn withdraw(&mut self) -> Result<(), Error> {
        self.shown = None;
        self.zones.delete(&(0..MAX_DNS_ZONES).collect::<Vec<_>>())
    }

    /// Whether every name has found room.
    pub fn is_complete(&self) -> bool {
        !self.overflows
    }

    fn write(&mut self, zone: &Arc<Zone>, now: u64) -> Result<(), Error> {
        let Changes { updates, deletes } = match &self.shown {
            Some(old) if Arc::ptr_eq(&old.apex, &zone.apex) && export::is_exported(zone) => {
                let changes = Changes::between(old, zone);
                // Room may have come for what had none.
                if self.overflows && !changes.deletes.is_empty() { self.differing(zone)? } else { changes }
            }
            _ => self.differing(zone)?,
        };
        // Room first: until the end, what is new and what is gone are in flux for whoever asks.
        self.names.delete(&deletes)?;
        self.update(zone, &updates, now)?;
        self.write_zones(zone, now)
    }

    /// All that differs from what the table holds.
    fn differing(&mut self, zone: &Zone) -> Result<Changes, Error> {
        let mut wanted = HashMap::new();
        export::names(zone, &mut |name, node| {
            wanted.insert(name, node);
        });
        let mut deletes = Vec::new();
        self.names.visit(&mut |name, held| match wanted.get(name) {
            Some(node) if node == held => {
                wanted.remove(name);
            }
            Some(_) => {}
            None => deletes.push(*name),
        })?;
        self.overflows = false;
        if self.zones_are_others(zone)? {
            self.zones.delete(&(0..MAX_DNS_ZONES).collect::<Vec<_>>())?;
        }
        Ok(Changes { updates: wanted.into_iter().collect(), deletes })
    }

    /// Whether the tables are of other zones than these, so that names would be taken for those of another until all is written.
    fn zones_are_others(&self, zone: &Zone) -> Result<bool, Error> {
        let origins = zone.apex.origins.iter().map(|origin| origin.len());
        let mut wanted: Vec<_> = origins.map(Some).collect();
        wanted.resize(MAX_DNS_ZONES as usize, None);
        let mut others = false;
        self.zones.visit(&mut |at, held| others |= wanted.get(*at as usize) != Some(&Some(usize::from(held.origin))))?;
        Ok(others)
    }

    fn update(&mut self, zone: &Zone, updates: &[(DnsName, DnsNode)], now: u64) -> Result<(), Error> {
        match self.names.update(updates) {
            Err(Error::TableFull { .. }) => {}
            result => return result,
        }
        // Nothing may be denied from here on. What is in the table is brought up to date all the same.
        self.overflows = true;
        tracing::warn!(
            capacity = self.names.capacity(),
            "DNS_NAMES is full: the kernel leaves queries for names that it does not have to this process; `--map-size DNS_NAMES=N` \
             makes room"
        );
        self.write_zones(zone, now)?;
        for update in updates {
            match self.names.update(std::slice::from_ref(update)) {
                Ok(()) | Err(Error::TableFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_zones(&mut self, zone: &Zone, now: u64) -> Result<(), Error> {
        let Settings { udp_size, may_deny, lease, .. } = self.settings;
        let valid_until = now.saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX));
        let mut zones = export::zones(zone, udp_size, may_deny && !self.overflows, valid_until);
        zones.resize(MAX_DNS_ZONES as usize, DnsZone::default());
        self.zones.update(&(0..).zip(zones).collect::<Vec<_>>())
    }
}

// === impl Changes ===

impl Changes {
    /// From an older snapshot to a newer one of the same zone.
    fn between(old: &Zone, zone: &Zone) -> Self {
        let mut changes = Self::default();
        export::changes(zone, old, &mut |(name, node)| match node {
            Some(node) => changes.updates.push((name, node)),
            None => changes.deletes.push(name),
        });
        changes
    }
}
