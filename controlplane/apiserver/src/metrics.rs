//! The server's own numbers, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    in_flight: AtomicI64,
}

/// Counts a request as in flight while it lives.
pub(crate) struct InFlight<'a>(&'a Metrics);

// === impl Metrics ===

impl Metrics {
    pub(crate) fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    pub(crate) fn count(&self, method: &str, code: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        // The method is the client's word; only known ones become label values.
        let method = match method {
            "GET" | "PUT" | "POST" | "PATCH" | "DELETE" | "HEAD" => method,
            _ => "other",
        };
        *requests.entry((method.to_owned(), code)).or_default() += 1;
    }

    pub(crate) fn render(&self, revision: u64) -> String {
        let mut out = String::from("# TYPE apiserver_request_total counter\n");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((method, code), count) in requests.iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "apiserver_request_total{{method=\"{method}\",code=\"{code}\"}} {count}");
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let _ =
            writeln!(out, "# TYPE apiserver_current_inflight_requests gauge\napiserver_current_inflight_requests {in_flight}");
        let _ = writeln!(out, "# TYPE thalweg_store_revision gauge\nthalweg_store_revision {revision}");
        out
    }
}

// === impl InFlight ===

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_method_and_code() {
        let metrics = Metrics::default();
        let entered = metrics.enter();
        metrics.count("GET", 200);
        metrics.count("GET", 200);
        metrics.count("BREW", 405);
        let text = metrics.render(7);
        assert!(text.contains("apiserver_request_total{method=\"GET\",code=\"200\"} 2\n"), "{text}");
        assert!(text.contains("method=\"other\",code=\"405\"} 1\n") && text.contains("inflight_requests 1\n"), "{text}");
        drop(entered);
        assert!(metrics.render(7).contains("inflight_requests 0\n"));
    }
}
