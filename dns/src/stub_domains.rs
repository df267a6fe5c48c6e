//! kube-dns's ConfigMap, which clusters still carry: private zones and upstreams as JSON. It becomes `forward` lines.

use std::collections::BTreeMap;

use crate::corefile::{self, Forward, Target};
use crate::name::{self, WireName};

/// What the keys of the ConfigMap hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StubDomains {
    /// Zones with who answers them.
    pub stubs: Vec<(WireName, Vec<Target>)>,
    /// Who answers everything else; none: as it is configured otherwise.
    pub upstreams: Vec<Target>,
}

#[derive(thiserror::Error, Debug)]
pub enum Error {
    #[error("{key} of the stub domains is not what it should be: {source}; write it as {form}")]
    Json { key: &'static str, form: &'static str, source: serde_json::Error },
    #[error("stub domain `{0}` is no domain name; write a name such as acme.local")]
    Zone(String),
    #[error("stub domain `{0}` has no name servers; give at least one address, or remove it")]
    NoServers(String),
    #[error("`{0}` is no name server; write IP or IP:PORT")]
    Server(String),
    #[error("kube-dns takes at most {MAX_UPSTREAMS} upstream name servers, and {0} are given; remove some")]
    TooMany(usize),
}

const STUB_DOMAINS: &str = "stubDomains";
const UPSTREAMS: &str = "upstreamNameservers";
const MAX_UPSTREAMS: usize = 3;

// === impl StubDomains ===

impl StubDomains {
    /// Reads the data of the ConfigMap; `value` gives what a key holds. An empty value is as good as none.
    ///
    /// # Errors
    /// When a value is not JSON of the right form, or names no zone or no address.
    pub fn parse<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Error> {
        let value = |key| value(key).map(str::trim).filter(|text| !text.is_empty());
        let mut parsed = Self::default();
        if let Some(text) = value(STUB_DOMAINS) {
            let form = r#"{"acme.local": ["10.0.0.1"]}"#;
            let stubs: BTreeMap<String, Vec<String>> =
                serde_json::from_str(text).map_err(|source| Error::Json { key: STUB_DOMAINS, form, source })?;
            for (zone, servers) in stubs {
                let wire = name::encode(&zone).filter(|wire| wire.len() > 1);
                let wire = wire.ok_or_else(|| Error::Zone(zone.clone()))?;
                if servers.is_empty() {
                    return Err(Error::NoServers(zone));
                }
                parsed.stubs.push((wire, servers.iter().map(|text| server(text)).collect::<Result<_, _>>()?));
            }
        }
        if let Some(text) = value(UPSTREAMS) {
            let form = r#"["10.0.0.1", "10.0.0.2:5353"]"#;
            let servers: Vec<String> =
                serde_json::from_str(text).map_err(|source| Error::Json { key: UPSTREAMS, form, source })?;
            if servers.len() > MAX_UPSTREAMS {
                return Err(Error::TooMany(servers.len()));
            }
            parsed.upstreams = servers.iter().map(|text| server(text)).collect::<Result<_, _>>()?;
        }
        Ok(parsed)
    }

    /// The same as `forward` lines, longer zones first: the first that fits a name is the one that is asked.
    pub fn forwards(&self) -> Vec<Forward> {
        let root: WireName = [0u8][..].into();
        let rest = (!self.upstreams.is_empty()).then(|| (root, self.upstreams.clone()));
        let mut all: Vec<_> = self.stubs.iter().cloned().chain(rest).collect();
        all.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.len()));
        all.into_iter().map(|(from, to)| Forward::new(0, from, to)).collect()
    }
}

fn server(text: &str) -> Result<Target, Error> {
    let address = corefile::upstream(text).ok_or_else(|| Error::Server(text.to_owned()))?;
    Ok(Target::Address(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stubs: &str, upstreams: &str) -> Result<StubDomains, Error> {
        StubDomains::parse(|key| match key {
            "stubDomains" => Some(stubs),
            "upstreamNameservers" => Some(upstreams),
            _ => None,
        })
    }

    #[test]
    fn the_example_of_the_kubernetes_documentation() {
        let parsed =
            parse(r#"{"acme.local": ["1.2.3.4"], "Eu.acme.local": ["2.3.4.5:5353", "::1"]}"#, r#"["8.8.8.8", "8.8.4.4"]"#);
        let forwards = parsed.expect("as it is").forwards();
        let zones: Vec<String> = forwards.iter().map(|forward| name::display(&forward.from)).collect();
        assert_eq!(zones, ["eu.acme.local.", "acme.local.", "."]);
        assert_eq!(forwards[0].to[0], Target::Address("2.3.4.5:5353".parse().expect("address")));
        assert_eq!(forwards[0].to[1], Target::Address("[::1]:53".parse().expect("address")));
        assert_eq!(forwards[2].to.len(), 2);
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(StubDomains::parse(|_| None).expect("nothing"), StubDomains::default());
        assert_eq!(parse("", " \n").expect("nothing"), StubDomains::default());
        assert!(parse("{}", "[]").expect("nothing").forwards().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (stubs, upstreams, words) in [
            ("[]", "", "stubDomains"),
            ("{", "", "stubDomains"),
            (r#"{"a.org": "1.2.3.4"}"#, "", "write it as"),
            (r#"{"a..org": ["1.2.3.4"]}"#, "", "no domain name"),
            (r#"{".": ["1.2.3.4"]}"#, "", "no domain name"),
            (r#"{"a.org": []}"#, "", "no name servers"),
            (r#"{"a.org": ["ns.a.org"]}"#, "", "no name server"),
            ("", r#"["1.2.3.4:x"]"#, "no name server"),
            ("", r#"["0.0.0.0"]"#, "no name server"),
            ("", r#"{"a": 1}"#, "upstreamNameservers"),
            ("", r#"["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]"#, "at most 3"),
        ] {
            let error = parse(stubs, upstreams).expect_err(stubs).to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
