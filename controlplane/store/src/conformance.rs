//! What every home of the data must do, as one suite over the trait.

use std::time::Duration;

use bytes::Bytes;

use crate::{Compare, Op, Outcome, Range, Store, StoreError, Txn, Watch, WatchItem};

const WAIT: Duration = Duration::from_secs(5);

/// Runs the whole suite. The store's keys below `/conformance/` must be unused.
///
/// # Panics
/// At the first promise the store does not keep.
pub async fn run(store: &dyn Store) {
    compare_and_swap(store).await;
    transactions_are_atomic(store).await;
    pages_are_pinned(store).await;
    watches_resume_without_gaps(store).await;
    watches_see_only_their_prefix(store).await;
    progress_follows_events(store).await;
    the_past_ends_at_compaction(store).await;
}

fn key(name: &str) -> Bytes {
    Bytes::from(format!("/conformance/{name}"))
}

async fn commit(store: &dyn Store, txn: Txn) -> u64 {
    match store.txn(txn).await.expect("txn") {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(found) => panic!("unexpected conflict with {found:?}"),
    }
}

async fn put(store: &dyn Store, name: &str, value: &str) -> u64 {
    let op = Op::Put { key: key(name), value: Bytes::from(value.to_owned()) };
    commit(store, Txn { compares: vec![], ops: vec![op] }).await
}

async fn delete(store: &dyn Store, name: &str) -> u64 {
    commit(store, Txn { compares: vec![], ops: vec![Op::Delete { key: key(name) }] }).await
}

async fn value(store: &dyn Store, name: &str, at: Option<u64>) -> Option<String> {
    let item = store.get(&key(name), at).await.expect("get").item?;
    Some(String::from_utf8_lossy(&item.value).into_owned())
}

/// The next event as `revision key=value` (or `key-` for a delete), or `progress revision`.
async fn next(watch: &mut Watch) -> String {
    let item = tokio::time::timeout(WAIT, watch.next()).await.expect("an item in time").expect("the watch goes on");
    match item {
        WatchItem::Progress(revision) => format!("progress {revision}"),
        WatchItem::Event(event) => {
            let key = String::from_utf8_lossy(&event.key).replace("/conformance/", "");
            let before = event.previous.as_ref().map_or("none".into(), |kv| String::from_utf8_lossy(&kv.value).into_owned());
            match &event.value {
                Some(item) => format!("{} {key}={} was {before}", event.revision, String::from_utf8_lossy(&item.value)),
                None => format!("{} {key}- was {before}", event.revision),
            }
        }
    }
}

async fn compare_and_swap(store: &dyn Store) {
    let made = commit(store, Txn::create(key("cas"), "1".into())).await;
    let Outcome::Conflict(found) = store.txn(Txn::create(key("cas"), "2".into())).await.expect("txn") else {
        panic!("a second create must conflict")
    };
    assert_eq!(found[0].as_ref().map(|kv| kv.mod_revision), Some(made), "the conflict shows what is there");
    let changed = commit(store, Txn::replace(key("cas"), made, "3".into())).await;
    assert!(changed > made);
    let stale = store.txn(Txn::replace(key("cas"), made, "4".into())).await.expect("txn");
    assert!(matches!(stale, Outcome::Conflict(_)), "a write with a stale revision must conflict");
    let item = store.get(&key("cas"), None).await.expect("get").item.expect("there");
    assert_eq!((&item.value[..], item.create_revision, item.mod_revision), (&b"3"[..], made, changed));
    let stale = store.txn(Txn::delete(key("cas"), made)).await.expect("txn");
    assert!(matches!(stale, Outcome::Conflict(_)), "a delete with a stale revision must conflict");
    let gone = commit(store, Txn::delete(key("cas"), changed)).await;
    assert_eq!(value(store, "cas", None).await, None);
    assert_eq!(delete(store, "cas").await, gone, "deleting what is not there is no change");
    assert_eq!(store.revision().await.expect("revision"), gone);
}

async fn transactions_are_atomic(store: &dyn Store) {
    let here = put(store, "a/here", "1").await;
    let ops = vec![
        Op::Put { key: key("a/one"), value: "1".into() },
        Op::Put { key: key("a/two"), value: "2".into() },
        Op::Delete { key: key("a/here") },
    ];
    let wrong = vec![Compare { key: key("a/here"), mod_revision: here }, Compare { key: key("a/none"), mod_revision: 7 }];
    let outcome = store.txn(Txn { compares: wrong, ops: ops.clone() }).await.expect("txn");
    assert!(matches!(outcome, Outcome::Conflict(ref found) if found.len() == 2), "{outcome:?}");
    assert_eq!(value(store, "a/one", None).await, None, "nothing of a failed transaction is done");
    let right = vec![Compare { key: key("a/here"), mod_revision: here }, Compare { key: key("a/none"), mod_revision: 0 }];
    let revision = commit(store, Txn { compares: right, ops }).await;
    assert_eq!(revision, here + 1, "one transaction, one revision");
    let page = store.range(Range { prefix: key("a/"), ..Range::default() }).await.expect("range");
    assert_eq!(page.items.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [revision, revision]);
    let twice = vec![Op::Put { key: key("a/x"), value: "1".into() }, Op::Delete { key: key("a/x") }];
    assert!(store.txn(Txn { compares: vec![], ops: twice }).await.is_err(), "a key may be written once");
}

