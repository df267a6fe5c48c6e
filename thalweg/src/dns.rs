//! `thalweg dns`: cluster DNS alone, by CoreDNS's configuration file, for clusters that keep their own service proxy.

mod files;
mod follower;
mod metrics;
mod node;
mod operation;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use thalweg_cluster::source::{KubeOptions, ServiceScope, Source};
use thalweg_cluster::{Batch, Dirty, World};
use thalweg_dns::corefile::DNS_PORT;
use thalweg_dns::zone::PodMode;
use thalweg_dns::{Config, Listen};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::interfaces::{self, Local};
use crate::{datapath, shutdown_signal};
use files::Files;
use follower::{Check, Follower};
pub use node::{CorefileArgs, NodeDns};

/// Addresses that are served without being named: each has sockets and threads of its own.
const MOST_FOUND: usize = 256;

#[derive(clap::Args, Debug)]
pub struct DnsArgs {
    /// CoreDNS's configuration file, as it is in the cluster's ConfigMap.
    #[arg(long, alias = "conf", default_value = "/etc/coredns/Corefile", value_name = "PATH")]
    corefile: PathBuf,
    /// Folder with kube-dns's ConfigMap: the files stubDomains and upstreamNameservers, either or both.
    #[arg(long, value_name = "PATH")]
    stub_domains: Option<PathBuf>,
    /// Kubeconfig for the API server (default: the pod's own service account).
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Read the cluster's state from a YAML file or directory instead: `file:PATH`.
    #[arg(long, conflicts_with = "kubeconfig", value_name = "file:PATH")]
    source: Option<String>,
    /// Addresses to serve (default: those that the Corefile binds, else all of this machine). 0.0.0.0 and :: stand for all
    /// of their family. Those that come later are served after a restart.
    #[arg(long, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// Threads for each address; 0 for one per processor over all addresses, and at least one for each.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Queries a second from each client over UDP, beyond which it is sent to TCP; 0 for any number.
    #[arg(long, default_value_t = 0)]
    client_rate: u32,
}

pub async fn run(args: DnsArgs) -> Result<()> {
    let shutdown = shutdown_signal()?;
    let files = Files { corefile: args.corefile.clone(), stub_domains: args.stub_domains.clone() };
    let listen = |config: &Config| listen_addresses(&args.listen, config, &interfaces::look()?);
    let check: Check = if args.source.is_some() { accept } else { by_services };
    let mut dns = Follower::start(files, check, args.client_rate, args.workers, listen)?;

    // This end of the channel stays open: without a zone there is nothing to watch, and nothing ever comes.
    let (sink, mut batches) = mpsc::channel(64);
    let mut watching = match &dns.config().zone {
        Some(_) => tokio::spawn(source(&args)?.run(sink.clone())),
        None => tokio::spawn(std::future::pending()),
    };
    let mut world = World::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            batch = batches.recv() => match batch {
                Some(batch) => take(batch, &mut batches, &mut world, &dns),
                None => bail!("the source of the cluster's state ended"),
            },
            ended = &mut watching => return ended?.context("the source of the cluster's state"),
            () = tokio::time::sleep_until(dns.next_look()) => dns.look(&world, Instant::now()),
        }
    }
    dns.end().await;
    watching.abort();
    Ok(())
}

/// Takes in a batch, together with those that wait behind it.
fn take(first: Batch, waiting: &mut mpsc::Receiver<Batch>, world: &mut World, dns: &Follower) {
    let mut dirty = Dirty::default();
    let mut synced = false;
    let mut next = Some(first);
    while let Some(batch) = next {
        synced |= batch.synced;
        batch.changes.into_iter().for_each(|change| world.apply(change, &mut dirty));
        next = waiting.try_recv().ok();
    }
    let server = dns.server();
    server.publish(world, &dirty);
    if synced && !server.is_synced() {
        server.mark_synced();
    } else if server.is_synced() {
        dns.programmed(&dirty.triggered);
    }
}

fn source(args: &DnsArgs) -> Result<Source> {
    if let Some(text) = &args.source {
        return datapath::source(Some(text), None, "", ServiceScope::All);
    }
    let kubeconfig = args.kubeconfig.clone();
    Ok(Source::Kube(KubeOptions { kubeconfig, node: String::new(), pods: false, services: ServiceScope::All }))
}

/// A file may tell of everything.
fn accept(_: &Config) -> Result<()> {
    Ok(())
}

/// Refuses what the API server's services and EndpointSlices do not suffice for.
fn by_services(config: &Config) -> Result<()> {
    if config.zone.as_ref().is_some_and(|zone| zone.pods == PodMode::Verified) {
        bail!("`pods verified` needs every pod of the cluster, which is not watched: write `pods insecure`");
    }
    Ok(())
}

/// Where to serve: as the flags say, else as the Corefile says, else everywhere. Each address by itself: what leaves a
/// socket that is bound to all of them may come from another than was asked, and no client believes that.
fn listen_addresses(flags: &[SocketAddr], config: &Config, local: &Local) -> Result<Vec<Listen>> {
    let mut wanted: Vec<Listen> = flags.iter().copied().map(Listen::named).collect();
    if wanted.is_empty() {
        let port = config.port().unwrap_or(DNS_PORT);
        let (addresses, interfaces) = config.binds();
        wanted.extend(addresses.into_iter().map(|address| Listen::named(SocketAddr::new(address, port))));
        for name in interfaces {
            let before = wanted.len();
            wanted.extend(local.bindable(Some(name)).map(|address| Listen::found(SocketAddr::new(address, port))));
            if wanted.len() == before {
                bail!("the Corefile binds {name}, which is no interface with an address: check `ip address show`");
            }
        }
        if wanted.is_empty() {
            let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
            wanted.extend(all.map(|address| Listen::named(SocketAddr::new(address, port))));
        }
    }
    let mut listen: Vec<Listen> = Vec::new();
    for one in wanted.into_iter().flat_map(|one| expanded(one, local)) {
        match listen.iter_mut().find(|other| other.address == one.address) {
            // Whoever names it means it.
            Some(other) => other.found &= one.found,
            None => listen.push(one),
        }
    }
    let found = listen.iter().filter(|listen| listen.found).count();
    if found > MOST_FOUND {
        bail!("{found} addresses of this machine are too many to serve each: name those to serve by `bind` in the Corefile");
    }
    Ok(listen)
}

/// The addresses that an address stands for: itself, or all of its family.
fn expanded(listen: Listen, local: &Local) -> Vec<Listen> {
    let Listen { address, .. } = listen;
    if !address.ip().is_unspecified() {
        return vec![listen];
    }
    let family = local.bindable(None).filter(|other| other.is_ipv4() == address.is_ipv4());
    family.map(|ip| Listen::found(SocketAddr::new(ip, address.port()))).collect()
}

#[cfg(test)]
mod tests;
