//! What the kubelet told of an object's conditions, and whether somebody else has said otherwise since. A controller takes a
//! silent node and its pods out of service; only the node can put them back, so it has to notice.

use k8s_openapi::api::core::v1::{NodeCondition, PodCondition};

/// What a condition says. Its times are left out: who repeats a condition with another time does not contradict it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// The claims that the API server took from us, and the resourceVersion that the object got by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub version: String,
    pub claims: Vec<Claim>,
}

// === impl Claim ===

impl From<&NodeCondition> for Claim {
    fn from(condition: &NodeCondition) -> Self {
        Self::new(&condition.type_, &condition.status, condition.reason.as_deref(), condition.message.as_deref())
    }
}

impl From<&PodCondition> for Claim {
    fn from(condition: &PodCondition) -> Self {
        Self::new(&condition.type_, &condition.status, condition.reason.as_deref(), condition.message.as_deref())
    }
}

impl Claim {
    fn new(kind: &str, status: &str, reason: Option<&str>, message: Option<&str>) -> Self {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Self { kind: kind.to_owned(), status: status.to_owned(), reason: text(reason), message: text(message) }
    }

    pub fn all<'a, C: 'a>(conditions: impl IntoIterator<Item = &'a C>) -> Vec<Self>
    where
        Self: From<&'a C>,
    {
        conditions.into_iter().map(Self::from).collect()
    }
}

// === impl Told ===

impl Told {
    /// Whether an object of this resourceVersion with these conditions takes back what was told. Conditions of other types
    /// belong to others. An object older than our own write tells nothing: the watch has not come that far yet.
    pub fn undone_by<'a, C: 'a>(&self, version: &str, conditions: &'a [C]) -> bool
    where
        Claim: From<&'a C>,
    {
        if !newer(version, &self.version) {
            return false;
        }
        let said = Claim::all(conditions);
        self.claims.iter().any(|claim| !said.contains(claim))
    }
}

/// Whether `version` is of a later write than `than`. Versions are numbers that grow; of any others only equality is known.
pub fn newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> PodCondition {
        let mut words = text.splitn(4, ' ').map(str::to_owned);
        PodCondition {
            type_: words.next().expect("type"),
            status: words.next().expect("status"),
            reason: words.next(),
            message: words.next(),
            ..PodCondition::default()
        }
    }

    fn check(version: &str, conditions: &[&str], undone: bool) {
        let told = ["Ready True", "Initialized False ContainersNotInitialized not yet"].map(condition);
        let told = Told { version: "10".into(), claims: Claim::all(&told) };
        let seen: Vec<_> = conditions.iter().map(|text| condition(text)).collect();
        assert_eq!(told.undone_by(version, &seen), undone, "{version} {conditions:?}");
    }

    #[test]
    fn what_takes_back_what_was_told() {
        let waiting = "Initialized False ContainersNotInitialized not yet";
        check("11", &["Ready True", waiting], false);
        check("11", &[waiting, "Ready True"], false);
        check("11", &["Ready False NodeNotReady node a does not answer", waiting], true);
        check("11", &["Ready True Because", waiting], true);
        check("11", &["Ready True", "Initialized False ContainersNotInitialized"], true);
        check("11", &["Ready True"], true);
        check("11", &[], true);
    }

    #[test]
    fn conditions_of_others_are_theirs() {
        let waiting = "Initialized False ContainersNotInitialized not yet";
        check("11", &["Ready True", waiting, "DisruptionTarget True EvictionByEvictionAPI"], false);
        check("11", &["example.com/gate False", "Ready True", waiting], false);
    }

    #[test]
    fn what_is_older_than_our_word_tells_nothing() {
        for version in ["9", "10", "2"] {
            check(version, &[], false);
        }
        check("100", &[], true);
        check("opaque", &[], true);
    }

    #[test]
    fn a_time_contradicts_nothing() {
        let node = |heartbeat| NodeCondition {
            type_: "Ready".into(),
            status: "True".into(),
            reason: Some(String::new()),
            last_heartbeat_time: heartbeat,
            ..NodeCondition::default()
        };
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        let told = Told { version: "1".into(), claims: Claim::all(&[node(None)]) };
        assert!(!told.undone_by("2", &[node(Some(now))]));
        assert!(
            !told.undone_by("2", &[NodeCondition { reason: None, ..node(None) }]),
            "no reason and an empty one are the same"
        );
    }
}
