//! Reads what views show out of the pinned maps: of arrays only the entries in use, of both families one list.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use thalweg_abi::{Backend, CtDirection, CtEntry, CtFlags, Frontend, FrontendKey, ServiceName, Slot, StateKey, Tuple};
use thalweg_loader::{Error, Maps, Table, conntrack};

use super::top::{FlowSample, Sample};
use super::{
    AffinityRow, BackendRow, ConntrackRow, Filter, Filtered, ServiceRow, Status, affinity, backends, conntrack as flow_rows,
    services, status,
};

/// More slots than this are read with the whole array, in batches.
const SINGLY: u64 = 10_000;

type Entries<V> = Vec<(u32, V)>;

/// Every frontend that the filter wants, with who answers it.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn service_rows(maps: &Maps, filter: &Filter) -> Result<Vec<ServiceRow>, Error> {
    let names = maps.services.entries()?;
    let wanted = numbers(&names, filter);
    let mut rows = Vec::new();
    {
        let mut frontends = maps.frontends.entries()?;
        frontends.retain(|(key, value)| filter.wants_vip(key.vip.into()) && wanted(value.service));
        let (slots, backends) = behind(maps, &frontends)?;
        rows.extend(services(&frontends, &slots, &backends, &names));
    }
    let mut frontends = maps.frontends6.entries()?;
    frontends.retain(|(key, value)| filter.wants_vip(key.vip.into()) && wanted(value.service));
    let (slots, backends) = behind(maps, &frontends)?;
    rows.extend(services(&frontends, &slots, &backends, &names));
    rows.retain(|row| row.is_wanted(filter));
    rows.sort_by_cached_key(|row| row.order());
    Ok(rows)
}

/// Every backend that the filter wants.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn backend_rows(maps: &Maps, filter: &Filter) -> Result<Vec<BackendRow>, Error> {
    let mut flows: HashMap<u32, usize> = HashMap::new();
    let mut count = |direction: CtDirection, flags: CtFlags, backend: u32| {
        if direction == CtDirection::FORWARD && !flags.has(CtFlags::DIRECT) {
            *flows.entry(backend).or_default() += 1;
        }
    };
    maps.conntrack.entries()?.iter().for_each(|(_, entry)| count(entry.direction, entry.flags, entry.backend));
    maps.conntrack6.entries()?.iter().for_each(|(_, entry)| count(entry.direction, entry.flags, entry.backend));
    let mut rows = backends(&maps.backends.entries()?, &service_rows(maps, filter)?, &flows);
    rows.retain(|row| row.is_wanted(filter));
    Ok(rows)
}

/// Every flow through tc that the filter wants.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn conntrack_rows(maps: &Maps, filter: &Filter) -> Result<Vec<ConntrackRow>, Error> {
    let (names, now) = (maps.services.entries()?, conntrack::now());
    let mut rows = flow_rows(&maps.conntrack.entries()?, &names, now);
    rows.extend(flow_rows(&maps.conntrack6.entries()?, &names, now));
    rows.retain(|row| row.is_wanted(filter));
    rows.sort_by_cached_key(|row| row.order());
    Ok(rows)
}

/// Every client with a backend of its own that the filter wants.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn affinity_rows(maps: &Maps, filter: &Filter) -> Result<Vec<AffinityRow>, Error> {
    let entries = maps.affinity.entries()?;
    let mut known = BTreeMap::new();
    for (_, value) in &entries {
        if !known.contains_key(&value.backend)
            && let Some(backend) = maps.backends.get(&value.backend)?
        {
            known.insert(value.backend, backend);
        }
    }
    let backends: Entries<Backend> = known.into_iter().collect();
    let mut rows = affinity(&entries, &backends, &maps.services.entries()?, conntrack::now());
    rows.retain(|row| row.is_wanted(filter));
    Ok(rows)
}

/// State, fill levels and counters.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn read_status(maps: &Maps) -> Result<Status, Error> {
    let keys = [StateKey::Abi, StateKey::CreatedAt, StateKey::Adoptions, StateKey::Applies, StateKey::Synced];
    let state = keys.into_iter().map(|key| Ok((key, maps.state(key)?))).collect::<Result<Vec<_>, Error>>()?;
    Ok(status(&state, &fill(maps)?, &maps.counters()?, &maps.drops()?))
}

/// Name, entries in use and entries that fit, of every map that can fill up.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn fill(maps: &Maps) -> Result<Vec<(&'static str, u64, u64)>, Error> {
    let measured = maps.measure()?.into_iter();
    Ok(measured.map(|map| (map.table, map.entries.unwrap_or_default().into(), map.capacity.into())).collect())
}

/// Which services a filter wants, by their numbers; one without a name may still be wanted by its number.
fn numbers<'a>(names: &'a [(u32, ServiceName)], filter: &'a Filter) -> impl Fn(u32) -> bool + 'a {
    let unwanted: HashSet<u32> =
        names.iter().filter(|(_, name)| !filter.wants_service(name.as_str())).map(|(number, _)| *number).collect();
    move |number| !unwanted.contains(&number)
}

/// The slots of these frontends and the backends of those slots: few, where the arrays themselves are long.
fn behind<A>(maps: &Maps, frontends: &[(FrontendKey<A>, Frontend)]) -> Result<(Entries<Slot>, Entries<Backend>), Error> {
    let total: u64 = frontends.iter().map(|(_, frontend)| u64::from(frontend.count)).sum();
    if total > SINGLY {
        return Ok((maps.slots.entries()?, maps.backends.entries()?));
    }
    let mut slots = BTreeMap::new();
    let mut backends = BTreeMap::new();
    for (_, frontend) in frontends {
        for index in frontend.base..frontend.base.saturating_add(frontend.count) {
            if slots.contains_key(&index) {
                continue;
            }
            let Some(slot) = maps.slots.get(&index)? else { continue };
            if !backends.contains_key(&slot.backend)
                && let Some(backend) = maps.backends.get(&slot.backend)?
            {
                backends.insert(slot.backend, backend);
            }
            slots.insert(index, slot);
        }
    }
    Ok((slots.into_iter().collect(), backends.into_iter().collect()))
}

/// One look at what services do. `at`: now, on a clock that only goes forward.
///
/// # Errors
/// [`Error::Table`] when the kernel refuses.
pub fn sample(maps: &Maps, at: Duration) -> Result<Sample, Error> {
    let names = maps.services.entries()?.into_iter().map(|(number, name)| (number, name.as_str().to_owned())).collect();
    let mut flows: Vec<FlowSample> = maps.conntrack.entries()?.iter().map(flow_sample).collect();
    flows.extend(maps.conntrack6.entries()?.iter().map(flow_sample));
    Ok(Sample { at, names, stats: maps.service_stats.entries()?, flows, drops: maps.drops()? })
}

fn flow_sample<A: Copy + Hash>((key, entry): &(Tuple<A>, CtEntry<A>)) -> FlowSample {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    FlowSample {
        key: hasher.finish(),
        // A direct connection is no service's.
        service: if entry.flags.has(CtFlags::DIRECT) { 0 } else { entry.service },
        is_forward: entry.direction == CtDirection::FORWARD,
        bytes: entry.bytes,
    }
}
