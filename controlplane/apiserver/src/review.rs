//! Reviews: questions in the form of an object (may I, who am I), answered at once and never stored.

use serde_json::{Value, json};

use crate::authn::User;
use crate::authz::{Attributes, Authorizer, Resource, Rules};
use crate::status::{ApiError, Result};

/// Reviews as discovery lists them: group, resource, kind, namespaced.
pub(crate) const REVIEWS: &[(&str, &str, &str, bool)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", false),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", false),
];

pub(crate) fn answer(user: &User, authorizer: &dyn Authorizer, group: &str, resource: &str, mut asked: Value) -> Result<Value> {
    let review = REVIEWS.iter().find(|review| (review.0, review.1) == (group, resource));
    let (_, _, kind, _) = review.ok_or_else(ApiError::no_such_path)?;
    if !asked.is_object() {
        return Err(ApiError::bad_request("the body of a review must be an object"));
    }
    let status = match *kind {
        "SelfSubjectReview" => json!({"userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups}}),
        "SelfSubjectAccessReview" => access(user, authorizer, &asked["spec"])?,
        "SelfSubjectRulesReview" => {
            let Rules { resources, paths } = authorizer.rules(user);
            let resources: Vec<_> = resources
                .iter()
                .map(|rule| {
                    json!({"verbs": rule.verbs, "apiGroups": rule.groups,
                "resources": rule.resources})
                })
                .collect();
            let paths: Vec<_> = paths.iter().map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths})).collect();
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        _ => {
            let strings =
                |list: &Value| list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            let text = |field: &str| asked["spec"][field].as_str().unwrap_or_default().to_owned();
            let subject = User { name: text("user"), uid: text("uid"), groups: strings(&asked["spec"]["groups"]) };
            access(&subject, authorizer, &asked["spec"])?
        }
    };
    asked["kind"] = json!(kind);
    asked["apiVersion"] = json!(format!("{group}/v1"));
    if !asked["metadata"].is_object() {
        asked["metadata"] = json!({});
    }
    asked["metadata"]["creationTimestamp"] = Value::Null;
    asked["status"] = status;
    Ok(asked)
}

fn access(user: &User, authorizer: &dyn Authorizer, spec: &Value) -> Result<Value> {
    let text = |part: &'static str, field: &str| spec[part][field].as_str().unwrap_or_default();
    let about = "resourceAttributes";
    let attributes = match (spec.get(about), spec.get("nonResourceAttributes")) {
        (Some(_), None) => Attributes {
            user,
            verb: text(about, "verb"),
            resource: Some(Resource {
                group: text(about, "group"),
                resource: text(about, "resource"),
                subresource: text(about, "subresource"),
                namespace: text(about, "namespace"),
                name: text(about, "name"),
            }),
            path: "",
        },
        (None, Some(_)) => Attributes {
            user,
            verb: text("nonResourceAttributes", "verb"),
            resource: None,
            path: text("nonResourceAttributes", "path"),
        },
        _ => {
            return Err(ApiError::bad_request(
                "spec: exactly one of resourceAttributes and nonResourceAttributes must be specified",
            ));
        }
    };
    Ok(json!({"allowed": authorizer.allowed(&attributes)}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::ByGroup;

    #[test]
    fn questions_are_answered() {
        let admin = User { name: "admin".into(), uid: String::new(), groups: vec!["system:masters".into()] };
        let eve = User { name: "eve".into(), ..User::default() };
        let asked = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": "default"}}});
        let check = |user: &User, resource: &str, asked: &Value, path: &str, expected: Value| {
            let answer = answer(user, &ByGroup, "authorization.k8s.io", resource, asked.clone()).unwrap();
            assert_eq!(*answer.pointer(path).unwrap(), expected, "{answer}");
        };
        check(&admin, "selfsubjectaccessreviews", &asked, "/status/allowed", json!(true));
        check(&eve, "selfsubjectaccessreviews", &asked, "/status/allowed", json!(false));
        let mut about_admin = asked.clone();
        about_admin["spec"]["groups"] = json!(["system:masters"]);
        check(&eve, "subjectaccessreviews", &about_admin, "/status/allowed", json!(true));
        let me = answer(&eve, &ByGroup, "authentication.k8s.io", "selfsubjectreviews", json!({})).unwrap();
        assert_eq!(me["status"]["userInfo"]["username"], "eve");
        check(&admin, "selfsubjectrulesreviews", &asked, "/status/resourceRules/0/resources", json!(["*"]));
        check(&admin, "selfsubjectrulesreviews", &asked, "/status/nonResourceRules/0/nonResourceURLs", json!(["*"]));
        let mine = json!(["selfsubjectaccessreviews", "selfsubjectreviews", "selfsubjectrulesreviews"]);
        check(&eve, "selfsubjectrulesreviews", &asked, "/status/resourceRules/0/resources", mine);
        assert!(answer(&eve, &ByGroup, "authorization.k8s.io", "pies", json!({})).is_err());
        assert!(answer(&eve, &ByGroup, "authorization.k8s.io", "selfsubjectaccessreviews", json!({"spec": {}})).is_err());
    }
}
