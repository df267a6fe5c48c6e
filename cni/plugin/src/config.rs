//! The network configuration on stdin, validated.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::environment::{Container, is_identifier};
use crate::error::{CniError, code};
use crate::host_ports::{self, HostPort};
use crate::protocol::{AttachmentId, DEFAULT_SOCKET, DEFAULT_STATE_DIR, Mac};
use crate::version::SpecVersion;

/// A valid configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub version: SpecVersion,
    /// Name of the network.
    pub name: String,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    /// The result's `dns`: the runtime's if it gave one, else the configuration's.
    pub dns: Option<Value>,
    pub prev_result: Option<Value>,
    /// The attachments that GC keeps.
    pub valid_attachments: Option<Vec<AttachmentId>>,
    ips: Vec<String>,
    mac: Option<String>,
    port_mappings: Option<Value>,
    unsupported: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    name: String,
    socket: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    dns: Option<Value>,
    prev_result: Option<Value>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(default)]
    args: Args,
    ipam: Option<Value>,
    ip_masq: Option<bool>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<AttachmentId>>,
    /// The name in drafts of 1.1.0; runtimes send both.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<AttachmentId>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
    dns: Option<Value>,
    port_mappings: Option<Value>,
    bandwidth: Option<Value>,
}

#[derive(Deserialize, Default)]
struct Args {
    #[serde(default)]
    cni: CniArgs,
}

#[derive(Deserialize, Default)]
struct CniArgs {
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
}

// === impl Config ===

impl Config {
    /// # Errors
    /// Code 6 for what is not JSON, 1 for a version that is not spoken, 7 for what is not a network configuration.
    pub fn parse(stdin: &[u8]) -> Result<Self, CniError> {
        let value = decode(stdin)?;
        let version = SpecVersion::parse(&version_text(&value)?)?;
        let raw: Raw = serde_json::from_value(value)
            .map_err(|error| invalid("the network configuration has a field of the wrong type").details(error))?;
        if !is_identifier(&raw.name) {
            return Err(invalid(format!("name {:?} of the network is not valid", raw.name))
                .details("letters, digits, '_', '.' and '-', beginning with a letter or a digit"));
        }
        let unsupported = unsupported(&raw);
        let RuntimeConfig { ips, mac, dns, port_mappings, .. } = raw.runtime_config;
        Ok(Self {
            version,
            name: raw.name,
            socket: absolute("socket", raw.socket, DEFAULT_SOCKET)?,
            state_dir: absolute("stateDir", raw.state_dir, DEFAULT_STATE_DIR)?,
            dns: dns.or(raw.dns).filter(is_given),
            prev_result: raw.prev_result.filter(|value| !value.is_null()),
            valid_attachments: raw.valid_attachments.or(raw.attachments),
            ips: if ips.is_empty() { raw.args.cni.ips } else { ips },
            mac: mac.or(raw.args.cni.mac),
            port_mappings: port_mappings.filter(is_given),
            unsupported,
        })
    }

    /// Refuses what an ADD could not honour. A DEL does not ask: it must succeed.
    ///
    /// # Errors
    /// Code 2 with key and value.
    pub fn check_supported(&self) -> Result<(), CniError> {
        match self.unsupported.first() {
            None => Ok(()),
            Some(field) => Err(CniError::new(code::UNSUPPORTED_FIELD, format!("unsupported field {field}")).details(
                "the pod network takes its addresses from Node.spec.podCIDRs and needs no chained or delegated plugin for them",
            )),
        }
    }

