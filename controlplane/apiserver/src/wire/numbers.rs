//! The table of field numbers.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a field number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// A field by its JSON name.
    Field(&'static str),
    /// A message whose fields are fields of the message that contains it.
    Embedded(&'static str),
}

type Table = HashMap<&'static str, HashMap<u32, Slot>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| include_str!("numbers.txt").lines().filter_map(message).collect());

/// The fields of a component, `io.k8s.api.core.v1.Pod` or `core.v1.Pod`.
pub(super) fn of(component: &str) -> Option<&'static HashMap<u32, Slot>> {
    let short = ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."].iter().find_map(|prefix| component.strip_prefix(prefix));
    TABLE.get(short.unwrap_or(component))
}

fn message(line: &'static str) -> Option<(&'static str, HashMap<u32, Slot>)> {
    let (component, fields) = line.split_once(' ')?;
    if component == "#" {
        return None;
    }
    // An embedded message lives in the same package.
    let slot = |field: &'static str| {
        let (number, name) = field.split_once('=')?;
        let slot = if let Some(embedded) = name.strip_prefix('@') { Slot::Embedded(embedded) } else { Slot::Field(name) };
        Some((number.parse().ok()?, slot))
    };
    Some((component, fields.split(' ').filter_map(slot).collect()))
}
