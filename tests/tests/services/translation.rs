//! Flows that are under way while their service changes, and what travels beside them.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thalweg_cluster::Family;
use thalweg_lab::netns::{Netns, run};
use thalweg_lab::topology::UPLINK;

use crate::lab::{Ctx, From, Hook, Pod, at};
use crate::manifest::Manifest;

/// Bound of a wait for a packet that must come.
const PATIENCE: Duration = Duration::from_secs(5);

fn udp_service(ctx: &mut Ctx<'_>, name: &str) -> Manifest {
    let vip = ctx.vip();
    Manifest::new(&format!("{name}-{}", ctx.family_name()), vip).port("UDP", 53, 9090)
}

/// cilium#28820, #48096; calico#4509; kubernetes#122740.
pub fn a_flow_of_datagrams_moves_when_its_backend_goes(ctx: &mut Ctx<'_>) -> Result<()> {
    let echo = udp_service(ctx, "moves");
    datagrams_follow(ctx, &echo, false)
}

/// The same where the backend lives on behind another service, so that nobody misses it but this one.
pub fn a_flow_of_datagrams_moves_when_its_backend_is_anothers_only(ctx: &mut Ctx<'_>) -> Result<()> {
    let (echo, keeps) = (udp_service(ctx, "loses"), udp_service(ctx, "has"));
    let keeps = keeps.endpoints(ctx.endpoints(&[Pod::A1]));
    ctx.apply(&[&keeps])?;
    let stays = ["udp-unconnected", "udp"].map(|kind| {
        let mut session = ctx.place(From::Pod(Pod::AAsks)).session(&[kind, &at(keeps.vip, 53).to_string()])?;
        ensure!(session.say()?.pod.as_deref() == Some("a1"), "{kind}");
        Ok(session)
    });
    datagrams_follow(ctx, &echo, true)?;
    for session in stays {
        let said = session?.say()?;
        ensure!(said.pod.as_deref() == Some("a1"), "the other service's: {said:?}");
    }
    Ok(())
}

/// Flows to the only endpoint of a service go on to the next one; with the next datagram, unless an agent has to end them.
fn datagrams_follow(ctx: &mut Ctx<'_>, echo: &Manifest, by_agent: bool) -> Result<()> {
    let first = echo.clone().endpoints(ctx.endpoints(&[Pod::A1]));
    let second = echo.clone().endpoints(ctx.endpoints(&[Pod::B1]));
    // A socket that names its peer with each datagram keeps a backend that lives: what it remembers by the socket load
    // balancer does not say whether the service still has that.
    let is_kept = by_agent && ctx.hook == Hook::Socket;
    for kind in if is_kept { &["udp"][..] } else { &["udp-unconnected", "udp"] } {
        ctx.apply(&[&first])?;
        let mut session = ctx.place(From::Pod(Pod::AAsks)).session(&[kind, &at(echo.vip, 53).to_string()])?;
        let said = session.say()?;
        ensure!(said.pod.as_deref() == Some("a1"), "{kind}: {said:?}");
        ctx.apply(&[&second])?;
        let mut said = session.say()?;
        if by_agent || *kind == "udp" {
            // It is the agent that ends a connected socket, and it looks for them once a second.
            ctx.until("the flow is ended", || {
                let stays = said.pod.as_deref() == Some("a1");
                if stays {
                    said = session.say()?;
                }
                Ok(!stays)
            })?;
        }
        if *kind == "udp" && said.outcome != "timeout" && said.outcome != "answered" {
            // A connected socket cannot move: it is told so at once, and programs then dial again.
            ensure!(said.micros < 500_000, "{kind}: {said:?}");
            said = session.say()?;
        }
        ensure!(said.pod.as_deref() == Some("b1"), "{kind}: {said:?}");
    }
    Ok(())
}

/// kubernetes#139628, #59368.
pub fn datagrams_find_a_service_that_had_nobody(ctx: &mut Ctx<'_>) -> Result<()> {
    let echo = udp_service(ctx, "zero");
    ctx.apply(&[&echo.clone().endpoints([])])?;
    let mut session = ctx.place(From::Pod(Pod::AAsks)).session(&["udp-unconnected", &at(echo.vip, 53).to_string()])?;
    let said = session.say()?;
    ensure!(said.outcome != "answered", "{said:?}");
    ctx.apply(&[&echo.clone().endpoints(ctx.endpoints(&[Pod::B1]))])?;
    // The error of the first datagram may still be waiting on the socket.
    let mut last = session.say()?;
    if last.outcome == "refused" {
        last = session.say()?;
    }
    ensure!(last.pod.as_deref() == Some("b1"), "{last:?}");
    Ok(())
}

