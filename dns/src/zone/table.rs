//! The table of names: persistent, so that a reader's snapshot never changes and a writer copies only what it touches.
//!
//! A radix tree of fixed depth over the hash of the name: 64 branches of 64 leaves, each leaf a short sorted vector. A
//! change to one name copies its path (two arrays of 64 pointers and one leaf) when a reader may still hold it, and nothing
//! otherwise; so a batch of changes pays for each branch once, and the first build pays for none. A look-up is one hash,
//! two indexed loads and a binary search. The hash is keyed at random: names are chosen by users.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use super::record::RrSet;
use crate::name::WireName;

const FANOUT: usize = 64;

/// Everything that exists at one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub name: WireName,
    /// Empty when only names below it have records.
    sets: Box<[RrSet]>,
    pub dashed: Dashed,
}

/// Which addresses, written with dashes, are names right below a node. They have no node of their own: there are many, and
/// hardly anybody asks for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dashed {
    /// Of pods: whatever is an address.
    Any,
    /// Of endpoints: these, in order.
    Only(Box<[IpAddr]>),
}

#[derive(Clone)]
struct Entry {
    hash: u64,
    node: Arc<Node>,
}

type Leaf = Vec<Entry>;
type Branch = [Arc<Leaf>; FANOUT];

#[derive(Clone)]
pub struct Table {
    root: Arc<[Arc<Branch>; FANOUT]>,
    hasher: RandomState,
    length: usize,
}

// === impl Node ===

impl Node {
    pub fn new(name: WireName, sets: impl IntoIterator<Item = RrSet>) -> Self {
        Self { name, sets: sets.into_iter().collect(), dashed: Dashed::default() }
    }

    /// A name that exists because names below it do.
    pub fn empty(name: WireName) -> Self {
        Self::new(name, [])
    }

    pub fn set(&self, rtype: u16) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.rtype() == rtype)
    }

    pub fn sets(&self) -> &[RrSet] {
        &self.sets
    }
}

// === impl Dashed ===

impl Default for Dashed {
    fn default() -> Self {
        Self::Only(Box::default())
    }
}

// === impl Table ===

impl Default for Table {
    fn default() -> Self {
        let leaf = Arc::new(Leaf::new());
        let branch = Arc::new(std::array::from_fn(|_| leaf.clone()));
        Self { root: Arc::new(std::array::from_fn(|_| branch.clone())), hasher: RandomState::new(), length: 0 }
    }
}

impl Table {
    /// Number of names.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What exists at a lower-cased wire name.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Node>> {
        let hash = self.hasher.hash_one(name);
        let (high, low) = slots(hash);
        let leaf = &self.root[high][low];
        let first = leaf.partition_point(|entry| entry.hash < hash);
        leaf[first..].iter().take_while(|entry| entry.hash == hash).map(|entry| &entry.node).find(|node| *node.name == *name)
    }

    /// Puts a node in the place of the one with the same name, if any.
    pub fn insert(&mut self, node: Arc<Node>) {
        let hash = self.hasher.hash_one(&*node.name);
        let leaf = self.leaf_mut(hash);
        match find(leaf, hash, &node.name) {
            Ok(index) => leaf[index].node = node,
            Err(index) => {
                leaf.insert(index, Entry { hash, node });
                self.length += 1;
            }
        }
    }

    /// True when the name was there.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        if self.get(name).is_none() {
            return false;
        }
        let hash = self.hasher.hash_one(name);
        let leaf = self.leaf_mut(hash);
        let Ok(index) = find(leaf, hash, name) else { return false };
        leaf.remove(index);
        self.length -= 1;
        true
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter()).map(|entry| &entry.node)
    }

    fn leaf_mut(&mut self, hash: u64) -> &mut Leaf {
        let (high, low) = slots(hash);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[high]);
        Arc::make_mut(&mut branch[low])
    }
}

fn slots(hash: u64) -> (usize, usize) {
    ((hash >> 58) as usize, (hash >> 52) as usize % FANOUT)
}

/// Where the name is, or where it belongs.
fn find(leaf: &Leaf, hash: u64, name: &[u8]) -> Result<usize, usize> {
    let first = leaf.partition_point(|entry| entry.hash < hash);
    let same = leaf[first..].iter().take_while(|entry| entry.hash == hash);
    same.enumerate().find(|(_, entry)| *entry.node.name == *name).map(|(index, _)| first + index).ok_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name;

    fn node(index: usize) -> Arc<Node> {
        Arc::new(Node::empty(name::encode(&format!("n{index}.zone")).expect("a name")))
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut table = Table::default();
        (0..20_000).for_each(|index| table.insert(node(index)));
        assert_eq!(table.len(), 20_000);
        let before = table.clone();
        (0..20_000).step_by(2).for_each(|index| assert!(table.remove(&node(index).name)));
        assert!(!table.remove(&node(0).name), "gone already");
        assert_eq!((before.len(), table.len()), (20_000, 10_000));
        assert_eq!((before.iter().count(), table.iter().count()), (20_000, 10_000));
        for index in 0..20_000 {
            assert!(before.get(&node(index).name).is_some());
            assert_eq!(table.get(&node(index).name).is_some(), index % 2 == 1);
        }
    }

    #[test]
    fn a_change_copies_only_its_path() {
        let mut table = Table::default();
        (0..5_000).for_each(|index| table.insert(node(index)));
        let before = table.clone();
        table.insert(node(5_000));
        let copied = |a: &Table, b: &Table| a.root.iter().zip(b.root.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied(&before, &table), 1);
    }

    #[test]
    fn a_node_takes_the_place_of_its_namesake() {
        let mut table = Table::default();
        table.insert(node(1));
        let mut other = Node::clone(&node(1));
        other.dashed = Dashed::Any;
        table.insert(Arc::new(other));
        assert_eq!(table.len(), 1);
        assert_eq!(table.get(&node(1).name).expect("there").dashed, Dashed::Any);
    }
}
