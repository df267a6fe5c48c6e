//! How many connections each client has: none can take all that there may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one address at once. A resolver has one, or a few; a gateway asks for many.
pub const PER_CLIENT: usize = 64;

/// Connections by the address they come from; an address that has none is not listed.
#[derive(Default)]
pub struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a client, until this is dropped.
pub struct Seat {
    clients: Arc<Clients>,
    client: IpAddr,
}

// === impl Clients ===

impl Clients {
    /// `None` when this client has as many as it may.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        let mut clients = self.lock();
        let seats = clients.entry(client).or_default();
        if *seats >= PER_CLIENT {
            return None;
        }
        *seats += 1;
        Some(Seat { clients: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Seat ===

impl Drop for Seat {
    fn drop(&mut self) {
        let mut clients = self.clients.lock();
        if let Some(seats) = clients.get_mut(&self.client) {
            *seats -= 1;
            if *seats == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_and_the_others_theirs() {
        let clients = Arc::new(Clients::default());
        let [one, other]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().expect("an address"));
        let mut seats: Vec<_> = std::iter::from_fn(|| clients.enter(one)).collect();
        assert_eq!(seats.len(), PER_CLIENT);
        let others = clients.enter(other);
        assert!(others.is_some() && clients.enter(one).is_none());
        seats.pop();
        seats.extend(clients.enter(one));
        assert_eq!(seats.len(), PER_CLIENT);
        drop((seats, others));
        assert!(clients.lock().is_empty(), "who has gone is forgotten");
    }
}