/// calico#9967: one who goes on sending while there is no such service reaches it when it is there again.
pub fn a_stream_of_datagrams_finds_a_service_that_is_made_anew(ctx: &mut Ctx<'_>) -> Result<()> {
    let (balanced, port) = (ctx.external_address()?, ctx.node_port());
    let vip = ctx.vip();
    let echo = Manifest::new(&format!("anew-{}", ctx.family_name()), vip).node_port("UDP", 53, 9090, port);
    let echo = echo.ingress(balanced, "VIP").endpoints(ctx.endpoints(&[Pod::A1]));
    let again = echo.clone().endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&echo])?;
    let (node, pod) = (at(ctx.node_address(0), port), From::Pod(Pod::AAsks));
    let mut streams = Vec::new();
    for (from, target) in [(From::Outside, node), (From::Outside, at(balanced, 53)), (pod, node), (pod, at(vip, 53))] {
        let session = ctx.place(from).session(&["udp-unconnected", &target.to_string()])?;
        streams.push((format!("{from:?} to {target}"), session));
    }
    for (name, stream) in &mut streams {
        let said = stream.say()?;
        ensure!(said.pod.as_deref() == Some("a1"), "{name}: {said:?}");
    }
    ctx.remove(&echo)?;
    for (name, stream) in &mut streams {
        let said = stream.say()?;
        ensure!(said.outcome != "answered", "{name}, without a service: {said:?}");
    }
    ctx.apply(&[&again])?;
    for (name, stream) in &mut streams {
        let mut said = stream.say()?;
        // The error of the last datagram may still be waiting on the socket.
        if said.outcome == "refused" {
            said = stream.say()?;
        }
        ensure!(said.pod.as_deref() == Some("b1"), "{name}: {said:?}");
    }
    Ok(())
}

/// cilium#44348: a pod behind the node's address asks from the very port that a service has there.
pub fn answers_to_a_pod_behind_its_nodes_address_are_not_balanced(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let echo = Manifest::new(&format!("behind-{}", ctx.family_name()), vip).node_port("UDP", 53, 9090, port);
    let echo = echo.endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&echo])?;
    let (node, client) = (ctx.node_address(0), ctx.client_address());
    let _masquerade = Masquerade::new(ctx, Pod::AAsks)?;
    let socket = |netns: &Netns, address| {
        netns.enter(|| {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            std::io::Result::Ok(socket)
        })
    };
    let outside = socket(ctx.client(), at(client, port + 1000))??;
    let pod = socket(ctx.pod(Pod::AAsks).netns(), at(ctx.address(Pod::AAsks), port))??;
    let mut buffer = [0; 64];
    for _ in 0..3 {
        pod.send_to(b"question", outside.local_addr()?)?;
        let (_, seen) = outside.recv_from(&mut buffer).context("the question")?;
        ensure!(seen == at(node, port), "the pod is seen as {seen}");
        outside.send_to(b"answer", seen)?;
        let (read, from) = pod.recv_from(&mut buffer).context("the answer")?;
        ensure!(&buffer[..read] == b"answer" && from == outside.local_addr()?, "{from} answered");
    }
    // Everybody else is the service's client.
    let report = ctx.udp(From::Outside, at(node, port), 5)?;
    ensure!(report.lost == 0 && report.pods.contains_key("b1"), "{report:?}");
    Ok(())
}

/// What a pod sends out leaves with its node's address, as it does in clusters whose network gives pods no other way.
struct Masquerade(Netns, &'static str, IpAddr);

impl Masquerade {
    fn new(ctx: &Ctx<'_>, pod: Pod) -> Result<Self> {
        let iptables = if ctx.family == Family::V4 { "iptables" } else { "ip6tables" };
        let this = Self(Netns::existing(ctx.node_netns(0).name()), iptables, ctx.address(pod));
        this.rule("-A")?;
        Ok(this)
    }

    fn rule(&self, verb: &str) -> Result<()> {
        let mut command = self.0.command(self.1);
        command.args(["-w", "-t", "nat", verb, "POSTROUTING", "-s"]).arg(self.2.to_string());
        run(command.args(["-o", UPLINK, "-j", "MASQUERADE"])).map(drop)
    }
}

impl Drop for Masquerade {
    fn drop(&mut self) {
        if let Err(error) = self.rule("-D") {
            eprintln!("{} stays behind its node's address: {error:#}", self.2);
        }
    }
}

/// cilium#25709, #43781.
pub fn long_datagrams_arrive_in_pieces(ctx: &mut Ctx<'_>) -> Result<()> {
    let (echo, port) = (udp_service(ctx, "pieces"), ctx.node_port());
    let echo = echo.node_port("UDP", 54, 9090, port).endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&echo])?;
    let targets = [
        (From::Pod(Pod::AAsks), at(echo.vip, 53)),
        (From::Pod(Pod::BAsks), at(echo.vip, 53)),
        (From::Outside, at(ctx.node_address(0), port)),
    ];
    for (from, target) in targets {
        let mut session = ctx.place(from).session(&["udp-unconnected", &target.to_string(), "--size", "6000"])?;
        for _ in 0..3 {
            let said = session.say()?;
            ensure!(said.pod.as_deref() == Some("b1") && said.peer == Some(target), "{from:?} to {target}: {said:?}");
        }
    }
    Ok(())
}

