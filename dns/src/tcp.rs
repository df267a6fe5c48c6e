//! TCP (and later DoT): a task for each connection, which answers what is known at once and the rest when it is there.
//!
//! Replies come in whatever order they are ready (RFC 7766 section 6.2.1.1): a name that upstreams are slow about holds up
//! no name of the cluster. Connections are bounded, those of each client too, and so are the questions of each that wait for upstreams; what comes
//! beyond that stays in the kernel's queues until there is room.

mod clients;
mod inbox;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, consume_budget};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::counters::Counters;
use crate::gate::Admission;
use crate::query::{HEADER, Rotation, Transport};
use crate::server::Shared;
use crate::traffic::Traffic;
use crate::whole::{self, Begun};
use clients::Clients;
use inbox::Inbox;

/// Connections at once, on all addresses together.
pub const CONNECTIONS: usize = 1024;
/// Questions of one connection that wait for upstreams at once.
const LATER: usize = 16;
/// A connection that asks nothing for so long, or takes no reply, is closed.
const IDLE: Duration = Duration::from_secs(10);
/// When connections cannot be accepted, which is said again at once as long as it is so.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub struct Streams {
    pub shared: Arc<Shared>,
    pub counters: Arc<Counters>,
    pub traffic: Arc<Traffic>,
    pub rotation: Rotation,
    /// As many as there may be at once.
    pub connections: Arc<Semaphore>,
    pub clients: Arc<Clients>,
}

/// A query that is answered now or later.
struct Asked {
    packet: Vec<u8>,
    began: std::time::Instant,
}

// === impl Streams ===

impl Streams {
    /// Serves whoever connects, for ever. Connections that are open live on when this is dropped.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, client)) => {
                    failing = false;
                    let Some(seat) = self.clients.enter(client.ip()) else {
                        tracing::debug!(%client, "DNS over TCP: closed, for this client has as many connections as it may");
                        continue;
                    };
                    // After it is accepted: an address that nobody asks keeps no place from the others.
                    let Ok(place) = self.connections.clone().acquire_owned().await else { return };
                    let streams = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = streams.serve(stream, client).await {
                            tracing::debug!(%client, %error, "DNS over TCP");
                        }
                        drop((place, seat));
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept DNS over TCP; trying again");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Answers what a client asks until it is done or idle.
    async fn serve(&self, mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
        // No reply waits for the client to have acknowledged the one before.
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.split();
        let mut inbox = Inbox::default();
        let mut later: JoinSet<(Asked, Option<Vec<u8>>)> = JoinSet::new();
        let (mut open, mut idle) = (true, Instant::now() + IDLE);
        while open || !later.is_empty() {
            tokio::select! {
                read = inbox.fill(&mut reader), if open && later.len() < LATER => open = read?,
                Some(answered) = later.join_next() => {
                    // An error: it panicked, which costs this one reply.
                    if let Ok((asked, Some(reply))) = answered {
                        self.send(&mut writer, &asked, &reply, client).await?;
                    }
                    idle = Instant::now() + IDLE;
                }
                () = sleep_until(idle), if later.is_empty() => return Ok(()),
            }
            while later.len() < LATER
                && let Some(packet) = inbox.next()?
            {
                // What is answered at once need not wait for anything: the others have their turn all the same.
                consume_budget().await;
                if packet.len() < HEADER {
                    return Ok(());
                }
                idle = Instant::now() + IDLE;
                let asked = Asked { packet, began: std::time::Instant::now() };
                match self.begin(&asked.packet, client) {
                    Begun::Done(Some(reply)) => self.send(&mut writer, &asked, &reply, client).await?,
                    Begun::Done(None) => {}
                    Begun::Forward(forwarded) => match self.shared.waiting.enter() {
                        Some(place) => {
                            later.spawn(async move { (asked, forwarded.finish(place).await) });
                        }
                        None => {
                            if let Some(reply) = forwarded.give_up(&self.shared.zone.load_full()) {
                                self.send(&mut writer, &asked, &reply, client).await?;
                            }
                        }
                    },
                }
            }
            inbox.settle();
        }
        Ok(())
    }

    fn begin(&self, packet: &[u8], client: SocketAddr) -> Begun {
        self.traffic.request(packet, Transport::Tcp, client.ip());
        self.counters.tcp.fetch_add(1, Ordering::Relaxed);
        let gate = self.shared.gate.load();
        match self.shared.admit(&gate, packet, Transport::Tcp, client.ip(), &self.traffic) {
            Admission::Pass => whole::begin(&self.shared, packet, Transport::Tcp, self.rotation.next(), &self.counters),
            other => {
                let mut bytes = Vec::new();
                Begun::Done(gate.turn_away(other, packet, Transport::Tcp, &mut bytes).then_some(bytes))
            }
        }
    }

    async fn send(&self, writer: &mut WriteHalf<'_>, asked: &Asked, reply: &[u8], client: SocketAddr) -> io::Result<()> {
        let length = u16::try_from(reply.len()).map_err(|_| io::Error::other("a reply that is too long for DNS"))?;
        let message = [&length.to_be_bytes()[..], reply].concat();
        timeout(IDLE, writer.write_all(&message)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.traffic.response(reply, asked.began.elapsed());
        self.shared.note(&self.shared.log.load(), &asked.packet, reply, Transport::Tcp, client);
        Ok(())
    }
}
