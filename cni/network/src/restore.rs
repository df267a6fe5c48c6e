//! After a restart: journal, live links and tombstones are brought together; and the same again from time to time.
//!
//! A link of ours is the proof that its namespace lives. What has a link is kept, whoever remembers it; what has none
//! is let go.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_cni::protocol::{AttachmentId, Tombstone};
use tracing::{info, warn};

use crate::attachments::{Attachments, Pod};
use crate::error::{Error, Result};
use crate::hook::PodLink;
use crate::journal::{self, Entry, Record};
use crate::keys::lock;
use crate::links::{self, HostLink};
use crate::netlink::Netlink;
use crate::{namespace, sysctl};

/// What to do with each attachment that the journal or the kernel knows. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Promised, and there. With the index of the link.
    pub adopt: Vec<(Entry, u32)>,
    /// There, with a readable alias, but not in the journal: it must have been lost.
    pub recover: Vec<(Entry, u32)>,
    /// Begun and never promised: the link (if any) goes.
    pub undo: Vec<Entry>,
    /// Promised, and its link is gone.
    pub free: Vec<Entry>,
    /// Ours by name, and nothing else is known.
    pub strange: Vec<HostLink>,
}

// === impl Verdicts ===

impl Verdicts {
    pub fn new(entries: BTreeMap<AttachmentId, (Entry, bool)>, links: Vec<HostLink>) -> Self {
        let mut links: BTreeMap<String, HostLink> = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        let mut verdicts = Self::default();
        for (entry, committed) in entries.into_values() {
            match (links.remove(&entry.host_ifname), committed) {
                (Some(link), true) => verdicts.adopt.push((entry, link.index)),
                (None, true) => verdicts.free.push(entry),
                (_, false) => verdicts.undo.push(entry),
            }
        }
        for link in links.into_values() {
            match link.alias.clone().and_then(|alias| alias.entry(&link)) {
                Some(entry) => verdicts.recover.push((entry, link.index)),
                None => verdicts.strange.push(link),
            }
        }
        verdicts
    }
}

// === impl Attachments ===

impl Attachments {
    /// Once, before the first request is served.
    ///
    /// # Errors
    /// When links cannot be listed: then nothing can be known, and nothing is freed.
    pub(crate) fn restore(&self, host: &mut Netlink) -> Result<()> {
        let ledger = self.journal.ledger();
        {
            let mut ipam = lock(&self.ipam);
            let (now, seconds) = (Instant::now(), journal::now());
            for (address, at) in ledger.resting {
                let age = Duration::from_secs(seconds.saturating_sub(at));
                ipam.rest(address, now.checked_sub(age).unwrap_or(now));
            }
        }
        let verdicts = Verdicts::new(ledger.entries, links::list(host)?);
        // First what goes: should an address be in both lists, the living pod has the last word.
        for entry in verdicts.undo {
            info!(id = %entry.id, "an ADD was cut short: undone");
            self.detach(&PodLink::new(&entry, 0));
            match links::delete(host, &entry.host_ifname) {
                Ok(_) => self.let_rest(&entry),
                Err(error) => {
                    warn!(id = %entry.id, %error, "the link stays, and with it the address");
                    self.hold(&entry);
                }
            }
        }
        for entry in verdicts.free {
            info!(id = %entry.id, addresses = ?entry.addresses, "the link is gone: its addresses are freed");
            self.detach(&PodLink::new(&entry, 0));
            self.let_rest(&entry);
        }
        for (entry, index) in verdicts.adopt {
            self.adopt(host, entry, index);
        }
        for (entry, index) in verdicts.recover {
            warn!(id = %entry.id, addresses = ?entry.addresses, "a pod that the journal does not know: recovered from its link");
            let position = self
                .journal
                .append(&Record::Begin(entry.clone().into()))
                .and_then(|_| self.journal.append(&Record::Commit(entry.id.clone())));
            position.and_then(|position| self.journal.wait(position)).map_err(Error::io("the journal cannot be written"))?;
            self.adopt(host, entry, index);
        }
        for link in verdicts.strange {
            warn!(link = %link.name, "looks like a pod's link, but says nothing of itself; remove it if no pod uses it");
        }
        self.bury(host);
        Ok(())
    }

    /// Traffic flows: every step replaces without a gap.
    fn adopt(&self, host: &mut Netlink, mut entry: Entry, index: u32) {
        self.hold(&entry);
        self.host_ports.hold(&entry);
        // A journal of an older agent, or a lost one.
        if entry.netns_path.is_none() {
            entry.netns_path = namespace::find(entry.netns);
        }
        if entry.netns_cookie.is_none() {
            entry.netns_cookie = entry
                .netns_path
                .as_ref()
                .and_then(|path| File::open(path).ok())
                .and_then(|netns| Netlink::open_in(netns.as_fd()).and_then(|inside| inside.netns_cookie()).ok());
        }
        if entry.has_v6()
            && let Err(error) = sysctl::host_end_v6(&entry.host_ifname)
        {
            warn!(id = %entry.id, %error, "IPv6 on the host side of a running pod");
        }
        if let Err(error) = links::configure_host(host, &entry, index) {
            warn!(id = %entry.id, %error, "the host side of a running pod could not be refreshed");
        }
        let pod = Pod { entry: Arc::new(entry), host_ifindex: index, attached: false };
        let attached = self.attach_again(&pod);
        lock(&self.pods).insert(pod.entry.id.clone(), Pod { attached, ..pod });
    }

