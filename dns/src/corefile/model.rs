//! What a Corefile says, in types.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::name::WireName;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Corefile {
    /// In the file's order; at least one.
    pub servers: Vec<ServerBlock>,
}

/// One zone on one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub zone: WireName,
    pub port: u16,
}

/// `KEYS { DIRECTIVES }`. A query meets the block with the longest zone that its name is in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerBlock {
    pub line: usize,
    pub keys: Vec<Key>,
    /// Log what fails.
    pub errors: bool,
    /// Each line for itself.
    pub log: Vec<Log>,
    pub health: Option<Health>,
    /// Where `/ready` is answered.
    pub ready: Option<SocketAddr>,
    pub kubernetes: Option<Kubernetes>,
    /// Where `/metrics` is answered.
    pub prometheus: Option<SocketAddr>,
    pub forwards: Vec<Forward>,
    pub cache: Option<Cache>,
    /// Find out at the start whether the upstreams lead back here.
    pub detect_loops: bool,
    pub reload: Option<Reload>,
    pub loadbalance: bool,
    pub hosts: Vec<Hosts>,
    pub rewrites: Vec<Rewrite>,
    /// Addresses or names of interfaces; none: all addresses.
    pub bind: Vec<Bind>,
    /// Largest UDP payload that is offered and answered, in octets: 512 to 4096, of which no more than 1232 are used. The
    /// smallest of all blocks counts for all.
    pub bufsize: Option<u16>,
    /// Each has its say, until one does not allow.
    pub acl: Vec<Acl>,
    pub autopath: Option<Autopath>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bind {
    Address(IpAddr),
    Interface(String),
}