async fn pages_are_pinned(store: &dyn Store) {
    for name in ["p/a", "p/b", "p/c", "p/d"] {
        put(store, name, "old").await;
    }
    let prefix = key("p/");
    let first = store.range(Range { prefix: prefix.clone(), limit: 2, ..Range::default() }).await.expect("range");
    assert_eq!((first.items.len(), first.remaining), (2, 2));
    put(store, "p/bb", "new").await;
    put(store, "p/c", "new").await;
    delete(store, "p/d").await;
    let last = first.items.last().map(|kv| kv.key.clone());
    let rest = Range { prefix: prefix.clone(), start_after: last, limit: 10, at: Some(first.revision) };
    let second = store.range(rest).await.expect("range");
    let seen: Vec<_> = second.items.iter().map(|kv| (kv.key.clone(), kv.value.clone())).collect();
    assert_eq!(seen, [(key("p/c"), "old".into()), (key("p/d"), "old".into())], "a page shows its revision, not the present");
    assert_eq!((second.revision, second.remaining), (first.revision, 0));
    assert_eq!(value(store, "p/c", Some(first.revision)).await.as_deref(), Some("old"));
    assert_eq!(value(store, "p/bb", Some(first.revision)).await, None);
    let now = store.range(Range { prefix, ..Range::default() }).await.expect("range");
    assert_eq!(
        now.items.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(),
        [key("p/a"), key("p/b"), key("p/bb"), key("p/c")]
    );
    let ahead = store.get(&key("p/a"), Some(now.revision + 1)).await;
    assert!(matches!(ahead, Err(StoreError::Future { .. })), "{ahead:?}");
}

async fn watches_resume_without_gaps(store: &dyn Store) {
    let start = store.revision().await.expect("revision");
    let one = put(store, "w/a", "1").await;
    let mut watch = store.watch(&key("w/"), start).await.expect("watch");
    let two = put(store, "w/a", "2").await;
    let three = delete(store, "w/a").await;
    assert_eq!(next(&mut watch).await, format!("{one} w/a=1 was none"));
    assert_eq!(next(&mut watch).await, format!("{two} w/a=2 was 1"));
    assert_eq!(next(&mut watch).await, format!("{three} w/a- was 2"));
    let mut resumed = store.watch(&key("w/"), two).await.expect("watch");
    assert_eq!(next(&mut resumed).await, format!("{three} w/a- was 2"), "a watch starts after the given revision");
    let ahead = store.watch(&key("w/"), three + 1).await;
    assert!(matches!(ahead.err(), Some(StoreError::Future { .. })));
}

async fn watches_see_only_their_prefix(store: &dyn Store) {
    let start = store.revision().await.expect("revision");
    let mut narrow = store.watch(&key("x/ns1/"), start).await.expect("watch");
    let mut wide = store.watch(&key("x/"), start).await.expect("watch");
    let one = put(store, "x/ns2/a", "1").await;
    let two = put(store, "x/ns1/a", "2").await;
    put(store, "y/ns1/a", "3").await;
    assert_eq!(next(&mut narrow).await, format!("{two} x/ns1/a=2 was none"));
    assert_eq!(next(&mut wide).await, format!("{one} x/ns2/a=1 was none"));
    assert_eq!(next(&mut wide).await, format!("{two} x/ns1/a=2 was none"));
    assert!(narrow.try_next().is_none() && wide.try_next().is_none());
}

async fn progress_follows_events(store: &dyn Store) {
    let start = store.revision().await.expect("revision");
    let mut watch = store.watch(&key("g/"), start).await.expect("watch");
    let one = put(store, "g/a", "1").await;
    let two = put(store, "other", "2").await;
    watch.request_progress();
    assert_eq!(next(&mut watch).await, format!("{one} g/a=1 was none"));
    let progress = next(&mut watch).await;
    let revision: u64 = progress.strip_prefix("progress ").expect("progress").parse().expect("a number");
    assert!(revision >= two, "progress covers what was committed before it was asked for");
}

async fn the_past_ends_at_compaction(store: &dyn Store) {
    let one = put(store, "c/a", "1").await;
    let two = put(store, "c/a", "2").await;
    let three = put(store, "c/a", "3").await;
    store.compact(two).await.expect("compact");
    assert!(matches!(store.get(&key("c/a"), Some(one)).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.watch(&key("c/"), one).await.err(), Some(StoreError::Compacted { .. })));
    assert_eq!(value(store, "c/a", Some(two)).await.as_deref(), Some("2"));
    assert_eq!(value(store, "c/a", Some(three)).await.as_deref(), Some("3"));
    let mut watch = store.watch(&key("c/"), two).await.expect("watch");
    assert_eq!(next(&mut watch).await, format!("{three} c/a=3 was 2"));
    assert!(matches!(store.compact(three + 1).await, Err(StoreError::Future { .. })));
}
