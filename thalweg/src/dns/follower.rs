//! A DNS server that does what its files say, also when they change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use thalweg_cluster::{Family, World};
use thalweg_dns::{Config, Server};
use tokio::time::Instant;

use super::files::Files;
use super::metrics::Programming;
use super::operation::Servers;

/// How often the files are looked at when the Corefile does not say `reload`: never.
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
        listen: impl FnOnce(&Config) -> Result<Vec<SocketAddr>>,
    ) -> Result<Self> {
        let (config, seen) = files.read(client_rate)?;
        check(&config)?;
        let server = Arc::new(Server::serve(&listen(&config)?, workers, &config)?);
        let programming = Arc::new(Programming::default());
        let mut pages = Servers::new(server.clone(), programming.clone());
        pages.follow(&config.operation);
        let look = Instant::now() + interval(&config);
        Ok(Self { files, check, client_rate, config, seen, look, server, programming, pages })
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// When [`Follower::look`] wants to be called.
    pub fn next_look(&self) -> Instant {
        self.look
    }

    /// Takes the files into use if they have changed. What cannot be used is logged and changes nothing.
    pub fn look(&mut self, world: &World) {
        self.look = Instant::now() + interval(&self.config);
        if self.files.fingerprint() == self.seen {
            return;
        }
        let result = self.reload(world);
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

    fn reload(&mut self, world: &World) -> Result<()> {
        let (fresh, seen) = self.files.read(self.client_rate)?;
        (self.check)(&fresh)?;
        if fresh.zone.is_some() != self.config.zone.is_some() {
            bail!("`kubernetes` came or went: restart the process");
        }
        self.server.reload(&fresh, world)?;
        self.pages.follow(&fresh.operation);
        (self.config, self.seen) = (fresh, seen);
        self.look = Instant::now() + interval(&self.config);
        Ok(())
    }
}

fn interval(config: &Config) -> Duration {
    config.operation.reload.map_or(NEVER, |reload| reload.interval)
}
