//! Which rows a person wants to see.

use std::net::IpAddr;

/// Everything that is said must hold.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Filter {
    pub namespace: Option<String>,
    /// `name` or `namespace/name`; a `*` stands for any text.
    pub service: Option<String>,
    /// What is dialled.
    pub vip: Option<IpAddr>,
    /// `tcp`, `udp`, `sctp`.
    pub protocol: Option<String>,
}

/// A row that a [`Filter`] can judge.
pub trait Filtered {
    fn is_wanted(&self, filter: &Filter) -> bool;
}

// === impl Filter ===

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Judges a service by its `namespace/name`.
    pub fn wants_service(&self, service: &str) -> bool {
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
            && self.service.as_ref().is_none_or(|wanted| match wanted.contains('/') {
                true => is_like(wanted, service),
                false => is_like(wanted, name),
            })
    }

    pub fn wants_vip(&self, address: IpAddr) -> bool {
        self.vip.is_none_or(|wanted| wanted == address)
    }

    pub fn wants_protocol(&self, protocol: &str) -> bool {
        self.protocol.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(protocol))
    }
}

/// Whether a text is like a pattern in which `*` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(namespace: Option<&str>, service: Option<&str>, wanted: &[&str]) {
        let filter =
            Filter { namespace: namespace.map(str::to_owned), service: service.map(str::to_owned), ..Filter::default() };
        let all = ["default/web", "default/web-2", "prod/web", "prod/db", "#7"];
        let found: Vec<&str> = all.into_iter().filter(|name| filter.wants_service(name)).collect();
        assert_eq!(found, wanted, "{filter:?}");
    }

    #[test]
    fn services_by_namespace_and_name() {
        check(None, None, &["default/web", "default/web-2", "prod/web", "prod/db", "#7"]);
        check(Some("prod"), None, &["prod/web", "prod/db"]);
        check(None, Some("web"), &["default/web", "prod/web"]);
        check(None, Some("prod/web"), &["prod/web"]);
        check(Some("default"), Some("web"), &["default/web"]);
        check(Some("default"), Some("prod/web"), &[]);
        check(None, Some("#7"), &["#7"]);
    }

    #[test]
    fn a_star_stands_for_any_text() {
        check(None, Some("web*"), &["default/web", "default/web-2", "prod/web"]);
        check(None, Some("*b"), &["default/web", "prod/web", "prod/db"]);
        check(None, Some("*e*2"), &["default/web-2"]);
        check(None, Some("prod/*"), &["prod/web", "prod/db"]);
        check(None, Some("*web*web"), &[]);
    }

    #[test]
    fn protocols_are_written_as_one_likes() {
        let filter = Filter { protocol: Some("TCP".to_owned()), ..Filter::default() };
        assert!(filter.wants_protocol("tcp") && !filter.wants_protocol("udp"));
    }
}
