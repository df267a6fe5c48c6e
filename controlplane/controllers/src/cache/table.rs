//! One kind's objects as the watch and our own writes tell of them.
//!
//! Writes go into the table as soon as the server has answered, ahead of the watch, so that a controller never acts on a state
//! without its own last step. Until the watch has caught up, the table remembers which entries it holds on its own authority,
//! and which removals, so that older news cannot undo them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Resource;

use crate::meta::{self, Key};

/// One object's change: what it was and what it is now; never both `None`.
#[derive(Debug)]
pub struct Changed<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

#[derive(Debug)]
pub struct Table<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Keys by the uid of their controller.
    managed: HashMap<String, BTreeSet<Key>>,
    /// Our own writes that the watch has not told of yet.
    ahead: HashMap<Key, Instant>,
    /// Uids that we removed and the watch has not told of yet.
    removed: HashSet<String>,
    /// Keys seen in the list under way.
    listing: Option<BTreeSet<Key>>,
    listed: bool,
}

// === impl Table ===

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            managed: HashMap::new(),
            ahead: HashMap::new(),
            removed: HashSet::new(),
            listing: None,
            listed: false,
        }
    }
}

impl<K: Resource<DynamicType = ()>> Table<K> {
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// The objects of one namespace.
    pub fn within(&self, namespace: &str) -> impl Iterator<Item = &Arc<K>> {
        let first = Key::new(namespace, "");
        self.objects.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }

    /// The objects that the owner with this uid controls.
    pub fn managed(&self, owner: &str) -> impl Iterator<Item = &Arc<K>> {
        self.managed.get(owner).into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    /// A whole list has been seen.
    pub fn listed(&self) -> bool {
        self.listed
    }

    /// A new list begins. It is as recent as any write that was answered before, so it settles all of them.
    pub fn list_begins(&mut self) {
        self.listing = Some(BTreeSet::new());
        self.ahead.clear();
        self.removed.clear();
    }

    /// The list is complete: what it did not have is gone, except what we wrote meanwhile.
    pub fn list_ends(&mut self) -> Vec<Changed<K>> {
        self.listed = true;
        let Some(seen) = self.listing.take() else { return Vec::new() };
        let gone: Vec<Key> =
            self.objects.keys().filter(|key| !seen.contains(key) && !self.ahead.contains_key(key)).cloned().collect();
        gone.iter().filter_map(|key| self.take(key)).map(|old| Changed { old: Some(old), new: None }).collect()
    }

    /// The watch, or a list, has this object.
    pub fn seen(&mut self, object: K) -> Option<Changed<K>> {
        let key = Key::of(object.meta());
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        if self.removed.contains(meta::uid(object.meta())) {
            return None;
        }
        match self.age(&key, &object) {
            // A list that is older than what we have is that of a store that was set back: it is right, unless we just wrote.
            Age::Older if self.listing.is_none() || self.ahead.contains_key(&key) => return None,
            Age::Same => {
                self.ahead.remove(&key);
                return None;
            }
            Age::Older | Age::Newer => self.ahead.remove(&key),
        };
        Some(self.put(key, object))
    }

    /// The watch says that this object is gone.
    pub fn seen_gone(&mut self, object: &K) -> Option<Changed<K>> {
        let key = Key::of(object.meta());
        if self.removed.remove(meta::uid(object.meta())) {
            return None;
        }
        let current = self.objects.get(&key)?;
        if meta::uid(current.meta()) != meta::uid(object.meta()) {
            return None;
        }
        self.take(&key).map(|old| Changed { old: Some(old), new: None })
    }

    /// The server has answered a write of ours with this object.
    pub fn wrote(&mut self, object: K, now: Instant) -> Option<Changed<K>> {
        let key = Key::of(object.meta());
        if self.removed.contains(meta::uid(object.meta())) || !matches!(self.age(&key, &object), Age::Newer) {
            return None;
        }
        self.ahead.insert(key.clone(), now);
        Some(self.put(key, object))
    }

    /// The server has answered that it removed this object, or does not have it.
    pub fn removed(&mut self, key: &Key, uid: &str) -> Option<Changed<K>> {
        if self.objects.get(key).is_none_or(|current| meta::uid(current.meta()) != uid) {
            return None;
        }
        // An object of our own that the watch never told of is not in its future either way; a tombstone does no harm.
        self.removed.insert(uid.to_owned());
        self.take(key).map(|old| Changed { old: Some(old), new: None })
    }

    /// Our own writes that the watch should have told of by now.
    pub fn doubtful(&self, age: Duration, now: Instant) -> Vec<Key> {
        self.ahead.iter().filter(|(_, at)| now.duration_since(**at) >= age).map(|(key, _)| key.clone()).collect()
    }

    fn put(&mut self, key: Key, object: K) -> Changed<K> {
        let old = self.take(&key);
        if let Some(owner) = meta::controller(object.meta()) {
            self.managed.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        let new = Arc::new(object);
        self.objects.insert(key, Arc::clone(&new));
        Changed { old, new: Some(new) }
    }

    fn take(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        if let Some(owner) = meta::controller(old.meta())
            && let Some(keys) = self.managed.get_mut(&owner.uid)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.managed.remove(&owner.uid);
            }
        }
        Some(old)
    }

