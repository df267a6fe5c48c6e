//! Adoption and release: which objects a controller has, by reference and by selector.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::action::{Action, Op};
use crate::cache::Cached;
use crate::{meta, selector};

/// What came of looking through the candidates.
#[derive(Debug)]
pub struct Claimed<K> {
    /// Refer to the owner and match.
    pub owned: Vec<Arc<K>>,
    /// Writes of references that have to be set or taken back first.
    pub changes: Vec<Action>,
}

/// Sorts out `candidates`: what refers to `owner` or matches `wanted`. `may_adopt` tells what is fit to be taken on.
pub fn claim<O, K>(
    owner: &O,
    wanted: &LabelSelector,
    candidates: impl IntoIterator<Item = Arc<K>>,
    may_adopt: impl Fn(&K) -> bool,
) -> Claimed<K>
where
    O: kube::Resource<DynamicType = ()>,
    K: Cached + PartialEq,
    Op<K>: Into<Action>,
{
    let mut claimed = Claimed { owned: Vec::new(), changes: Vec::new() };
    let going = meta::deleting(owner.meta());
    for object in candidates {
        let matches = !selector::is_empty(wanted) && selector::matches(wanted, meta::labels(object.meta()));
        match meta::controller(object.meta()) {
            Some(current) if current.uid == meta::uid(owner.meta()) => {
                if matches {
                    claimed.owned.push(object);
                } else if !going {
                    let mut free = K::clone(&object);
                    let owners = free.meta_mut().owner_references.get_or_insert_default();
                    owners.retain(|reference| reference.uid != current.uid);
                    claimed.changes.extend(Op::edit(object.as_ref(), &free).map(Into::into));
                }
            }
            Some(_) => {}
            None => {
                if matches && !going && !meta::deleting(object.meta()) && may_adopt(&object) {
                    let mut taken = K::clone(&object);
                    taken.meta_mut().owner_references.get_or_insert_default().push(meta::managed_by(owner));
                    claimed.changes.extend(Op::edit(object.as_ref(), &taken).map(Into::into));
                }
            }
        }
    }
    claimed
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn adopts_and_releases() {
        let check = |going: bool, labels: Value, owner: Option<&str>, owned: bool, change: Option<&str>| {
            let mut set: ReplicaSet =
                serde_json::from_value(json!({"metadata": {"name": "rs", "namespace": "n", "uid": "me"}})).unwrap();
            if going {
                set.metadata.deletion_timestamp = Some(meta::time(jiff::Timestamp::UNIX_EPOCH));
            }
            let owners: Vec<_> = owner
                .map(|uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true}))
                .into_iter()
                .collect();
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p", "namespace": "n", "labels": labels, "ownerReferences": owners}}),
            )
            .unwrap();
            let wanted: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
            let claimed = claim(&set, &wanted, [Arc::new(pod)], |_| true);
            assert_eq!(claimed.owned.len() == 1, owned, "{going} {labels} {owner:?}");
            let text: Vec<_> = claimed.changes.iter().map(ToString::to_string).collect();
            assert_eq!(text.len(), usize::from(change.is_some()), "{text:?}");
            assert!(text.iter().zip(change).all(|(text, change)| text.contains(change)), "{text:?}");
        };
        let (ours, theirs) = (json!({"app": "web"}), json!({"app": "db"}));
        check(false, ours.clone(), Some("me"), true, None);
        check(false, ours.clone(), Some("you"), false, None);
        check(false, ours.clone(), None, false, Some(r#""uid":"me""#));
        check(true, ours, None, false, None);
        check(false, theirs.clone(), None, false, None);
        check(false, theirs.clone(), Some("me"), false, Some(r#""ownerReferences":[]"#));
        check(true, theirs, Some("me"), false, None);
    }
}
