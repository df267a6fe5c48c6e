//! Crash points: whatever is cut off or damaged, what was committed before it is found again.

use std::net::IpAddr;
use std::thread;

use thalweg_cni::host_ports::{HostPort, Transport};
use thalweg_cni::protocol::{AttachmentId, Mac, PodName};

use super::*;

const QUARANTINE: Duration = Duration::from_secs(30);

fn entry(number: u8) -> Entry {
    let id = AttachmentId::new(format!("c{number}"), "eth0");
    Entry {
        host_ifname: id.host_ifname(),
        id,
        network: "thalweg".into(),
        pod: PodName { namespace: "default".into(), name: format!("web-{number}"), uid: "u".into() },
        host_mac: Mac([6, 0x74, 10, 0, 0, number]),
        pod_mac: Mac([2, 0x74, 10, 0, 0, number]),
        mtu: 1500,
        addresses: vec![IpAddr::from([10, 0, 0, number])],
        netns: u64::from(number),
        netns_path: Some(format!("/run/netns/c{number}").into()),
        netns_cookie: Some(u64::from(number)),
        host_ports: vec![HostPort { ip: None, port: 8000 + u16::from(number), target: 80, protocol: Transport::Tcp }],
    }
}

fn open(directory: &Path, boot: &str) -> (Journal, Damage) {
    Journal::open(directory, boot, QUARANTINE).unwrap()
}

fn commit(journal: &Journal, number: u8) {
    journal.append(&Record::Begin(entry(number).into())).unwrap();
    let position = journal.append(&Record::Commit(entry(number).id)).unwrap();
    journal.wait(position).unwrap();
}

fn drop_entry(journal: &Journal, number: u8, at: u64) {
    journal.append(&Record::Drop { id: entry(number).id, at }).unwrap();
}

#[test]
fn reopening_finds_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), "boot");
    commit(&journal, 1);
    commit(&journal, 2);
    journal.append(&Record::Begin(entry(3).into())).unwrap();
    drop_entry(&journal, 2, now());
    let before = journal.ledger();
    drop(journal);

    for _ in 0..2 {
        let (journal, damage) = open(directory.path(), "boot");
        assert_eq!(damage, Damage::default());
        assert_eq!(journal.ledger(), before);
        assert_eq!(before.entries[&entry(1).id], (entry(1), true));
        assert_eq!(before.entries[&entry(3).id], (entry(3), false));
        assert!(before.resting.contains_key(&entry(2).addresses[0]));
    }
}

/// A file as agents before the namespace's path and cookie wrote it.
#[test]
fn a_journal_of_an_older_agent_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"boot":"boot"}"#,
        r#"{"begin":{"id":{"containerID":"c1","ifname":"eth0"},"network":"thalweg","pod":{"namespace":"default","name":"web-1","uid":"u"},"host_ifname":"HOST","host_mac":"06:74:0a:00:00:01","pod_mac":"02:74:0a:00:00:01","mtu":1500,"addresses":["10.0.0.1"],"netns":1}}"#,
        r#"{"commit":{"containerID":"c1","ifname":"eth0"}}"#,
    ]
    .map(|line| line.replace("HOST", &entry(1).host_ifname));
    let text: String =
        lines.iter().map(|json| format!("{:016x} {json}\n", thalweg_cni::protocol::hash(&[json.as_bytes()]))).collect();
    fs::write(directory.path().join("journal"), text).unwrap();
    let (journal, damage) = open(directory.path(), "boot");
    assert_eq!(damage, Damage::default());
    let wanted = Entry { netns_path: None, netns_cookie: None, host_ports: vec![], ..entry(1) };
    assert_eq!(journal.ledger().entries[&entry(1).id], (wanted, true));
}

