//! The journal's records, their lines, and the state they add up to. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thalweg_cni::host_ports::HostPort;
use thalweg_cni::protocol::{AttachmentId, Mac, PodName, hash};

/// An attachment as it is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub id: AttachmentId,
    pub network: String,
    pub pod: PodName,
    pub host_ifname: String,
    pub host_mac: Mac,
    pub pod_mac: Mac,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
    /// Inode of the container's network namespace; 0 when it is not known.
    pub netns: u64,
    /// Where the runtime had it; by now something else may be there. Unknown in journals of older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<PathBuf>,
    /// What the kernel calls the namespace in `SO_NETNS_COOKIE` and `bpf_get_netns_cookie`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_cookie: Option<u64>,
    /// Ports of the node that lead to the pod. Unknown in journals of older agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// One line. An ADD writes `Begin` before it touches the kernel and `Commit` before it replies: what has begun and was
/// never committed was never promised, and is undone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// First line of a file: links live as long as the boot does.
    Boot(String),
    Begin(Box<Entry>),
    Commit(AttachmentId),
    /// The attachment is gone; its addresses rest from then on (seconds since the epoch).
    Drop {
        id: AttachmentId,
        at: u64,
    },
    /// An address at rest, in a compacted file.
    Rest {
        address: IpAddr,
        at: u64,
    },
}

/// What the records of one file add up to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ledger {
    pub boot: String,
    /// With whether it is committed.
    pub entries: BTreeMap<AttachmentId, (Entry, bool)>,
    /// Released addresses, with the second of their release.
    pub resting: BTreeMap<IpAddr, u64>,
}

/// What reading a file brought to light besides.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Damage {
    /// Lines in the middle whose checksum is wrong.
    pub lines: usize,
    /// The last line is not whole: the agent or the machine died while writing.
    pub torn: bool,
}

// === impl Entry ===

impl Entry {
    pub fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

// === impl Record ===

impl Record {
    /// `checksum json\n`.
    pub fn line(&self) -> serde_json::Result<String> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:016x} {json}\n", hash(&[json.as_bytes()])))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let (checksum, json) = (line.get(..16)?, line.get(17..)?);
        let checksum = u64::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
        if line.get(16) != Some(&b' ') || checksum != hash(&[json]) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

// === impl Ledger ===

impl Ledger {
    /// Reads a file, whatever happened to it: lines that are not whole are left out and counted.
    pub fn read(bytes: &[u8]) -> (Self, Damage) {
        let (mut ledger, mut damage) = (Self::default(), Damage::default());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n").and_then(Record::parse) {
                Some(record) => ledger.apply(&record),
                None if line.ends_with(b"\n") => damage.lines += 1,
                None => damage.torn = true,
            }
        }
        (ledger, damage)
    }

    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Boot(boot) => self.boot.clone_from(boot),
            Record::Begin(entry) => {
                for address in &entry.addresses {
                    self.resting.remove(address);
                }
                self.entries.insert(entry.id.clone(), ((**entry).clone(), false));
            }
            Record::Commit(id) => {
                if let Some((_, committed)) = self.entries.get_mut(id) {
                    *committed = true;
                }
            }
            Record::Drop { id, at } => {
                if let Some((entry, _)) = self.entries.remove(id) {
                    self.resting.extend(entry.addresses.into_iter().map(|address| (address, *at)));
                }
            }
            Record::Rest { address, at } => {
                self.resting.insert(*address, *at);
            }
        }
    }

    /// The shortest records that add up to this, without addresses released before `oldest`.
    pub fn records(&self, oldest: u64) -> Vec<Record> {
        let mut records = vec![Record::Boot(self.boot.clone())];
        for (entry, committed) in self.entries.values() {
            records.push(Record::Begin(entry.clone().into()));
            if *committed {
                records.push(Record::Commit(entry.id.clone()));
            }
        }
        let resting = self.resting.iter().filter(|(_, at)| **at >= oldest);
        records.extend(resting.map(|(address, at)| Record::Rest { address: *address, at: *at }));
        records
    }
}
