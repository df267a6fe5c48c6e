//! The result of ADD in the shape of the configured version, and what CHECK reads back out of one.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{CniError, code};
use crate::protocol::{Attached, GATEWAY_V4, GATEWAY_V6};
use crate::version::SpecVersion;

/// What goes into a result besides what the agent made.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub version: SpecVersion,
    pub ifname: &'a str,
    pub netns: &'a Path,
    pub dns: Option<&'a Value>,
    /// Carried: our interfaces, addresses and routes are added to those of the plugins before us.
    pub prev_result: Option<&'a Value>,
}

// === impl Frame ===

impl Frame<'_> {
    /// The result of an ADD.
    pub fn result(&self, attached: &Attached) -> Value {
        let previous = |key: &str| -> Vec<Value> {
            self.prev_result.and_then(|result| result.get(key)).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let mut interfaces = previous("interfaces");
        let pod_index = interfaces.len() + 1;
        interfaces.push(json!({"name": attached.host_ifname, "mac": attached.host_mac}));
        interfaces.push(json!({"name": self.ifname, "mac": attached.pod_mac, "sandbox": self.netns}));
        if self.version >= SpecVersion::V1_1_0 {
            for interface in interfaces.iter_mut().skip(pod_index - 1) {
                interface["mtu"] = json!(attached.mtu);
            }
        }
        let mut ips = previous("ips");
        let mut routes = previous("routes");
        for address in &attached.addresses {
            ips.push(self.ip(*address, pod_index));
            routes.push(match address {
                IpAddr::V4(_) => json!({"dst": "0.0.0.0/0", "gw": GATEWAY_V4}),
                IpAddr::V6(_) => json!({"dst": "::/0", "gw": GATEWAY_V6}),
            });
        }
        let dns =
            self.dns.or_else(|| self.prev_result.and_then(|result| result.get("dns"))).cloned().unwrap_or_else(|| json!({}));
        json!({"cniVersion": self.version.as_str(), "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns})
    }

    /// Before 1.0.0 an address says its family.
    fn ip(&self, address: IpAddr, interface: usize) -> Value {
        let (text, gateway, family) = match address {
            IpAddr::V4(_) => (format!("{address}/32"), IpAddr::from(GATEWAY_V4), "4"),
            IpAddr::V6(_) => (format!("{address}/128"), IpAddr::from(GATEWAY_V6), "6"),
        };
        let mut ip = json!({"interface": interface, "address": text, "gateway": gateway});
        if self.version < SpecVersion::V1_0_0 {
            ip["version"] = json!(family);
        }
        ip
    }
}

// === functions ===

/// The addresses that a previous result gives to the container's interface.
///
/// # Errors
/// Code 7 when there is no previous result, or when it does not know the interface.
pub fn addresses_of(prev_result: Option<&Value>, ifname: &str, netns: &Path) -> Result<Vec<IpAddr>, CniError> {
    let invalid = |msg: String| CniError::new(code::INVALID_CONFIG, msg);
    let result = prev_result.ok_or_else(|| invalid("CHECK needs prevResult, the result of the ADD".to_owned()))?;
    let list = |key: &str| result.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let sandbox = netns.to_str();
    let index = list("interfaces")
        .iter()
        .position(|interface| {
            interface.get("name").and_then(Value::as_str) == Some(ifname)
                && interface.get("sandbox").and_then(Value::as_str).is_some_and(|path| Some(path) == sandbox)
        })
        .ok_or_else(|| invalid(format!("prevResult has no interface {ifname} in sandbox {}", netns.display())))?;
    list("ips")
        .iter()
        .filter(|ip| ip.get("interface").and_then(Value::as_u64) == Some(index as u64))
        .map(|ip| {
            let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
            let address = text.split_once('/').map_or(text, |(address, _)| address);
            address.parse().map_err(|_| invalid(format!("prevResult has an address that is none: {text:?}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Mac;

    fn attached() -> Attached {
        Attached {
            host_ifname: "tw0123456789abc".into(),
            host_mac: Mac([6, 0x74, 10, 244, 1, 5]),
            pod_mac: Mac([2, 0x74, 10, 244, 1, 5]),
            mtu: 1450,
            addresses: vec!["10.244.1.5".parse().unwrap()],
        }
    }

    fn frame<'a>(version: SpecVersion, prev_result: Option<&'a Value>, dns: Option<&'a Value>) -> Frame<'a> {
        Frame { version, ifname: "eth0", netns: Path::new("/run/netns/p"), dns, prev_result }
    }

    #[test]
    fn shape_of_each_version() {
        for (version, family, mtu) in [
            (SpecVersion::V0_3_1, true, false),
            (SpecVersion::V0_4_0, true, false),
            (SpecVersion::V1_0_0, false, false),
            (SpecVersion::V1_1_0, false, true),
        ] {
            let mut ip = json!({"interface": 1, "address": "10.244.1.5/32", "gateway": "169.254.1.1"});
            let mut host = json!({"name": "tw0123456789abc", "mac": "06:74:0a:f4:01:05"});
            let mut pod = json!({"name": "eth0", "mac": "02:74:0a:f4:01:05", "sandbox": "/run/netns/p"});
            if family {
                ip["version"] = json!("4");
            }
            if mtu {
                host["mtu"] = json!(1450);
                pod["mtu"] = json!(1450);
            }
            let want = json!({
                "cniVersion": version.as_str(),
                "interfaces": [host, pod],
                "ips": [ip],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
                "dns": {},
            });
            assert_eq!(frame(version, None, None).result(&attached()), want);
        }
    }

    #[test]
    fn both_families() {
        let mut attached = attached();
        attached.addresses.push("fd00::5".parse().unwrap());
        let result = frame(SpecVersion::V0_4_0, None, None).result(&attached);
        assert_eq!(result["ips"][1], json!({"version": "6", "interface": 1, "address": "fd00::5/128", "gateway": "fe80::1"}));
        assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fe80::1"}));
    }

    #[test]
    fn previous_result_is_carried() {
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "lo", "sandbox": "/run/netns/p"}],
            "ips": [{"interface": 0, "address": "127.0.0.1/8"}],
            "dns": {"nameservers": ["10.96.0.10"]},
        });
        let result = frame(SpecVersion::V1_0_0, Some(&previous), None).result(&attached());
        assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
        assert_eq!(result["ips"][0], previous["ips"][0]);
        assert_eq!(result["ips"][1]["interface"], json!(2), "the index moves with the interfaces before ours");
        assert_eq!(result["dns"], previous["dns"]);
        let own = json!({"nameservers": ["10.96.0.11"]});
        assert_eq!(frame(SpecVersion::V1_0_0, Some(&previous), Some(&own)).result(&attached())["dns"], own);
    }

    #[test]
    fn check_reads_the_addresses_back() {
        let netns = Path::new("/run/netns/p");
        for version in SpecVersion::ALL {
            let result = frame(version, None, None).result(&attached());
            assert_eq!(addresses_of(Some(&result), "eth0", netns), Ok(attached().addresses));
            for (ifname, netns) in [("eth1", "/run/netns/p"), ("eth0", "/run/netns/q")] {
                let error = addresses_of(Some(&result), ifname, Path::new(netns)).unwrap_err();
                assert_eq!(error.code, code::INVALID_CONFIG);
            }
        }
        assert_eq!(addresses_of(None, "eth0", netns).unwrap_err().code, code::INVALID_CONFIG);
        let broken =
            json!({"interfaces": [{"name": "eth0", "sandbox": "/run/netns/p"}], "ips": [{"interface": 0, "address": "x"}]});
        assert_eq!(addresses_of(Some(&broken), "eth0", netns).unwrap_err().code, code::INVALID_CONFIG);
    }
}
