//! The journal: which container has which addresses, on disk before the runtime hears of it.
//!
//! Many ADDs share one fsync: whoever finds none running runs it for all that has been written by then.

mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use record::{Damage, Entry, Ledger, Record};

/// Compacted when the file has this many records more than twice what a compact one has.
const SLACK: usize = 1024;

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Released addresses older than this are forgotten.
    quarantine: Duration,
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Debug)]
struct State {
    file: Arc<File>,
    ledger: Ledger,
    /// Records in the file.
    records: usize,
    /// How many records were ever written, and how many of them are on disk.
    written: u64,
    on_disk: u64,
    syncing: bool,
    /// A write or fsync failed: what the file holds is unknown until it is written anew.
    broken: bool,
}

/// A position in the journal, to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Position(u64);

// === impl Journal ===

impl Journal {
    /// Opens or makes `directory/journal`, and compacts it. What an earlier boot wrote is void: no link outlives its boot.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn open(directory: &Path, boot: &str, quarantine: Duration) -> io::Result<(Self, Damage)> {
        fs::create_dir_all(directory)?;
        let path = directory.join("journal");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (mut ledger, damage) = Ledger::read(&bytes);
        if ledger.boot != boot {
            ledger = Ledger { boot: boot.to_owned(), ..Ledger::default() };
        }
        let (file, records) = rewrite(&path, &mut ledger, quarantine)?;
        let state = State { file, ledger, records, written: 0, on_disk: 0, syncing: false, broken: false };
        Ok((Self { path, quarantine, state: Mutex::new(state), synced: Condvar::new() }, damage))
    }

    /// A copy of what the journal says.
    pub fn ledger(&self) -> Ledger {
        self.lock().ledger.clone()
    }

    /// Writes one record; it is on disk only after [`Journal::wait`].
    ///
    /// # Errors
    /// When the file cannot be written. The record counts all the same, and the next append writes the file anew.
    pub fn append(&self, record: &Record) -> io::Result<Position> {
        let line = record.line()?;
        let mut state = self.lock();
        state.ledger.apply(record);
        let bloated = state.records > 2 * (2 * state.ledger.entries.len() + state.ledger.resting.len()) + SLACK;
        if (state.broken || bloated) && !state.syncing {
            let (file, records) = rewrite(&self.path, &mut state.ledger, self.quarantine)?;
            state.file = file;
            state.records = records;
            state.broken = false;
            state.written += 1;
            state.on_disk = state.written;
            return Ok(Position(state.written));
        }
        let mut file: &File = &state.file;
        if let Err(error) = file.write_all(line.as_bytes()) {
            state.broken = true;
            return Err(error);
        }
        state.records += 1;
        state.written += 1;
        Ok(Position(state.written))
    }

    /// Waits until everything up to `position` is on disk.
    ///
    /// # Errors
    /// When fsync failed; it is not tried again on the same file, which would only pretend.
    pub fn wait(&self, position: Position) -> io::Result<()> {
        let mut state = self.lock();
        loop {
            if state.on_disk >= position.0 {
                return Ok(());
            }
            if state.broken {
                return Err(io::Error::other("an earlier write of the journal failed"));
            }
            if state.syncing {
                state = self.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.syncing = true;
            let (file, written) = (Arc::clone(&state.file), state.written);
            drop(state);
            let result = file.sync_data();
            state = self.lock();
            state.syncing = false;
            match &result {
                Ok(()) => state.on_disk = state.on_disk.max(written),
                Err(_) => state.broken = true,
            }
            self.synced.notify_all();
            result?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === functions ===

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Replaces the file by a compact one, on disk when this returns.
fn rewrite(path: &Path, ledger: &mut Ledger, quarantine: Duration) -> io::Result<(Arc<File>, usize)> {
    let oldest = now().saturating_sub(quarantine.as_secs() + 1);
    ledger.resting.retain(|_, at| *at >= oldest);
    let records = ledger.records(oldest);
    let text = records.iter().map(Record::line).collect::<serde_json::Result<String>>()?;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok((Arc::new(file), records.len()))
}

#[cfg(test)]
mod tests;
