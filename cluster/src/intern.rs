//! Words that are said again and again: namespaces, nodes, zones, names of ports. Each is kept once, however many objects
//! say it.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Fewer words than this are not looked through for those that nobody says any more.
const FEW: usize = 1_024;

/// The words in use.
#[derive(Debug, Default)]
struct Words {
    known: HashSet<Arc<str>>,
    /// How many there may be before the unused ones are forgotten.
    limit: usize,
}

/// The same text as one that is shared with all who said it before.
pub(crate) fn intern(text: &str) -> Arc<str> {
    static WORDS: LazyLock<Mutex<Words>> = LazyLock::new(Mutex::default);
    if text.is_empty() {
        return Arc::default();
    }
    WORDS.lock().unwrap_or_else(PoisonError::into_inner).get(text)
}

// === impl Words ===

impl Words {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.limit.max(FEW) {
            self.known.retain(|word| Arc::strong_count(word) > 1);
            self.limit = self.known.len() * 2;
        }
        let new: Arc<str> = text.into();
        self.known.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_word_is_the_same_memory() {
        let mut words = Words::default();
        let (first, second, other) = (words.get("kube-system"), words.get("kube-system"), words.get("kube-public"));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &other));
        assert_eq!((&*second, &*other), ("kube-system", "kube-public"));
    }

    #[test]
    fn words_that_nobody_says_any_more_are_forgotten() {
        let mut words = Words::default();
        let kept: Vec<Arc<str>> = (0..10).map(|number| words.get(&format!("kept-{number}"))).collect();
        for number in 0..10 * FEW {
            words.get(&format!("passing-{number}"));
        }
        assert!(words.known.len() <= FEW, "{}", words.known.len());
        for word in &kept {
            assert!(Arc::ptr_eq(word, &words.get(word)), "{word} is in use");
        }
        // What is in use is not looked through at every new word.
        let _many: Vec<Arc<str>> = (0..2 * FEW).map(|number| words.get(&format!("many-{number}"))).collect();
        assert!(words.known.len() >= 2 * FEW && words.limit > FEW);
    }
}
