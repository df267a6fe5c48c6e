//! TCP (and later DoT): hickory-server reads the streams and asks the same zone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hickory_proto::op::{Header, HeaderCounts, Message, Metadata, ResponseCode};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::counters::Counters;
use crate::gate::{Admission, turn_away};
use crate::query::{Rotation, Transport};
use crate::server::Shared;
use crate::traffic::Traffic;
use crate::whole::{self, Begun};

/// Answers what hickory-server has read.
pub struct StreamHandler {
    pub shared: Arc<Shared>,
    pub counters: Arc<Counters>,
    pub traffic: Arc<Traffic>,
    pub rotation: Rotation,
}

// === impl StreamHandler ===

impl StreamHandler {
    /// The reply to a packet; `None` when there is none.
    async fn reply(&self, packet: &[u8], client: SocketAddr) -> Option<Message> {
        let began = Instant::now();
        self.traffic.request(packet, Transport::Tcp, client.ip());
        self.counters.tcp.fetch_add(1, Ordering::Relaxed);
        let admission = { self.shared.admit(&self.shared.gate.load(), packet, Transport::Tcp, client.ip(), &self.traffic) };
        let bytes = match admission {
            Admission::Pass => match whole::begin(&self.shared, packet, Transport::Tcp, self.rotation.next(), &self.counters) {
                Begun::Done(reply) => reply?,
                Begun::Forward(forwarded) => match self.shared.waiting.enter() {
                    Some(place) => forwarded.finish(place).await?,
                    None => forwarded.give_up(&self.shared.zone.load())?,
                },
            },
            other => {
                let mut bytes = Vec::new();
                turn_away(other, packet, Transport::Tcp, &mut bytes).then_some(bytes)?
            }
        };
        self.traffic.response(&bytes, began.elapsed());
        self.shared.note(&self.shared.log.load(), packet, &bytes, Transport::Tcp, client);
        Message::from_vec(&bytes).inspect_err(|error| tracing::debug!(%error, "no reply to a query over TCP")).ok()
    }
}

#[async_trait::async_trait]
impl RequestHandler for StreamHandler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut responses: R) -> ResponseInfo {
        let Some(reply) = self.reply(request.as_slice(), request.src()).await else { return failed(request) };
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &reply.edns {
            builder.edns(edns);
        }
        let response = builder.build(reply.metadata, &reply.answers, &reply.authorities, None::<&_>, &reply.additionals);
        match responses.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a reply over TCP was not sent");
                failed(request)
            }
        }
    }
}

/// What hickory-server wants to know of a request that got no reply.
fn failed(request: &Request) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = ResponseCode::ServFail;
    Header { metadata, counts: HeaderCounts::default() }.into()
}
