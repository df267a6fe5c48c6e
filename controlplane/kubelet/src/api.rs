//! What the kubelet asks of the API server, as a trait, so that pods can be run in tests without one; and the real one.

pub(crate) mod told;

use std::collections::BTreeMap;
use std::future::Future;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::Value;

/// How long a watch of the node and its pods lasts, in seconds. After a network failure a watch can be deaf without knowing;
/// the next one begins where it stopped hearing.
pub(crate) const WATCH_LASTS: u32 = 30;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("not found")]
    NotFound,
    /// Somebody else's object of the same name, or a newer version.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The API server understood and refused; the same again would be refused again.
    #[error("refused: {0}")]
    Refused(String),
    /// The API server is away or busy; to be tried again.
    #[error("{0}")]
    Unavailable(String),
}

/// One pod, by name and by identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Binary data by key, of a ConfigMap or a Secret.
pub type Data = BTreeMap<String, Vec<u8>>;

pub trait ClusterApi: Send + Sync + 'static {
    fn config_map(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Data, ApiError>> + Send;

    fn secret(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Data, ApiError>> + Send;

    /// A token of the pod's service account, bound to the pod.
    fn token(
        &self,
        pod: &PodId,
        account: &str,
        audience: Option<&str>,
        seconds: i64,
    ) -> impl Future<Output = Result<String, ApiError>> + Send;

    /// Strategic merge patch of the pod's status; a pod of another uid is a conflict. Returns the pod's resourceVersion after it.
    fn patch_status(&self, pod: &PodId, status: Value) -> impl Future<Output = Result<String, ApiError>> + Send;

    /// Takes the stopped pod away for good (grace 0), if it still has this uid.
    fn delete_pod(&self, pod: &PodId) -> impl Future<Output = Result<(), ApiError>> + Send;

    fn create_event(&self, event: Event) -> impl Future<Output = Result<(), ApiError>> + Send;

    fn patch_event(&self, namespace: &str, name: &str, patch: Value) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// The API server behind a kube client.
#[derive(Clone)]
pub struct KubeApi(pub kube::Client);

// === impl KubeApi ===

impl ClusterApi for KubeApi {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Data, ApiError> {
        let map = Api::<ConfigMap>::namespaced(self.0.clone(), namespace).get(name).await.map_err(classify)?;
        let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
        Ok(text.chain(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0))).collect())
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Data, ApiError> {
        let secret = Api::<Secret>::namespaced(self.0.clone(), namespace).get(name).await.map_err(classify)?;
        Ok(secret.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect())
    }

    async fn token(&self, pod: &PodId, account: &str, audience: Option<&str>, seconds: i64) -> Result<String, ApiError> {
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
        };
        let spec = TokenRequestSpec {
            audiences: audience.map(|a| vec![a.to_owned()]),
            bound_object_ref: Some(bound),
            expiration_seconds: Some(seconds),
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let api = Api::<ServiceAccount>::namespaced(self.0.clone(), &pod.namespace);
        let answer = api.create_token_request(account, &PostParams::default(), &request).await.map_err(classify)?;
        answer.status.and_then(|s| s.token).ok_or_else(|| ApiError::Refused("the token request has no status".into()))
    }

    async fn patch_status(&self, pod: &PodId, status: Value) -> Result<String, ApiError> {
        let patch = serde_json::json!({ "metadata": { "uid": pod.uid }, "status": status });
        let api = Api::<Pod>::namespaced(self.0.clone(), &pod.namespace);
        let result = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        result.map(|pod| pod.metadata.resource_version.unwrap_or_default()).map_err(classify)
    }

    async fn delete_pod(&self, pod: &PodId) -> Result<(), ApiError> {
        let preconditions = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        let api = Api::<Pod>::namespaced(self.0.clone(), &pod.namespace);
        api.delete(&pod.name, &params).await.map(|_| ()).map_err(classify)
    }

    async fn create_event(&self, event: Event) -> Result<(), ApiError> {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.0.clone(), &namespace);
        api.create(&PostParams::default(), &event).await.map(|_| ()).map_err(classify)
    }

    async fn patch_event(&self, namespace: &str, name: &str, patch: Value) -> Result<(), ApiError> {
        let api = Api::<Event>::namespaced(self.0.clone(), namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()).map_err(classify)
    }
}

fn classify(error: kube::Error) -> ApiError {
    match &error {
        kube::Error::Api(status) => match status.code {
            404 => ApiError::NotFound,
            409 => ApiError::Conflict(status.message.clone()),
            400 | 401 | 403 | 405 | 413 | 415 | 422 => ApiError::Refused(status.message.clone()),
            _ => ApiError::Unavailable(status.message.clone()),
        },
        _ => ApiError::Unavailable(error.to_string()),
    }
}