/// Which queries are logged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Log {
    /// None: the block's.
    pub zones: Vec<WireName>,
    /// None: all.
    pub classes: Vec<LogClass>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogClass {
    /// NOERROR with records.
    Success,
    /// NXDOMAIN and NODATA.
    Denial,
    /// SERVFAIL, REFUSED, NOTIMP and other failures.
    Error,
    All,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    pub listen: SocketAddr,
    /// How long a process that ends goes on answering while it says that it is not healthy.
    pub lameduck: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kubernetes {
    /// The zone of names, not empty.
    pub zones: Vec<WireName>,
    /// Reverse zones that are served.
    pub reverse: Vec<WireName>,
    pub pods: Pods,
    /// Seconds.
    pub ttl: u32,
    pub fallthrough: Fallthrough,
    /// None: all.
    pub namespaces: Vec<String>,
    /// Endpoints without a hostname are called by their pods.
    pub endpoint_pod_names: bool,
    /// Services without a ready endpoint do not exist.
    pub ignore_empty_service: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pods {
    #[default]
    Disabled,
    Insecure,
    Verified,
}

/// For which zones a name that is not there is asked further on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Fallthrough {
    #[default]
    Never,
    Always,
    Zones(Vec<WireName>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    pub line: usize,
    pub from: WireName,
    pub to: Vec<Target>,
    pub except: Vec<WireName>,
    pub policy: Policy,
    pub force_tcp: bool,
    pub prefer_udp: bool,
    /// How long an idle connection is kept.
    pub expire: Duration,
    /// Failures in a row after which an upstream is down; 0: it never is.
    pub max_fails: u32,
    /// Upstreams tried for one query; 0: no limit but time.
    pub max_attempts: u32,
    /// Queries under way at once; 0: the server's own limit.
    pub max_concurrent: u32,
    pub health_check: HealthCheck,
    /// Response codes that are taken for a failure of that upstream.
    pub failover: Vec<u8>,
    /// Answer SERVFAIL at once while every upstream is down, instead of asking one anyway.
    pub failfast: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Address(SocketAddr),
    /// A file such as /etc/resolv.conf.
    ResolvConf(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    #[default]
    Random,
    RoundRobin,
    Sequential,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    pub interval: Duration,
    pub recursion_desired: bool,
    pub domain: WireName,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cache {
    /// None: the block's.
    pub zones: Vec<WireName>,
    pub success: CacheClass,
    pub denial: CacheClass,
    /// Zones whose records, or whose denials, are not cached; an empty name stands for all of them.
    pub no_success: Vec<WireName>,
    pub no_denial: Vec<WireName>,
    pub prefetch: Option<Prefetch>,
    pub stale: Option<Stale>,
    /// How long a failure is remembered; zero: not at all.
    pub servfail: Duration,
    /// Clients are told the TTL as it came.
    pub keep_ttl: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheClass {
    /// Answers.
    pub capacity: usize,
    /// Seconds.
    pub max_ttl: u32,
    pub min_ttl: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefetch {
    /// Times that an answer was asked for, with no pause longer than `within`.
    pub amount: u32,
    pub within: Duration,
    /// Share of the TTL that is left.
    pub percentage: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stale {
    /// How long after its end an answer may still be given.
    pub keep: Duration,
    /// The upstreams are asked first; otherwise afterwards.
    pub verify: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reload {
    pub interval: Duration,
    pub jitter: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hosts {
    pub file: Option<PathBuf>,
    /// None: the block's.
    pub zones: Vec<WireName>,
    pub inline: Vec<(IpAddr, Vec<WireName>)>,
    /// Seconds.
    pub ttl: u32,
    pub reverse: bool,
    /// How often the file is looked at; zero: never again.
    pub reload: Duration,
    pub fallthrough: Fallthrough,
}

/// One rule; the first that applies to a query and does not say `continue` is the last.
#[derive(Clone, Debug)]
pub struct Rewrite {
    pub go_on: bool,
    pub rule: RewriteRule,
}

#[derive(Clone, Debug)]
pub enum RewriteRule {
    Name {
        from: Pattern,
        to: String,
        answers: Vec<NameAnswer>,
    },
    /// Times to live of answers to names that match, in seconds.
    Ttl {
        of: Pattern,
        least: u32,
        most: u32,
    },
}

/// How names in an answer are written back.
#[derive(Clone, Debug)]
pub enum NameAnswer {
    /// The rewritten name becomes the one that was asked, wherever it stands.
    Auto,
    Name {
        from: regex::Regex,
        to: String,
    },
}

#[derive(Clone, Debug)]
pub enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(regex::Regex),
}

/// Rules for some names; the first that applies counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl {
    /// None: the block's.
    pub zones: Vec<WireName>,
    pub rules: Vec<AclRule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AclRule {
    pub action: AclAction,
    /// Types of records; none: all.
    pub types: Vec<u16>,
    /// None: everybody.
    pub sources: Vec<IpNetwork>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AclAction {
    Allow,
    /// REFUSED.
    Block,
    /// An empty answer.
    Filter,
    /// No answer.
    Drop,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Autopath {
    /// None: the block's.
    pub zones: Vec<WireName>,
    /// A resolv.conf for everybody; `None`: each pod's own search list.
    pub resolv_conf: Option<PathBuf>,
}

// === impl ServerBlock ===

impl ServerBlock {
    /// Whether both would listen on the same address.
    pub fn binds_meet(&self, other: &Self) -> bool {
        self.bind.is_empty() || other.bind.is_empty() || self.bind.iter().any(|bind| other.bind.contains(bind))
    }
}

// === impl Rewrite ===

impl PartialEq for Rewrite {
    /// Regular expressions are the same when they are written so.
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Eq for Rewrite {}

// === impl Forward ===

impl Forward {
    /// With CoreDNS's defaults.
    pub fn new(line: usize, from: WireName, to: Vec<Target>) -> Self {
        Self {
            line,
            from,
            to,
            except: Vec::new(),
            policy: Policy::default(),
            force_tcp: false,
            prefer_udp: false,
            expire: Duration::from_secs(10),
            max_fails: 2,
            max_attempts: 0,
            max_concurrent: 0,
            health_check: HealthCheck::default(),
            failover: Vec::new(),
            failfast: false,
        }
    }
}

// === impl HealthCheck ===

impl HealthCheck {
    pub const INTERVAL: Duration = Duration::from_millis(500);
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval: Self::INTERVAL, recursion_desired: true, domain: [0u8][..].into() }
    }
}

// === impl Cache ===

impl Default for Cache {
    fn default() -> Self {
        let class = CacheClass { capacity: 9984, max_ttl: 3600, min_ttl: 5 };
        Self {
            zones: Vec::new(),
            success: class,
            denial: CacheClass { max_ttl: 1800, ..class },
            no_success: Vec::new(),
            no_denial: Vec::new(),
            prefetch: None,
            stale: Some(Stale { keep: Duration::from_secs(3600), verify: true }),
            servfail: Duration::from_secs(5),
            keep_ttl: false,
        }
    }
}
