//! Names that are not ours go to the upstreams, off the path of those that are.
//!
//! A worker hands a copy of the packet over and goes on; a bounded number of look-ups is under way at once, beyond which
//! the client is told SERVFAIL at once rather than kept waiting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::answer::last_target;
use crate::query::{MAX_UDP, Query, Transport};

const MAX_CONCURRENT: usize = 1024;
/// What one server gets, and what the whole look-up gets: clients give up after five seconds.
const ATTEMPT: Duration = Duration::from_millis(1500);
const WHOLE: Duration = Duration::from_millis(4500);

pub struct Forwarder {
    resolver: TokioResolver,
    permits: Arc<Semaphore>,
    runtime: Handle,
}

/// A query that waits for its answer from upstream.
pub struct Pending {
    pub packet: Vec<u8>,
    /// A reply that holds an alias, to be completed with its target.
    pub partial: Option<Vec<u8>>,
    pub transport: Transport,
}

// === impl Forwarder ===

impl Forwarder {
    /// Sends nothing yet.
    pub fn new(upstreams: &[SocketAddr], runtime: Handle) -> Result<Self, NetError> {
        let servers = upstreams.iter().map(|upstream| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = upstream.port();
                connection
            });
            NameServerConfig::new(upstream.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = ATTEMPT;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        Ok(Self { resolver: builder.build()?, permits: Arc::new(Semaphore::new(MAX_CONCURRENT)), runtime })
    }

    /// Looks up in the background and calls `reply` with the whole answer; false when too many look-ups are under way.
    pub fn submit(self: &Arc<Self>, pending: Pending, reply: impl FnOnce(&[u8]) + Send + 'static) -> bool {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return false };
        let forwarder = self.clone();
        self.runtime.spawn(async move {
            if let Some(bytes) = forwarder.complete(&pending).await {
                reply(&bytes);
            }
            drop(permit);
        });
        true
    }

    /// The answer to a query; `None` when the packet is none or the answer cannot be written.
    pub async fn complete(&self, pending: &Pending) -> Option<Vec<u8>> {
        let query = Query::parse(&pending.packet, pending.transport).ok()?;
        let question = Question::read(&mut BinDecoder::new(query.question())).ok()?;
        let mut message = match &pending.partial {
            Some(partial) => Message::from_vec(partial).ok()?,
            None => {
                let id = u16::from_be_bytes([pending.packet[0], pending.packet[1]]);
                let mut message = Message::response(id, OpCode::Query);
                message.metadata.recursion_desired = pending.packet[2] & 1 != 0;
                message.add_query(question.clone());
                message
            }
        };
        let target = match pending.partial.as_deref().and_then(|partial| last_target(partial, &query)) {
            Some(target) => Name::read(&mut BinDecoder::new(&target)).ok()?,
            None => question.name().clone(),
        };
        message.metadata.recursion_available = true;
        message.metadata.authoritative = false;
        let looked_up = tokio::time::timeout(WHOLE, self.resolver.lookup(target.clone(), question.query_type())).await;
        match looked_up {
            Ok(Ok(lookup)) => {
                // A cached answer has the casing of whoever asked first; this client gets its own.
                message.add_answers(lookup.answers().iter().cloned().map(|mut record| {
                    if record.name == target {
                        record.name = target.clone();
                    }
                    record
                }));
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                message.metadata.response_code = none.response_code;
                message.add_authorities(none.soa.map(|soa| soa.into_record_of_rdata()));
            }
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => message.metadata.response_code = code,
            // An alias alone is still an answer.
            _ if pending.partial.is_some() => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "the upstream name servers did not answer");
                message.metadata.response_code = ResponseCode::ServFail;
            }
            Err(_) => message.metadata.response_code = ResponseCode::ServFail,
        }
        if let Some(edns) = query.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(MAX_UDP as u16).set_dnssec_ok(edns.dnssec_ok);
            message.set_edns(ours);
        }
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= query.limit() { Some(bytes) } else { message.truncate().to_vec().ok() }
    }
}
