//! What the root tests of this crate share: a folder of pins and a cgroup of their own, and tables filled by hand.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use thalweg_abi::{
    ABI_VERSION, Backend, BackendState, Be16, Be32, Be128, Frontend, FrontendFlags, FrontendKey, Proto, Scope, Slot,
};
use thalweg_lab::cgroup;
use thalweg_loader::{Maps, Options, Sizes, Table, cleanup};

/// A folder for pins on a bpffs of its own; removed with everything in it when dropped.
pub struct Pins {
    path: PathBuf,
}

/// A cgroup that this process moves into, and back out of when dropped.
pub struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

// === impl Pins ===

impl Pins {
    pub fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/run/tw-test-{name}"));
        // What a killed run left behind.
        cleanup(&path).expect("remove stale pins");
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Small maps, no cgroup.
    pub fn options(&self) -> Options {
        Options {
            pin_root: self.path.clone(),
            cgroup: PathBuf::new(),
            node_addr: Some(Ipv4Addr::new(172, 30, 0, 11)),
            node_addr6: None,
            sizes: Sizes { frontends: 20_000, slots: 10_000, backends: 1_000, conntrack: 4_096, ..Sizes::uniform(256) },
            socket_lb: true,
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = cleanup(&self.path) {
            eprintln!("pins at {} stay behind: {error}", self.path.display());
        }
    }
}

// === impl Cgroup ===

impl Cgroup {
    /// Makes the cgroup and moves this process into it: sockets that it opens from now on belong there.
    pub fn enter(name: &str) -> Self {
        let root = cgroup::root().expect("a cgroup2");
        let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroup");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a place in cgroup2");
        let before = root.join(own);
        let path = root.join(format!("tw-{name}"));
        fs::create_dir_all(&path).expect("make the cgroup");
        let cgroup = Self { path, before };
        move_to(&cgroup.path);
        cgroup
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        move_to(&self.before);
        if let Err(error) = cgroup::remove_tree(&self.path) {
            eprintln!("cgroup {} stays behind: {error:#}", self.path.display());
        }
    }
}

fn move_to(group: &Path) {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string()).expect("move into the cgroup");
}

/// What is in a folder of a bpffs, without what the kernel itself shows there, and without the hash of programs.
pub fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.contains('.'));
    names.iter_mut().filter(|name| name.starts_with("programs-")).for_each(|name| name.truncate("programs".len()));
    names.sort();
    names
}

/// The folders of one agent whose predecessors are forgotten.
pub fn one_of_each() -> [String; 3] {
    ["links".to_owned(), "programs".to_owned(), format!("v{ABI_VERSION}")]
}

pub fn frontend_key(vip: SocketAddrV4, proto: Proto) -> FrontendKey {
    FrontendKey { vip: Be32::from(*vip.ip()), port: Be16::from_host(vip.port()), proto, scope: Scope::INTERNAL }
}

/// Writes backends, slots from `base`, and then the frontend, as the proxy does.
pub fn serve(maps: &mut Maps, vip: SocketAddrV4, proto: Proto, base: u32, backends: &[(u32, SocketAddrV4)]) {
    let entry = |id: u32, addr: &SocketAddrV4| {
        let (addr, port) = (Be128::mapped((*addr.ip()).into()), Be16::from_host(addr.port()));
        let backend = Backend { addr, port, state: BackendState::READY, generation: 1, ..Backend::default() };
        (backend, Slot { addr, port, backend: id, generation: 1, ..Slot::default() })
    };
    let (mut ids, mut slots) = (Vec::new(), Vec::new());
    for (position, (id, addr)) in (base..).zip(backends) {
        let (backend, slot) = entry(*id, addr);
        ids.push((*id, backend));
        slots.push((position, slot));
    }
    maps.backends.update(&ids).expect("write backends");
    maps.slots.update(&slots).expect("write slots");
    let count = u32::try_from(backends.len()).expect("few backends");
    let frontend = Frontend { service: 1, generation: 1, base, count, ..Frontend::default() };
    maps.frontends.update(&[(frontend_key(vip, proto), frontend)]).expect("write the frontend");
}

/// A frontend without endpoints.
pub fn serve_nobody(maps: &mut Maps, vip: SocketAddrV4, proto: Proto, flags: u32) {
    let frontend = Frontend { service: 1, flags: FrontendFlags(flags), ..Frontend::default() };
    maps.frontends.update(&[(frontend_key(vip, proto), frontend)]).expect("write the frontend");
}

/// Marks an address as ours, so that ports without a frontend are refused.
pub fn own(maps: &mut Maps, vip: Ipv4Addr) {
    let frontend = Frontend { flags: FrontendFlags(FrontendFlags::WILDCARD), ..Frontend::default() };
    maps.frontends.update(&[(FrontendKey::wildcard(Be32::from(vip)), frontend)]).expect("write the wildcard");
}
