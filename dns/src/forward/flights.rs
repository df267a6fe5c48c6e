//! Questions that are under way: equal ones are asked once, and all who asked get the answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::question::Question;
use super::reply::Reply;
use crate::query::Rcode;

type Slot = Option<Arc<Reply>>;

#[derive(Default)]
pub struct Flights(Mutex<HashMap<Box<[u8]>, watch::Sender<Slot>>>);

/// The answer to a question, once it is there.
pub struct Answer {
    receiver: watch::Receiver<Slot>,
    first: bool,
    question: Question,
}

/// Ends a flight, with SERVFAIL unless it is told an answer.
pub struct Landing<'f> {
    flights: &'f Flights,
    question: Question,
}

// === impl Flights ===

impl Flights {
    /// Waits for the answer to a question; the first who does must see to it that it lands.
    pub fn join(&self, question: &Question) -> Answer {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(question.key()) {
            return Answer { receiver: flight.subscribe(), first: false, question: *question };
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(question.key().into(), sender);
        Answer { receiver, first: true, question: *question }
    }

    pub fn land(&self, question: &Question, reply: &Arc<Reply>) {
        if let Some(flight) = self.lock().remove(question.key()) {
            flight.send_replace(Some(reply.clone()));
        }
    }

    pub fn landing(&self, question: &Question) -> Landing<'_> {
        Landing { flights: self, question: *question }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, watch::Sender<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Answer ===

impl Answer {
    /// Whether nobody asked before.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// SERVFAIL when whoever asked is gone.
    pub async fn get(mut self) -> Arc<Reply> {
        let reply = self.receiver.wait_for(Option::is_some).await.ok().and_then(|reply| reply.clone());
        reply.unwrap_or_else(|| Arc::new(Reply::bare(Rcode::ServFail as u8, &self.question)))
    }
}

// === impl Landing ===

impl Landing<'_> {
    pub fn with(self, reply: &Arc<Reply>) {
        self.flights.land(&self.question, reply);
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        // Nothing is left to land after `with`.
        self.flights.land(&self.question, &Arc::new(Reply::bare(Rcode::ServFail as u8, &self.question)));
    }
}
