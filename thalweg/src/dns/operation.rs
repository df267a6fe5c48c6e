//! What a DNS server offers beside answers: `/health`, `/ready` and `/metrics`, each where the Corefile says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::StatusCode;
use thalweg_dns::Server as Dns;
use thalweg_dns::config::Operation;
use thalweg_proxy::http::{Answer, Handler, Server};

use super::metrics::{Programming, render};

/// Shared with the servers.
struct State {
    dns: Arc<Dns>,
    programming: Arc<Programming>,
    lameduck: AtomicBool,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
}

/// The servers that run now.
pub struct Servers {
    state: Arc<State>,
    running: Vec<(Page, SocketAddr, Server)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Health,
    Ready,
    Metrics,
}

// === impl Servers ===

impl Servers {
    pub fn new(dns: Arc<Dns>, programming: Arc<Programming>) -> Self {
        let state = State {
            dns,
            programming,
            lameduck: AtomicBool::new(false),
            reloads: AtomicU64::new(0),
            failed_reloads: AtomicU64::new(0),
        };
        Self { state: Arc::new(state), running: Vec::new() }
    }

    /// Starts what is wanted and ends what is not; what stays where it was goes on. Call it inside the runtime. A server
    /// that cannot listen tries again: answers are worth more than it is.
    pub fn follow(&mut self, operation: &Operation) {
        let health = operation.health.as_ref().map(|health| health.listen);
        let wanted = [(Page::Health, health), (Page::Ready, operation.ready), (Page::Metrics, operation.prometheus)];
        self.running.retain(|(page, address, _)| wanted.contains(&(*page, Some(*address))));
        for (page, address) in wanted {
            let Some(address) = address else { continue };
            if self.running.iter().any(|(held, _, _)| *held == page) {
                continue;
            }
            match Server::listen(page.name(), address, false, self.handler(page)) {
                Ok(server) => self.running.push((page, address, server)),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// From now on the process is not healthy, so that nobody sends it clients any more.
    pub fn lameduck(&self) {
        self.state.lameduck.store(true, Ordering::Relaxed);
    }

    /// Another configuration is in use, or could not be.
    pub fn reloaded(&self, well: bool) {
        let counter = if well { &self.state.reloads } else { &self.state.failed_reloads };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn handler(&self, page: Page) -> Handler {
        let state = self.state.clone();
        Arc::new(move |path| state.answer(page, path))
    }
}

// === impl Page ===

impl Page {
    fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Ready => "readiness",
            Self::Metrics => "metrics",
        }
    }
}

// === impl State ===

impl State {
    fn answer(&self, page: Page, path: &str) -> Answer {
        match (page, path) {
            (Page::Health, "/health") if self.lameduck.load(Ordering::Relaxed) => {
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, "stopping")
            }
            (Page::Ready, "/ready") if !self.dns.is_synced() => {
                // What is waited for, by the name of the directive.
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, "kubernetes")
            }
            (Page::Health, "/health") | (Page::Ready, "/ready") => Answer::text(StatusCode::OK, "OK"),
            (Page::Metrics, "/metrics") => Answer {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Answer::text(StatusCode::OK, self.metrics())
            },
            _ => Answer::not_found(),
        }
    }

    fn metrics(&self) -> String {
        let reloads = [&self.reloads, &self.failed_reloads].map(|counter| counter.load(Ordering::Relaxed));
        render(&self.dns, &self.programming, reloads)
    }
}
