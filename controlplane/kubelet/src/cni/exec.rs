//! Executing plugins: ADD in order with the result handed on, DEL in reverse.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;

use super::result::error_of;
use super::{CniError, NetworkList, addresses, load};

/// A plugin that takes longer is taken for hanging.
const TIMEOUT: Duration = Duration::from_secs(60);
const TRANSIENT_TRIES: u32 = 3;

/// Where plugins and networks are.
#[derive(Debug, Clone)]
pub struct Cni {
    pub bin_dir: PathBuf,
    pub conf_dir: PathBuf,
}

/// One pod's interface.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    pub container_id: String,
    /// None when the namespace is gone already: DEL is still made.
    pub netns: Option<PathBuf>,
    /// `eth0`.
    pub interface: String,
    /// CNI_ARGS.
    pub args: Vec<(String, String)>,
    /// Arguments by capability: `portMappings`, `bandwidth`.
    pub capabilities: Map<String, Value>,
}

// === impl Cni ===

impl Cni {
    pub fn network(&self) -> Result<NetworkList, CniError> {
        load(&self.conf_dir)
    }

    /// Runs every plugin in order. The last one's result is the pod's.
    pub async fn add(&self, list: &NetworkList, attachment: &Attachment) -> Result<(Value, Vec<std::net::IpAddr>), CniError> {
        let mut previous = None;
        for index in 0..list.plugins.len() {
            let input = list.input(index, &attachment.capabilities, previous.as_ref());
            let output = self.patiently("ADD", list.plugin(index), attachment, &input).await?;
            let bad = |reason: String| CniError::BadResult { plugin: list.plugin(index).to_owned(), reason };
            previous = Some(serde_json::from_slice(&output).map_err(|e| bad(e.to_string()))?);
        }
        let last = list.plugin(list.plugins.len() - 1);
        let bad = |reason: String| CniError::BadResult { plugin: last.to_owned(), reason };
        let result = previous.ok_or_else(|| bad("no plugin ran".into()))?;
        let ips = addresses(&result).map_err(bad)?;
        if ips.is_empty() {
            return Err(bad("it has no address".into()));
        }
        Ok((result, ips))
    }

    /// Runs every plugin in reverse order, all of them also when one fails; the first failure is told.
    pub async fn del(&self, list: &NetworkList, attachment: &Attachment, result: Option<&Value>) -> Result<(), CniError> {
        let mut failed = None;
        for index in (0..list.plugins.len()).rev() {
            let input = list.input(index, &attachment.capabilities, result);
            if let Err(e) = self.patiently("DEL", list.plugin(index), attachment, &input).await {
                failed = failed.or(Some(e));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn patiently(
        &self,
        command: &'static str,
        plugin: &str,
        attachment: &Attachment,
        input: &Value,
    ) -> Result<Vec<u8>, CniError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.run(command, plugin, attachment, input).await {
                Err(e) if e.is_transient() && tries < TRANSIENT_TRIES => {
                    tokio::time::sleep(Duration::from_millis(500) * tries).await;
                }
                other => return other,
            }
        }
    }

    async fn run(
        &self,
        command: &'static str,
        plugin: &str,
        attachment: &Attachment,
        input: &Value,
    ) -> Result<Vec<u8>, CniError> {
        let path = self.bin_dir.join(plugin);
        if !path.is_file() {
            return Err(CniError::NoPlugin { plugin: plugin.to_owned(), dir: self.bin_dir.clone() });
        }
        let failed = |reason: String| CniError::Execution { command, plugin: plugin.to_owned(), reason };
        let args: Vec<_> = attachment.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut process = tokio::process::Command::new(&path);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &attachment.container_id)
            .env("CNI_NETNS", attachment.netns.as_deref().unwrap_or(Path::new("")))
            .env("CNI_IFNAME", &attachment.interface)
            .env("CNI_ARGS", args.join(";"))
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = spawn(&mut process).await.map_err(|e| failed(e.to_string()))?;
        let stdin = child.stdin.take();
        let text = input.to_string();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A plugin may answer (an error, say) without reading its input to the end.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output = tokio::time::timeout(TIMEOUT, both)
            .await
            .map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(error_of(command, plugin, &output.stdout, &output.stderr, &output.status.to_string()))
    }
}

/// A plugin that is being replaced in this moment is "busy" for a moment.
async fn spawn(process: &mut tokio::process::Command) -> std::io::Result<tokio::process::Child> {
    for _ in 0..20 {
        match process.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other,
        }
    }
    process.spawn()
}

#[cfg(test)]
mod tests;
