//! Expiry of translated flows: both directions of a flow are judged together and die together.

use std::{collections::HashMap, time::Duration};

use nix::time::{ClockId, clock_gettime};
use thalweg_abi::{CtDirection, CtEntry, TCP_CLOSED_SECONDS, Tuple, flow::idle_limit};

use crate::{Error, Maps, Table};

/// What one sweep found and did. Flows are pairs of entries; strays are single ones.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Swept {
    /// Flows that stay.
    pub kept: usize,
    /// Flows that were idle for too long and are gone.
    pub expired: usize,
    /// Entries without their other direction that are gone.
    pub strays: usize,
}

/// Which entries have had their time, by one look at the whole table.
#[derive(Default, Debug)]
struct Verdicts {
    kept: usize,
    /// Both keys of each expired flow.
    expired: Vec<[Tuple; 2]>,
    /// Keys whose other direction was not seen: gone, or made while the table was read.
    strays: Vec<Tuple>,
}

/// The clock of `CtEntry::last_seen`: seconds since boot.
pub fn now() -> u32 {
    let elapsed = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}

/// Removes flows that were idle for longer than their state allows. `now` is [`now()`]. Call it every few seconds;
/// it costs one batched read of the table.
///
/// # Errors
/// [`Error::Table`] when the table cannot be read or written.
pub fn sweep(maps: &mut Maps, now: u32) -> Result<Swept, Error> {
    sweep_table(&mut maps.conntrack, now)
}

/// As [`sweep`], on any table.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_table(table: &mut impl Table<Tuple, CtEntry>, now: u32) -> Result<Swept, Error> {
    let Verdicts { kept, expired, strays } = judge(table.entries()?, now);
    let mut doomed: Vec<Tuple> = expired.iter().flatten().copied().collect();
    let pairs = expired.len();
    let mut single = 0;
    for key in strays {
        // The table changes while it is read: ask again before an entry is called a stray.
        if let Some(entry) = table.get(&key)?
            && table.get(&other_direction(&entry))?.is_none()
        {
            doomed.push(key);
            single += 1;
        }
    }
    table.delete(&doomed)?;
    Ok(Swept { kept, expired: pairs, strays: single })
}

/// The key of the other direction of a flow.
fn other_direction(entry: &CtEntry) -> Tuple {
    entry.to.reversed()
}

fn judge(entries: Vec<(Tuple, CtEntry)>, now: u32) -> Verdicts {
    let entries: HashMap<Tuple, CtEntry> = entries.into_iter().collect();
    let mut verdicts = Verdicts::default();
    for (key, entry) in &entries {
        let other = other_direction(entry);
        match entries.get(&other) {
            Some(reply) if entry.direction == CtDirection::FORWARD && reply.direction == CtDirection::REPLY => {
                // The flow is as far as its further direction, and as fresh as its fresher one.
                let state = entry.state.max(reply.state);
                let idle = idle(entry, now).min(idle(reply, now));
                if idle > idle_limit(key.proto, state) {
                    verdicts.expired.push([*key, other]);
                } else {
                    verdicts.kept += 1;
                }
            }
            // Judged with its forward entry.
            Some(_) if entry.direction == CtDirection::REPLY => {}
            // Two directions are written one after the other: a fresh single entry is a flow being made.
            _ if idle(entry, now) > TCP_CLOSED_SECONDS => verdicts.strays.push(*key),
            _ => {}
        }
    }
    verdicts
}

/// Seconds since the last packet; the kernel's clock may be a moment ahead of ours.
fn idle(entry: &CtEntry, now: u32) -> u32 {
    now.saturating_sub(entry.last_seen)
}

#[cfg(test)]
mod tests;
