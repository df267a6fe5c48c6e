//! A pod's volumes as directories of the node: emptyDir, configMap, secret, downwardAPI, projected, hostPath.

mod host_path;
mod payload;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use crate::api::{ApiError, ClusterApi, Data, PodId};
use crate::pod::fields::{Place, field, resource};
use crate::pod::quantity::units;
use payload::{File, Payload};

const DEFAULT_MODE: u32 = 0o644;
const TOKEN_SECONDS: i64 = 3607;

/// Makes the pod's volumes below `dir`, or brings them up to date. The result is each volume's place on the node.
pub async fn prepare<A: ClusterApi>(
    api: &A,
    pod: &Pod,
    id: &PodId,
    place: &Place,
    dir: &Path,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut places = BTreeMap::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let path = dir.join(&volume.name);
        let source = one(api, pod, id, place, volume, &path).await.map_err(|e| format!("volume {:?}: {e}", volume.name))?;
        places.insert(volume.name.clone(), source);
    }
    Ok(places)
}

/// Whether the pod has volumes whose content changes with the cluster.
pub fn changes(pod: &Pod) -> bool {
    let live = |v: &Volume| v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some();
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(live)
}

/// Unmounts and removes everything below `dir`; only what the kubelet made is there. What cannot be unmounted is an
/// error, and nothing is removed then: the files below a mount point are somebody else's.
pub fn remove(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        if is_mount_point(&path)? {
            umount2(&path, MntFlags::MNT_DETACH)?;
        }
    }
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn is_mount_point(path: &Path) -> std::io::Result<bool> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

async fn one<A: ClusterApi>(
    api: &A,
    pod: &Pod,
    id: &PodId,
    place: &Place,
    volume: &Volume,
    path: &Path,
) -> Result<PathBuf, String> {
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
    let group = group.and_then(|g| u32::try_from(g).ok());
    if let Some(source) = &volume.host_path {
        return host_path::check(&source.path, source.type_.as_deref().unwrap_or_default());
    }
    if let Some(source) = &volume.empty_dir {
        let size = source.size_limit.as_ref().and_then(units);
        empty_dir(path, source.medium.as_deref() == Some("Memory"), size, group).map_err(|e| e.to_string())?;
        return Ok(path.to_owned());
    }
    let mut payload = Payload::new();
    if let Some(source) = &volume.config_map {
        let data = data("configmap", &source.name, source.optional, api.config_map(&id.namespace, &source.name).await)?;
        pick(&mut payload, data, source.items.as_deref(), mode(source.default_mode), &source.name, source.optional)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let data = data("secret", name, source.optional, api.secret(&id.namespace, name).await)?;
        pick(&mut payload, data, source.items.as_deref(), mode(source.default_mode), name, source.optional)?;
    } else if let Some(source) = &volume.downward_api {
        downward(&mut payload, pod, place, source.items.as_deref(), mode(source.default_mode))?;
    } else if let Some(source) = &volume.projected {
        for part in source.sources.iter().flatten() {
            project(api, pod, id, place, part, mode(source.default_mode), path, &mut payload).await?;
        }
    } else {
        return Err(
            "this kind of volume is not supported: use emptyDir, configMap, secret, downwardAPI, projected or hostPath".into(),
        );
    }
    payload::write(path, &payload, group).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path.to_owned())
}

