//! Merges what several watches report into batches: whatever arrived while the receiver was busy becomes one.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::world::{Batch, Change};

/// Bounds a batch, so that the first listing of a large cluster is worked on while it still arrives.
const MAX_CHANGES: usize = 4_096;

/// What the watch of one kind has to say.
#[derive(Debug)]
pub(crate) struct Report {
    pub kind: &'static str,
    pub changes: Vec<Change>,
    /// This kind has now been listed completely at least once.
    pub listed: bool,
    pub received: Instant,
}

/// Ends when the receiver of the batches is gone, or all senders of reports are.
pub(crate) async fn merge(mut input: mpsc::Receiver<Report>, kinds: usize, sink: mpsc::Sender<Batch>) {
    let mut listed = BTreeSet::new();
    let mut announced = false;
    loop {
        let first = tokio::select! {
            report = input.recv() => match report {
                Some(report) => report,
                None => return,
            },
            () = sink.closed() => return,
        };
        let received = first.received;
        let mut changes = Vec::new();
        let mut next = Some(first);
        while let Some(report) = next {
            changes.extend(report.changes);
            if report.listed {
                listed.insert(report.kind);
            }
            next = if changes.len() < MAX_CHANGES { input.try_recv().ok() } else { None };
        }
        let synced = listed.len() == kinds;
        if changes.is_empty() && synced == announced {
            continue;
        }
        announced = synced;
        if sink.send(Batch { changes, synced, received }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::convert::Key;

    fn report(kind: &'static str, names: &[&str], listed: bool) -> Report {
        let changes = names.iter().map(|name| Key::Node(Arc::from(*name)).gone()).collect();
        Report { kind, changes, listed, received: Instant::now() }
    }

    /// Sends all reports before the merger runs; returns (changes, synced) per batch.
    async fn check(reports: Vec<Report>, kinds: usize, expected: &[(usize, bool)]) {
        let (input, output) = mpsc::channel(64);
        let (sink, mut batches) = mpsc::channel(64);
        for report in reports {
            input.send(report).await.expect("room");
        }
        drop(input);
        merge(output, kinds, sink).await;
        let mut seen = Vec::new();
        while let Some(batch) = batches.recv().await {
            seen.push((batch.changes.len(), batch.synced));
        }
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn synced_only_when_every_kind_was_listed() {
        check(vec![report("Node", &["a"], true)], 2, &[(1, false)]).await;
        check(vec![report("Node", &["a"], true), report("Service", &[], true)], 2, &[(1, true)]).await;
    }

    #[tokio::test]
    async fn an_empty_cluster_is_announced_once() {
        check(vec![report("Node", &[], true)], 1, &[(0, true)]).await;
        check(vec![report("Node", &[], false)], 1, &[]).await;
    }

    #[tokio::test]
    async fn a_large_listing_is_split() {
        let many: Vec<&str> = vec!["n"; MAX_CHANGES];
        check(vec![report("Node", &many, false), report("Node", &["a"], true)], 1, &[(MAX_CHANGES, false), (1, true)]).await;
    }

    #[tokio::test]
    async fn ends_with_its_receiver() {
        let (input, output) = mpsc::channel::<Report>(1);
        let (sink, batches) = mpsc::channel(1);
        drop(batches);
        merge(output, 1, sink).await;
        drop(input);
    }
}
