//! Where the zone keeps things: persistent, so that a reader's snapshot never changes and a writer copies only what it touches.
//!
//! A radix tree of fixed depth over a hash: 64 branches of 64 leaves, each leaf one allocation that holds exactly its items,
//! in order. A change to one item copies its path when a reader may still hold it (two arrays of 64 pointers), and the
//! leaf; so a batch of changes pays for each branch once. A look-up is two indexed loads and a binary search.

use std::sync::Arc;

const FANOUT: usize = 64;

type Branch<T> = [Arc<[T]>; FANOUT];

/// Items by hash. Those of one leaf are in order; the upper 12 bits of the hash choose the leaf.
#[derive(Clone)]
pub struct Trie<T> {
    root: Arc<[Arc<Branch<T>>; FANOUT]>,
    length: usize,
}

// === impl Trie ===

impl<T> Default for Trie<T> {
    fn default() -> Self {
        let leaf: Arc<[T]> = Arc::new([]);
        let branch = Arc::new(std::array::from_fn(|_| leaf.clone()));
        Self { root: Arc::new(std::array::from_fn(|_| branch.clone())), length: 0 }
    }
}

impl<T: Clone + Ord> Trie<T> {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The items that share a leaf with this hash, in order.
    pub fn leaf(&self, hash: u64) -> &[T] {
        let (high, low) = place(hash);
        &self.root[high][low]
    }

    /// Puts an item in the place of its equal, or adds it.
    pub fn insert(&mut self, hash: u64, item: T) {
        match self.leaf(hash).binary_search(&item) {
            Ok(at) => Arc::make_mut(self.leaf_mut(hash))[at] = item,
            Err(at) => {
                let leaf = self.leaf_mut(hash);
                let (before, after) = leaf.split_at(at);
                *leaf = before.iter().cloned().chain([item]).chain(after.iter().cloned()).collect();
                self.length += 1;
            }
        }
    }

    /// True when an equal item was there.
    pub fn remove(&mut self, hash: u64, item: &T) -> bool {
        let Ok(at) = self.leaf(hash).binary_search(item) else { return false };
        let leaf = self.leaf_mut(hash);
        *leaf = leaf[..at].iter().chain(&leaf[at + 1..]).cloned().collect();
        self.length -= 1;
        true
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.root.iter().flat_map(|branch| branch.iter()).flat_map(|leaf| leaf.iter())
    }

    /// Shows each item that is not the same as in an older state of this, with what was in its place; an item that is gone, with
    /// nothing in its place. What both states share is not looked at. In no order.
    pub fn changes<'a>(&'a self, old: &'a Self, see: &mut dyn FnMut(Option<&'a T>, Option<&'a T>)) {
        let branches = self.root.iter().zip(old.root.iter()).filter(|(new, old)| !Arc::ptr_eq(new, old));
        let leaves = branches.flat_map(|(new, old)| new.iter().zip(old.iter()));
        for (new, old) in leaves.filter(|(new, old)| !Arc::ptr_eq(new, old)) {
            old.iter().filter(|item| new.binary_search(item).is_err()).for_each(|item| see(Some(item), None));
            for item in new.iter() {
                see(old.binary_search(item).ok().map(|at| &old[at]), Some(item));
            }
        }
    }

    fn leaf_mut(&mut self, hash: u64) -> &mut Arc<[T]> {
        let (high, low) = place(hash);
        &mut Arc::make_mut(&mut Arc::make_mut(&mut self.root)[high])[low]
    }
}

fn place(hash: u64) -> (usize, usize) {
    ((hash >> 58) as usize, (hash >> 52) as usize % FANOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spreads like a hash does.
    fn hash(item: u32) -> u64 {
        u64::from(item).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut trie = Trie::default();
        (0..20_000).for_each(|item| trie.insert(hash(item), item));
        trie.insert(hash(7), 7);
        assert_eq!(trie.len(), 20_000, "an equal item takes the place of the old one");
        let before = trie.clone();
        (0..20_000).step_by(2).for_each(|item| assert!(trie.remove(hash(item), &item)));
        assert!(!trie.remove(hash(0), &0), "gone already");
        assert_eq!((before.len(), trie.len()), (20_000, 10_000));
        assert_eq!((before.iter().count(), trie.iter().count()), (20_000, 10_000));
        for item in 0..20_000 {
            assert!(before.leaf(hash(item)).contains(&item));
            assert_eq!(trie.leaf(hash(item)).contains(&item), item % 2 == 1);
        }
    }

    #[test]
    fn changes_are_what_differs() {
        let mut trie = Trie::default();
        (0..1_000).for_each(|item| trie.insert(hash(item), item));
        let before = trie.clone();
        let seen = |new: &Trie<u32>, old: &Trie<u32>| {
            let mut seen = Vec::new();
            new.changes(old, &mut |old, new| seen.push((old.copied(), new.copied())));
            seen.retain(|(old, new)| old != new);
            seen.sort_unstable();
            seen
        };
        assert_eq!(seen(&trie, &before), []);
        trie.remove(hash(7), &7);
        trie.remove(hash(8), &8);
        trie.insert(hash(8), 8);
        trie.insert(hash(2_000), 2_000);
        assert_eq!(seen(&trie, &before), [(None, Some(2_000)), (Some(7), None)]);
        assert_eq!(seen(&before, &trie), [(None, Some(7)), (Some(2_000), None)]);
        assert_eq!(seen(&before, &Trie::default()).len(), 1_000);
    }

    #[test]
    fn a_change_copies_only_its_path() {
        let mut trie = Trie::default();
        (0..5_000).for_each(|item| trie.insert(hash(item), item));
        let before = trie.clone();
        trie.insert(hash(5_000), 5_000);
        let pairs = before.root.iter().zip(trie.root.iter());
        let copied: Vec<_> = pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).collect();
        assert_eq!(copied.len(), 1);
        let (a, b) = copied[0];
        assert_eq!(a.iter().zip(b.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count(), 1);
    }
}