    fn attach_again(&self, pod: &Pod) -> bool {
        let outcome = self.datapath.attach(&pod.link());
        if let Err(error) = &outcome {
            warn!(id = %pod.entry.id, %error, "the data path refused a running pod; it will be tried again");
        }
        outcome.is_ok()
    }

    fn hold(&self, entry: &Entry) {
        let mut ipam = lock(&self.ipam);
        for address in &entry.addresses {
            if !ipam.hold(*address) {
                warn!(id = %entry.id, %address, "two attachments have this address");
            }
        }
    }

    /// Not held yet at a start, so not released either.
    fn let_rest(&self, entry: &Entry) {
        self.journal_drop(entry);
        let mut ipam = lock(&self.ipam);
        for address in &entry.addresses {
            ipam.rest(*address, Instant::now());
        }
    }

    /// DELs that found no agent.
    pub(crate) fn bury(&self, host: &mut Netlink) {
        let Ok(files) = fs::read_dir(&self.tombstones) else { return };
        // Names with a dot in front are still being written.
        for file in files.flatten().filter(|file| !file.file_name().to_string_lossy().starts_with('.')) {
            let path = file.path();
            let tombstone = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Tombstone>(&text).ok());
            let Some(Tombstone { id, .. }) = tombstone else {
                warn!(path = %path.display(), "a tombstone that cannot be read is removed");
                let _ = fs::remove_file(&path);
                continue;
            };
            let outcome = self.keys.with(&id, || {
                // Gone meanwhile: an ADD of the same attachment has seen to it, and lives.
                if !path.exists() {
                    return Ok(());
                }
                self.remove(host, &id)?;
                info!(%id, "removed while no agent ran");
                let _ = fs::remove_file(&path);
                Ok::<_, thalweg_cni::CniError>(())
            });
            if let Err(error) = outcome {
                warn!(%id, %error, "a removed pod's link could not be removed");
            }
        }
    }

    /// Pods whose namespace died without a DEL, and pods that the data path refused.
    pub(crate) fn tend(&self, host: &mut Netlink) {
        let pods: Vec<Pod> = lock(&self.pods).values().cloned().collect();
        let live: BTreeMap<String, u32> = match links::list(host) {
            Ok(links) => links.into_iter().map(|link| (link.name, link.index)).collect(),
            Err(error) => return warn!(%error, "links cannot be listed"),
        };
        for pod in pods {
            let gone = live.get(&pod.entry.host_ifname) != Some(&pod.host_ifindex);
            if !gone && pod.attached {
                continue;
            }
            let id = &pod.entry.id;
            self.keys.with(id, || {
                let Some(now) = lock(&self.pods).get(id).cloned() else { return };
                if !now.attached && self.attach_again(&now) {
                    lock(&self.pods).insert(id.clone(), Pod { attached: true, ..now.clone() });
                }
                // The list is older than the key: ask again.
                if gone && matches!(self.host_link_is(host, &now), Ok(false)) {
                    info!(%id, "the link is gone without a DEL: its addresses are freed");
                    self.detach(&now.link());
                    self.forget(&now.entry);
                    lock(&self.pods).remove(id);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use thalweg_cni::protocol::{Mac, PodName};

    use super::*;
    use crate::alias::Alias;

    fn entry(name: &str) -> Entry {
        let id = AttachmentId::new(name, "eth0");
        Entry {
            host_ifname: id.host_ifname(),
            id,
            network: "thalweg".into(),
            pod: PodName::default(),
            host_mac: Mac([6, 0, 0, 0, 0, 1]),
            pod_mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: vec!["10.244.1.5".parse().unwrap()],
            netns: 7,
            netns_path: None,
            netns_cookie: None,
            host_ports: Vec::new(),
        }
    }

    fn link(entry: &Entry, index: u32, with_alias: bool) -> HostLink {
        HostLink {
            name: entry.host_ifname.clone(),
            index,
            mac: Some(entry.host_mac),
            mtu: entry.mtu,
            alias: with_alias.then(|| Alias::of(entry)),
        }
    }

    #[test]
    fn verdicts() {
        let [kept, gone, begun, begun_linked, lost, stranger] =
            ["kept", "gone", "begun", "linked", "lost", "stranger"].map(entry);
        let entries = [(&kept, true), (&gone, true), (&begun, false), (&begun_linked, false)];
        let entries = entries.map(|(entry, committed)| (entry.id.clone(), (entry.clone(), committed))).into();
        let links = vec![link(&kept, 4, true), link(&begun_linked, 5, true), link(&lost, 6, true), link(&stranger, 7, false)];
        let verdicts = Verdicts::new(entries, links);
        let mut undo = verdicts.undo.clone();
        undo.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(undo, [begun, begun_linked]);
        assert_eq!(verdicts.adopt, [(kept, 4)]);
        assert_eq!(verdicts.free, [gone]);
        assert_eq!(verdicts.recover, [(lost, 6)]);
        assert_eq!(verdicts.strange, [link(&stranger, 7, false)]);
    }
}
