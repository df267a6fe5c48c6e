//! What a data path begins with: nothing, the maps of an earlier agent, or new ones that take over from those.

use std::path::{Path, PathBuf};

use aya_obj::{Map, Object};
use thalweg_abi::{ABI_VERSION, StateKey};

use crate::{
    Error, Maps, Options, bpffs,
    btf::Types,
    convert::{Converter, Role},
    handover::NAMES_OF_BACKENDS,
    maps::PINNED,
    object::OBJECT,
    raw_map::{self, Described, RawMap},
};

/// How a data path began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// There were no maps.
    Fresh,
    /// The maps are those of an earlier agent, and its links run this agent's programs. Also where that had not finished to
    /// take over from older maps, and other sizes are wanted: maps get those at the start after this one.
    Adopted,
    /// As [`Start::Adopted`], and these maps have got another size, with all that they held.
    Resized { maps: Vec<&'static str> },
    /// There were maps of another version (or an incomplete set), in this folder. Their content is in the new ones as far
    /// as it can be read. The old programs run on the old maps until [`crate::Datapath::go_live`].
    Migrated { from: String },
}

/// What is to be done before programs can be loaded.
#[derive(Debug)]
pub enum Plan {
    Fresh,
    Adopt,
    Replace { predecessor: PathBuf, resized: Option<Vec<&'static str>> },
}

/// Maps that sockets and packets fill: when their layout has not changed, old and new programs can share them.
const OF_PACKETS: [&str; 6] = ["SOCK_NAT", "SOCK_NAT6", "CONNTRACK", "CONNTRACK6", "AFFINITY", "SOCK_BACKENDS"];
/// What these remember are the numbers of backends.
const OF_BACKENDS: [&str; 4] = ["CONNTRACK", "CONNTRACK6", "AFFINITY", "SOCK_BACKENDS"];

// === impl Plan ===

impl Plan {
    /// Looks at what is pinned.
    pub fn make(options: &Options) -> Result<Self, Error> {
        let live = bpffs::maps_dir(&options.pin_root);
        let folders = bpffs::map_dirs(&options.pin_root)?;
        if is_complete(&live)? {
            let resized = resized(&live, options)?;
            if resized.is_empty() {
                return Ok(Self::Adopt);
            }
            // One step after the other: flows of the older maps would be lost if these were replaced now.
            if let Some(older) = folders.iter().find(|folder| **folder != live) {
                tracing::warn!(
                    folder = %older.display(), maps = ?resized,
                    "an earlier agent did not finish to take these maps over, which is done first: maps keep their sizes until \
                     the agent is started again"
                );
                return Ok(Self::Adopt);
            }
            return Ok(Self::Replace { predecessor: live, resized: Some(resized) });
        }
        for folder in folders {
            if !raw_map::pinned(&folder)?.is_empty() {
                return Ok(Self::Replace { predecessor: folder, resized: None });
            }
        }
        Ok(Self::Fresh)
    }

    /// The folder where programs find or make their maps.
    pub fn folder(&self, pin_root: &Path) -> PathBuf {
        match self {
            Self::Fresh | Self::Adopt => bpffs::maps_dir(pin_root),
            Self::Replace { .. } => bpffs::staged_dir(pin_root),
        }
    }

    /// Makes the folder, and pins in it what the predecessor's and the new programs have in common.
    pub fn prepare(&self, options: &Options) -> Result<(), Error> {
        bpffs::remove_pins(&bpffs::staged_dir(&options.pin_root))?;
        if !matches!(self, Self::Adopt) {
            // No program that is pinned works on maps that are made anew. Of a start that failed it would keep those alive; what
            // is at work its link holds.
            bpffs::program_dirs(&options.pin_root)?.iter().try_for_each(|folder| bpffs::remove_pins(folder).map(drop))?;
        }
        let folder = self.folder(&options.pin_root);
        bpffs::make_folder(&folder)?;
        let Self::Replace { predecessor, resized } = self else { return Ok(()) };
        let kept = match resized {
            Some(resized) => PINNED.into_iter().filter(|name| !resized.contains(name)).collect(),
            None => sharable(predecessor, options)?,
        };
        for name in kept {
            if let Some(map) = RawMap::open(predecessor, name)? {
                map.share(&folder)?;
            }
        }
        Ok(())
    }

