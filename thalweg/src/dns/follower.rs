//! A DNS server that does what its files say, also when they change.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use thalweg_cluster::{Family, World};
use thalweg_dns::{Config, Listen, Server};
use tokio::time::Instant;

use super::files::{Files, hosts_fingerprint, hosts_interval};
use super::metrics::Programming;
use super::operation::Servers;

/// How often files are looked at that need not be.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What refuses a configuration that this process cannot serve, at the start and whenever the files change.
pub type Check = fn(&Config) -> Result<()>;

pub struct Follower {
    files: Files,
    check: Check,
    client_rate: u32,
    config: Config,
    /// Fingerprint of the files when they were last read.
    seen: u64,
    look: Instant,
    /// The same of hosts files, which are looked at by themselves.
    hosts_seen: u64,
    hosts_look: Instant,
    server: Arc<Server>,
    programming: Arc<Programming>,
    pages: Servers,
}

// === impl Follower ===

impl Follower {
    /// Reads the files and serves where `listen` says. Call it inside the runtime.
    ///
    /// # Errors
    /// When the files say nothing that can be done, `check` refuses it, or an address cannot be bound.
    pub fn start(
        files: Files,
        check: Check,
        client_rate: u32,
        workers: usize,
        listen: impl FnOnce(&Config) -> Result<Vec<Listen>>,
    ) -> Result<Self> {
        let (config, seen) = files.read(client_rate)?;
        check(&config)?;
        let hosts_seen = hosts_fingerprint(&config);
        let server = Arc::new(Server::serve_at(&listen(&config)?, workers, &config)?);
        let programming = Arc::new(Programming::default());
        let mut pages = Servers::new(server.clone(), programming.clone());
        pages.follow(&config.operation);
        let (look, hosts_look) = next_looks(&config, Instant::now());
        Ok(Self { files, check, client_rate, config, seen, look, hosts_seen, hosts_look, server, programming, pages })
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// When [`Follower::look`] wants to be called.
    pub fn next_look(&self) -> Instant {
        self.look.min(self.hosts_look)
    }

    /// Takes those files into use that it is time for, `now`, and that have changed. What cannot be used is logged and
    /// changes nothing.
    pub fn look(&mut self, world: &World, now: Instant) {
        let (look, hosts_look) = next_looks(&self.config, now);
        if self.hosts_look <= now {
            self.hosts_look = hosts_look;
            self.look_at_hosts();
        }
        if self.look <= now {
            self.look = look;
            self.look_at_configuration(world, now);
        }
    }

    fn look_at_hosts(&mut self) {
        let seen = hosts_fingerprint(&self.config);
        if std::mem::replace(&mut self.hosts_seen, seen) != seen {
            self.server.reload_hosts(&self.config);
            tracing::info!("a hosts file has changed and is in use");
        }
    }

    fn look_at_configuration(&mut self, world: &World, now: Instant) {
        if self.files.fingerprint() == self.seen {
            return;
        }
        let result = self.reload(world, now);
        self.pages.reloaded(result.is_ok());
        match result {
            Ok(()) => tracing::info!("the configuration has changed and is in use"),
            Err(error) => {
                // Looked at again when it changes again.
                self.seen = self.files.fingerprint();
                tracing::error!("the configuration has changed and cannot be used; the old one stays: {error:#}");
            }
        }
    }

    /// Changes of endpoints have been published, whose causes were at these times.
    pub fn programmed(&self, causes: &[(Family, SystemTime)]) {
        self.programming.observe(causes);
    }

    /// Says that it is not healthy, answers for as long as the Corefile says, and ends.
    pub async fn end(self) {
        let lameduck = self.config.operation.lameduck();
        self.pages.lameduck();
        tracing::info!(?lameduck, "stopping: unhealthy from now on, and answering until the end");
        tokio::time::sleep(lameduck).await;
        self.server.shutdown();
    }

    fn reload(&mut self, world: &World, now: Instant) -> Result<()> {
        let (fresh, seen) = self.files.read(self.client_rate)?;
        (self.check)(&fresh)?;
        if fresh.zone.is_some() != self.config.zone.is_some() {
            bail!("`kubernetes` came or went: restart the process");
        }
        let hosts_seen = hosts_fingerprint(&fresh);
        self.server.reload(&fresh, world)?;
        self.pages.follow(&fresh.operation);
        (self.config, self.seen, self.hosts_seen) = (fresh, seen, hosts_seen);
        (self.look, self.hosts_look) = next_looks(&self.config, now);
        Ok(())
    }
}

/// When the configuration, and the hosts files that it names, are to be looked at again.
fn next_looks(config: &Config, now: Instant) -> (Instant, Instant) {
    let reload = config.operation.reload.map(|reload| reload.interval);
    (now + reload.unwrap_or(NEVER), now + hosts_interval(config).unwrap_or(NEVER))
}
