//! The API itself: one request in, one answer out. Everything that requests share lives in [`Api`].

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Response, StatusCode, request};
use hyper::body::Incoming;
use thalweg_store::Store;
use tokio_util::sync::CancellationToken;

use crate::admit::alloc::ServiceAllocator;
use crate::authn::{Authenticator, Certificate, User};
use crate::authz::{self, Attributes, Authorizer, Resource};
use crate::kinds;
use crate::kubelet::Kubelet;
use crate::metrics::Metrics;
use crate::query::Query;
use crate::respond::{self, Body, Show};
use crate::route::{Call, Route, Verb};
use crate::schema::{self, Document};
use crate::status::{ApiError, Result};
use crate::write::{Options, Written};
use crate::{body, discovery, review, wire};

/// Requests slower than this are worth a line in the log (watches and logs are meant to last).
const SLOW: Duration = Duration::from_secs(1);

/// The server's shared state.
pub(crate) struct Api {
    pub store: Arc<dyn Store>,
    pub services: Mutex<ServiceAllocator>,
    pub authenticator: Authenticator,
    pub authorizer: Box<dyn Authorizer>,
    pub kubelet: Kubelet,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
}

/// A request after authentication, with its options read.
struct Context<'a> {
    headers: &'a HeaderMap,
    query: Query,
    show: Show,
}

// === impl Api ===

impl Api {
    /// Answers one request of a connection whose client presented `certificate`. Never fails: errors are answers.
    pub(crate) async fn serve(&self, certificate: &Certificate, request: hyper::Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let (parts, incoming) = request.into_parts();
        let what = format!("{} {}", parts.method, parts.uri);
        let _in_flight = self.metrics.enter();
        let answer = AssertUnwindSafe(self.answer(certificate, &parts, incoming)).catch_unwind().await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => respond::error(&error),
            // The panic itself has been printed by the hook, with its place.
            Err(_) => respond::error(&ApiError::internal(format!("the server failed on {what}"))),
        };
        let (code, took) = (response.status(), started.elapsed());
        self.metrics.count(parts.method.as_str(), code.as_u16());
        if code.is_server_error() || took > SLOW {
            tracing::warn!(%what, code = code.as_u16(), ?took, "slow or failed request");
        } else {
            tracing::debug!(%what, code = code.as_u16(), ?took, "request");
        }
        response
    }

    async fn answer(&self, certificate: &Certificate, parts: &request::Parts, incoming: Incoming) -> Result<Response<Body>> {
        let path = parts.uri.path();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let header = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let user = self.authenticator.authenticate(certificate, header(AUTHORIZATION));
        let route = Route::parse(&parts.method, path, &query);
        // The only things a stranger may ask.
        match route {
            Ok(Route::Health) => return Ok(self.health(&query).await),
            Ok(Route::Version) => return Ok(respond::json(StatusCode::OK, &discovery::version())),
            _ => {}
        }
        let Some(user) = user else {
            if let Certificate::Refused(why) = certificate {
                tracing::info!(why, "client certificate refused");
            }
            return Err(ApiError::unauthorized());
        };
        let method = parts.method.as_str().to_ascii_lowercase();
        let attributes = attributes(&user, route.as_ref().ok(), &method, path);
        if !self.authorizer.allowed(&attributes) {
            return Err(authz::forbidden(&attributes));
        }
        if matches!(&route, Ok(Route::Objects(call)) if call.is_stream()) {
            // Whoever may only read must not run commands, though a WebSocket begins with a GET.
            let create = Attributes { verb: Verb::Create.as_str(), ..attributes };
            if !self.authorizer.allowed(&create) {
                return Err(authz::forbidden(&create));
            }
        }
        let show = Show::of(header(ACCEPT), &query);
        match route? {
            // Answered above; here for those who are known.
            Route::Health => Ok(self.health(&query).await),
            Route::Version => Ok(respond::json(StatusCode::OK, &discovery::version())),
            Route::Metrics => {
                let text = self.metrics.render(self.store.revision().await?);
                Ok(respond::text(StatusCode::OK, text))
            }
            Route::CoreVersions => Ok(discovery::core(&parts.headers)),
            Route::Groups => Ok(discovery::groups(&parts.headers)),
            Route::Group(group) => discovery::group(&group),
            Route::Resources { group, version } => discovery::resources(&group, &version),
            Route::OpenApiV2 if header(ACCEPT).is_some_and(|accept| accept.contains(wire::OPENAPI_PROTOBUF)) => {
                let found = wire::openapi_v2_protobuf();
                Ok(tagged(&parts.headers, &found.hash, found.body.clone(), wire::OPENAPI_PROTOBUF_ANSWER))
            }
            Route::OpenApiV2 => Ok(document(&parts.headers, schema::openapi_v2(), &query)),
            Route::OpenApiV3Index => Ok(document(&parts.headers, schema::openapi_v3_index(), &query)),
            Route::OpenApiV3(root) => {
                let found = schema::openapi_v3(&root).ok_or_else(ApiError::no_such_path)?;
                Ok(document(&parts.headers, found, &query))
            }
            Route::Review { group, resource } => {
                let format = body::format(header(CONTENT_TYPE))?;
                let asked = body::parse(&body::read(incoming).await?, format)?;
                let review = review::answer(&user, self.authorizer.as_ref(), &group, &resource, asked.value)?;
                show?.value(StatusCode::CREATED, &review)
            }
            Route::Objects(call) if call.is_stream() => self.stream(&call, parts, &query).await,
            Route::Objects(call) => {
                let context = Context { headers: &parts.headers, query, show: show? };
                self.objects(&call, &context, incoming).await
            }
        }
    }

    async fn objects(&self, call: &Call, context: &Context<'_>, incoming: Incoming) -> Result<Response<Body>> {
        let query = &context.query;
        match (call.verb, call.subresource.as_str()) {
            (Verb::List, _) => return context.show.list(call.kind, &self.list(call, query).await?),
            (Verb::Watch, _) => return self.watch(call, query, context.show).await,
            (Verb::Get, "log") => return self.log(call, query).await,
            (Verb::Get, "scale") => return context.shown(self.get_scale(call).await?),
            (Verb::Get, _) => return context.show.object(call.kind, StatusCode::OK, self.get(call, query).await?),
            _ => {}
        }
        let content_type = context.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if call.verb == Verb::Patch {
            let options = Options::of(query, context.headers)?;
            let patch = crate::patching::Patch::parse(content_type, &body::read(incoming).await?, query)?;
            let written = match call.subresource.as_str() {
                "scale" => self.patch_scale(call, &options, &patch).await?,
                _ => self.patch(call, &options, &patch).await?,
            };
            return context.shown(written);
        }
        let format = body::format(content_type)?;
        let bytes = body::read(incoming).await?;
        if matches!(call.verb, Verb::Delete | Verb::DeleteCollection) {
            let options = self.delete_options(&bytes, format, query)?;
            return match call.verb {
                Verb::Delete => context.shown(self.delete(call, &options).await?),
                _ => context.show.list(call.kind, &self.delete_collection(call, query, &options).await?),
            };
        }
        let options = Options::of(query, context.headers)?;
        let document = body::parse(&bytes, format)?;
        let written = match (call.verb, call.subresource.as_str()) {
            (Verb::Create, "binding") => self.bind(call, &options, document).await?,
            (Verb::Create, "eviction") => self.evict(call, &options, document).await?,
            (Verb::Create, "token") => return Err(ApiError::method_not_allowed("service account tokens are not issued yet")),
            (Verb::Create, _) => self.create(call, &options, document).await?,
            (_, "scale") => self.update_scale(call, &options, document).await?,
            _ => self.update(call, &options, document).await?,
        };
        context.shown(written)
    }

    async fn health(&self, query: &Query) -> Response<Body> {
        if let Err(error) = self.store.revision().await {
            return respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("[-]store failed: {error}\n"));
        }
        let text = if query.has("verbose") { "[+]ping ok\n[+]store ok\nhealthz check passed\n" } else { "ok" };
        respond::text(StatusCode::OK, text)
    }
}

