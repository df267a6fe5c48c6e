//! Rules, written by a thread of its own: the programs of iptables take seconds where there are many services, and wait
//! for others' locks. What is set meanwhile is written together, by the next sync.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use thalweg_cluster::Name;
use thalweg_loader::Error;
use thalweg_proxy::iptables::{Figures, IptablesBackend, Stop};
use thalweg_proxy::plan::ServicePlan;
use thalweg_proxy::{Applied, Backend};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Applies so far: what was set before one is in effect when that one has been reported, or a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Ticket(u64);

/// What a sync did.
pub struct Report {
    /// Everything up to this apply is in effect, as far as `result` says.
    pub ticket: Ticket,
    pub result: Result<Applied, Error>,
}

/// The backend on its thread. Errors of applies are in the reports.
pub struct Rules {
    orders: Sender<Order>,
    reports: UnboundedReceiver<Done>,
    last: Ticket,
    figures: Figures,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Set(Box<ServicePlan>),
    Remove(Name),
    SetServiceRanges(Vec<IpNetwork>),
    RetainOnlyKnown,
    Apply(Ticket),
    SetLenient(bool),
    Repair,
    Replace(Box<IptablesBackend>),
}

struct Done {
    report: Report,
    figures: Figures,
}

/// What the thread works on.
struct Work {
    backend: Box<IptablesBackend>,
    asked: Ticket,
    is_due: bool,
    repairs: bool,
}

// === impl Rules ===

impl Rules {
    /// `stop` is what the backend's programs heed.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(backend: IptablesBackend, stop: Stop) -> Result<Self> {
        let (orders, receiver) = mpsc::channel();
        let (sender, reports) = unbounded_channel();
        let mut work = Work { backend: Box::new(backend), asked: Ticket::default(), is_due: false, repairs: false };
        let heeded = stop.clone();
        let thread = thread::Builder::new()
            .name("tw-rules".into())
            .spawn(move || work.follow(&receiver, &sender, &heeded))
            .context("start a thread for iptables")?;
        Ok(Self { orders, reports, last: Ticket::default(), figures: Figures::default(), stop, thread: Some(thread) })
    }

    /// What its programs heed.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The latest apply.
    pub fn last(&self) -> Ticket {
        self.last
    }

    /// The next sync that has ended. Nothing is lost when this is dropped before it is done.
    pub async fn report(&mut self) -> Report {
        match self.reports.recv().await {
            Some(Done { report, figures }) => {
                self.figures = figures;
                report
            }
            // The thread has panicked, which has been logged: it is the health check that tells.
            None => std::future::pending().await,
        }
    }

    /// Looks after what others may have changed.
    pub fn repair(&self) {
        self.order(Order::Repair);
    }

    /// See [`IptablesBackend::set_lenient`]; takes effect by itself.
    pub fn set_lenient(&self, lenient: bool) {
        self.order(Order::SetLenient(lenient));
    }

    /// From now on this one has the kernel: whatever was set is to be set again.
    pub fn replace(&self, backend: IptablesBackend) {
        self.order(Order::Replace(Box::new(backend)));
    }

    fn order(&self, order: Order) {
        // As in `report`.
        let _ = self.orders.send(order);
    }
}

impl Backend for Rules {
    fn set(&mut self, plan: ServicePlan) {
        self.order(Order::Set(Box::new(plan)));
    }

    fn remove(&mut self, name: &Name) {
        self.order(Order::Remove(name.clone()));
    }

    fn set_service_ranges(&mut self, ranges: &[IpNetwork]) {
        self.order(Order::SetServiceRanges(ranges.to_vec()));
    }

    fn retain_only_known(&mut self) {
        self.order(Order::RetainOnlyKnown);
    }

    /// Only asks for it: [`Rules::report`] tells what was done.
    fn apply(&mut self, _now: Instant) -> Result<Applied, Error> {
        self.last.0 += 1;
        self.order(Order::Apply(self.last));
        Ok(Applied::default())
    }

    fn rules(&self) -> Option<Figures> {
        Some(self.figures.clone())
    }

    /// The thread looks at its clock by itself.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

impl Drop for Rules {
    /// A program that runs gets a moment to end, and is ended then; what it did not write the next process writes.
    fn drop(&mut self) {
        self.stop.stop();
        (self.orders, _) = mpsc::channel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that writes rules had panicked");
        }
    }
}

// === impl Work ===

impl Work {
    fn follow(&mut self, orders: &Receiver<Order>, reports: &UnboundedSender<Done>, stop: &Stop) {
        loop {
            let wait = self.backend.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            match orders.recv_timeout(wait.unwrap_or(Duration::from_secs(3600))) {
                Ok(order) => self.take(order),
                Err(RecvTimeoutError::Timeout) => self.is_due = wait.is_some(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One sync serves all that has been said until now.
            orders.try_iter().for_each(|order| self.take(order));
            if std::mem::take(&mut self.repairs)
                && let Err(error) = self.backend.repair()
                && !stop.is_stopped()
            {
                tracing::error!("look after the rules: {error}");
            }
            if std::mem::take(&mut self.is_due) {
                let result = Backend::apply(&mut *self.backend, Instant::now());
                if stop.is_stopped() {
                    return;
                }
                let report = Report { ticket: self.asked, result };
                // Whoever does not listen any more is about to end.
                let _ = reports.send(Done { report, figures: self.backend.figures() });
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Set(plan) => self.backend.set(*plan),
            Order::Remove(name) => self.backend.remove(&name),
            Order::SetServiceRanges(ranges) => self.backend.set_service_ranges(&ranges),
            Order::RetainOnlyKnown => self.backend.retain_only_known(),
            Order::Apply(ticket) => (self.asked, self.is_due) = (ticket, true),
            Order::SetLenient(lenient) => self.is_due |= self.backend.set_lenient(lenient),
            Order::Repair => self.repairs = true,
            Order::Replace(mut backend) => {
                backend.set_lenient(self.backend.is_lenient());
                self.backend = backend;
            }
        }
    }
}

#[cfg(test)]
pub mod tests;
