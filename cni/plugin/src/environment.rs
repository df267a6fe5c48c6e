//! The environment that the runtime passes, validated into an [`Invocation`].

use std::path::PathBuf;

use crate::error::{CniError, code};
use crate::protocol::{AttachmentId, PodName};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Invocation {
    Add(Container),
    Del(Container),
    Check(Container),
    Gc,
    Status,
    Version,
}

/// The container of an ADD, DEL or CHECK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Container {
    pub id: AttachmentId,
    /// Always there for ADD and CHECK.
    pub netns: Option<PathBuf>,
    pub pod: PodName,
    /// `IP=` of CNI_ARGS, not yet parsed.
    pub requested_ip: Option<String>,
    /// `MAC=` of CNI_ARGS, not yet parsed.
    pub requested_mac: Option<String>,
}

/// Reads one variable; a closure, so that tests need no process.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

// === impl Invocation ===

impl Invocation {
    /// # Errors
    /// Code 4 names every variable that is missing, or the first that is wrong.
    pub fn parse(variables: Variables<'_>) -> Result<Self, CniError> {
        let command = variables("CNI_COMMAND").unwrap_or_default();
        match command.as_str() {
            "ADD" => Container::parse(variables, true).map(Self::Add),
            "DEL" => Container::parse(variables, false).map(Self::Del),
            "CHECK" => Container::parse(variables, true).map(Self::Check),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            "" => Err(invalid("CNI_COMMAND is not set")
                .details("this program is run by a container runtime, see https://www.cni.dev/docs/spec/")),
            other => Err(invalid(format!("CNI_COMMAND {other:?} is not one of ADD, DEL, CHECK, GC, STATUS, VERSION"))),
        }
    }
}

// === impl Container ===

impl Container {
    fn parse(variables: Variables<'_>, needs_netns: bool) -> Result<Self, CniError> {
        let get = |name: &str| variables(name).unwrap_or_default();
        let (container_id, netns, ifname) = (get("CNI_CONTAINERID"), get("CNI_NETNS"), get("CNI_IFNAME"));
        let missing: Vec<&str> = [
            ("CNI_CONTAINERID", container_id.is_empty()),
            ("CNI_NETNS", netns.is_empty() && needs_netns),
            ("CNI_IFNAME", ifname.is_empty()),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
        .collect();
        if !missing.is_empty() {
            return Err(invalid(format!("{} not set", missing.join(", "))));
        }
        if !is_identifier(&container_id) {
            return Err(invalid(format!("CNI_CONTAINERID {container_id:?} is not valid"))
                .details("letters, digits, '_', '.' and '-', beginning with a letter or a digit"));
        }
        check_ifname(&ifname)?;
        let netns = (!netns.is_empty()).then(|| PathBuf::from(netns));
        let mut container = Self {
            id: AttachmentId { container_id, ifname },
            netns,
            pod: PodName::default(),
            requested_ip: None,
            requested_mac: None,
        };
        container.take_args(&get("CNI_ARGS"))?;
        Ok(container)
    }

    /// `KEY=VALUE;KEY=VALUE`; keys that we do not know are other plugins' business.
    fn take_args(&mut self, args: &str) -> Result<(), CniError> {
        for pair in args.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                invalid(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")).details(format_args!("CNI_ARGS is {args:?}"))
            })?;
            match key {
                "K8S_POD_NAMESPACE" => self.pod.namespace = value.to_owned(),
                "K8S_POD_NAME" => self.pod.name = value.to_owned(),
                "K8S_POD_UID" => self.pod.uid = value.to_owned(),
                "IP" => self.requested_ip = Some(value.to_owned()),
                "MAC" => self.requested_mac = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(())
    }
}

// === functions ===

fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}

/// The specification's rule for container ids and network names.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// What the kernel takes as the name of an interface.
fn check_ifname(name: &str) -> Result<(), CniError> {
    let problem = if name.len() > 15 {
        "longer than 15 characters"
    } else if name == "." || name == ".." {
        "a name of the file system"
    } else if name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        "with a character that interfaces cannot have"
    } else {
        return Ok(());
    };
    Err(invalid(format!("CNI_IFNAME {name:?} is {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Invocation, CniError> {
        Invocation::parse(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[track_caller]
    fn check(variables: &[(&str, &str)], words: &str) {
        let error = parse(variables).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT, "{error}");
        assert!(error.msg.contains(words), "{words:?} in {error}");
    }

    #[test]
    fn complete() {
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c0ffee_1.x-y"),
            ("CNI_NETNS", "/proc/7/ns/net"),
            ("CNI_IFNAME", "eth0"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=1-2;IP=10.0.0.9;MAC=02:00:00:00:00:01;",
            ),
        ];
        let Invocation::Add(container) = parse(&variables).unwrap() else { panic!("not an ADD") };
        assert_eq!(container.id, AttachmentId::new("c0ffee_1.x-y", "eth0"));
        assert_eq!(container.netns.as_deref(), Some("/proc/7/ns/net".as_ref()));
        assert_eq!(
            (container.pod.namespace.as_str(), container.pod.name.as_str(), container.pod.uid.as_str()),
            ("default", "web-0", "1-2")
        );
        assert_eq!(container.requested_ip.as_deref(), Some("10.0.0.9"));
        assert_eq!(container.requested_mac.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn a_del_needs_no_namespace() {
        for netns in [None, Some(("CNI_NETNS", ""))] {
            let mut variables = vec![("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
            variables.extend(netns);
            let Ok(Invocation::Del(container)) = parse(&variables) else { panic!("not a DEL") };
            assert_eq!(container.netns, None);
        }
    }

    #[test]
    fn commands_without_a_container() {
        for (command, want) in [("GC", Invocation::Gc), ("STATUS", Invocation::Status), ("VERSION", Invocation::Version)] {
            assert_eq!(parse(&[("CNI_COMMAND", command)]), Ok(want));
        }
    }

    #[test]
    fn refused() {
        check(&[], "CNI_COMMAND is not set");
        check(&[("CNI_COMMAND", "add")], "\"add\"");
        check(&[("CNI_COMMAND", "ADD")], "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME not set");
        check(&[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")], "CNI_NETNS not set");
        check(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c")], "CNI_IFNAME not set");
        let with = |id, ifname, args| {
            [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", id), ("CNI_NETNS", "/n"), ("CNI_IFNAME", ifname), ("CNI_ARGS", args)]
        };
        for id in ["-c", "a/b", "a b", "ä", "_"] {
            check(&with(id, "eth0", ""), "CNI_CONTAINERID");
        }
        for ifname in ["a2345678901234567", ".", "..", "a/b", "a:b", "a b", "a\tb"] {
            check(&with("c", ifname, ""), "CNI_IFNAME");
        }
        check(&with("c", "eth0", "K8S_POD_NAME"), "KEY=VALUE");
    }
}
