//! The rules for names: what is wrong with one, in Kubernetes' words; nothing when it is right.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// A name of a DNS label, as of namespaces and containers.
pub fn dns_label(name: &str) -> Vec<String> {
    let mut wrong = too_long(name, 63);
    if !is_label(name) {
        wrong.push(format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
        ));
    }
    wrong
}

/// Names of most objects.
pub fn dns_subdomain(name: &str) -> Vec<String> {
    let mut wrong = too_long(name, 253);
    if !name.split('.').all(is_label) {
        wrong.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
             with an alphanumeric character (e.g. 'example.com', regex used for validation is '{SUBDOMAIN}')"
        ));
    }
    wrong
}

/// Names of services: labels that begin with a letter.
pub fn dns1035_label(name: &str) -> Vec<String> {
    let mut wrong = too_long(name, 63);
    if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end \
             with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
             '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    wrong
}

/// Keys of labels, annotations, and extended resources: a name, with a domain and a slash before it or not.
pub fn qualified_name(name: &str) -> Vec<String> {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
                        character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                        '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut wrong = Vec::new();
    let part = match name.split('/').collect::<Vec<_>>()[..] {
        [part] => part,
        [prefix, part] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(prefix).into_iter().map(|w| format!("prefix part {w}")));
            }
            part
        }
        _ => {
            return vec![format!(
                "a qualified name {RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if part.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else {
        wrong.extend(too_long(part, 63).into_iter().map(|w| format!("name part {w}")));
    }
    if !is_word(part) {
        wrong.push(format!("name part {RULE}"));
    }
    wrong
}

/// Values of labels.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = too_long(value, 63);
    if !value.is_empty() && !is_word(value) {
        wrong.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
             an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    wrong
}

/// Keys in a ConfigMap or Secret.
pub fn config_key(key: &str) -> Vec<String> {
    let mut wrong = too_long(key, 253);
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        wrong.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
             'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    if key == "." || key == ".." || key.starts_with("..") {
        wrong.push(
            if key == "." {
                "must not be '.'"
            } else if key == ".." {
                "must not be '..'"
            } else {
                "must not start with '..'"
            }
            .to_owned(),
        );
    }
    wrong
}

/// Names of environment variables.
pub fn env_name(name: &str) -> Vec<String> {
    if name.is_empty() || !name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return vec![
            "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned(),
        ];
    }
    Vec::new()
}

/// Names of container ports, as a `targetPort` refers to them.
pub fn port_name(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > 15 {
        wrong.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// Port numbers.
pub fn port(number: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&number)).then_some("must be between 1 and 65535, inclusive")
}

fn too_long(name: &str, max: usize) -> Vec<String> {
    if name.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

fn is_label(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_accept_and_refuse() {
        let check = |rule: fn(&str) -> Vec<String>, name: &str, expected: Option<&str>| {
            let wrong = rule(name);
            match expected {
                None => assert_eq!(wrong, Vec::<String>::new(), "{name}"),
                Some(word) => assert!(wrong.iter().any(|w| w.contains(word)), "{name}: {wrong:?}"),
            }
        };
        let long = "a".repeat(64);
        check(dns_label, "my-name", None);
        check(dns_label, "123", None);
        check(dns_label, "My", Some("lowercase RFC 1123 label"));
        check(dns_label, "a.b", Some("lowercase RFC 1123 label"));
        check(dns_label, "-a", Some("lowercase RFC 1123 label"));
        check(dns_label, "", Some("lowercase RFC 1123 label"));
        check(dns_label, &long, Some("must be no more than 63 bytes"));
        check(dns_subdomain, "a.b-c.d", None);
        check(dns_subdomain, "a..b", Some("subdomain"));
        check(dns1035_label, "web", None);
        check(dns1035_label, "1web", Some("start with an alphabetic character"));
        check(qualified_name, "app.kubernetes.io/name", None);
        check(qualified_name, "A_b.c", None);
        check(qualified_name, "/a", Some("prefix part must be non-empty"));
        check(qualified_name, "a/", Some("name part must be non-empty"));
        check(qualified_name, "a/b/c", Some("a qualified name must consist"));
        check(qualified_name, "A/b", Some("prefix part a lowercase RFC 1123 subdomain"));
        check(label_value, "", None);
        check(label_value, "v1.2_x", None);
        check(label_value, "a b", Some("a valid label must be an empty string"));
        check(config_key, "..data", Some("must not start with '..'"));
        check(config_key, "a b", Some("a valid config key"));
        check(config_key, "ca.crt", None);
        check(env_name, "MY-VAR.x", None);
        check(env_name, "A=B", Some("other than '='"));
        check(port_name, "http", None);
        check(port_name, "80", Some("at least one letter"));
        check(port_name, "a--b", Some("consecutive hyphens"));
        check(port_name, "this-name-is-too-long", Some("no more than 15"));
        assert!(port(0).is_some() && port(65536).is_some() && port(65535).is_none());
    }
}
