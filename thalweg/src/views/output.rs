//! How views write: as a table, a wider one, or JSON; once, or again and again.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use thalweg_proxy::inspect::{self, Row};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    /// The table with further columns.
    Wide,
    Json,
}

#[derive(Args, Debug)]
pub struct OutputArgs {
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
    /// Show it again every SECONDS (2 unless said), until Ctrl-C; JSON comes as one line each time
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2")]
    pub watch: Option<Option<f64>>,
}

/// To the beginning of a cleared screen.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

// === impl OutputArgs ===

impl OutputArgs {
    /// Shows what `read` finds, once or again and again.
    ///
    /// # Errors
    /// Those of `read`, and when standard output is gone for other reasons than a reader that has seen enough.
    pub fn show<R: Row>(&self, mut read: impl FnMut() -> Result<Vec<R>>) -> Result<()> {
        self.repeat(|| {
            let rows = read()?;
            Ok(match self.output {
                Output::Table => inspect::render(&rows),
                Output::Wide => inspect::render_wide(&rows),
                Output::Json => self.json(&rows)?,
            })
        })
    }

    /// As [`OutputArgs::show`], of any text.
    ///
    /// # Errors
    /// As [`OutputArgs::show`].
    pub fn repeat(&self, mut text: impl FnMut() -> Result<String>) -> Result<()> {
        let Some(seconds) = self.watch else { return write(&text()?).map(drop) };
        let pause = Duration::try_from_secs_f64(seconds.unwrap_or(2.0).max(0.1)).context("--watch: no such time")?;
        let clears = self.output != Output::Json && std::io::stdout().is_terminal();
        loop {
            let text = text()?;
            if !write(&if clears { format!("{CLEAR}{text}") } else { text })? {
                return Ok(());
            }
            std::thread::sleep(pause);
        }
    }

    /// Indented, or on one line of many.
    ///
    /// # Errors
    /// When it does not serialise.
    pub fn json(&self, value: &(impl Serialize + ?Sized)) -> Result<String> {
        let text = if self.watch.is_some() { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
        Ok(text.context("write JSON")? + "\n")
    }
}

/// Writes to standard output; false when its reader has seen enough.
///
/// # Errors
/// When it cannot be written to for other reasons.
pub fn write(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("write to standard output"),
    }
}
