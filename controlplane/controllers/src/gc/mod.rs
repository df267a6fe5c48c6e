//! Garbage collection: what happens to an object whose owners are gone, or going, or want to be gone without it.

mod collect;

use crate::cache::{Graph, Item};
use crate::route::Work;

pub use collect::collect;

/// How an owner that an object refers to is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Alive,
    /// On its way out, after its dependents.
    AwaitsDependents,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// Keep, but without the references to these uids.
    Unlink(Vec<String>),
    Remove(Policy),
}

/// What is to become of an object that is not being deleted. `owners` holds the uids that it refers to.
pub fn judge(item: &Item, owners: &[(String, Owner)], has_dependents: bool) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    let lost: Vec<String> = owners.iter().filter(|(_, owner)| *owner != Owner::Alive).map(|(uid, _)| uid.clone()).collect();
    if lost.len() < owners.len() {
        return if lost.is_empty() { Verdict::Keep } else { Verdict::Unlink(lost) };
    }
    let awaited = owners.iter().any(|(_, owner)| *owner == Owner::AwaitsDependents);
    Verdict::Remove(match item {
        // Whoever waits for this one also waits for what this one owns.
        _ if awaited && has_dependents => Policy::Foreground,
        Item { orphan: true, .. } => Policy::Orphan,
        Item { foreground: true, .. } => Policy::Foreground,
        _ => Policy::Background,
    })
}

/// The objects to look at after a change of one. The graph is as it is after it.
pub fn route(graph: &Graph, old: Option<&Item>, new: Option<&Item>, work: &mut Vec<Work>) {
    let collect = |item: &Item| Work::Collect(item.uid.clone());
    let awaiting = |uid: &str| graph.get(uid).filter(|owner| owner.awaits_dependents());
    if let Some(new) = new
        && old.is_none_or(|old| old != new)
    {
        let doubtful = new.owners.iter().any(|owner| graph.get(&owner.uid).is_none_or(Item::awaits_dependents));
        if doubtful || new.deleting && (new.foreground || new.orphan) {
            work.push(collect(new));
        }
    }
    let Some(old) = old.filter(|old| new != Some(*old)) else { return };
    // It may have been the last one that an owner waited for.
    work.extend(old.owners.iter().filter_map(|owner| awaiting(&owner.uid)).map(collect));
    if new.is_none_or(|new| new.uid != old.uid) {
        work.extend(graph.dependents(&old.uid).map(collect));
    }
}

#[cfg(test)]
mod tests;
