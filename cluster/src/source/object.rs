//! An object that is there, found by the name that it carries itself: no copy of a name is kept beside it.

use std::cmp::Ordering;
use std::sync::Arc;

use super::convert::Key;
use crate::model::{EndpointSlice, Node, Pod, Service, ServiceCidr};
use crate::world::Change;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Object {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    ServiceCidr(Arc<ServiceCidr>),
}

// === impl Object ===

impl Object {
    /// `None` for what went away.
    pub fn of(change: Change) -> Option<Self> {
        Some(match change {
            Change::Service(_, object) => Self::Service(object?),
            Change::EndpointSlice(_, object) => Self::EndpointSlice(object?),
            Change::Node(_, object) => Self::Node(object?),
            Change::Pod(_, object) => Self::Pod(object?),
            Change::ServiceCidr(_, object) => Self::ServiceCidr(object?),
        })
    }

    /// The change that says "this is what it is now".
    pub fn change(self) -> Change {
        match self {
            Self::Service(object) => Change::Service(object.name.clone(), Some(object)),
            Self::EndpointSlice(object) => Change::EndpointSlice(object.name.clone(), Some(object)),
            Self::Node(object) => Change::Node(object.name.clone(), Some(object)),
            Self::Pod(object) => Change::Pod(object.name.clone(), Some(object)),
            Self::ServiceCidr(object) => Change::ServiceCidr(object.name.clone(), Some(object)),
        }
    }

    pub fn key(&self) -> Key {
        match self {
            Self::Service(object) => Key::Service(object.name.clone()),
            Self::EndpointSlice(object) => Key::EndpointSlice(object.name.clone()),
            Self::Node(object) => Key::Node(object.name.clone()),
            Self::Pod(object) => Key::Pod(object.name.clone()),
            Self::ServiceCidr(object) => Key::ServiceCidr(object.name.clone()),
        }
    }

    /// How its key compares with another.
    pub fn compare(&self, key: &Key) -> Ordering {
        match (self, key) {
            (Self::Service(object), Key::Service(name)) => object.name.cmp(name),
            (Self::EndpointSlice(object), Key::EndpointSlice(name)) => object.name.cmp(name),
            (Self::Node(object), Key::Node(name)) => object.name.cmp(name),
            (Self::Pod(object), Key::Pod(name)) => object.name.cmp(name),
            (Self::ServiceCidr(object), Key::ServiceCidr(name)) => object.name.cmp(name),
            // Of two kinds: the names do not matter.
            _ => self.key().cmp(key),
        }
    }
}
