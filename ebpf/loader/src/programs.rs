//! The loaded programs of a node, pinned: the next agent of the same build need not have them verified again.
//!
//! Verifying is most of what a start takes. It can be left out when nothing that the programs were made of has changed:
//! the object, the constants, and the very maps that they work on. All of that is in the name of their folder, so that
//! one can neither be taken for another nor be half renewed.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{ProgramInfo, SchedClassifier},
};

use crate::{
    Error, bpffs,
    links::HOOKS,
    load::{Constants, program_error},
    maps::PINNED,
    object::OBJECT,
    raw_map::RawMap,
    sys,
};

/// All programs of one data path.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
    by_name: BTreeMap<&'static str, OwnedFd>,
}

/// What the kernel made of one program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramStats {
    pub name: String,
    /// The kernel's number of it: a program that is loaded anew has another.
    pub id: u32,
    /// Instructions the verifier walked, over all paths; its limit is a million.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

// === impl Programs ===

impl Programs {
    /// Those that an earlier agent pinned, when they are what this one would load on the maps in `maps`; `None` when there
    /// are none, or not all of them.
    pub fn find(constants: &Constants, maps: &Path) -> Result<Option<Self>, Error> {
        let folder = folder(constants, maps)?;
        let found = Self::open(folder)?;
        Ok((found.by_name.len() == HOOKS.len()).then_some(found))
    }

    /// Pins what has been loaded on the maps in `maps`.
    pub fn pin(ebpf: &Ebpf, constants: &Constants, maps: &Path) -> Result<Self, Error> {
        let folder = folder(constants, maps)?;
        // What is there is not complete, or it would have been found.
        bpffs::remove_pins(&folder)?;
        bpffs::make_folder(&folder)?;
        for (name, _) in HOOKS {
            let program = ebpf.program(name).ok_or_else(|| Error::NoProgram { program: name.to_owned() })?;
            let fd = program.fd().map_err(|source| program_error(name, source))?;
            let path = folder.join(name);
            sys::object_pin(fd.as_fd(), &path).map_err(|source| Error::Bpffs {
                path,
                action: "cannot pin the program",
                source,
            })?;
        }
        Self::open(folder)
    }

    fn open(folder: PathBuf) -> Result<Self, Error> {
        let mut by_name = BTreeMap::new();
        for (name, _) in HOOKS {
            let path = folder.join(name);
            match sys::object_get(&path) {
                Ok(fd) => drop(by_name.insert(name, fd)),
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Bpffs { path, action: "cannot open the pinned program", source }),
            }
        }
        Ok(Self { folder, by_name })
    }

    /// Removes the pins of every other set: of other maps, of another build.
    pub fn forget_others(&self, pin_root: &Path) -> Result<(), Error> {
        let others = bpffs::program_dirs(pin_root)?.into_iter().filter(|folder| *folder != self.folder);
        others.into_iter().try_for_each(|folder| bpffs::remove_pins(&folder).map(drop))
    }

    pub fn fd(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        self.by_name.get(name).map(|fd| fd.as_fd()).ok_or_else(|| Error::NoProgram { program: name.to_owned() })
    }

    /// A tc program, to be run by hand.
    pub fn classifier(&self, name: &str) -> Result<SchedClassifier, Error> {
        self.fd(name)?;
        SchedClassifier::from_pin(self.folder.join(name)).map_err(|source| program_error(name, source))
    }

    pub fn stats(&self) -> Result<Vec<ProgramStats>, Error> {
        let stats = |name: &&str| {
            let info = ProgramInfo::from_pin(self.folder.join(name)).map_err(|source| program_error(name, source))?;
            Ok(ProgramStats {
                name: (*name).to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count().unwrap_or_default(),
                jited_bytes: info.size_jitted(),
            })
        };
        self.by_name.keys().map(stats).collect()
    }
}

/// Where programs are pinned that were made of just this. The hash is not the same in every version of Rust: an agent that
/// was built by another loads its programs anew.
fn folder(constants: &Constants, maps: &Path) -> Result<PathBuf, Error> {
    let mut hasher = DefaultHasher::new();
    (OBJECT, env!("CARGO_PKG_VERSION"), constants).hash(&mut hasher);
    for name in PINNED {
        // The kernel does not give a number to two maps while programs of the first one live.
        RawMap::open(maps, name)?.map(|map| map.shape.id).hash(&mut hasher);
    }
    Ok(bpffs::programs_dir(&constants.options.pin_root, hasher.finish()))
}
