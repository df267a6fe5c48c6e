//! Tables of configurations, good and bad.

use serde_json::json;

use super::*;
use crate::protocol::PodName;

fn parse(value: &Value) -> Result<Config, CniError> {
    Config::parse(value.to_string().as_bytes())
}

fn container(ip: Option<&str>, mac: Option<&str>) -> Container {
    Container {
        id: AttachmentId::new("c", "eth0"),
        netns: None,
        pod: PodName::default(),
        requested_ip: ip.map(str::to_owned),
        requested_mac: mac.map(str::to_owned),
    }
}

#[track_caller]
fn check(stdin: &str, want: u32, words: &str) {
    let error = Config::parse(stdin.as_bytes()).unwrap_err();
    assert_eq!(error.code, want, "{error}");
    assert!(error.to_string().contains(words), "{words:?} in {error}");
}

#[test]
fn refused() {
    check("", code::DECODE, "not JSON");
    check("{", code::DECODE, "not JSON");
    check("[]", code::DECODE, "not a JSON object");
    check(r#"{"name":"n"}"#, code::INCOMPATIBLE_VERSION, "none was given");
    check(r#"{"cniVersion":"0.2.0","name":"n"}"#, code::INCOMPATIBLE_VERSION, "0.2.0");
    check(r#"{"cniVersion":1,"name":"n"}"#, code::INVALID_CONFIG, "cniVersion 1");
    check(r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG, "name \"\"");
    check(r#"{"cniVersion":"1.0.0","name":"a/b"}"#, code::INVALID_CONFIG, "a/b");
    check(r#"{"cniVersion":"1.0.0","name":7}"#, code::INVALID_CONFIG, "wrong type");
    check(r#"{"cniVersion":"1.0.0","name":"n","socket":"cni.sock"}"#, code::INVALID_CONFIG, "socket");
    check(r#"{"cniVersion":"1.0.0","name":"n","stateDir":"state"}"#, code::INVALID_CONFIG, "stateDir");
    check(
        r#"{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"ifname":"eth0"}]}"#,
        code::INVALID_CONFIG,
        "containerID",
    );
}

#[test]
fn defaults() {
    let config =
        parse(&json!({"cniVersion": "1.0.0", "name": "n", "type": "thalweg-cni", "dns": {}, "prevResult": null})).unwrap();
    assert_eq!(config.version, SpecVersion::V1_0_0);
    assert_eq!((config.socket.to_str(), config.state_dir.to_str()), (Some(DEFAULT_SOCKET), Some(DEFAULT_STATE_DIR)));
    assert_eq!((config.dns.clone(), config.prev_result.clone()), (None, None));
    assert_eq!(config.requested_ips(&container(None, None)), Ok(vec![]));
    assert_eq!(config.requested_mac(&container(None, None)), Ok(None));
    assert_eq!(config.check_supported(), Ok(()));
}

#[test]
fn unsupported_fields_are_named_with_their_value() {
    let base = json!({"cniVersion": "1.0.0", "name": "n"});
    let cases = [
        (json!({"ipam": {"type": "host-local"}}), "ipam: {\"type\":\"host-local\"}"),
        (json!({"ipMasq": true}), "ipMasq: true"),
        (json!({"runtimeConfig": {"bandwidth": {"ingressRate": 8}}}), "runtimeConfig.bandwidth"),
    ];
    for (extra, words) in cases {
        let mut value = base.clone();
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let error = parse(&value).unwrap().check_supported().unwrap_err();
        assert_eq!(error.code, code::UNSUPPORTED_FIELD);
        assert!(error.msg.contains(words), "{words:?} in {error}");
    }
    for harmless in [json!({"ipam": {}}), json!({"ipMasq": false}), json!({"runtimeConfig": {"bandwidth": {}}})] {
        let mut value = base.clone();
        value.as_object_mut().unwrap().extend(harmless.as_object().unwrap().clone());
        assert_eq!(parse(&value).unwrap().check_supported(), Ok(()), "{harmless}");
    }
}

#[test]
fn requested_addresses() {
    let with = |runtime: Value, args: Value| {
        parse(&json!({"cniVersion": "1.0.0", "name": "n", "runtimeConfig": runtime, "args": {"cni": args}})).unwrap()
    };
    let ips = |config: &Config, env| config.requested_ips(&container(env, None)).map_err(|error| error.code);
    let one: IpAddr = "10.244.1.9".parse().unwrap();
    let six: IpAddr = "fd00::9".parse().unwrap();

    assert_eq!(
        ips(&with(json!({"ips": ["10.244.1.9/24", "fd00::9"]}), json!({"ips": ["10.9.9.9"]})), Some("10.8.8.8")),
        Ok(vec![one, six])
    );
    assert_eq!(ips(&with(json!({}), json!({"ips": ["10.244.1.9"]})), Some("10.8.8.8")), Ok(vec![one]));
    assert_eq!(ips(&with(json!({}), json!({})), Some("10.244.1.9, fd00::9")), Ok(vec![one, six]));
    assert_eq!(ips(&with(json!({"ips": ["10.244.1.9", "10.244.1.8"]}), json!({})), None), Err(code::INVALID_CONFIG));
    assert_eq!(ips(&with(json!({"ips": ["10.244.1"]}), json!({})), None), Err(code::INVALID_CONFIG));
    assert_eq!(ips(&with(json!({"ips": ["10.244.1.9/33"]}), json!({})), None), Err(code::INVALID_CONFIG));
    assert_eq!(ips(&with(json!({}), json!({})), Some("x")), Err(code::INVALID_ENVIRONMENT));
}

#[test]
fn requested_hardware_address() {
    let config = |mac: Value| parse(&json!({"cniVersion": "1.0.0", "name": "n", "runtimeConfig": {"mac": mac}})).unwrap();
    let mac = |config: Config, env| config.requested_mac(&container(None, env)).map_err(|error| error.code);
    assert_eq!(mac(config(json!("02:00:00:00:00:07")), Some("junk")), Ok(Some(Mac([2, 0, 0, 0, 0, 7]))));
    assert_eq!(mac(config(Value::Null), Some("02:00:00:00:00:08")), Ok(Some(Mac([2, 0, 0, 0, 0, 8]))));
    assert_eq!(mac(config(json!("junk")), None), Err(code::INVALID_CONFIG));
    assert_eq!(mac(config(Value::Null), Some("junk")), Err(code::INVALID_ENVIRONMENT));
}

#[test]
fn host_ports() {
    let config = |mappings: Value| {
        parse(&json!({"cniVersion": "1.0.0", "name": "n", "runtimeConfig": {"portMappings": mappings}})).unwrap()
    };
    for nothing in [Value::Null, json!([]), json!([{"containerPort": 80}])] {
        assert_eq!(config(nothing).host_ports(), Ok(vec![]));
    }
    let good = config(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]));
    assert_eq!(good.check_supported(), Ok(()));
    assert_eq!(good.host_ports().unwrap()[0].to_string(), "*:8080/udp");
    // Only who asks for the ports hears that they are wrong: a DEL does not.
    assert_eq!(config(json!("8080")).host_ports().map_err(|error| error.code), Err(code::INVALID_CONFIG));
}

#[test]
fn the_runtimes_dns_wins() {
    let value = json!({"cniVersion": "1.0.0", "name": "n", "dns": {"nameservers": ["10.96.0.10"]}});
    assert_eq!(parse(&value).unwrap().dns, Some(json!({"nameservers": ["10.96.0.10"]})));
    let value = json!({"cniVersion": "1.0.0", "name": "n", "dns": {"nameservers": ["a"]}, "runtimeConfig": {"dns": {"nameservers": ["b"]}}});
    assert_eq!(parse(&value).unwrap().dns, Some(json!({"nameservers": ["b"]})));
}

#[test]
fn both_names_of_the_attachments() {
    let one = json!([{"containerID": "c", "ifname": "eth0"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let config = parse(&json!({"cniVersion": "1.1.0", "name": "n", key: one})).unwrap();
        assert_eq!(config.valid_attachments, Some(vec![AttachmentId::new("c", "eth0")]), "{key}");
    }
    assert_eq!(parse(&json!({"cniVersion": "1.1.0", "name": "n"})).unwrap().valid_attachments, None);
}

#[test]
fn version_echo() {
    let echo = |stdin: &str| version_to_echo(stdin.as_bytes()).map_err(|error| error.code);
    assert_eq!(echo("  \n"), Ok("1.1.0".to_owned()));
    assert_eq!(echo("{}"), Ok("1.1.0".to_owned()));
    assert_eq!(echo(r#"{"cniVersion":"0.2.0"}"#), Ok("0.2.0".to_owned()));
    assert_eq!(echo("{"), Err(code::DECODE));
}
