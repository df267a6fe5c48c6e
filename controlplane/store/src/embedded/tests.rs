//! What the embedded store promises beyond the suite: durability, group commit, bounded history, slow watchers.

use super::*;
use crate::Op;

fn put(key: &str, value: &str) -> Txn {
    Txn { compares: vec![], ops: vec![Op::Put { key: key.to_owned().into(), value: value.to_owned().into() }] }
}

#[tokio::test]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store")).unwrap();
    crate::conformance::run(&store).await;
}

#[tokio::test]
async fn a_reopened_store_has_every_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store");
    let (revision, kept) = {
        let store = Embedded::open(&file).unwrap();
        store.txn(put("/a", "1")).await.unwrap();
        store.txn(put("/b", "2")).await.unwrap();
        store.txn(put("/a", "3")).await.unwrap();
        let gone = Txn { compares: vec![], ops: vec![Op::Delete { key: "/b".into() }] };
        store.txn(gone).await.unwrap();
        (store.revision().await.unwrap(), store.get(b"/a", None).await.unwrap().item)
    };
    let store = Embedded::open(&file).unwrap();
    assert_eq!(store.revision().await.unwrap(), revision);
    assert_eq!(store.get(b"/a", None).await.unwrap().item, kept);
    assert_eq!(store.get(b"/b", None).await.unwrap().item, None);
    assert!(store.watch(b"/", revision).await.is_ok(), "a watcher that had seen everything goes on");
    assert!(matches!(store.watch(b"/", revision - 1).await.err(), Some(StoreError::Compacted { .. })));
    assert_eq!(store.txn(put("/c", "4")).await.unwrap(), Outcome::Committed(revision + 1));
}

#[tokio::test]
async fn a_copy_of_the_file_taken_while_running_holds_what_was_acknowledged() {
    // What a crash leaves behind is the file as it is now, without a clean close.
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store")).unwrap();
    for n in 0..50 {
        store.txn(put(&format!("/k{n}"), "value")).await.unwrap();
    }
    std::fs::copy(dir.path().join("store"), dir.path().join("crashed")).unwrap();
    let crashed = Embedded::open(&dir.path().join("crashed")).unwrap();
    assert_eq!(crashed.revision().await.unwrap(), store.revision().await.unwrap());
    let all = Range { prefix: "/k".into(), ..Range::default() };
    assert_eq!(crashed.range(all.clone()).await.unwrap(), store.range(all).await.unwrap());
}

#[tokio::test]
async fn concurrent_swaps_of_one_key_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(&dir.path().join("store")).unwrap());
    store.txn(put("/n", "0")).await.unwrap();
    let add = |store: Arc<Embedded>| async move {
        for _ in 0..10 {
            loop {
                let item = store.get(b"/n", None).await.unwrap().item.unwrap();
                let n: u64 = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
                let txn = Txn::replace(item.key, item.mod_revision, (n + 1).to_string().into());
                if matches!(store.txn(txn).await.unwrap(), Outcome::Committed(_)) {
                    break;
                }
            }
        }
    };
    futures::future::join_all((0..8).map(|_| add(store.clone()))).await;
    assert_eq!(&store.get(b"/n", None).await.unwrap().item.unwrap().value[..], b"80");
}

#[tokio::test]
async fn a_slow_watcher_is_dropped_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { watch_queue: 4, ..Options::default() };
    let store = Embedded::open_with(&dir.path().join("store"), options).unwrap();
    let start = store.revision().await.unwrap();
    let mut slow = store.watch(b"/", start).await.unwrap();
    let mut quick = store.watch(b"/", start).await.unwrap();
    for n in 0..6 {
        store.txn(put("/k", &n.to_string())).await.unwrap();
        assert!(matches!(quick.next().await, Some(WatchItem::Event(_))));
    }
    for _ in 0..4 {
        assert!(matches!(slow.next().await, Some(WatchItem::Event(_))));
    }
    assert!(slow.next().await.is_none(), "what was lost is not skipped over in silence");
    assert_eq!(store.watchers(), 1);
    drop(quick);
    assert_eq!(store.watchers(), 0);
}

#[tokio::test]
async fn history_is_bounded_by_its_bytes_and_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { history_bytes: 10_000, ..Options::default() };
    let store = Embedded::open_with(&dir.path().join("small"), small).unwrap();
    for _ in 0..100 {
        store.txn(put("/k", &"x".repeat(1000))).await.unwrap();
    }
    let now = store.revision().await.unwrap();
    assert!(store.watch(b"/", now - 2).await.is_ok());
    assert!(matches!(store.watch(b"/", now - 50).await.err(), Some(StoreError::Compacted { .. })));

    let short = Options { history_age: Duration::ZERO, history_events: 5, ..Options::default() };
    let store = Embedded::open_with(&dir.path().join("short"), short).unwrap();
    for _ in 0..20 {
        store.txn(put("/k", "x")).await.unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = store.revision().await.unwrap();
    assert!(store.watch(b"/", now - 5).await.is_ok(), "the newest events stay however old they are");
    assert!(matches!(store.watch(b"/", now - 10).await.err(), Some(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn churn_does_not_grow_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store");
    let store = Embedded::open(&file).unwrap();
    let churn = async |rounds: usize| {
        for n in 0..rounds {
            store.txn(put(&format!("/lease{}", n % 10), &"x".repeat(500))).await.unwrap();
        }
        std::fs::metadata(&file).unwrap().len()
    };
    let early = churn(100).await;
    let late = churn(400).await;
    assert!(late <= early.max(4 << 20), "the file grew from {early} to {late} bytes");
}

#[tokio::test]
async fn what_a_burst_took_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store");
    let size = || std::fs::metadata(&file).unwrap().len();
    let store = Embedded::open(&file).unwrap();
    let big = "x".repeat(1 << 20);
    for n in 0..40 {
        store.txn(put(&format!("/k{n}"), &big)).await.unwrap();
    }
    let largest = size();
    for n in 0..40 {
        let gone = Txn { compares: vec![], ops: vec![Op::Delete { key: format!("/k{n}").into() }] };
        store.txn(gone).await.unwrap();
    }
    store.txn(put("/left", "1")).await.unwrap();
    drop(store);
    assert!(largest > 40 << 20 && size() < largest / 4, "{largest} bytes became {}", size());
    let store = Embedded::open(&file).unwrap();
    assert!(store.get(b"/left", None).await.unwrap().item.is_some());
}

#[tokio::test]
async fn what_cannot_be_opened_or_written_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store");
    let store = Embedded::open_with(&file, Options { txn_bytes: 100, ..Options::default() }).unwrap();
    let error = store.txn(put("/k", &"x".repeat(200))).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { size: 202, limit: 100 }), "{error}");
    let error = Embedded::open(&file).err().unwrap().to_string();
    assert!(error.contains("no other process has it open"), "{error}");
    std::fs::write(dir.path().join("junk"), b"not a store at all, but long enough to be looked at").unwrap();
    assert!(Embedded::open(&dir.path().join("junk")).is_err());
}
