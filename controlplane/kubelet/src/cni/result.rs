//! Reading what plugins answer: results and error objects.

use std::net::IpAddr;

use serde_json::Value;

use super::CniError;

/// The addresses of a result, in the order given, without their prefix lengths.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    ips.iter()
        .map(|ip| {
            let address = ip.get("address").and_then(Value::as_str).ok_or("an entry of `ips` has no address")?;
            let plain = address.split_once('/').map_or(address, |(a, _)| a);
            plain.parse().map_err(|_| format!("`{address}` is not an address"))
        })
        .collect()
}

/// The error a plugin printed, or what can be said when it printed none.
pub(super) fn error_of(command: &'static str, plugin: &str, stdout: &[u8], stderr: &[u8], status: &str) -> CniError {
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    match serde_json::from_slice::<Value>(stdout) {
        Ok(object) if object.get("code").is_some() => {
            let details = text(&object, "details");
            CniError::Plugin {
                command,
                plugin: plugin.to_owned(),
                code: object["code"].as_u64().unwrap_or_default(),
                message: text(&object, "msg"),
                details: if details.is_empty() { details } else { format!("; {details}") },
            }
        }
        _ => {
            let words = String::from_utf8_lossy(if stderr.is_empty() { stdout } else { stderr });
            let words: String = words.trim().chars().take(512).collect();
            CniError::Execution { command, plugin: plugin.to_owned(), reason: format!("{status}: {words}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_both_families() {
        let result = json!({"ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1"}, {"address": "fd00::7/64"}]});
        let expected: Vec<IpAddr> = vec!["10.1.2.3".parse().expect("v4"), "fd00::7".parse().expect("v6")];
        assert_eq!(addresses(&result), Ok(expected));
        assert_eq!(addresses(&json!({})), Ok(vec![]));
        assert!(addresses(&json!({"ips": [{"address": "ten"}]})).is_err());
        assert!(addresses(&json!({"ips": [{}]})).is_err());
    }

    #[test]
    fn the_plugins_words_reach_the_operator() {
        let object = json!({"cniVersion": "1.0.0", "code": 11, "msg": "no free address", "details": "254 of 254 used"});
        let error = error_of("ADD", "thalweg-cni", object.to_string().as_bytes(), b"", "exit status: 1");
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "CNI ADD by thalweg-cni failed (code 11): no free address; 254 of 254 used");
        let error = error_of("ADD", "bridge", b"", b"panic: oh\n", "exit status: 2");
        assert_eq!(error.to_string(), "CNI ADD by bridge: exit status: 2: panic: oh");
    }
}
