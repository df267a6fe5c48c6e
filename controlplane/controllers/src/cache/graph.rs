//! Who owns whom, over all kinds.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::meta::{self, Key, Kind};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// What the garbage collector knows of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub kind: &'static Kind,
    pub key: Key,
    pub uid: String,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    /// Waits, while it is being deleted, for its dependents to be gone.
    pub foreground: bool,
    /// Waits, while it is being deleted, for its dependents to be set free.
    pub orphan: bool,
}

#[derive(Debug, Default)]
pub struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
}

// === impl Item ===

impl Item {
    pub fn new(kind: &'static Kind, meta: &ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Self {
            kind,
            key: Key::of(meta),
            uid: meta::uid(meta).to_owned(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta::deleting(meta),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// On its way out, and its dependents go first.
    pub fn awaits_dependents(&self) -> bool {
        self.deleting && self.foreground
    }
}

// === impl Graph ===

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Item> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.items.get(uid))
    }

    pub fn put(&mut self, item: Item) {
        self.remove(&item.uid);
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
        }
        self.items.insert(item.uid.clone(), item);
    }

    /// Removes an object. Its dependents stay known as such: they are what has to be looked at.
    pub fn remove(&mut self, uid: &str) {
        let Some(item) = self.items.remove(uid) else { return };
        for owner in item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}