    fn age(&self, key: &Key, object: &K) -> Age {
        match self.objects.get(key) {
            Some(current) => Age::of(revision(object), revision(current.as_ref())),
            None => Age::Newer,
        }
    }
}

/// How an arriving object relates to the one that is there.
enum Age {
    Older,
    Same,
    Newer,
}

// === impl Age ===

impl Age {
    /// Revisions are numbers that grow; what is not a number cannot be compared and is taken as it comes.
    fn of(arriving: &str, current: &str) -> Self {
        match (arriving.parse::<u64>(), current.parse::<u64>()) {
            (Ok(arriving), Ok(current)) if arriving < current => Self::Older,
            (Ok(arriving), Ok(current)) if arriving == current => Self::Same,
            _ => Self::Newer,
        }
    }
}

fn revision<K: Resource>(object: &K) -> &str {
    object.meta().resource_version.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, revision: u64, owner: &str) -> Pod {
        let owners = match owner {
            "" => json!([]),
            owner => json!([{"apiVersion": "v1", "kind": "X", "name": owner, "uid": owner, "controller": true}]),
        };
        let metadata = json!({"namespace": "n", "name": name, "uid": uid, "resourceVersion": revision.to_string(), "ownerReferences": owners});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn content(table: &Table<Pod>) -> Vec<String> {
        table.iter().map(|pod| format!("{}@{}", meta::uid(pod.meta()), revision(pod.as_ref()))).collect()
    }

    #[test]
    fn our_writes_are_there_before_the_watch_tells() {
        let (mut table, now) = (Table::default(), Instant::now());
        assert!(table.seen(pod("a", "u", 3, "")).is_some());
        assert!(table.wrote(pod("a", "u", 7, ""), now).is_some());
        assert!(table.seen(pod("a", "u", 5, "")).is_none(), "older news");
        assert_eq!(content(&table), ["u@7"]);
        assert_eq!(table.doubtful(Duration::ZERO, now).len(), 1);
        assert!(table.seen(pod("a", "u", 7, "")).is_none(), "known");
        assert!(table.doubtful(Duration::ZERO, now).is_empty());
        assert!(table.seen(pod("a", "u", 9, "")).is_some());
        assert!(table.wrote(pod("a", "u", 8, ""), now).is_none(), "the watch was faster");
        assert_eq!(content(&table), ["u@9"]);
    }

    #[test]
    fn what_we_removed_does_not_come_back() {
        let (mut table, now) = (Table::default(), Instant::now());
        table.seen(pod("a", "u", 3, ""));
        assert!(table.removed(&Key::new("n", "a"), "other").is_none());
        assert!(table.removed(&Key::new("n", "a"), "u").is_some());
        assert!(table.seen(pod("a", "u", 4, "")).is_none());
        assert!(table.wrote(pod("a", "v", 9, ""), now).is_some());
        assert!(table.seen_gone(&pod("a", "u", 8, "")).is_none());
        assert_eq!(content(&table), ["v@9"]);
        assert!(table.seen_gone(&pod("a", "u", 8, "")).is_none(), "of another incarnation");
        assert!(table.seen_gone(&pod("a", "v", 10, "")).is_some());
        assert_eq!(content(&table), [""; 0]);
    }

    #[test]
    fn a_new_list_drops_what_it_lacks_but_not_what_was_written_meanwhile() {
        let (mut table, now) = (Table::default(), Instant::now());
        for name in ["a", "b", "c"] {
            table.seen(pod(name, name, 1, ""));
        }
        table.wrote(pod("d", "d", 2, ""), now);
        table.list_begins();
        table.seen(pod("a", "a", 1, ""));
        table.wrote(pod("e", "e", 5, ""), now);
        table.seen(pod("b", "b", 4, ""));
        let gone: Vec<_> = table
            .list_ends()
            .into_iter()
            .filter_map(|change| change.old)
            .map(|pod| meta::name(pod.meta()).to_owned())
            .collect();
        assert_eq!(gone, ["c", "d"]);
        assert_eq!(content(&table), ["a@1", "b@4", "e@5"]);
        assert!(table.listed());
    }

    #[test]
    fn a_store_that_was_set_back_is_believed() {
        let mut table = Table::default();
        table.seen(pod("a", "a", 90, ""));
        table.list_begins();
        table.wrote(pod("b", "b", 99, ""), Instant::now());
        assert!(table.seen(pod("a", "a", 5, "")).is_some());
        assert!(table.seen(pod("b", "b", 5, "")).is_none(), "written after the list began");
        table.list_ends();
        assert_eq!(content(&table), ["a@5", "b@99"]);
    }

    #[test]
    fn objects_are_found_by_controller_and_namespace() {
        let mut table = Table::default();
        table.seen(pod("a", "a", 1, "rs"));
        table.seen(pod("b", "b", 1, "rs"));
        table.seen(pod("c", "c", 1, ""));
        assert_eq!((table.managed("rs").count(), table.managed("x").count()), (2, 0));
        table.seen(pod("a", "a", 2, ""));
        assert_eq!(table.managed("rs").count(), 1);
        table.seen_gone(&pod("b", "b", 3, "rs"));
        assert_eq!(table.managed("rs").count(), 0);
        assert_eq!((table.within("n").count(), table.within("m").count(), table.within("o").count()), (2, 0, 0));
    }
}
