//! `/exec/NAMESPACE/POD/CONTAINER`: a command in a container, its streams over a WebSocket.

mod channels;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};
use tokio_tungstenite::{WebSocketStream, tungstenite};
use tokio_util::sync::CancellationToken;

use self::channels::{Frame, Protocol};
use super::{Body, text};
use crate::runtime::{self, ContainerState, Runtime, SandboxState};
use crate::session::{Input, Output, Session, SessionRequest};

const BLOCK: usize = 32 * 1024;
/// How long output is awaited after the command's end: what it left running may hold the stream open for ever.
const DRAIN: Duration = Duration::from_millis(200);
/// How long the client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Where commands can be run.
pub trait Commands: Send + Sync + 'static {
    /// The id of a running container of a pod on this node.
    fn find(&self, namespace: &str, pod: &str, container: &str)
    -> impl Future<Output = runtime::Result<Option<String>>> + Send;

    fn begin(&self, id: &str, request: &SessionRequest) -> impl Future<Output = runtime::Result<Session>> + Send;
}

impl<R: Runtime> Commands for R {
    async fn find(&self, namespace: &str, pod: &str, container: &str) -> runtime::Result<Option<String>> {
        let mut sandboxes = self.list_sandboxes().await?;
        sandboxes.retain(|s| s.state == SandboxState::Ready && s.config.namespace == namespace && s.config.name == pod);
        // A pod that ends and one of the same name that begins: the newer one is meant.
        let Some(sandbox) = sandboxes.into_iter().max_by_key(|s| s.created_at) else { return Ok(None) };
        let containers = self.list_containers(&sandbox.id).await?;
        let runs = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        Ok(containers.into_iter().find(|c| c.config.name == container && runs(&c.state)).map(|c| c.id))
    }

    async fn begin(&self, id: &str, request: &SessionRequest) -> runtime::Result<Session> {
        self.open_session(id, request).await
    }
}

/// The container, by the words of the path.
pub(super) struct Place<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
}

