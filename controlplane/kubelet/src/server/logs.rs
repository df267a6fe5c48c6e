//! `GET /containerLogs/NAMESPACE/POD/CONTAINER`: the log of a container, as it is or as it grows.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};

use super::{Body, text};
use crate::logs::{LogIndex, LogKey, LogOptions, LogReader};

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    options: LogOptions,
    previous: bool,
}

pub(super) async fn serve(index: Arc<LogIndex>, namespace: &str, pod: &str, container: &str, query: &str) -> Response<Body> {
    let wanted = match parse(query, Timestamp::now()) {
        Ok(wanted) => wanted,
        Err(e) => return text(StatusCode::BAD_REQUEST, e),
    };
    let key = LogKey { namespace: namespace.to_owned(), pod: pod.to_owned(), container: container.to_owned() };
    let Some(place) = index.get(&key) else {
        return text(StatusCode::NOT_FOUND, format!("container {container:?} in pod {namespace}/{pod} is not on this node"));
    };
    let waits = |reason: Option<&str>| {
        let reason = reason.unwrap_or("ContainerCreating");
        text(StatusCode::BAD_REQUEST, format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"))
    };
    let path = match (wanted.previous, place.latest, place.previous) {
        (true, _, Some(path)) | (false, Some(path), _) => path,
        (true, ..) => {
            let words = format!("previous terminated container {container:?} in pod {pod:?} not found");
            return text(StatusCode::BAD_REQUEST, words);
        }
        (false, ..) => return waits(place.waiting.as_deref()),
    };
    let reader = match LogReader::open(&path, wanted.options.clone()) {
        Ok(reader) => reader,
        // The instance is there, its log is not yet.
        Err(e) if e.kind() == ErrorKind::NotFound && (place.running || place.waiting.is_some()) && !wanted.previous => {
            return waits(place.waiting.as_deref());
        }
        // It ended before it could say anything.
        Err(e) if e.kind() == ErrorKind::NotFound => return text(StatusCode::OK, ""),
        Err(e) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {e}", path.display())),
    };
    let follow = wanted.options.follow && !wanted.previous;
    let grows = move || follow && index.get(&key).is_some_and(|p| p.running && p.latest.as_ref() == Some(&path));
    let chunks = futures::stream::unfold((Some(reader), grows), |(reader, grows)| async move {
        let mut reader = reader?;
        loop {
            // Looked at before reading: what was written until the end is then still read.
            let more = grows();
            match reader.next_chunk() {
                Ok(chunk) if !chunk.is_empty() => return Some((Bytes::from(chunk), (Some(reader), grows))),
                Ok(_) if more && !reader.exhausted() => tokio::time::sleep(POLL).await,
                Ok(_) => return None,
                Err(e) => return Some((Bytes::from(format!("read the log: {e}\n")), (None, grows))),
            }
        }
    });
    let body = StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk))));
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn parse(query: &str, now: Timestamp) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let flag = || matches!(value, "" | "true" | "1");
        let number = || value.parse::<u64>().map_err(|_| format!("{key}={value}: not a number"));
        let options = &mut wanted.options;
        match key {
            "follow" => options.follow = flag(),
            "timestamps" => options.timestamps = flag(),
            "previous" => wanted.previous = flag(),
            "tailLines" => options.tail_lines = Some(number()?),
            "limitBytes" => options.limit_bytes = Some(number()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).map_err(|e| e.to_string())?;
                options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
            }
            "sinceTime" => {
                let text = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+");
                options.since = Some(text.parse().map_err(|_| format!("sinceTime={value}: not a time"))?);
            }
            _ => {} // insecureSkipTLSVerifyBackend and the like are the API server's business
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{LogPlace, LogWriter, Stream};

    #[test]
    fn queries() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("time");
        let minute: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let check = |query: &str, expected: Result<Wanted, &str>| match (parse(query, now), expected) {
            (Err(error), Err(part)) => assert!(error.contains(part), "{query}: {error}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{query}"),
        };
        check("", Ok(Wanted::default()));
        let options = LogOptions { follow: true, tail_lines: Some(5), limit_bytes: Some(9), timestamps: true, since: None };
        check("follow=true&tailLines=5&limitBytes=9&timestamps=1&pretty=x", Ok(Wanted { options, previous: false }));
        let options = LogOptions { since: Some(minute), ..LogOptions::default() };
        check("sinceSeconds=60&previous=true", Ok(Wanted { options: options.clone(), previous: true }));
        check("sinceTime=2026-01-01T00%3A00%3A00Z&follow=false", Ok(Wanted { options, previous: false }));
        check("tailLines=-1", Err("tailLines=-1"));
        check("sinceTime=yesterday", Err("not a time"));
    }

    fn key() -> LogKey {
        LogKey { namespace: "shop".into(), pod: "web".into(), container: "c".into() }
    }

    async fn check(index: &Arc<LogIndex>, query: &str, status: u16, part: &str) {
        let response = serve(index.clone(), "shop", "web", "c", query).await;
        assert_eq!(response.status().as_u16(), status, "{query}");
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        assert!(String::from_utf8_lossy(&bytes).contains(part), "{query}: {bytes:?}");
    }

    #[tokio::test]
    async fn logs_are_found_by_pod_and_container() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            let mut log = LogWriter::open(&path).expect("open");
            log.line(Timestamp::now(), Stream::Stdout, false, text.as_bytes()).expect("write");
            path
        };
        let index = Arc::new(LogIndex::default());
        check(&index, "", 404, "not on this node").await;
        index.set("u1", key(), LogPlace::default());
        check(&index, "", 400, "container \"c\" in pod \"web\" is waiting to start: ContainerCreating").await;
        check(&index, "previous=true", 400, "previous terminated container \"c\" in pod \"web\" not found").await;
        let early = LogPlace { latest: Some(dir.path().join("not-yet.log")), running: true, ..LogPlace::default() };
        index.set("u1", key(), early.clone());
        check(&index, "follow=true", 400, "is waiting to start: ContainerCreating").await;
        index.set("u1", key(), LogPlace { running: false, waiting: Some("PodInitializing".into()), ..early.clone() });
        check(&index, "", 400, "is waiting to start: PodInitializing").await;
        index.set("u1", key(), LogPlace { running: false, ..early });
        check(&index, "", 200, "").await;
        let (old, new) = (write("0.log", "old words"), write("1.log", "new words"));
        index.set("u1", key(), LogPlace { latest: Some(new), previous: Some(old), running: true, waiting: None });
        check(&index, "", 200, "new words\n").await;
        check(&index, "previous=true", 200, "old words\n").await;

        let followed = tokio::spawn(serve(index.clone(), "shop", "web", "c", "follow=true"));
        let mut body = followed.await.expect("response").into_body();
        assert!(body.frame().await.is_some());
        write("1.log", "more words");
        let frame = body.frame().await.expect("a second frame").expect("data").into_data().expect("data");
        assert!(frame.ends_with(b"more words\n"), "{frame:?}");
        index.forget("another");
        index.forget("u1");
        assert!(body.frame().await.is_none(), "the log ends with the pod");
    }
}
