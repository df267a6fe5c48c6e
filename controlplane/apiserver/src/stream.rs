//! `pods/x/exec`: the client's upgraded connection, joined to one with the kubelet. The bytes are not looked at. Attaching and
//! forwarding of ports are refused here, in words.

use std::time::Duration;

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Response, StatusCode, request};
use http_body_util::BodyExt as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::kubelet::Place;
use crate::query::{Query, escape};
use crate::respond::{self, Body};
use crate::route::Call;
use crate::status::{ApiError, Result};

/// How long a kubelet may go on talking to a client that has stopped.
const LINGER: Duration = Duration::from_secs(10);
/// Headers that mean one connection only; the others of an upgrade go to the kubelet as they are.
const PASSED: &str = "sec-websocket-";

// === impl Api ===

impl Api {
    /// The answer to a request of a stream of a pod.
    pub(crate) async fn stream(&self, call: &Call, parts: &request::Parts, query: &Query) -> Result<Response<Body>> {
        // A pod that is not there is what the client should hear of first.
        self.find(call.kind, &call.namespace, &call.name).await?;
        match call.subresource.as_str() {
            "exec" => self.exec(call, parts, query, &self.place(call, query).await?).await,
            "attach" => Err(not_served("attach is not served yet; `kubectl exec` and `kubectl logs -f` are")),
            _ => Err(not_served(
                "port-forward is not served yet; reach the pod through a Service (a NodePort from outside of the cluster), \
                 or run a client in a pod with `kubectl exec`",
            )),
        }
    }

    async fn exec(&self, call: &Call, parts: &request::Parts, query: &Query, place: &Place) -> Result<Response<Body>> {
        let target = format!("/exec/{}/{}/{}?{}", call.namespace, call.name, place.container, options(query)?);
        let Some(address) = place.address else {
            return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name)));
        };
        let answered = self.kubelet.send(address, Method::GET, &target, upgrade_headers(&parts.headers)).await;
        let mut answer = answered.map_err(|error| ApiError::internal(format!("error dialing backend: {address}: {error}")))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = answer.status();
            let text = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(refused(code, String::from_utf8_lossy(&text).trim()));
        }
        let client = parts.extensions.get::<OnUpgrade>().cloned();
        let client =
            client.ok_or_else(|| ApiError::bad_request("unable to upgrade: this connection cannot be (use HTTP/1.1)"))?;
        let mut response = Response::new(respond::full(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = upgrade_headers(answer.headers());
        let kubelet = hyper::upgrade::on(&mut answer);
        tokio::spawn(join(client, kubelet, self.shutdown.clone()));
        Ok(response)
    }
}

fn not_served(why: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", why)
}

/// A kubelet's refusal as a Status.
fn refused(code: StatusCode, text: &str) -> ApiError {
    let message = format!("unable to upgrade connection: {text}");
    match code {
        StatusCode::BAD_REQUEST => ApiError::bad_request(message),
        StatusCode::NOT_FOUND => ApiError::new(StatusCode::NOT_FOUND, "NotFound", message),
        _ => ApiError::internal(message),
    }
}

/// What a kubelet is asked, by its own names of the parameters.
fn options(query: &Query) -> Result<String> {
    let mut words: Vec<_> = query.all("command").map(|word| format!("command={}", escape(word))).collect();
    if words.is_empty() {
        return Err(ApiError::bad_request("you must specify at least one command for the container"));
    }
    for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(ours) {
            words.push(format!("{theirs}=1"));
        }
    }
    Ok(words.join("&"))
}

/// Of a request's or an answer's headers those that make the upgrade. (No credentials: the kubelet knows us by our own.)
fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    let passed = |name: &HeaderName| name == UPGRADE || name.as_str().starts_with(PASSED);
    for (name, value) in headers.iter().filter(|(name, _)| passed(name)) {
        out.append(name, value.clone());
    }
    if out.contains_key(UPGRADE) {
        out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    out
}

/// Copies both ways until one side ends.
async fn join(client: OnUpgrade, kubelet: OnUpgrade, shutdown: CancellationToken) {
    let both = tokio::try_join!(client, kubelet);
    let (client, kubelet) = match both {
        Ok((client, kubelet)) => (TokioIo::new(client), TokioIo::new(kubelet)),
        Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
    };
    tokio::select! {
        () = copy(client, kubelet) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn copy(client: TokioIo<Upgraded>, kubelet: TokioIo<Upgraded>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_kubelet, mut to_kubelet) = tokio::io::split(kubelet);
    let upwards = async {
        // However it ends, the kubelet hears of it.
        let _ = tokio::io::copy(&mut from_client, &mut to_kubelet).await;
        let _ = to_kubelet.shutdown().await;
        tokio::time::sleep(LINGER).await;
    };
    let downwards = async {
        let _ = tokio::io::copy(&mut from_kubelet, &mut to_client).await;
        let _ = to_client.shutdown().await;
    };
    tokio::select! {
        () = upwards => {}
        () = downwards => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelet_is_asked_in_its_own_words() {
        let check = |text: &str, expected: &str| {
            let found = options(&Query::parse(text)).unwrap_or_else(|error| error.message().to_owned());
            assert_eq!(found, expected, "{text}");
        };
        check(
            "container=c&command=sh&command=-c&command=echo+%26&stdin=true&stdout=true&stderr=false&tty=1",
            "command=sh&command=-c&command=echo%20%26&input=1&output=1&tty=1",
        );
        check("stdout=true", "you must specify at least one command for the container");
    }

    #[test]
    fn only_what_makes_the_upgrade_is_passed_on() {
        let pairs = [
            ("authorization", "Bearer secret"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ("cookie", "c"),
        ];
        let headers: HeaderMap =
            pairs.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).into_iter().collect();
        let passed = upgrade_headers(&headers);
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["connection", "sec-websocket-key", "sec-websocket-protocol", "upgrade"]);
        assert!(upgrade_headers(&HeaderMap::new()).is_empty());
    }

    #[test]
    fn refusals_keep_their_code() {
        let check = |code: u16, expected: u16| {
            let error = refused(StatusCode::from_u16(code).unwrap(), "why");
            assert_eq!(
                (error.code().as_u16(), error.message().ends_with("unable to upgrade connection: why")),
                (expected, true)
            );
        };
        check(400, 400);
        check(404, 404);
        check(502, 500);
    }
}