pub(super) async fn serve<C: Commands, B>(
    commands: Arc<C>,
    place: Place<'_>,
    mut request: http::Request<B>,
    stop: CancellationToken,
) -> Response<Body> {
    let wanted = match channels::request(request.uri().query().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    // Before anything is upgraded: a refusal that the client can read.
    let id = match commands.find(place.namespace, place.pod, place.container).await {
        Ok(Some(id)) => id,
        Ok(None) => {
            return text(StatusCode::NOT_FOUND, format!("container not found ({:?}): it does not run", place.container));
        }
        Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    };
    let (protocol, accept) = match negotiate(request.headers()) {
        Ok(agreed) => agreed,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(io) => {
                let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
                tokio::select! {
                    () = talk(commands.as_ref(), &id, &wanted, protocol, socket) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(error) => tracing::debug!(%error, "a client left before its command began"),
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name()));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The protocol and the answer to the client's key.
fn negotiate(headers: &HeaderMap) -> Result<(Protocol, HeaderValue), String> {
    let upgrade: Vec<_> = channels::values(headers, UPGRADE).map(str::to_ascii_lowercase).collect();
    if !upgrade.iter().any(|word| word == "websocket") {
        let asked = if upgrade.is_empty() { "no upgrade".into() } else { upgrade.join(", ") };
        return Err(format!(
            "exec is served over WebSocket (v5.channel.k8s.io, v4.channel.k8s.io), the client asked for {asked}; use kubectl 1.30 or newer (1.29 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true)"
        ));
    }
    if !channels::values(headers, SEC_WEBSOCKET_VERSION).any(|version| version == "13") {
        return Err("only version 13 of WebSocket is served".into());
    }
    let protocol = Protocol::of(headers).ok_or_else(|| {
        let offered: Vec<_> = channels::values(headers, SEC_WEBSOCKET_PROTOCOL).collect();
        format!("none of the WebSocket protocols {offered:?} is served, but v5.channel.k8s.io and v4.channel.k8s.io")
    })?;
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("the header Sec-WebSocket-Key is missing")?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|e| e.to_string())?;
    Ok((protocol, accept))
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// The whole conversation. When the client leaves first, dropping the session kills the command.
async fn talk<C: Commands>(commands: &C, id: &str, wanted: &SessionRequest, protocol: Protocol, socket: Socket) {
    let (mut sink, mut source) = socket.split();
    let last = match commands.begin(id, wanted).await {
        Ok(mut session) => {
            let (stdin, resize) = (session.stdin.take(), session.resize.take());
            let listen = async {
                let resize = resize.as_ref();
                listen(&mut source, protocol, stdin, |size| {
                    // A terminal that is gone has no size to change.
                    if let Some(Err(error)) = resize.map(|resize| resize(size)) {
                        tracing::debug!(%error, "a terminal was not resized");
                    }
                })
                .await
            };
            tokio::select! {
                () = listen => None,
                ended = speak(&mut sink, session) => ended,
            }
        }
        Err(e) => Some(channels::failed(&e.to_string())),
    };
    let Some(last) = last else { return tracing::debug!(container = id, "a client left, its command was ended") };
    let goodbye = async {
        sink.send(frame(channels::ERROR, last.as_bytes())).await?;
        // Without its code kubectl takes it for an accident.
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))).await?;
        // Closing with unread input would take back what the client has not read yet.
        while let Some(Ok(_)) = source.next().await {}
        Ok::<_, tungstenite::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(GOODBYE, goodbye).await {
        tracing::debug!(%error, "a client left before its command's last word");
    }
}

/// From the client to the command, until the client leaves.
async fn listen(
    source: &mut SplitStream<Socket>,
    protocol: Protocol,
    mut stdin: Option<Input>,
    resize: impl Fn(crate::session::Size),
) {
    while let Some(Ok(message)) = source.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            // Pings are answered by the socket itself.
            _ => continue,
        };
        match Frame::parse(protocol, &bytes) {
            Frame::Stdin(data) => {
                // A command that does not read any more is no reason to end it.
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(data).await.is_err()
                {
                    stdin = None;
                }
            }
            Frame::StdinEnds => {
                if let Some(mut pipe) = stdin.take() {
                    let _ = pipe.shutdown().await;
                }
            }
            Frame::Resize(size) => resize(size),
            Frame::Other => {}
        }
    }
}

/// From the command to the client, until the command has ended and all was said; None when the client does not listen.
async fn speak(sink: &mut SplitSink<Socket, Message>, session: Session) -> Option<String> {
    let Session { stdout, stderr, exit, .. } = session;
    let (sender, mut said) = mpsc::channel::<Message>(4);
    let ended = CancellationToken::new();
    let out = pump(stdout, channels::STDOUT, sender.clone(), ended.clone());
    let err = pump(stderr, channels::STDERR, sender, ended.clone());
    let exit = async {
        let code = exit.await;
        ended.cancel();
        code
    };
    // An empty frame: some clients wait for a first word.
    sink.send(frame(channels::STDOUT, b"")).await.ok()?;
    let send = async {
        while let Some(message) = said.recv().await {
            sink.send(message).await?;
        }
        Ok::<_, tungstenite::Error>(())
    };
    let command = async { Ok(tokio::join!(out, err, exit).2) };
    let (code, ()) = tokio::try_join!(command, send).ok()?;
    Some(match code {
        Ok(code) => channels::ended(code),
        Err(e) => channels::failed(&e.to_string()),
    })
}

async fn pump(output: Option<Output>, channel: u8, said: mpsc::Sender<Message>, ended: CancellationToken) {
    let Some(mut output) = output else { return };
    let mut block = vec![0; BLOCK];
    loop {
        let late = async {
            ended.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let length = tokio::select! {
            biased;
            read = output.read(&mut block) => read.unwrap_or(0),
            () = late => 0,
        };
        if length == 0 || said.send(frame(channel, &block[..length])).await.is_err() {
            return;
        }
    }
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::Binary(Bytes::from(bytes))
}