// === impl Context ===

impl Context<'_> {
    fn shown(&self, written: Written) -> Result<Response<Body>> {
        let mut response = match written.kind {
            Some(kind) => self.show.object(kind, written.code, written.json)?,
            None => respond::bytes(written.code, "application/json", written.json),
        };
        respond::warn(&mut response, &written.warnings);
        Ok(response)
    }
}

fn attributes<'a>(user: &'a User, route: Option<&'a Route>, method: &'a str, path: &'a str) -> Attributes<'a> {
    let (verb, resource) = match route {
        Some(Route::Objects(call)) => {
            // A namespace is itself what its requests are in.
            let namespace = if call.kind.kind == "Namespace" { &call.name } else { &call.namespace };
            let resource = Resource {
                group: call.kind.group,
                resource: call.kind.plural,
                subresource: &call.subresource,
                namespace,
                name: &call.name,
            };
            (call.verb.as_str(), Some(resource))
        }
        Some(Route::Review { group, resource }) => ("create", Some(Resource { group, resource, ..Resource::default() })),
        _ => (if method == "head" { "get" } else { method }, None),
    };
    Attributes { user, verb, resource, path }
}

/// A prepared document, or 304 when the client has it. Asked for by its hash it never changes.
fn document(headers: &HeaderMap, document: &Document, query: &Query) -> Response<Body> {
    let mut response = tagged(headers, &document.hash, document.body.clone(), "application/json");
    if query.get("hash") == document.hash {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(http::header::CACHE_CONTROL, forever);
    }
    response
}

/// An answer with an ETag.
pub(crate) fn tagged(headers: &HeaderMap, tag: &str, content: Bytes, content_type: &'static str) -> Response<Body> {
    let tag = format!("\"{tag}\"");
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let fresh = known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag || one.trim() == "*"));
    let mut response = match fresh {
        true => respond::bytes(StatusCode::NOT_MODIFIED, content_type, Bytes::new()),
        false => respond::bytes(StatusCode::OK, content_type, content),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The kind of namespaces, which creation looks at.
pub(crate) fn namespace_kind() -> Result<&'static kinds::Kind> {
    kinds::by_kind("", "v1", "Namespace").ok_or_else(|| ApiError::internal("namespaces are not served"))
}