#[test]
fn another_boot_voids_it() {
    let directory = tempfile::tempdir().unwrap();
    commit(&open(directory.path(), "boot").0, 1);
    let (journal, _) = open(directory.path(), "next boot");
    assert_eq!(journal.ledger(), Ledger { boot: "next boot".into(), ..Ledger::default() });
}

#[test]
fn cut_off_at_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), "boot");
    let mut marks = Vec::new();
    let length = || fs::metadata(directory.path().join("journal")).unwrap().len() as usize;
    for number in 1..=4 {
        commit(&journal, number);
        marks.push(length());
    }
    let whole = fs::read(directory.path().join("journal")).unwrap();
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in header..=whole.len() {
        let (ledger, damage) = Ledger::read(&whole[..cut]);
        let committed = ledger.entries.values().filter(|(_, committed)| *committed).count();
        assert_eq!(committed, marks.iter().filter(|mark| **mark <= cut).count(), "cut at {cut}");
        assert_eq!(damage, Damage { lines: 0, torn: whole[cut - 1] != b'\n' }, "cut at {cut}");
    }
}

#[test]
fn a_damaged_byte_costs_its_line_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), "boot");
    for number in 1..=3 {
        commit(&journal, number);
    }
    let path = directory.path().join("journal");
    let whole = fs::read(&path).unwrap();
    // The line of the second Begin: boot, begin 1, commit 1, begin 2.
    let start = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0 + 1;
    for offset in [0, 16, 17, 40] {
        let mut damaged = whole.clone();
        damaged[start + offset] ^= 1;
        let (ledger, damage) = Ledger::read(&damaged);
        assert_eq!(damage, Damage { lines: 1, torn: false });
        assert_eq!(ledger.entries.keys().map(|id| id.container_id.as_str()).collect::<Vec<_>>(), ["c1", "c3"]);
    }
    fs::write(&path, b"\0\xff not a journal\n").unwrap();
    let (journal, damage) = open(directory.path(), "boot");
    assert_eq!((damage.lines, journal.ledger().entries.len()), (1, 0));
}

#[test]
fn a_crash_between_new_file_and_rename() {
    let directory = tempfile::tempdir().unwrap();
    commit(&open(directory.path(), "boot").0, 1);
    fs::write(directory.path().join("journal.new"), "half of a").unwrap();
    assert!(open(directory.path(), "boot").0.ledger().entries.contains_key(&entry(1).id));
}

#[test]
fn it_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), "boot");
    commit(&journal, 9);
    for round in 0..3000u32 {
        let number = (round % 8) as u8;
        journal.append(&Record::Begin(entry(number).into())).unwrap();
        drop_entry(&journal, number, now());
    }
    let lines = fs::read_to_string(directory.path().join("journal")).unwrap().lines().count();
    assert!(lines < 2 * SLACK, "{lines} lines");
    let ledger = open(directory.path(), "boot").0.ledger();
    assert_eq!(ledger.entries.keys().collect::<Vec<_>>(), [&entry(9).id]);
    assert_eq!(ledger.resting.len(), 8);
}

#[test]
fn rest_is_forgotten_after_the_quarantine() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), "boot");
    commit(&journal, 1);
    commit(&journal, 2);
    drop_entry(&journal, 1, now() - 100);
    drop_entry(&journal, 2, now());
    drop(journal);
    let ledger = open(directory.path(), "boot").0.ledger();
    assert_eq!(ledger.resting.keys().copied().collect::<Vec<_>>(), entry(2).addresses);
}

#[test]
fn many_wait_for_one_fsync() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, _) = open(directory.path(), "boot");
    thread::scope(|scope| {
        for number in 0..32 {
            let journal = &journal;
            scope.spawn(move || commit(journal, number));
        }
    });
    let state = journal.lock();
    assert_eq!((state.on_disk, state.written), (64, 64));
    drop(state);
    let ledger = open(directory.path(), "boot").0.ledger();
    assert_eq!(ledger.entries.values().filter(|(_, committed)| *committed).count(), 32);
}