#[allow(clippy::too_many_arguments, reason = "all of them are the caller's, for one source of many")]
async fn project<A: ClusterApi>(
    api: &A,
    pod: &Pod,
    id: &PodId,
    place: &Place,
    part: &VolumeProjection,
    mode: u32,
    path: &Path,
    payload: &mut Payload,
) -> Result<(), String> {
    if let Some(source) = &part.config_map {
        let data = data("configmap", &source.name, source.optional, api.config_map(&id.namespace, &source.name).await)?;
        return pick(payload, data, source.items.as_deref(), mode, &source.name, source.optional);
    }
    if let Some(source) = &part.secret {
        let data = data("secret", &source.name, source.optional, api.secret(&id.namespace, &source.name).await)?;
        return pick(payload, data, source.items.as_deref(), mode, &source.name, source.optional);
    }
    if let Some(source) = &part.downward_api {
        return downward(payload, pod, place, source.items.as_deref(), mode);
    }
    if let Some(source) = &part.service_account_token {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
        let seconds = source.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        if let Some(token) = std::fs::read(path.join(&source.path)).ok().filter(|t| token_is_fresh(t, Timestamp::now())) {
            return put(payload, &source.path, token, 0o600);
        }
        let token = api.token(id, account, source.audience.as_deref(), seconds).await;
        let token = token.map_err(|e| format!("token of service account {account}: {e}"))?;
        return put(payload, &source.path, token.into_bytes(), 0o600);
    }
    Err("this kind of projection is not supported: use configMap, secret, downwardAPI or serviceAccountToken".into())
}

/// Whether a token has more than a fifth of its life before it.
fn token_is_fresh(token: &[u8], now: Timestamp) -> bool {
    use base64::Engine;
    let claims =
        token.split(|b| *b == b'.').nth(1).and_then(|c| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(c).ok());
    let claims = claims.and_then(|c| serde_json::from_slice::<serde_json::Value>(&c).ok());
    let time = |name: &str| claims.as_ref().and_then(|c| c.get(name)?.as_i64());
    match (time("iat"), time("exp")) {
        (Some(issued), Some(expires)) => now.as_second() < issued + (expires - issued) * 4 / 5,
        _ => false,
    }
}

fn data(kind: &str, name: &str, optional: Option<bool>, found: Result<Data, ApiError>) -> Result<Data, String> {
    match found {
        Err(ApiError::NotFound) if optional == Some(true) => Ok(Data::new()),
        Err(ApiError::NotFound) => Err(format!("{kind} \"{name}\" not found")),
        Err(e) => Err(format!("{kind} \"{name}\": {e}")),
        Ok(data) => Ok(data),
    }
}

/// All keys by their names, or the named ones by their paths.
fn pick(
    payload: &mut Payload,
    mut data: Data,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    name: &str,
    optional: Option<bool>,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return data.into_iter().try_for_each(|(key, bytes)| put(payload, &key, bytes, default_mode));
    };
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => put(payload, &item.path, bytes, item.mode.map_or(default_mode, |m| mode(Some(m))))?,
            None if optional == Some(true) => {}
            None => return Err(format!("{name} has no key {:?}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    payload: &mut Payload,
    pod: &Pod,
    place: &Place,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: u32,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => field(pod, place, &selector.field_path)?,
            (None, Some(selector)) => resource(pod, place, "", selector)?,
            (None, None) => return Err(format!("file {:?} has no source", item.path)),
        };
        put(payload, &item.path, text.into_bytes(), item.mode.map_or(default_mode, |m| mode(Some(m))))?;
    }
    Ok(())
}

fn put(payload: &mut Payload, path: &str, bytes: Vec<u8>, mode: u32) -> Result<(), String> {
    let inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || path.starts_with("..") || !inside {
        return Err(format!("{path:?} is not a path inside the volume"));
    }
    payload.insert(path.into(), File { bytes, mode });
    Ok(())
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE) & 0o777
}

fn empty_dir(path: &Path, memory: bool, size: Option<u64>, group: Option<u32>) -> std::io::Result<()> {
    let fresh = !path.exists();
    std::fs::create_dir_all(path)?;
    if memory && !is_mount(path)? {
        let options = size.map(|s| format!("size={s}"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("thalweg-volume"), path, Some("tmpfs"), flags, options.as_deref())?;
    }
    if fresh {
        let bits = if group.is_some() { 0o2777 } else { 0o777 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits))?;
        std::os::unix::fs::chown(path, None, group)?;
    }
    Ok(())
}

fn is_mount(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().unwrap_or(path);
    Ok(std::fs::metadata(path)?.dev() != std::fs::metadata(parent)?.dev())
}

#[cfg(test)]
mod tests;
