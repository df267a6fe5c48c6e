//! `pods/x/log`: asked of the kubelet that runs the pod, and streamed through.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::api::Api;
use crate::kubelet::Place;
use crate::object;
use crate::query::Query;
use crate::respond::{self, Body};
use crate::route::Call;
use crate::status::{ApiError, Result};

// === impl Api ===

impl Api {
    pub(crate) async fn log(&self, call: &Call, query: &Query) -> Result<Response<Body>> {
        let target = options(query)?;
        let Place { pod, container, address } = self.place(call, query).await?;
        let Some(address) = address else {
            // Nothing ran yet, so nothing was said.
            return Ok(respond::text(StatusCode::OK, Vec::new()));
        };
        let target = format!("/containerLogs/{}/{}/{container}{target}", call.namespace, call.name);
        let mut response = self
            .kubelet
            .get(address, &target)
            .await
            .map_err(|error| ApiError::internal(format!("Get \"https://{address}{target}\": {error}")))?;
        if response.status().is_success() {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            return Ok(response);
        }
        let code = response.status();
        let text = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Err(match code {
            // The kubelet has not heard of the pod yet, or has forgotten it.
            StatusCode::NOT_FOUND => ApiError::bad_request(absent(&pod, &container)),
            StatusCode::BAD_REQUEST => ApiError::bad_request(text),
            _ => ApiError::internal(format!("the kubelet on {address} answered {code}: {text}")),
        })
    }
}

/// Why there is no log of a container that its kubelet does not know.
fn absent(pod: &Value, container: &str) -> String {
    let name = object::name(pod);
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Running"));
    if ended || object::deleting(pod) {
        return format!("container {container:?} in pod {name:?} is not available");
    }
    let statuses = ["containerStatuses", "initContainerStatuses"].map(|field| pod["status"][field].as_array());
    let of = statuses.into_iter().flatten().flatten().find(|status| status["name"] == container);
    let reason = of.and_then(|status| status["state"]["waiting"]["reason"].as_str()).unwrap_or("ContainerCreating");
    format!("container {container:?} in pod {name:?} is waiting to start: {reason}")
}

/// The options that kubelets take, as a query string.
fn options(query: &Query) -> Result<String> {
    let invalid = |field: &str, message: &str| Err(ApiError::invalid_log_options(field, message));
    if query.has("sinceSeconds") && query.has("sinceTime") {
        return invalid("sinceSeconds", "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    let mut words = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if query.flag(name) {
            words.push(format!("{name}=true"));
        }
    }
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        let text = query.get(name);
        if text.is_empty() {
            continue;
        }
        match text.parse::<i64>() {
            Ok(number) if number >= least => words.push(format!("{name}={number}")),
            Ok(number) => {
                let rule = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
                return invalid(name, &format!("Invalid value: {number}: {rule}"));
            }
            Err(_) => return Err(ApiError::bad_request(format!("invalid value {text:?} for {name}"))),
        }
    }
    let since = query.get("sinceTime");
    if !since.is_empty() {
        let time: jiff::Timestamp = since.parse().map_err(|_| {
            ApiError::bad_request(format!("invalid value {since:?} for sinceTime: give a time as RFC 3339 has it"))
        })?;
        // In UTC, so that it needs no escapes.
        words.push(format!("sinceTime={time}"));
    }
    Ok(if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn log_options_are_checked_and_passed_on() {
        let check = |text: &str, expected: &str| {
            let found =
                options(&Query::parse(text)).unwrap_or_else(|error| format!("{} {}", error.code().as_u16(), error.message()));
            assert_eq!(found, expected, "{text}");
        };
        check("", "");
        check("container=a&follow=false&pretty", "");
        check("follow=true&tailLines=5&container=a&previous", "?follow=true&previous=true&tailLines=5");
        check("sinceTime=2026-01-01T02%3A00%3A00%2B02%3A00&limitBytes=9", "?limitBytes=9&sinceTime=2026-01-01T00:00:00Z");
        check(
            "tailLines=-1",
            "422 PodLogOptions \"\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
        );
        check("sinceSeconds=0", "422 PodLogOptions \"\" is invalid: sinceSeconds: Invalid value: 0: must be greater than 0");
        check(
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "422 PodLogOptions \"\" is invalid: sinceSeconds: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        );
        check("tailLines=many", "400 invalid value \"many\" for tailLines");
        check("sinceTime=then", "400 invalid value \"then\" for sinceTime: give a time as RFC 3339 has it");
    }

    #[test]
    fn a_missing_log_is_explained_by_the_status() {
        let check = |status: Value, expected: &str| {
            assert_eq!(absent(&json!({"metadata": {"name": "p"}, "status": status}), "c"), expected);
        };
        let waiting = |reason: &str| json!([{"name": "c", "state": {"waiting": {"reason": reason}}}]);
        check(json!({}), "container \"c\" in pod \"p\" is waiting to start: ContainerCreating");
        check(
            json!({"phase": "Pending", "containerStatuses": waiting("PodInitializing")}),
            "container \"c\" in pod \"p\" is waiting to start: PodInitializing",
        );
        check(json!({"phase": "Succeeded"}), "container \"c\" in pod \"p\" is not available");
    }
}
