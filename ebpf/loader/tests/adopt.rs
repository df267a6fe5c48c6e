//! What an agent leaves behind, and how the next one takes it over.

mod kit;

use std::{
    fs,
    net::{SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use thalweg_abi::{ABI_VERSION, Proto, StateKey};
use thalweg_lab::netns::Netns;
use thalweg_loader::{Datapath, Error, Maps, Options, Sizes, Start, Table, cleanup};

fn address(text: &str) -> SocketAddrV4 {
    text.parse().expect("an address")
}

fn pins_below(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn maps_and_links_survive_the_agent() {
    let pins = kit::Pins::new("adopt");
    let cgroup = kit::Cgroup::enter("adopt");
    let ns = Netns::create("tw-adopt").expect("a namespace");
    ns.ip("addr add 10.99.0.1/32 dev lo").expect("a backend address");
    let mut options = pins.options();
    options.cgroup = cgroup.path().to_owned();
    let (vip, backend) = (address("10.96.0.1:80"), address("10.99.0.1:8080"));

    let mut first = Datapath::open(&options).expect("first agent");
    assert!(!first.adopted());
    let mut maps = first.maps().expect("maps");
    kit::serve(&mut maps, vip, Proto::TCP, 0, &[(1, backend)]);
    first.attach_cgroup().expect("attach");
    first.attach_cgroup().expect("attaching is idempotent");
    let created = maps.state(StateKey::CreatedAt).expect("state");
    assert!(created > 0);

    let listener = ns.enter(|| TcpListener::bind(backend)).expect("enter").expect("listen");
    thread::spawn(move || listener.incoming().for_each(drop));
    let dial = || TcpStream::connect_timeout(&vip.into(), Duration::from_secs(2)).map(drop);
    ns.enter(dial).expect("enter").expect("through the VIP, with the agent");
    drop((first, maps));
    ns.enter(dial).expect("enter").expect("through the VIP, without an agent");

    // Connections are made all the time while agents come and go.
    let (stop, dialled) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            ns.enter(|| {
                while !stop.load(Ordering::Relaxed) {
                    dial()?;
                    dialled.fetch_add(1, Ordering::Relaxed);
                }
                std::io::Result::Ok(())
            })
        });
        for adoption in 1..=3 {
            let mut next = Datapath::open(&options).expect("next agent");
            assert!(next.adopted());
            next.attach_cgroup().expect("attach again");
            let maps = next.maps().expect("maps");
            assert_eq!(maps.state(StateKey::Adoptions).expect("state"), adoption);
            assert_eq!(maps.state(StateKey::CreatedAt).expect("state"), created, "the maps are the same ones");
            assert!(maps.frontends.get(&kit::frontend_key(vip, Proto::TCP)).expect("frontend").is_some(), "content is kept");
        }
        stop.store(true, Ordering::Relaxed);
        client.join().expect("client").expect("enter").expect("no connection fails across restarts");
    });
    assert!(dialled.load(Ordering::Relaxed) > 0, "the client was dialling");
    let links = pins_below(&pins.path().join("links"));
    let calls = ["connect", "getpeername", "post_bind", "recvmsg", "sendmsg"];
    let mut expected: Vec<_> = calls.iter().flat_map(|call| [format!("{call}4@cgroup"), format!("{call}6@cgroup")]).collect();
    expected.push("sock_release@cgroup".to_owned());
    expected.sort();
    assert_eq!(links, expected);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn half_made_maps_are_not_adopted_but_taken_over() {
    let pins = kit::Pins::new("half");
    let first = Datapath::open(&pins.options()).expect("first agent");
    assert_eq!(*first.start(), Start::Fresh);
    kit::serve(&mut first.maps().expect("maps"), address("10.96.0.1:80"), Proto::TCP, 0, &[(1, address("10.99.0.1:8080"))]);
    drop(first);
    fs::remove_file(pins.path().join(format!("v{ABI_VERSION}/STATE"))).expect("lose one pin");
    let mut datapath = Datapath::open(&pins.options()).expect("next agent");
    assert_eq!(*datapath.start(), Start::Migrated { from: format!("v{ABI_VERSION}") });
    assert!(!datapath.adopted() && !datapath.is_live());
    let maps = datapath.maps().expect("a new set");
    assert_eq!(maps.state(StateKey::Adoptions).expect("state"), 0);
    let key = kit::frontend_key(address("10.96.0.1:80"), Proto::TCP);
    assert!(maps.frontends.get(&key).expect("frontend").is_some(), "with what the old one held");
    datapath.go_live().expect("go live");
    assert!(datapath.is_live());
    assert_eq!(kit::folders(pins.path()), kit::one_of_each(), "nothing else is left");
    drop(datapath);
    assert_eq!(*Datapath::open(&pins.options()).expect("the one after").start(), Start::Adopted);
}

