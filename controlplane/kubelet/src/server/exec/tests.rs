//! The conversation over a real WebSocket, with commands that are not processes.

use http::Request;
use hyper::body::Incoming;
use tokio::io::DuplexStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error;

use super::*;
use crate::runtime::RuntimeError;

/// `copy` gives back its input and ends with 3 after it; `wait` ends never; `fail` does not begin.
#[derive(Default)]
struct Fake {
    dropped: CancellationToken,
}

impl Commands for Fake {
    async fn find(&self, _: &str, _: &str, container: &str) -> runtime::Result<Option<String>> {
        Ok((container == "c").then(|| "id".into()))
    }

    async fn begin(&self, _: &str, request: &SessionRequest) -> runtime::Result<Session> {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let (stdout, stdin) = tokio::io::split(ours);
        let guard = self.dropped.clone().drop_guard();
        let command = request.command[0].clone();
        let exit = async move {
            let _guard = guard;
            if command == "wait" {
                std::future::pending::<()>().await;
            }
            let mut input = Vec::new();
            theirs.read_to_end(&mut input).await.expect("input");
            theirs.write_all(&input).await.expect("output");
            Ok(3)
        };
        match request.command[0].as_str() {
            "fail" => Err(RuntimeError::Start("no such luck".into())),
            _ => Ok(Session {
                stdin: Some(Box::pin(stdin)),
                stdout: Some(Box::pin(stdout)),
                stderr: None,
                resize: None,
                exit: Box::pin(exit),
            }),
        }
    }
}

type Client = WebSocketStream<DuplexStream>;

async fn connect(fake: &Arc<Fake>, command: &str, protocol: &str, container: &'static str) -> Result<Client, Error> {
    let (ours, theirs) = tokio::io::duplex(4096);
    let fake = fake.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let fake = fake.clone();
        async move {
            let place = Place { namespace: "shop", pod: "web", container };
            Ok::<_, std::convert::Infallible>(serve(fake, place, request, CancellationToken::new()).await)
        }
    });
    let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service).with_upgrades();
    tokio::spawn(server);
    let mut request =
        format!("ws://node1/exec/shop/web/{container}?command={command}&input=1&output=1").into_client_request()?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol.parse().expect("header"));
    let (client, response) =
        tokio::time::timeout(Duration::from_secs(5), client_async(request, ours)).await.expect("in time")?;
    assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], protocol);
    Ok(client)
}

/// All frames until the server closes: what was said on stdout, and the last word.
async fn hear(client: &mut Client) -> (Vec<u8>, serde_json::Value) {
    let (mut out, mut last) = (Vec::new(), serde_json::Value::Null);
    while let Some(Ok(message)) = tokio::time::timeout(Duration::from_secs(5), client.next()).await.expect("in time") {
        let Message::Binary(bytes) = message else { continue };
        match bytes.split_first().expect("a channel") {
            (&channels::STDOUT, data) => out.extend_from_slice(data),
            (&channels::ERROR, data) => last = serde_json::from_slice(data).expect("a Status"),
            other => panic!("unexpected frame {other:?}"),
        }
    }
    (out, last)
}

#[tokio::test]
async fn input_output_and_the_exit_code_cross() {
    let mut client = connect(&Arc::default(), "copy", "v5.channel.k8s.io", "c").await.expect("upgraded");
    for _ in 0..3 {
        client.send(frame(0, b"hello ")).await.expect("send");
    }
    client.send(Message::Ping(Bytes::new())).await.expect("send");
    client.send(Message::Binary(vec![255, 0].into())).await.expect("send");
    let (out, last) = hear(&mut client).await;
    assert_eq!(String::from_utf8_lossy(&out), "hello hello hello ");
    assert_eq!((&last["reason"], &last["details"]["causes"][0]["message"]), (&"NonZeroExitCode".into(), &"3".into()));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_command() {
    for polite in [true, false] {
        let fake = Arc::new(Fake::default());
        let mut client = connect(&fake, "wait", "v4.channel.k8s.io", "c").await.expect("upgraded");
        client.send(frame(0, b"x")).await.expect("send");
        assert!(!fake.dropped.is_cancelled());
        if polite {
            client.close(None).await.expect("close");
        }
        drop(client);
        tokio::time::timeout(Duration::from_secs(5), fake.dropped.cancelled()).await.expect("the command is dropped");
    }
}

#[tokio::test]
async fn what_does_not_begin_says_why() {
    let mut client = connect(&Arc::default(), "fail", "v5.channel.k8s.io", "c").await.expect("upgraded");
    let (_, last) = hear(&mut client).await;
    assert!(last["message"].as_str().is_some_and(|message| message.ends_with("no such luck")), "{last}");
}

#[tokio::test]
async fn refusals_come_before_the_upgrade() {
    let check = async |command: &str, protocol: &str, container: &'static str, status: u16| match connect(
        &Arc::default(),
        command,
        protocol,
        container,
    )
    .await
    {
        Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), status, "{protocol} {container}"),
        other => panic!("{protocol} {container}: {other:?}"),
    };
    check("copy", "v5.channel.k8s.io", "d", 404).await;
    check("copy", "v3.channel.k8s.io", "c", 400).await;
    check("%zz", "v5.channel.k8s.io", "c", 400).await;
    let spdy = HeaderMap::from_iter([(UPGRADE, HeaderValue::from_static("SPDY/3.1"))]);
    let why = negotiate(&spdy).expect_err("not served");
    assert!(why.contains("spdy/3.1; use kubectl 1.30 or newer"), "{why}");
    assert!(negotiate(&HeaderMap::new()).expect_err("nothing asked").contains("no upgrade"));
}
