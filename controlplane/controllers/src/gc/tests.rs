//! Verdicts over objects, and which objects a change makes one look at.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::cache::Cached;

/// An object from words: its uid, then `of:UID` for every owner, `leaving`, `foreground`, `orphan`.
fn item(words: &str) -> Item {
    let mut words = words.split(' ');
    let uid = words.next().unwrap();
    let mut meta = json!({"name": uid, "namespace": "n", "uid": uid, "ownerReferences": [], "finalizers": []});
    for word in words {
        match word {
            "leaving" => meta["deletionTimestamp"] = json!("2030-01-01T00:00:00Z"),
            "foreground" => meta["finalizers"].as_array_mut().unwrap().push(json!("foregroundDeletion")),
            "orphan" => meta["finalizers"].as_array_mut().unwrap().push(json!("orphan")),
            owner => {
                let uid = owner.strip_prefix("of:").unwrap();
                meta["ownerReferences"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid}));
            }
        }
    }
    Item::new(Pod::names(), &serde_json::from_value(meta).unwrap())
}

#[test]
fn verdicts() {
    let check = |words: &str, owners: &[(&str, Owner)], has_dependents: bool, expected: Verdict| {
        let owners: Vec<_> = owners.iter().map(|(uid, owner)| ((*uid).to_owned(), *owner)).collect();
        assert_eq!(judge(&item(words), &owners, has_dependents), expected, "{words} {owners:?} {has_dependents}");
    };
    use Owner::{Alive, AwaitsDependents, Gone};
    let unlink = |uids: &[&str]| Verdict::Unlink(uids.iter().map(ToString::to_string).collect());
    check("x", &[], false, Verdict::Keep);
    check("x", &[("a", Alive)], false, Verdict::Keep);
    check("x", &[("a", Gone)], false, Verdict::Remove(Policy::Background));
    check("x", &[("a", Gone), ("b", Alive)], false, unlink(&["a"]));
    check("x", &[("a", Gone), ("b", AwaitsDependents), ("c", Alive)], true, unlink(&["a", "b"]));
    check("x", &[("a", AwaitsDependents)], false, Verdict::Remove(Policy::Background));
    check("x", &[("a", AwaitsDependents)], true, Verdict::Remove(Policy::Foreground));
    check("x orphan", &[("a", Gone)], true, Verdict::Remove(Policy::Orphan));
    check("x foreground", &[("a", Gone)], false, Verdict::Remove(Policy::Foreground));
}

#[test]
fn what_a_change_makes_one_look_at() {
    // The objects there are; what one was; what it is now; whom to look at.
    let check = |all: &[&str], old: Option<&str>, new: Option<&str>, expected: &[&str]| {
        let mut graph = Graph::default();
        all.iter().for_each(|words| graph.put(item(words)));
        let (old, new) = (old.map(item), new.map(item));
        if let Some(old) = &old {
            graph.remove(&old.uid);
        }
        if let Some(new) = &new {
            graph.put(new.clone());
        }
        let mut work = Vec::new();
        route(&graph, old.as_ref(), new.as_ref(), &mut work);
        let expected: Vec<_> = expected.iter().map(|uid| Work::Collect((*uid).to_owned())).collect();
        assert_eq!(work, expected, "{all:?}: {old:?} to {new:?}");
    };
    check(&[], None, Some("a"), &[]);
    check(&["a"], None, Some("b of:a"), &[]);
    check(&[], None, Some("b of:a"), &["b"]);
    check(&["a leaving foreground"], None, Some("b of:a"), &["b"]);
    check(&["b of:a", "c of:a"], Some("a"), None, &["b", "c"]);
    check(&["b of:a"], Some("a"), Some("a leaving foreground"), &["a"]);
    check(&["b of:a"], Some("a"), Some("a leaving orphan"), &["a"]);
    check(&["b of:a"], Some("a"), Some("a leaving"), &[]);
    // The one that a waiting owner waits for is gone, or its own no more.
    check(&["a leaving foreground"], Some("b of:a"), None, &["a"]);
    check(&["a leaving foreground"], Some("b of:a"), Some("b"), &["a"]);
    check(&["a"], Some("b of:a"), Some("b of:a"), &[]);
}