/// Their numbers in the kernel, in the order of their names.
fn ids(datapath: &Datapath) -> Vec<u32> {
    datapath.programs().expect("what the kernel says of them").iter().map(|program| program.id).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn programs_are_verified_again_only_when_something_is_new() {
    let pins = kit::Pins::new("programs");
    let options = pins.options();
    let first = ids(&Datapath::open(&options).expect("first agent"));
    assert_eq!(first, ids(&Datapath::open(&options).expect("the same again")), "nothing is new");

    let programs = || {
        let is_programs = |name: &String| name.starts_with("programs-");
        pins.path().join(pins_below(pins.path()).into_iter().find(is_programs).expect("a folder of programs"))
    };
    let mut known = first;
    let mut check = |what: &str, options: &Options| {
        let datapath = Datapath::open(options).expect(what);
        let new = ids(&datapath);
        assert!(datapath.adopted() && new.len() == known.len(), "{what}");
        assert!(new.iter().all(|id| !known.contains(id)), "{what}: {new:?} were {known:?}");
        assert_eq!(kit::folders(pins.path()), kit::one_of_each(), "{what}: the old ones are forgotten");
        known = new;
    };
    check("another address", &Options { node_addr: Some([172, 30, 0, 12].into()), ..options.clone() });
    check("without socket load balancing", &Options { socket_lb: false, ..options.clone() });
    check("as at first", &options);
    fs::remove_file(programs().join("tc_to_pod")).expect("lose one pin");
    check("not all are there", &options);
    fs::rename(programs(), pins.path().join("programs-0123456789abcdef")).expect("rename");
    check("another build", &options);
    let sizes = Sizes { conntrack: options.sizes.conntrack * 2, ..options.sizes };
    check("another map", &Options { sizes, ..options.clone() });
    check("the map as it was", &options);
    let net = Netns::create("tw-programs").expect("a namespace");
    net.enter(|| check("another network namespace", &options)).expect("enter");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn links_run_what_this_agent_asks_for() {
    let pins = kit::Pins::new("asked");
    let cgroup = kit::Cgroup::enter("asked");
    let ns = Netns::create("tw-asked").expect("a namespace");
    ns.ip("addr add 10.99.0.1/32 dev lo").expect("a backend address");
    let options = Options { cgroup: cgroup.path().to_owned(), ..pins.options() };
    let (vip, backend) = (address("10.96.0.1:80"), address("10.99.0.1:8080"));
    let listener = ns.enter(|| TcpListener::bind(backend)).expect("enter").expect("listen");
    thread::spawn(move || listener.incoming().for_each(drop));

    let mut first = Datapath::open(&options).expect("first agent");
    kit::serve(&mut first.maps().expect("maps"), vip, Proto::TCP, 0, &[(1, backend)]);
    first.attach_cgroup().expect("attach");
    drop(first);
    for socket_lb in [true, false, true, true] {
        drop(Datapath::open(&Options { socket_lb, ..options.clone() }).expect("next agent"));
        let dialled = ns.enter(|| TcpStream::connect_timeout(&vip.into(), Duration::from_secs(2)).map(drop)).expect("enter");
        assert_eq!(dialled.is_ok(), socket_lb, "{dialled:?}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_folder_has_one_agent() {
    let pins = kit::Pins::new("busy");
    let _first = Datapath::open(&pins.options()).expect("first agent");
    let error = Datapath::open(&pins.options()).expect_err("a second one");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(matches!(cleanup(pins.path()), Err(Error::Busy { .. })), "cleanup under a running agent");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn links_follow_their_interfaces() {
    let pins = kit::Pins::new("links");
    let ns = Netns::create("tw-links").expect("a namespace");
    ns.ip("link add tw-pod0 type veth peer name tw-peer0").expect("a veth");
    ns.ip("link add tw-pod0.5 type veth peer name tw-peer5").expect("a veth with a dot in its name");
    let mut datapath = Datapath::open(&pins.options()).expect("open");
    let links = pins.path().join("links");
    ns.enter(|| {
        datapath.attach_pod("tw-pod0").expect("attach");
        datapath.attach_pod("tw-pod0").expect("attaching is idempotent");
        datapath.attach_uplink("tw-pod0.5").expect("a name with a dot");
        let error = datapath.attach_pod("tw-none").expect_err("no such interface");
        assert!(matches!(error, Error::Interface { .. }), "{error}");
    })
    .expect("enter");
    let pod = ["tc_from_pod6@tw-pod0", "tc_from_pod@tw-pod0", "tc_to_pod6@tw-pod0", "tc_to_pod@tw-pod0"];
    let [from, from6] = ["tc_from_wire6@tw-pod0%2e5", "tc_from_wire@tw-pod0%2e5"];
    let [to, to6] = ["tc_to_wire6@tw-pod0%2e5", "tc_to_wire@tw-pod0%2e5"];
    assert_eq!(pins_below(&links), [pod[0], pod[1], from, from6, pod[2], pod[3], to, to6]);

    ns.ip("link del tw-pod0.5").expect("remove the one with the dot");
    assert_eq!(datapath.prune_links().expect("prune"), 4);
    assert_eq!(pins_below(&links), pod);

    // The same name, another interface: the old link is dead, and a new one is made.
    ns.ip("link del tw-pod0").expect("remove the veth");
    ns.ip("link add tw-pod0 type veth peer name tw-peer0").expect("make it again");
    ns.enter(|| datapath.attach_pod("tw-pod0")).expect("enter").expect("attach to the new one");
    assert_eq!(datapath.prune_links().expect("prune"), 0, "the pins are those of the new interface");

    drop(datapath);
    let mut datapath = Datapath::open(&pins.options()).expect("next agent");
    assert_eq!(pins_below(&links), pod, "links survive the agent");
    datapath.detach_pod("tw-pod0").expect("detach");
    datapath.detach_pod("tw-pod0").expect("detaching is idempotent");
    assert_eq!(pins_below(&links), [""; 0]);
}

/// The agent falls back to iptables then, and must find nothing half-made.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_permission_it_says_so_and_leaves_nothing() {
    let pins = kit::Pins::new("nobody");
    let options = pins.options();
    let error = thread::spawn(move || {
        const NOBODY: libc::uid_t = 65_534;
        // SAFETY: no pointers. The system call itself changes this thread alone, which ends with the test.
        #[expect(unsafe_code, reason = "libc's function would change every thread")]
        let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(result, 0, "give up the privileges of root");
        Datapath::open(&options).expect_err("not permitted")
    });
    let error = error.join().expect("the thread");
    assert!(matches!(error, Error::NotPermitted { .. }) && error.is_unsupported(), "{error}");
    assert!(!pins.path().exists(), "nothing was made");
    Datapath::open(&pins.options()).expect("root is permitted");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn cleanup_leaves_nothing() {
    let pins = kit::Pins::new("cleanup");
    let mut datapath = Datapath::open(&pins.options()).expect("open");
    let ns = Netns::create("tw-cleanup").expect("a namespace");
    ns.ip("link add tw-pod0 type veth peer name tw-peer0").expect("a veth");
    ns.enter(|| datapath.attach_pod("tw-pod0")).expect("enter").expect("attach");
    drop(datapath);
    let removed = cleanup(pins.path()).expect("cleanup");
    for line in
        ["link tc_from_pod@tw-pod0", "map FRONTENDS", "map SOCK_NAT", "program tc_to_wire6", "bpffs at /run/tw-test-cleanup"]
    {
        assert!(removed.iter().any(|removed| removed == line), "{line} in {removed:?}");
    }
    assert!(!pins.path().exists(), "the folder is gone");
    assert_eq!(cleanup(pins.path()).expect("once more"), [""; 0], "nothing is left to remove");
    let error = Maps::open_pinned(pins.path()).expect_err("no maps");
    assert!(matches!(error, Error::NoMaps { .. }), "{error}");
}

/// Two nodes of one machine start at once where nothing is mounted yet. In a mount namespace of its own, so that the
/// machine's /sys/fs/bpf is left alone.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_machine_without_bpffs_gets_one_for_all_its_nodes() {
    let pins = kit::Pins::new("unused");
    let options = pins.options();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("private mounts");
        let shared = Path::new("/sys/fs/bpf");
        let is_mounted = || statfs(shared).expect("statfs").filesystem_type() == BPF_FS_MAGIC;
        while is_mounted() {
            umount2(shared, MntFlags::MNT_DETACH).expect("hide the machine's own");
        }
        let nodes = ["tw-node-a", "tw-node-b"].map(|name| shared.join(name));
        thread::scope(|scope| {
            for node in &nodes {
                let options = Options { pin_root: node.clone(), ..options.clone() };
                scope.spawn(move || drop(Datapath::open(&options).expect("open")));
            }
        });
        for node in &nodes {
            Maps::open_pinned(node).expect("no mount covers the other's pins");
        }
        let removed = cleanup(&nodes[0]).expect("cleanup of one node");
        assert!(is_mounted() && !removed.iter().any(|line| line.starts_with("bpffs")), "the other node needs it: {removed:?}");
        let removed = cleanup(&nodes[1]).expect("cleanup of the other");
        assert!(!is_mounted() && removed.iter().any(|line| line == "bpffs at /sys/fs/bpf"), "{removed:?}");
    })
    .join()
    .expect("the machine's thread");
}
