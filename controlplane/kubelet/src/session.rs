//! A command that runs inside a container while somebody talks to it: what `kubectl exec` is on the node's side.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::runtime::Result;

/// What to run, and which of its streams are wanted; the others lead to /dev/null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionRequest {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// On a terminal: stdin and stdout are its two directions, and there is no stderr of its own.
    pub tty: bool,
}

pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// The columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

pub type Resize = Box<dyn Fn(Size) -> io::Result<()> + Send + Sync>;

/// A running command. Dropping it before `exit` has resolved kills the command with everything that it started.
pub struct Session {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    /// Of a terminal only.
    pub resize: Option<Resize>,
    /// The command's exit code; 128 + signal when a signal ended it.
    pub exit: Pin<Box<dyn Future<Output = Result<i32>> + Send>>,
}
