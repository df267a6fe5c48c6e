//! The agent goes and comes back: stopped, killed in the middle, without its journal, with DELs while it was away.

mod kit;

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kit::{DUAL, Node, Pod, eventually, knock};
use thalweg_cni::error::code;
use thalweg_cni::protocol::tombstone_dir;
use thalweg_lab::netns::Netns;

const CIDR: &str = "10.244.1.0/24";

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restart_adopts_while_traffic_flows() {
    check_adoption("adopt", &[CIDR]);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restart_adopts_while_ipv6_traffic_flows() {
    check_adoption("adopt6", &DUAL);
}

/// With traffic of the last of the families.
fn check_adoption(test: &str, cidrs: &[&str]) {
    let mut node = Node::new(test, cidrs);
    let pods = [1, 2].map(|number| Pod::new(test, number));
    let results = pods.each_ref().map(|pod| node.add(pod).succeeded());
    let before = node.network().pods();

    // Datagrams there and back, one at a time: nothing sends a lost one again, and a slow machine loses none.
    let [from, to] = results.each_ref().map(|result| *result.addresses().last().unwrap());
    let target = SocketAddr::new(to, 8080);
    let server = pods[1].netns.enter(|| UdpSocket::bind(target)).unwrap().unwrap();
    let client = pods[0].netns.enter(|| UdpSocket::bind((from, 0))).unwrap().unwrap();
    client.connect(target).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let stop = AtomicBool::new(false);
    let exchanges = thread::scope(|scope| {
        scope.spawn(|| {
            let mut byte = [0];
            while let Ok((_, from)) = server.recv_from(&mut byte)
                && byte != *b"."
            {
                server.send_to(&byte, from).unwrap();
            }
        });
        let traffic = scope.spawn(|| {
            let mut exchanges = 0;
            while !stop.load(Ordering::Relaxed) {
                client.send(b"x").unwrap();
                client.recv(&mut [0]).unwrap_or_else(|error| panic!("a packet was lost after {exchanges}: {error}"));
                exchanges += 1;
            }
            client.send(b".").unwrap();
            exchanges
        });
        for _ in 0..5 {
            node.stop();
            node.start(cidrs);
        }
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert!(exchanges > 100, "{exchanges}");

    assert_eq!(node.network().pods(), before, "same links, same names");
    assert_eq!(node.datapath.attached.lock().unwrap().len(), 2 + 5 * 2, "attached again at each start");
    assert!(node.datapath.detached.lock().unwrap().is_empty());
    let third = Pod::new(test, 3);
    for address in node.add(&third).succeeded().addresses() {
        assert!(!results.iter().any(|result| result.addresses().contains(&address)), "{address} is given twice");
    }
    node.check(&pods[0], &results[0].json()).succeeded();
    node.del(&pods[0]).succeeded();
    assert_eq!(node.in_use() as usize, 2 * cidrs.len());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn killed_in_the_middle_of_an_add() {
    let mut node = Node::stopped("kill");
    let pods = [1, 2].map(|number| Pod::new("kill", number));
    let ready =
        || eventually("the agent is ready", Duration::from_secs(5), || node.run("STATUS", &pods[0], &node.config()).success);
    let mut agent = node.agent(&DUAL.join(","), "attach");
    ready();
    let first = node.add(&pods[0]).succeeded().addresses();
    agent.kill();

    let mut agent = node.agent(&DUAL.join(","), "hang");
    ready();
    thread::scope(|scope| {
        let add = scope.spawn(|| node.add(&pods[1]));
        let name = pods[1].id.host_ifname();
        eventually("the link is there", Duration::from_secs(5), || node.host_links().contains(&name));
        agent.kill();
        add.join().unwrap().failed(code::TRY_AGAIN, "did not answer");
    });
    assert_eq!(node.host_links().len(), 2, "what the killed one left");

    node.start(&DUAL);
    assert_eq!(node.host_links(), [pods[0].id.host_ifname()], "undone");
    assert_eq!(node.in_use(), 2);
    for address in &first {
        assert_eq!(knock(&node.netns, *address), ErrorKind::ConnectionRefused, "the other one lives");
    }
    node.del(&pods[1]).succeeded();
    assert!(node.add(&pods[1]).succeeded().addresses().iter().all(|address| !first.contains(address)));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn del_while_the_agent_is_away() {
    let mut node = Node::new("away", &[CIDR]);
    let pods = [1, 2, 3, 4].map(|number| Pod::new("away", number));
    let addresses = pods.each_ref().map(|pod| node.add(pod).succeeded().address());
    node.stop();

    // With the namespace; without; from where the host's end cannot be seen.
    let took = node.del(&pods[0]).succeeded().took;
    assert!(took < Duration::from_secs(2), "{took:?}");
    node.run_with("DEL", &pods[1].id, "", &node.config()).succeeded();
    let mut elsewhere = Node::stopped("else");
    elsewhere.state = std::mem::replace(&mut node.state, tempfile::tempdir().unwrap());
    elsewhere.del(&pods[2]).succeeded();
    std::mem::swap(&mut elsewhere.state, &mut node.state);
    assert_eq!(node.host_links(), [pods[3].id.host_ifname()]);
    let tombstones = || fs::read_dir(tombstone_dir(node.state.path())).unwrap().count();
    assert_eq!(tombstones(), 3);
    node.add(&pods[0]).failed(code::TRY_AGAIN, "cni.sock");

    // One whose link is still there: the plugin could not remove it.
    node.run_with("DEL", &pods[3].id, "", &node.config()).succeeded();
    node.netns.ip(&format!("link add {} type veth peer name left", pods[3].id.host_ifname())).unwrap();

    node.start(&[CIDR]);
    assert_eq!(fs::read_dir(tombstone_dir(node.state.path())).unwrap().count(), 0);
    assert_eq!((node.host_links(), node.in_use(), node.network().pods()), (vec![], 0, vec![]));
    let detached: Vec<_> = node.datapath.detached.lock().unwrap().iter().map(|pod| pod.addr.into()).collect();
    for address in addresses {
        assert!(detached.contains(&address), "{address} in {detached:?}");
    }
    node.add(&pods[0]).succeeded();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_lost_journal_is_recovered_from_the_links() {
    let mut node = Node::new("lost", &DUAL);
    let pods = [1, 2].map(|number| Pod::new("lost", number));
    let results = pods.each_ref().map(|pod| node.add(pod).succeeded());
    let before = node.network().pods();
    node.stop();
    fs::remove_file(node.state.path().join("cni/journal")).unwrap();
    for _ in 0..2 {
        node.start(&DUAL);
        let mut after = node.network().pods();
        // The pod's name is in no link.
        for (after, before) in after.iter_mut().zip(&before) {
            after.namespace.clone_from(&before.namespace);
            after.pod_name.clone_from(&before.pod_name);
            after.pod_uid.clone_from(&before.pod_uid);
        }
        assert_eq!(after, before);
        node.check(&pods[0], &results[0].json()).succeeded();
        node.stop();
    }
    node.start(&DUAL);
    let third = Pod::new("lost", 3);
    let addresses = node.add(&third).succeeded().addresses();
    assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.1.3", "fd00:244:1::3"]);
    pods.iter().for_each(|pod| drop(node.del(pod).succeeded()));
    assert_eq!(node.in_use(), 2);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_agents_on_one_state_directory() {
    let node = Node::new("twice", &[CIDR]);
    let (options, datapath) = (node.options(), node.datapath.clone());
    let second = node.netns.enter(|| thalweg_network::PodNetwork::start(options, datapath)).unwrap();
    let error = second.err().expect("the second one is refused").to_string();
    assert!(error.contains("cni/lock"), "{error}");
    node.add(&Pod::new("twice", 1)).succeeded();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_missing_uplink_is_named() {
    let netns = Netns::create("tw-bare-node").unwrap();
    let state = tempfile::tempdir().unwrap();
    let options = thalweg_network::Options {
        socket: state.path().join("cni.sock"),
        state_dir: state.path().to_owned(),
        node: "bare".into(),
        uplink: "eth7".into(),
        mtu: None,
        quarantine: kit::QUARANTINE,
    };
    let datapath = std::sync::Arc::new(kit::Recorder::default());
    let error = netns.enter(|| thalweg_network::PodNetwork::start(options, datapath)).unwrap().err().expect("refused");
    assert!(error.to_string().contains("eth7"), "{error}");
}