    pub fn start(self) -> Start {
        match self {
            Self::Fresh => Start::Fresh,
            Self::Adopt => Start::Adopted,
            Self::Replace { resized: Some(maps), .. } => Start::Resized { maps },
            Self::Replace { predecessor, resized: None } => {
                let name = predecessor.file_name().unwrap_or_default();
                Start::Migrated { from: name.to_string_lossy().into_owned() }
            }
        }
    }
}

/// Whether there is a complete set of maps of this build's layouts.
fn is_complete(folder: &Path) -> Result<bool, Error> {
    if raw_map::pinned(folder)?.len() < PINNED.len() {
        return Ok(false);
    }
    match Maps::open_in(folder) {
        Ok(maps) => Ok(maps.state(StateKey::Abi)? == u64::from(ABI_VERSION)),
        Err(error @ (Error::Incompatible { .. } | Error::NoMaps { .. })) => {
            tracing::warn!(%error, "pinned maps are not adopted");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// The maps of which another size is wanted.
fn resized(folder: &Path, options: &Options) -> Result<Vec<&'static str>, Error> {
    let mut resized = Vec::new();
    for (name, wanted) in options.sizes.by_map() {
        if let Some(map) = RawMap::open(folder, name)?
            && map.shape.max_entries != wanted
        {
            tracing::info!(map = name, from = map.shape.max_entries, to = wanted, "another size is wanted for a map");
            resized.push(name);
        }
    }
    Ok(resized)
}

/// Maps of another version that the new programs can go on with: the same layout, size and kind.
fn sharable(predecessor: &Path, options: &Options) -> Result<Vec<&'static str>, Error> {
    let Some(ours) = Ours::read() else { return Ok(Vec::new()) };
    let mut backends_are_known = true;
    for name in NAMES_OF_BACKENDS {
        if let Some(map) = RawMap::open(predecessor, name)? {
            backends_are_known &= map.described().zip(ours.described(name)).is_some_and(|(old, new)| {
                Converter::new(&old.key, &new.key, Role::Key).is_some()
                    && Converter::new(&old.value, &new.value, Role::Value).is_some()
            });
        }
    }
    let mut sharable = Vec::new();
    for name in OF_PACKETS {
        let Some(map) = RawMap::open(predecessor, name)? else { continue };
        let Some(object) = ours.object.maps.get(name) else { continue };
        let entries = options.sizes.by_map().into_iter().find(|(map, _)| *map == name).map(|(_, entries)| entries);
        let is_same = map.shape.map_type == object.map_type()
            && map.shape.flags == object.map_flags()
            && map.shape.max_entries == entries.unwrap_or_else(|| object.max_entries())
            && map.described().is_some_and(|old| ours.described(name) == Some(old));
        if is_same && (backends_are_known || !OF_BACKENDS.contains(&name)) {
            sharable.push(name);
        } else if name.starts_with("SOCK_NAT") {
            tracing::warn!(
                map = name,
                "the memory of translated sockets has another layout: sockets that are connected stay so, but see the backend \
                 as their peer; those that are not begin anew with their next datagram"
            );
        }
    }
    Ok(sharable)
}

/// The layouts of this build's maps.
struct Ours {
    object: Object,
    types: Types,
}

// === impl Ours ===

impl Ours {
    fn read() -> Option<Self> {
        let object = Object::parse(OBJECT).ok()?;
        let types = Types::parse(&object.btf.as_ref()?.to_bytes()).ok()?;
        Some(Self { object, types })
    }

    fn described(&self, name: &str) -> Option<Described> {
        let Some(Map::Btf(map)) = self.object.maps.get(name) else { return None };
        let layout = |type_id| self.types.layout(type_id).ok();
        Some(Described { key: layout(map.def.btf_key_type_id)?, value: layout(map.def.btf_value_type_id)? })
    }
}