/// cilium#32601, #48784: whoever sends more than a link between the nodes takes is told so about its own packet.
pub fn connections_learn_what_their_way_takes(ctx: &mut Ctx<'_>) -> Result<()> {
    let (lines, port) = (tcp_service(ctx, "narrow"), ctx.node_port());
    let lines = lines.node_port("TCP", 91, 9090, port).endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&lines])?;
    let _narrow = (Narrow::new(ctx.node_netns(0))?, Narrow::new(ctx.node_netns(1))?);
    for (from, target) in [(From::Pod(Pod::AAsks), at(lines.vip, 90)), (From::Outside, at(ctx.node_address(0), port))] {
        let mut session = ctx.place(from).session(&["tcp", &target.to_string(), "--size", "20000"])?;
        for _ in 0..3 {
            let said = session.say()?;
            ensure!(said.pod.as_deref() == Some("b1"), "{from:?} to {target}: {said:?}");
        }
    }
    Ok(())
}

/// A node whose link takes less than its pods' and its clients', for as long as this lives.
struct Narrow(Netns);

impl Narrow {
    fn new(node: &Netns) -> Result<Self> {
        let this = Self(Netns::existing(node.name()));
        this.0.ip(&format!("link set {UPLINK} mtu 1400"))?;
        Ok(this)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        if let Err(error) = self.0.ip(&format!("link set {UPLINK} mtu 1500")) {
            eprintln!("{} stays narrow: {error:#}", self.0.name());
        }
    }
}

fn tcp_service(ctx: &mut Ctx<'_>, name: &str) -> Manifest {
    let vip = ctx.vip();
    Manifest::new(&format!("{name}-{}", ctx.family_name()), vip).port("TCP", 90, 9090)
}

pub fn a_connection_keeps_its_terminating_backend(ctx: &mut Ctx<'_>) -> Result<()> {
    let lines = tcp_service(ctx, "keeps");
    ctx.apply(&[&lines.clone().endpoints(ctx.endpoints(&[Pod::A1]))])?;
    let mut session = ctx.place(From::Pod(Pod::BAsks)).session(&["tcp", &at(lines.vip, 90).to_string()])?;
    ensure!(session.say()?.pod.as_deref() == Some("a1"));
    ctx.apply(&[&lines.clone().endpoints([ctx.endpoint(Pod::A1).terminating(), ctx.endpoint(Pod::B1)])])?;
    for _ in 0..3 {
        let said = session.say()?;
        ensure!(said.pod.as_deref() == Some("a1"), "{said:?}");
    }
    let mut fresh = ctx.place(From::Pod(Pod::BAsks)).session(&["tcp", &at(lines.vip, 90).to_string()])?;
    let said = fresh.say()?;
    ensure!(said.pod.as_deref() == Some("b1"), "a new connection: {said:?}");
    Ok(())
}

/// kubernetes#46753.
pub fn a_connection_to_an_endpoint_that_is_gone_is_reset(ctx: &mut Ctx<'_>) -> Result<()> {
    let lines = tcp_service(ctx, "gone");
    ctx.apply(&[&lines.clone().endpoints(ctx.endpoints(&[Pod::A1]))])?;
    let mut session = ctx.place(From::Pod(Pod::BAsks)).session(&["tcp", &at(lines.vip, 90).to_string()])?;
    ensure!(session.say()?.pod.as_deref() == Some("a1"));
    ctx.apply(&[&lines.clone().endpoints(ctx.endpoints(&[Pod::B1]))])?;
    ctx.until("the client is told", || {
        let said = session.say()?;
        ensure!(said.outcome != "timeout", "the connection hangs: {said:?}");
        Ok(matches!(said.outcome.as_str(), "reset" | "aborted" | "closed"))
    })
}

/// cilium#32601, #48784: the backend's ICMP error names the client's own packet.
pub fn a_closed_port_behind_a_service_is_refused(ctx: &mut Ctx<'_>) -> Result<()> {
    let (vip, port) = (ctx.vip(), ctx.node_port());
    let closed =
        Manifest::new(&format!("closed-{}", ctx.family_name()), vip).port("TCP", 80, 8099).node_port("UDP", 53, 9099, port);
    let closed = closed.endpoints(ctx.endpoints(&[Pod::B1]));
    ctx.apply(&[&closed])?;
    for from in ctx.inside() {
        ctx.connect_ends(from, at(vip, 80), "refused")?;
        let said = ctx.place(from).session(&["udp", &at(vip, 53).to_string()])?.say()?;
        ensure!(said.outcome == "refused", "{from:?}: {said:?}");
    }
    let said = ctx.place(From::Outside).session(&["udp", &at(ctx.node_address(0), port).to_string()])?.say()?;
    ensure!(said.outcome == "refused", "from outside: {said:?}");
    Ok(())
}
