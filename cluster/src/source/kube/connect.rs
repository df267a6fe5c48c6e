//! The way to the API server: clients made from a kubeconfig or a service account, and made anew when the server
//! no longer takes the credentials they hold. Tokens, certificates and kubeconfigs are all rotated on disk.

#[cfg(test)]
mod tests;

use std::fs;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;

use crate::source::{KubeOptions, SourceError};

const CONNECT: Duration = Duration::from_secs(5);

type Make = dyn Fn() -> BoxFuture<'static, Result<Client, SourceError>> + Send + Sync;

/// Shared by the watches of all kinds, so that one rotation makes one new client.
pub(super) struct Connector {
    make: Box<Make>,
    current: Mutex<Session>,
}

/// A client, and which one it is.
#[derive(Clone)]
pub(super) struct Session {
    pub client: Client,
    generation: u64,
}

// === impl Connector ===

impl Connector {
    /// `silence`: a connection without a word for this long is dead.
    pub async fn open(options: &KubeOptions, silence: Duration) -> Result<Self, SourceError> {
        let options = options.clone();
        Self::with(move || {
            let options = options.clone();
            Box::pin(async move { client(&options, silence).await })
        })
        .await
    }

    pub async fn with<F>(make: F) -> Result<Self, SourceError>
    where
        F: Fn() -> BoxFuture<'static, Result<Client, SourceError>> + Send + Sync + 'static,
    {
        let client = make().await?;
        Ok(Self { make: Box::new(make), current: Mutex::new(Session { client, generation: 0 }) })
    }

    pub async fn session(&self) -> Session {
        self.current.lock().await.clone()
    }

    /// A session with the credentials as they are on disk now, or the one that another made since `refused`.
    pub async fn renew(&self, refused: &Session) -> Session {
        let mut current = self.current.lock().await;
        if current.generation == refused.generation {
            match (self.make)().await {
                Ok(client) => *current = Session { client, generation: current.generation + 1 },
                Err(error) => tracing::warn!("the credentials cannot be read again, going on with the old ones: {error}"),
            }
        }
        current.clone()
    }
}

async fn client(options: &KubeOptions, silence: Duration) -> Result<Client, SourceError> {
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let refuse = |error: kube::config::KubeconfigError| SourceError::Kubeconfig {
                path: path.clone(),
                reason: super::chain(&error),
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(refuse)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(refuse)?
        }
        None => Config::infer().await.map_err(|error| SourceError::Infer { reason: super::chain(&error) })?,
    };
    trim_token(&mut config.auth_info);
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(silence);
    Client::try_from(config).map_err(|error| SourceError::Client { reason: super::chain(&error) })
}

/// A token file written by hand ends with a line break, which no header may hold. Such a file is read here; the client
/// would by itself read it again every minute, so a rotated token is noticed only when the old one is refused.
fn trim_token(auth: &mut AuthInfo) {
    let read = auth.token_file.as_ref().and_then(|path| fs::read_to_string(path).ok());
    if let Some(token) = read.filter(|token| token.trim().len() != token.len()) {
        auth.token = Some(token.trim().to_owned().into());
        auth.token_file = None;
    }
}
