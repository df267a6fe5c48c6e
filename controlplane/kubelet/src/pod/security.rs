//! Which user and which privileges a container runs with.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::runtime::Security;

/// The container's words win over the pod's.
pub fn security(spec: &PodSpec, container: &Container) -> Result<Security, String> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let id = |value: Option<i64>, what: &str| match value.map(u32::try_from) {
        None => Ok(0),
        Some(Ok(id)) => Ok(id),
        Some(Err(_)) => Err(format!("container {}: {what} is not an id", container.name)),
    };
    let user = id(own.and_then(|s| s.run_as_user).or(pod.and_then(|s| s.run_as_user)), "runAsUser")?;
    let group = id(own.and_then(|s| s.run_as_group).or(pod.and_then(|s| s.run_as_group)), "runAsGroup")?;
    let non_root = own.and_then(|s| s.run_as_non_root).or(pod.and_then(|s| s.run_as_non_root)) == Some(true);
    if non_root && user == 0 {
        return Err(format!("container {} has runAsNonRoot and would run as root: set runAsUser", container.name));
    }
    let supplemental = pod.and_then(|s| s.supplemental_groups.as_deref()).unwrap_or_default();
    let groups = supplemental.iter().copied().chain(pod.and_then(|s| s.fs_group));
    let groups = groups.map(|g| id(Some(g), "a supplementary group")).collect::<Result<Vec<_>, _>>()?;
    let capabilities = own.and_then(|s| s.capabilities.as_ref());
    Ok(Security {
        user,
        group,
        groups,
        privileged: own.and_then(|s| s.privileged) == Some(true),
        no_new_privileges: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        add_capabilities: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(pod: Value, own: Value, expected: Result<Security, &str>) {
        let spec = json!({"containers": [{"name": "c", "securityContext": own}], "securityContext": pod});
        let spec: PodSpec = serde_json::from_value(spec).expect("spec");
        let result = security(&spec, &spec.containers[0]);
        match (result, expected) {
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (result, expected) => assert_eq!(result.as_ref().map_err(String::as_str), expected.as_ref().map_err(|e| *e)),
        }
    }

    #[test]
    fn contexts_are_merged() {
        check(json!({}), json!({}), Ok(Security::default()));
        check(
            json!({"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "runAsNonRoot": true}),
            json!({"runAsUser": 1001, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}),
            Ok(Security {
                user: 1001,
                group: 2000,
                groups: vec![3000],
                no_new_privileges: true,
                drop_capabilities: vec!["ALL".into()],
                ..Security::default()
            }),
        );
        check(json!({"runAsNonRoot": true}), json!({}), Err("runAsNonRoot"));
        check(json!({"runAsUser": -5}), json!({}), Err("runAsUser"));
    }
}
