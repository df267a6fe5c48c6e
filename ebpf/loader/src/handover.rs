//! From the maps of a predecessor to new ones, without losing a flow.
//!
//! What is the same stays the very same map. The rest is copied, and converted where the layout has changed.
//!
//! Flows of the same layout are copied while programs are in the links that know both maps (see the kernel side's `flows`):
//!
//! 1. The old programs give way, link by link, to ones that begin flows in the old map and find them in both. Whichever a
//!    packet meets, its flow is there.
//! 2. These give way to ones that begin flows in the new map. Whichever a packet meets, it looks in both.
//! 3. Nothing is written to the old map any more but by flows that it has: it is copied.
//! 4. The new programs come, which know the new map alone.
//!
//! What programs write otherwise is copied several times: once while only the old programs run, once more right before links
//! are switched, which is quick because little has come since, and once after, for what the old programs still wrote
//! until the last moment. In that moment a connection that is just being made may be given another backend; that is what
//! another layout of flows costs.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
};

use aya::Pod;
use thalweg_abi::{Be32, Be128, CtEntry, CtFlags, Tuple};

use crate::{
    Error,
    convert::{Converter, Role},
    maps::PINNED,
    raw_map::RawMap,
    sys,
};

/// The maps of a predecessor on their way into new ones.
#[derive(Debug)]
pub struct Handover {
    copies: Vec<Copying>,
    /// The new maps may be in use already.
    is_resumed: bool,
    /// Where the old maps are.
    pub from: PathBuf,
}

/// One map that is copied.
#[derive(Debug)]
struct Copying {
    from: RawMap,
    to: RawMap,
    key: Converter,
    value: Converter,
    rule: Rule,
    /// Both layouts are the same.
    is_verbatim: bool,
    /// Only the last pass copies it.
    is_bridged: bool,
    /// What was copied, by hash: keys, and the values that were written for them. Only what has come or changed since is
    /// copied again.
    copied: HashMap<u64, u64>,
    hasher: RandomState,
    /// One copy was enough, and has been made.
    is_done: bool,
}

/// Who writes a map, and whose entry counts when both maps have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The agent alone, which is not writing now: one copy is complete.
    Once,
    /// Packets, flow by flow: the old entry counts where the new programs had picked up a flow that they did not know.
    Flows,
    Flows6,
    /// Sockets and packets: the old entry counts, it is older.
    Old,
    /// Sockets: an entry of the new map is of a later connection of the same socket.
    New,
}

/// When a copy is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Nobody reads the new maps yet.
    Ahead,
    /// The new programs are at work on them, the old ones are not any more.
    Behind,
}

/// Maps of which the content has a meaning beyond the life of their programs, with their rules. Counters begin anew, and
/// pieces of datagrams are not worth it.
const RULES: [(&str, Rule); 18] = [
    ("FRONTENDS", Rule::Once),
    ("FRONTENDS6", Rule::Once),
    ("SLOTS", Rule::Once),
    ("BACKENDS", Rule::Once),
    ("SERVICES", Rule::Once),
    ("SERVICE_STATS", Rule::Once),
    ("SOURCE_RANGES", Rule::Once),
    ("SERVICE_RANGES", Rule::Once),
    ("LOCAL_PODS", Rule::Once),
    ("LOCAL_PODS6", Rule::Once),
    ("NETNS", Rule::Once),
    ("DNS_SERVERS", Rule::Once),
    ("DNS_ZONES", Rule::Once),
    ("DNS_NAMES", Rule::Once),
    ("CONNTRACK", Rule::Flows),
    ("CONNTRACK6", Rule::Flows6),
    ("AFFINITY", Rule::Old),
    ("SOCK_BACKENDS", Rule::New),
];

/// Without all of these, in their old meaning, what flows remember of their backends means nothing.
pub const NAMES_OF_BACKENDS: [&str; 4] = ["FRONTENDS", "SLOTS", "BACKENDS", "SERVICES"];

// === impl Handover ===

impl Handover {
    /// Finds out what is to be copied from the maps of one folder to those of another. Maps that both have in common are not.
    ///
    /// # Errors
    /// [`Error::TooSmall`] when a new map has no room for what the old one holds.
    pub fn between(folder: &Path, to: &Path) -> Result<Self, Error> {
        let mut copies = Vec::new();
        let mut lost = Vec::new();
        for (name, rule) in RULES {
            let Some(name) = PINNED.into_iter().find(|pinned| *pinned == name) else { continue };
            let (Some(from), Some(to)) = (RawMap::open(folder, name)?, RawMap::open(to, name)?) else { continue };
            if from.shape.id == to.shape.id {
                continue;
            }
            match Copying::new(from, to, rule) {
                Some(copy) => copies.push(copy),
                None => lost.push(name),
            }
        }
        if !lost.is_empty() {
            tracing::warn!(maps = ?lost, "pinned maps have another layout and cannot be taken over");
        }
        if NAMES_OF_BACKENDS.iter().any(|name| lost.contains(name)) {
            copies.retain(|copy| !NAMES_OF_BACKENDS.contains(&copy.to.name) && copy.rule == Rule::Once);
        }
        Ok(Self { copies, is_resumed: false, from: folder.to_owned() })
    }

    /// For new maps that may be in use already: what only the agent writes is left out, and every entry is weighed.
    pub fn resumed(mut self) -> Self {
        self.copies.retain(|copy| copy.rule != Rule::Once);
        self.is_resumed = true;
        if self.is_bridgeable() {
            self.bridge();
        }
        self
    }

