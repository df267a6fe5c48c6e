//! Long steps with progress: a spinner with the command's last line on a terminal, plain lines elsewhere, and the
//! end of the output when a command fails.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, IsTerminal},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How much of a failed command's output is shown.
const TAIL: usize = 30;

/// Runs a command as one step of several. Its output is shown only when it fails.
///
/// # Errors
/// The command could not be started (is it installed?), or failed: then the text holds the end of its output.
pub fn run(title: &str, command: &mut Command) -> Result<()> {
    let spinner = Spinner::start(title);
    let program = command.get_program().to_string_lossy().into_owned();
    // One pipe for both streams keeps the order of lines.
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run `{program}`: is it installed?"))?;
    // The command still holds the pipe's write ends; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = VecDeque::with_capacity(TAIL);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.with_context(|| format!("cannot read the output of `{program}`"))?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        spinner.show(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{program}`"))?;
    if !status.success() {
        spinner.failed();
        let tail = tail.into_iter().collect::<Vec<_>>().join("\n");
        bail!("{title}: `{program}` ended with {status}\n{tail}");
    }
    spinner.done();
    Ok(())
}

/// Runs a command and returns what it writes to standard output.
///
/// # Errors
/// The command could not be started, or failed: then the text holds its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{program}`: is it installed?"))?;
    if !output.status.success() {
        bail!("`{program}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One step under way.
pub struct Spinner {
    title: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

// === impl Spinner ===

impl Spinner {
    pub fn start(title: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("  {title} ...");
        }
        Self { title: title.to_owned(), started: Instant::now(), bar }
    }

    /// Shows what the step is busy with; on a terminal only.
    pub fn show(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.trim().to_owned());
        }
    }

    pub fn done(self) {
        self.end("✓");
    }

    pub fn failed(self) {
        self.end("✗");
    }

    fn end(self, mark: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("  {mark} {} ({:.1} s)", self.title, self.started.elapsed().as_secs_f64());
    }
}
