//! Admission of a write, the pure part: defaults, validation, and the allocation of addresses and ports to services.
//! Objects have passed [`crate::schema::decode`], so their fields have the types that the schema gives them.

use serde_json::Value;

use crate::kinds::Kind;

pub mod alloc;
mod causes;
pub(crate) mod defaults;
pub mod names;
#[cfg(test)]
mod tests;
pub(crate) mod validate;

pub(crate) use causes::Path;
pub use causes::{Cause, Causes, Reason, invalid_message};

/// Fills in what the client left out. Doing it twice changes nothing more.
pub fn default(kind: &Kind, object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        (kind.defaults)(map);
    }
}

/// What forbids the creation of an object: answered as 422 Invalid with these causes; empty when it may be created.
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    validate::meta::create(kind, &object["metadata"], &Path::Root.field("metadata"), &mut causes);
    (kind.validate)(object, &mut causes);
    causes.into_inner()
}

/// What forbids that `old` becomes `new`. What an update leaves out and the server has given before (a service's
/// address) counts as given.
pub fn validate_update(kind: &Kind, new: &Value, old: &Value) -> Vec<Cause> {
    let mut causes = Causes::default();
    let carried = kind.carry_over.map(|carry_over| {
        let mut carried = new.clone();
        carry_over(old, &mut carried);
        carried
    });
    let new = carried.as_ref().unwrap_or(new);
    validate::meta::update(kind, &new["metadata"], &old["metadata"], &Path::Root.field("metadata"), &mut causes);
    (kind.validate)(new, &mut causes);
    (kind.validate_update)(new, old, &mut causes);
    causes.into_inner()
}
