//! DNS in a node's agent: by flags, or by CoreDNS's configuration file, which is followed.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use thalweg_cluster::{Dirty, World};
use thalweg_dns::zone::PodMode;
use thalweg_dns::{Config, Listen, Options, Server};
use tokio::time::Instant;

use super::files::Files;
use super::follower::Follower;

/// Where a Corefile is, if there is one.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct CorefileArgs {
    /// CoreDNS's configuration file: DNS does what it says, also when it changes, on the node's addresses and --dns-port.
    #[arg(long, value_name = "PATH", conflicts_with = "dns_upstream")]
    pub dns_corefile: Option<PathBuf>,
    /// Folder with kube-dns's ConfigMap: the files stubDomains and upstreamNameservers, either or both.
    #[arg(long, value_name = "PATH", requires = "dns_corefile")]
    pub dns_stub_domains: Option<PathBuf>,
}

pub struct NodeDns {
    server: Arc<Server>,
    follower: Option<Follower>,
}

// === impl NodeDns ===

impl NodeDns {
    /// Serves by the Corefile, or by `options` when there is none; either way where `options` says. Call it inside the
    /// runtime.
    ///
    /// # Errors
    /// When what is configured cannot be, or an address cannot be bound.
    pub fn start(args: &CorefileArgs, options: Options) -> Result<Self> {
        let Some(corefile) = args.dns_corefile.clone() else {
            return Ok(Self { server: Arc::new(Server::start(options)?), follower: None });
        };
        let files = Files { corefile, stub_domains: args.dns_stub_domains.clone() };
        // Pods are sent to the node's addresses by the service proxy, whatever the Corefile binds.
        let listen = options.listen.into_iter().map(Listen::named).collect();
        let follower = Follower::start(files, can_serve, 0, options.workers, |_| Ok(listen))?;
        Ok(Self { server: follower.server().clone(), follower: Some(follower) })
    }

    pub fn server(&self) -> Arc<Server> {
        self.server.clone()
    }

    /// Brings the zone to the world; `first`: everything has now been listed.
    pub fn publish(&self, world: &World, dirty: &Dirty, first: bool) {
        self.server.publish(world, dirty);
        if first {
            self.server.mark_synced();
        } else if let Some(follower) = &self.follower {
            follower.programmed(&dirty.triggered);
        }
    }

    /// Looks after the files when it is time to.
    pub fn tend(&mut self, world: &World) {
        if let Some(follower) = &mut self.follower {
            follower.look(world, Instant::now());
        }
    }
}

/// Refuses what an agent cannot serve by what it watches.
fn can_serve(config: &Config) -> Result<()> {
    match &config.zone {
        None => bail!("the Corefile has no `kubernetes`: name the cluster's zone, such as `kubernetes cluster.local`"),
        Some(zone) if zone.pods == PodMode::Verified => {
            bail!(
                "`pods verified` needs every pod of the cluster, and an agent watches those of its node: write `pods insecure`"
            )
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn start(corefile: &str) -> Result<NodeDns> {
        let folder = tempfile::tempdir().expect("a folder");
        start_in(folder.path(), corefile)
    }

    fn start_in(folder: &Path, corefile: &str) -> Result<NodeDns> {
        let path = folder.join("Corefile");
        std::fs::write(&path, corefile).expect("written");
        let args = CorefileArgs { dns_corefile: Some(path), dns_stub_domains: None };
        let listen = vec!["127.0.0.1:0".parse().expect("an address")];
        NodeDns::start(&args, Options { listen, zone: "unused".into(), ttl: 5, upstreams: Vec::new(), workers: 1 })
    }

    #[tokio::test]
    async fn a_corefile_serves_where_the_agent_says() {
        let mut dns = start("a.test:1053 {\nbind 192.0.2.1\nkubernetes\nreload 2s\n}").expect("a server");
        assert!(dns.server().addresses()[0].ip().is_loopback());
        assert!(!dns.server().is_synced());
        dns.publish(&World::default(), &Dirty::default(), true);
        dns.tend(&World::default());
        assert!(dns.server().is_synced());
    }

    #[tokio::test]
    async fn what_an_agent_cannot_serve_is_said() {
        for (corefile, words) in [
            (". {\nforward . 192.0.2.1\n}", "no `kubernetes`"),
            (". {\nkubernetes a.test {\npods verified\n}\n}", "pods insecure"),
            (". {\nfrobnicate\n}", "line 2: frobnicate"),
        ] {
            let error = start(corefile).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(words), "{corefile}: {error}");
        }
    }

    #[tokio::test]
    async fn what_an_agent_cannot_serve_is_refused_at_a_change_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut dns = start_in(folder.path(), ". {\nkubernetes a.test\nreload 2s\n}").expect("a server");
        let follower = dns.follower.as_mut().expect("a Corefile");
        for (corefile, pods) in [
            (". {\nkubernetes a.test {\npods verified\n}\nreload 2s\n}", PodMode::Disabled),
            (". {\nkubernetes a.test {\npods insecure\n}\nreload 2s\n}", PodMode::Insecure),
        ] {
            std::fs::write(folder.path().join("Corefile"), corefile).expect("written");
            follower.look(&World::default(), follower.next_look());
            assert_eq!(follower.config().zone.as_ref().expect("a zone").pods, pods);
        }
    }
}
