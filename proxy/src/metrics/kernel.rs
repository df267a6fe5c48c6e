//! What the kernel knows, for metrics, as plain numbers. Counters are read when somebody asks, a few look-ups each time;
//! how full maps are, which only a walk over them tells, is handed in by whoever walks them anyway.

use thalweg_abi::StateKey;
use thalweg_loader::{Error, Maps, Pressure};

/// What the data path counts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KernelFigures {
    pub drops: Vec<(&'static str, u64)>,
    pub events: Vec<(&'static str, u64)>,
    /// How often the maps were taken over from an earlier process.
    pub adoptions: u64,
}

/// How full a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapFigure {
    pub map: &'static str,
    /// `None` before it was counted for the first time.
    pub entries: Option<u64>,
    pub capacity: u64,
}

/// Reads the counters of one node.
pub struct KernelReader(Maps);

// === impl MapFigure ===

impl From<Pressure> for MapFigure {
    fn from(pressure: Pressure) -> Self {
        Self { map: pressure.table, entries: pressure.entries.map(u64::from), capacity: u64::from(pressure.capacity) }
    }
}

// === impl KernelReader ===

impl KernelReader {
    pub fn new(maps: Maps) -> Self {
        Self(maps)
    }

    /// `None` when the kernel refuses, which is logged.
    pub fn figures(&self) -> Option<KernelFigures> {
        self.read().map_err(|error| tracing::warn!("metrics of the data path: {error}")).ok()
    }

    fn read(&self) -> Result<KernelFigures, Error> {
        Ok(KernelFigures {
            drops: self.0.drops()?.into_iter().map(|(reason, count)| (reason.name(), count)).collect(),
            events: self.0.counters()?.into_iter().map(|(counter, count)| (counter.name(), count)).collect(),
            adoptions: self.0.state(StateKey::Adoptions)?,
        })
    }
}