    /// Whether flows are to be copied, and programs can work on the old and the new maps of flows at once meanwhile.
    pub fn is_bridgeable(&self) -> bool {
        let mut flows = self.copies.iter().filter(|copy| copy.rule.is_of_flows()).peekable();
        flows.peek().is_some() && flows.all(|copy| copy.is_verbatim)
    }

    /// Copies flows at the last pass only, which is complete then: until it has begun, programs that know both maps use the
    /// old one, and after that nothing new comes there.
    pub fn bridge(&mut self) {
        self.copies.iter_mut().for_each(|copy| copy.is_bridged = copy.rule.is_of_flows());
    }

    /// # Errors
    /// [`Error::TooSmall`] when a new map has no room for what the old one holds.
    pub fn check_room(&self) -> Result<(), Error> {
        for Copying { from, to, .. } in &self.copies {
            let used = from.used()?;
            if used > to.shape.max_entries {
                return Err(Error::TooSmall { table: to.name, wanted: to.shape.max_entries, used });
            }
        }
        Ok(())
    }

    /// Copies what has not been copied yet.
    ///
    /// # Errors
    /// [`Error::Table`] when a map cannot be read or written.
    pub fn carry(&mut self, pass: Pass) -> Result<(), Error> {
        let weigh = self.is_resumed || pass == Pass::Behind;
        self.copies.iter_mut().try_for_each(|copy| match copy.carry(pass, weigh) {
            // Packets fill it meanwhile: what does not fit is refused as it would be from a packet.
            Err(Error::TableFull { table, capacity }) if copy.rule != Rule::Once => {
                tracing::warn!(table, capacity, "is full: not everything could be taken over");
                Ok(())
            }
            result => result,
        })
    }
}

// === impl Copying ===

impl Copying {
    fn new(from: RawMap, to: RawMap, rule: Rule) -> Option<Self> {
        let (old, new) = (from.described()?, to.described()?);
        let key = Converter::new(&old.key, &new.key, Role::Key)?;
        let value = Converter::new(&old.value, &new.value, Role::Value)?;
        let is_verbatim = old == new;
        let (copied, hasher) = (HashMap::new(), RandomState::new());
        Some(Self { from, to, key, value, rule, is_verbatim, is_bridged: false, copied, hasher, is_done: false })
    }

    /// `weigh`: programs write to the new map, too.
    fn carry(&mut self, pass: Pass, weigh: bool) -> Result<(), Error> {
        if self.is_bridged && pass == Pass::Ahead {
            return Ok(());
        }
        if self.rule == Rule::Once && (pass == Pass::Behind || self.is_done) {
            return Ok(());
        }
        let Self { from, to, key, value, rule, copied, hasher, .. } = self;
        let (key_size, value_size) = (from.shape.key_size as usize, from.shape.value_size as usize);
        let is_array = from.is_array();
        let (mut keys, mut values, mut news) = (Vec::new(), Vec::new(), Vec::new());
        from.visit(&mut |old_keys, old_values| {
            keys.clear();
            values.clear();
            news.clear();
            for (old_key, old_value) in old_keys.chunks_exact(key_size).zip(old_values.chunks_exact(value_size)) {
                // Elements of arrays that are not in use have nothing to say.
                if is_array && old_value.iter().all(|byte| *byte == 0) {
                    continue;
                }
                let start = (keys.len(), values.len());
                key.convert(old_key, &mut keys);
                value.convert(old_value, &mut values);
                let (new_key, hash) = (&keys[start.0..], |bytes: &[u8]| hasher.hash_one(bytes));
                let entry = (hash(old_key), hash(&values[start.1..]));
                let before = copied.get(&entry.0).copied();
                let is_wanted = match before {
                    Some(before) if before == entry.1 || rule.is_of_flows() => false,
                    _ if weigh => rule.settle(to, new_key, |found| before == Some(hash(found)))?,
                    _ => true,
                };
                if is_wanted {
                    news.push(entry);
                } else {
                    keys.truncate(start.0);
                    values.truncate(start.1);
                }
            }
            to.write(&keys, &values)?;
            // Not before it is there: what could not be written is tried again.
            if *rule != Rule::Once {
                copied.extend(news.drain(..));
            }
            Ok(())
        })?;
        self.is_done = true;
        Ok(())
    }
}

// === impl Rule ===

impl Rule {
    fn is_of_flows(self) -> bool {
        matches!(self, Self::Flows | Self::Flows6)
    }

    /// Whether the old entry of a key is to be written into a map that programs are using; what it replaces is removed.
    /// `is_ours` says of an entry that is there already whether it is a copy of what the old map held before.
    fn settle(self, to: &RawMap, key: &[u8], is_ours: impl Fn(&[u8]) -> bool) -> Result<bool, Error> {
        let Some(found) = to.get(key)? else { return Ok(true) };
        match self {
            Self::Once | Self::Old => Ok(true),
            Self::New => Ok(is_ours(&found)),
            Self::Flows => replace_picked_up::<Be32>(to, &found),
            Self::Flows6 => replace_picked_up::<Be128>(to, &found),
        }
    }
}

/// A flow that was picked up in the middle was given a backend by chance: its other direction goes, too.
fn replace_picked_up<A>(to: &RawMap, found: &[u8]) -> Result<bool, Error>
where
    A: std::marker::Copy,
    CtEntry<A>: Pod,
    Tuple<A>: Pod,
{
    let entry: CtEntry<A> = sys::from_bytes(found);
    if !entry.flags.has(CtFlags::PICKED_UP) {
        return Ok(false);
    }
    to.delete(sys::as_bytes(&entry.to.reversed()))?;
    Ok(true)
}

#[cfg(test)]
mod tests;
