//! Kubeconfig files: a server's address, the cluster's CA, and a client certificate made for one user.

use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::pki::{Pki, write_private};

/// Writes a kubeconfig for `user` in `groups` to `out`, readable by its owner only. The cluster's CA in `data` is made when it
/// is not there yet, so that files can be written before the server first starts.
///
/// # Errors
/// When the CA cannot be read or made, the file cannot be written, or there are more than two groups.
pub fn write_kubeconfig(data: &Path, server: &str, user: &str, groups: &[&str], out: &Path) -> Result<()> {
    let pki = Pki::open(data)?;
    let identity = pki.client(user, groups)?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "thalweg", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(pki.ca_pem()),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&identity.cert),
            "client-key-data": STANDARD.encode(&identity.key),
        }}],
        "contexts": [{"name": "thalweg", "context": {"cluster": "thalweg", "user": user}}],
        "current-context": "thalweg",
    });
    write_private(out, serde_yaml_ng::to_string(&config)?.as_bytes())
}
