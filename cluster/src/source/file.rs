//! The source that reads manifests from disk, for labs, tests and nodes without an API server.
//!
//! Files are polled: cheap for the handful there are, and the same on every file system. A file is read once it has
//! kept still for one poll, so that a writer who truncates and then writes is not believed half-way.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use tokio::sync::mpsc;

use super::convert::Key;
use super::manifest::Manifest;
use crate::world::{Batch, Change};

const POLL: Duration = Duration::from_millis(50);

/// Something on disk that its writer should look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Complaint {
    pub file: PathBuf,
    pub reason: String,
}

/// Follows one file or directory.
#[derive(Debug)]
pub(crate) struct Follower {
    root: PathBuf,
    files: BTreeMap<PathBuf, Tracked>,
    /// What has been sent.
    sent: BTreeMap<Key, Change>,
    /// The root itself is missing or unreadable, and that has been reported.
    root_refused: Option<String>,
    synced: bool,
}

#[derive(Debug, Default)]
struct Tracked {
    /// As of the last poll.
    seen: Option<Signature>,
    /// As of the last time the file was read, readable or not.
    read: Option<Signature>,
    /// Has been read without an error at least once.
    good: bool,
    objects: BTreeMap<Key, Option<Change>>,
}

/// Tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Signature {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// What one poll found.
#[derive(Debug, Default)]
pub(crate) struct Poll {
    pub changes: Vec<Change>,
    /// Could not be used: the last good state of it stays.
    pub refused: Vec<Complaint>,
    /// Every file has been read without an error at least once.
    pub synced: bool,
}

/// Polls until the receiver is gone.
pub(crate) async fn run(path: PathBuf, sink: mpsc::Sender<Batch>) {
    let mut follower = Follower::new(path);
    let mut announced = false;
    loop {
        let received = Instant::now();
        let result = tokio::task::spawn_blocking(move || {
            let poll = follower.poll();
            (follower, poll)
        })
        .await;
        // A panic in the poll is a defect that must not be hidden by a source that silently stopped.
        let poll = match result {
            Ok((back, poll)) => {
                follower = back;
                poll
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        for refused in &poll.refused {
            tracing::warn!(file = %refused.file.display(), "{}; what was last good stays in force", refused.reason);
        }
        if !poll.changes.is_empty() || poll.synced != announced {
            announced = poll.synced;
            if sink.send(Batch { changes: poll.changes, synced: poll.synced, received }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = sink.closed() => return,
        }
    }
}

// === impl Follower ===

impl Follower {
    pub fn new(root: PathBuf) -> Self {
        Self { root, files: BTreeMap::new(), sent: BTreeMap::new(), root_refused: None, synced: false }
    }

    /// Looks once; returns what changed since the last time.
    pub fn poll(&mut self) -> Poll {
        let mut poll = Poll { synced: self.synced, ..Poll::default() };
        let listing = match list(&self.root) {
            Ok(listing) => listing,
            Err(error) => {
                let reason = format!("cannot be read: {error}");
                if self.root_refused.as_ref() != Some(&reason) {
                    poll.refused.push(Complaint { file: self.root.clone(), reason: reason.clone() });
                    self.root_refused = Some(reason);
                }
                return poll;
            }
        };
        self.root_refused = None;

        let mut changed = self.files.len();
        self.files.retain(|path, _| listing.contains_key(path));
        changed -= self.files.len();
        for (path, signature) in &listing {
            let known = self.files.contains_key(path);
            let tracked = self.files.entry(path.clone()).or_default();
            // At the first poll of all there is nothing in force that a half-written file could harm: read at once.
            let still = tracked.seen == Some(*signature) || (!known && !self.synced);
            tracked.seen = Some(*signature);
            if still && tracked.read != Some(*signature) && tracked.load(path, *signature, &mut poll) {
                changed += 1;
            }
        }
        if changed > 0 {
            self.difference(&mut poll.changes);
        }
        self.synced |= self.files.values().all(|tracked| tracked.good);
        poll.synced = self.synced;
        poll
    }

    /// Removals come last: whoever follows adds before it takes away.
    fn difference(&mut self, changes: &mut Vec<Change>) {
        let wanted: BTreeMap<Key, Change> = self
            .files
            .values()
            .flat_map(|tracked| &tracked.objects)
            .filter_map(|(key, change)| Some((key.clone(), change.clone()?)))
            .collect();
        for (key, change) in &wanted {
            if !self.sent.get(key).is_some_and(|sent| same(sent, change)) {
                changes.push(change.clone());
            }
        }
        changes.extend(self.sent.keys().filter(|key| !wanted.contains_key(key)).map(|key| key.clone().gone()));
        self.sent = wanted;
    }
}

// === impl Tracked ===

impl Tracked {
    /// True when the objects in force may have changed.
    fn load(&mut self, path: &Path, signature: Signature, poll: &mut Poll) -> bool {
        let complain = |reason: String| Complaint { file: path.to_owned(), reason };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.read = Some(signature);
                poll.refused.push(complain(format!("cannot be read: {error}")));
                return false;
            }
        };
        if stat(path).ok() != Some(signature) {
            // Written to while it was read: the next polls will see it keep still.
            return false;
        }
        self.read = Some(signature);
        let manifest = match Manifest::parse(&text) {
            Ok(manifest) => manifest,
            Err(reason) => {
                poll.refused.push(complain(reason));
                return false;
            }
        };
        let mut objects = manifest.objects;
        for (key, error) in manifest.refused {
            poll.refused.push(complain(error.to_string()));
            if key.is_none() {
                // It may be any of those that were good before: all of them stay.
                for (key, good) in std::mem::take(&mut self.objects) {
                    objects.entry(key).or_insert(good);
                }
            }
            if let Some((key, good)) = key.and_then(|key| self.objects.remove_entry(&key)) {
                objects.entry(key).or_insert(good);
            }
        }
        self.objects = objects;
        self.good = true;
        true
    }
}

/// The files at `root`, with what tells their states apart.
fn list(root: &Path) -> io::Result<BTreeMap<PathBuf, Signature>> {
    let mut paths = BTreeSet::new();
    if fs::metadata(root)?.is_dir() {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if matches!(extension, Some("yaml" | "yml" | "json")) && !hidden {
                paths.insert(path);
            }
        }
    } else {
        paths.insert(root.to_owned());
    }
    let mut listing = BTreeMap::new();
    for path in paths {
        match stat(&path) {
            Ok(signature) => {
                listing.insert(path, signature);
            }
            // Removed between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

fn stat(path: &Path) -> io::Result<Signature> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path)?;
    Ok(Signature { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino() })
}

fn same(left: &Change, right: &Change) -> bool {
    match (left, right) {
        (Change::Service(_, left), Change::Service(_, right)) => left == right,
        (Change::EndpointSlice(_, left), Change::EndpointSlice(_, right)) => left == right,
        (Change::Node(_, left), Change::Node(_, right)) => left == right,
        (Change::Pod(_, left), Change::Pod(_, right)) => left == right,
        (Change::ServiceCidr(_, left), Change::ServiceCidr(_, right)) => left == right,
        _ => false,
    }
}
