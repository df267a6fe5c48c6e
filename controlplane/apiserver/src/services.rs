//! Addresses and ports of services: reserved before the write that needs them, given back when it does not come to pass.

use std::sync::{MutexGuard, PoisonError};

use serde_json::Value;

use crate::admit::alloc::{Allocated, ServiceAllocator};
use crate::api::Api;
use crate::kinds::Kind;
use crate::object;
use crate::status::{ApiError, Result};

/// What a write has reserved. Dropped without [`keep`](Self::keep), it is given back.
#[must_use]
pub(crate) struct Reservation<'a> {
    api: &'a Api,
    allocated: Option<Allocated>,
}

// === impl Reservation ===

impl Reservation<'_> {
    /// The write is done.
    pub(crate) fn keep(mut self) {
        if let Some(allocated) = self.allocated.take() {
            self.api.allocator().commit(allocated);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(allocated) = self.allocated.take() {
            self.api.allocator().rollback(allocated);
        }
    }
}

// === impl Api ===

impl Api {
    /// Gives a new service its addresses and ports. Other kinds need none.
    pub(crate) fn reserve_new(&self, kind: &Kind, object: &mut Value) -> Result<Reservation<'_>> {
        if kind.kind != "Service" {
            return Ok(Reservation { api: self, allocated: None });
        }
        let allocated = self.allocator().allocate_for_create(object);
        self.reservation(kind, object, allocated)
    }

    /// Gives a changed service what it needs now; what it no longer needs is free once the write is done.
    pub(crate) fn reserve_change(&self, kind: &Kind, old: &Value, new: &mut Value) -> Result<Reservation<'_>> {
        if kind.kind != "Service" {
            return Ok(Reservation { api: self, allocated: None });
        }
        let allocated = self.allocator().for_update(old, new);
        self.reservation(kind, new, allocated)
    }

    /// The object is gone.
    pub(crate) fn released(&self, kind: &Kind, object: &Value) {
        if kind.kind == "Service" {
            self.allocator().release(object);
        }
    }

    fn reservation(
        &self,
        kind: &Kind,
        object: &Value,
        allocated: std::result::Result<Allocated, crate::admit::Cause>,
    ) -> Result<Reservation<'_>> {
        let allocated = allocated.map_err(|cause| ApiError::invalid(kind, object::name(object), &[cause]))?;
        Ok(Reservation { api: self, allocated: Some(allocated) })
    }

    fn allocator(&self) -> MutexGuard<'_, ServiceAllocator> {
        // Its changes are whole: a panic elsewhere leaves it usable.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
