//! The files that say what a DNS server does, and whether they have changed.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use thalweg_dns::Config;
use thalweg_dns::corefile::{self, Target};
use thalweg_dns::stub_domains::StubDomains;

const STUB_FILES: [&str; 2] = ["stubDomains", "upstreamNameservers"];

pub struct Files {
    pub corefile: PathBuf,
    /// A folder, as a ConfigMap is mounted.
    pub stub_domains: Option<PathBuf>,
}

// === impl Files ===

impl Files {
    /// What they say, and their fingerprint.
    ///
    /// # Errors
    /// When one cannot be read, or what it says cannot be.
    pub fn read(&self, client_rate: u32) -> Result<(Config, u64)> {
        // Before they are read: a change in between is seen the next time.
        let mark = self.fingerprint();
        let path = self.corefile.display();
        let text = std::fs::read_to_string(&self.corefile).with_context(|| format!("read {path}"))?;
        let parsed = corefile::parse(&text, &|name| std::env::var(name).ok()).with_context(|| format!("in {path}"))?;
        let stubs: Vec<Option<String>> = STUB_FILES
            .iter()
            .map(|name| self.stub_file(name).map(|path| read_if_there(&path)).transpose())
            .map(|file| Ok(file?.flatten()))
            .collect::<Result<_>>()?;
        let stub = |key: &str| STUB_FILES.iter().position(|name| *name == key).and_then(|index| stubs[index].as_deref());
        let mut config = Config::from_corefile(&parsed, &StubDomains::parse(stub)?).with_context(|| format!("in {path}"))?;
        config.client_rate = client_rate;
        Ok((config, mark))
    }

    /// Of what they hold now, and of the files with upstreams that they name. A file that cannot be read has one as well.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let text = std::fs::read_to_string(&self.corefile).ok();
        text.hash(&mut hasher);
        for name in STUB_FILES {
            self.stub_file(name).and_then(|path| std::fs::read(path).ok()).hash(&mut hasher);
        }
        let parsed = text.and_then(|text| corefile::parse(&text, &|name| std::env::var(name).ok()).ok());
        for server in parsed.iter().flat_map(|parsed| &parsed.servers) {
            let upstreams = server.forwards.iter().flat_map(|forward| &forward.to).filter_map(|target| match target {
                Target::ResolvConf(path) => Some(path),
                Target::Address(_) => None,
            });
            upstreams.for_each(|path| std::fs::read(path).ok().hash(&mut hasher));
        }
        hasher.finish()
    }

    fn stub_file(&self, name: &str) -> Option<PathBuf> {
        self.stub_domains.as_ref().map(|folder| folder.join(name))
    }
}

/// Of the hosts files that a configuration wants looked at again.
pub fn hosts_fingerprint(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    watched_hosts(config).for_each(|(path, _)| std::fs::read(path).ok().hash(&mut hasher));
    hasher.finish()
}

/// How often a configuration wants its hosts files looked at; `None`: never again.
pub fn hosts_interval(config: &Config) -> Option<Duration> {
    watched_hosts(config).map(|(_, interval)| interval).min()
}

fn watched_hosts(config: &Config) -> impl Iterator<Item = (&Path, Duration)> {
    let hosts = config.servers.iter().flat_map(|server| &server.hosts);
    hosts.filter(|hosts| !hosts.reload.is_zero()).filter_map(|hosts| Some((hosts.file.as_deref()?, hosts.reload)))
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