    /// Addresses that were asked for, by the first who asks: runtimeConfig, args.cni, CNI_ARGS.
    ///
    /// # Errors
    /// Code 7 (or 4 from CNI_ARGS) for a text that is no address, and for two of one family.
    pub fn requested_ips(&self, container: &Container) -> Result<Vec<IpAddr>, CniError> {
        let mut found: Vec<IpAddr> = Vec::new();
        let from_env = self.ips.is_empty();
        let texts: Vec<&str> = match (from_env, &container.requested_ip) {
            (false, _) => self.ips.iter().map(String::as_str).collect(),
            (true, Some(texts)) => texts.split(',').collect(),
            (true, None) => Vec::new(),
        };
        let wrong_code = if from_env { code::INVALID_ENVIRONMENT } else { code::INVALID_CONFIG };
        for text in texts {
            let wrong = |why: &str| CniError::new(wrong_code, format!("requested address {text:?} {why}"));
            let (address, prefix) = text.trim().split_once('/').unwrap_or((text.trim(), "0"));
            let address: IpAddr = address.parse().map_err(|_| wrong("is not an address"))?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            if prefix.parse::<u8>().ok().is_none_or(|length| length > longest) {
                return Err(wrong("has a prefix length that cannot be"));
            }
            if found.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(wrong("is the second one of its family, an interface gets one"));
            }
            found.push(address);
        }
        Ok(found)
    }

    /// The hardware address that was asked for.
    ///
    /// # Errors
    /// Code 7 (or 4 from CNI_ARGS) when it is none.
    pub fn requested_mac(&self, container: &Container) -> Result<Option<Mac>, CniError> {
        let (text, wrong_code) = match (&self.mac, &container.requested_mac) {
            (Some(text), _) => (text, code::INVALID_CONFIG),
            (None, Some(text)) => (text, code::INVALID_ENVIRONMENT),
            (None, None) => return Ok(None),
        };
        text.parse().map(Some).map_err(|error: String| CniError::new(wrong_code, format!("requested mac: {error}")))
    }

    /// The ports of the node that are to lead to the container. Not judged before: a DEL must succeed.
    ///
    /// # Errors
    /// Code 7 for a mapping that cannot be.
    pub fn host_ports(&self) -> Result<Vec<HostPort>, CniError> {
        self.port_mappings.as_ref().map_or(Ok(Vec::new()), host_ports::parse)
    }
}

// === functions ===

/// The `cniVersion` that VERSION echoes. Lenient: VERSION asks what is spoken, so nothing is refused but non-JSON.
///
/// # Errors
/// Code 6 for what is not JSON.
pub fn version_to_echo(stdin: &[u8]) -> Result<String, CniError> {
    if stdin.iter().all(u8::is_ascii_whitespace) {
        return Ok(SpecVersion::LATEST.to_string());
    }
    let text = version_text(&decode(stdin)?)?;
    Ok(if text.is_empty() { SpecVersion::LATEST.to_string() } else { text })
}

fn decode(stdin: &[u8]) -> Result<Value, CniError> {
    let value: Value = serde_json::from_slice(stdin)
        .map_err(|error| CniError::new(code::DECODE, "the network configuration on stdin is not JSON").details(error))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(CniError::new(code::DECODE, "the network configuration on stdin is not a JSON object"))
    }
}

fn version_text(value: &Value) -> Result<String, CniError> {
    match value.get("cniVersion") {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(invalid(format!("cniVersion {other} is not a string"))),
    }
}

fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_CONFIG, msg)
}

fn absolute(key: &str, path: Option<PathBuf>, default: &str) -> Result<PathBuf, CniError> {
    let path = path.unwrap_or_else(|| Path::new(default).to_owned());
    if path.is_absolute() { Ok(path) } else { Err(invalid(format!("{key} {path:?} is not an absolute path"))) }
}

/// Runtimes write `{}` or `[]` for what they do not mean.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

fn unsupported(raw: &Raw) -> Vec<String> {
    let fields = [("ipam", raw.ipam.as_ref()), ("runtimeConfig.bandwidth", raw.runtime_config.bandwidth.as_ref())];
    let given = fields
        .into_iter()
        .filter_map(|(key, value)| value.filter(|value| is_given(value)).map(|value| format!("{key}: {value}")));
    given.chain((raw.ip_masq == Some(true)).then(|| "ipMasq: true".to_owned())).collect()
}

#[cfg(test)]
mod tests;
