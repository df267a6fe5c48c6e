//! Programs that run at the same time and end by themselves: none of them outlives the one who waits for them, whatever
//! happens to the others.

use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How often it is asked whether one has ended.
const LOOK: Duration = Duration::from_millis(1);

/// Killed when it is dropped.
#[derive(Default)]
pub struct Children(Vec<Child>);

// === impl Children ===

impl Children {
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, command: &mut Command) -> Result<()> {
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
        self.0.push(child);
        Ok(())
    }

    /// Waits for all of them, whether they succeed or not: what each said, in the order of their start. They are not to say
    /// more than fits into a pipe.
    ///
    /// # Errors
    /// When some have not ended within `deadline`; these are killed.
    pub fn finish(mut self, deadline: Duration) -> Result<Vec<Output>> {
        let end = Instant::now() + deadline;
        let count = self.0.len();
        for (number, child) in self.0.iter_mut().enumerate() {
            while child.try_wait()?.is_none() {
                ensure!(Instant::now() < end, "number {number} of {count} did not end within {deadline:?}");
                std::thread::sleep(LOOK);
            }
        }
        std::mem::take(&mut self.0).into_iter().map(|child| Ok(child.wait_with_output()?)).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Whoever has ended already is not killed, only collected.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Stdio;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ids(children: &Children) -> Vec<u32> {
        children.0.iter().map(Child::id).collect()
    }

    fn all_gone(ids: &[u32]) -> bool {
        ids.iter().all(|id| !Path::new(&format!("/proc/{id}")).exists())
    }

    #[test]
    fn one_that_fails_does_not_hide_what_the_others_said() {
        let mut children = Children::default();
        for script in ["echo one", "echo two >&2; exit 3", "echo three"] {
            children.start(&mut shell(script)).expect("start");
        }
        let ended = children.finish(Duration::from_secs(60)).expect("all end");
        let told: Vec<_> = ended.iter().map(|output| (output.status.code(), output.stdout.as_slice())).collect();
        assert_eq!(told, [(Some(0), &b"one\n"[..]), (Some(3), b""), (Some(0), b"three\n")]);
    }

    #[test]
    fn nobody_outlives_a_deadline_or_a_start_that_failed() {
        let mut children = Children::default();
        children.start(&mut shell("exec sleep 600")).expect("start");
        let late = ids(&children);
        let error = children.finish(Duration::from_millis(20)).expect_err("still running").to_string();
        assert!(error.starts_with("number 0 of 1 did not end"), "{error}");
        assert!(all_gone(&late));
        let mut children = Children::default();
        children.start(&mut shell("exec sleep 600")).expect("start");
        let running = ids(&children);
        assert!(children.start(&mut Command::new("/nonexistent/plugin")).is_err());
        drop(children);
        assert!(all_gone(&running));
    }
}
