//! The loaded programs of one node, and how they take over from an earlier agent.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
    util::KernelVersion,
};
use thalweg_abi::{ABI_VERSION, Be32, Be128, StateKey};

use crate::{
    Error, Maps, Options, bpffs,
    links::{self, HOOKS, Hook, Target},
    maps::PINNED,
    netns,
    object::OBJECT,
};

/// The data path of one node: loaded programs, pinned maps and links.
///
/// Dropping it detaches nothing: links and maps stay pinned, and packets flow on. [`crate::cleanup`] removes them.
#[derive(Debug)]
pub struct Datapath {
    ebpf: Ebpf,
    pin_root: PathBuf,
    cgroup: PathBuf,
    adopted: bool,
    _lock: bpffs::Lock,
}

/// What the kernel made of one program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramStats {
    pub name: String,
    /// Instructions the verifier walked, over all paths; its limit is a million.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

// === impl Datapath ===

impl Datapath {
    /// Mounts or finds bpffs for the pins, adopts the maps of an earlier agent of the same ABI or makes new ones, and
    /// loads the programs. With adopted maps, the programs in pinned links are replaced at once; with new maps that
    /// happens when `attach_*` is called, which should be after the maps are filled: until then the old programs keep
    /// working on the old maps.
    ///
    /// # Errors
    /// [`Error::NoObject`] in a build without kernel programs, [`Error::Busy`] when another agent has the folder,
    /// [`Error::Program`] with the verifier's words when the kernel refuses a program.
    pub fn open(options: &Options) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        bpffs::prepare(&options.pin_root)?;
        let lock = bpffs::lock(&options.pin_root)?;
        let adopted = adoptable(options)?;
        if !adopted {
            discard_maps(options)?;
        }
        let mut ebpf = load(options)?;
        load_programs(&mut ebpf)?;
        let datapath = Self { ebpf, pin_root: options.pin_root.clone(), cgroup: options.cgroup.clone(), adopted, _lock: lock };
        datapath.sign()?;
        if adopted {
            links::replace_all(&bpffs::links_dir(&datapath.pin_root), |name| datapath.program_fd(name).ok())?;
            datapath.forget_other_versions()?;
        }
        Ok(datapath)
    }

    /// Whether the maps are those of an earlier agent.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Opens the maps.
    ///
    /// # Errors
    /// As [`Maps::open_pinned`].
    pub fn maps(&self) -> Result<Maps, Error> {
        Maps::open_pinned(&self.pin_root)
    }

    /// Attaches the socket load balancer to the node's cgroup. Idempotent.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the folder is no cgroup2, [`Error::Attach`] when the kernel refuses.
    pub fn attach_cgroup(&mut self) -> Result<(), Error> {
        let target = Target::cgroup(&self.cgroup)?;
        HOOKS
            .iter()
            .filter(|(_, hook)| matches!(hook, Hook::Cgroup(_)))
            .try_for_each(|(program, _)| self.attach(program, &target))
    }

    /// Attaches tc_from_wire (ingress) and tc_to_wire (egress) to the node's uplink. Idempotent.
    ///
    /// # Errors
    /// [`Error::Interface`] when there is none of that name in this network namespace; [`Error::Kernel`] before 6.6.
    pub fn attach_uplink(&mut self, ifname: &str) -> Result<(), Error> {
        self.attach_interface(ifname, ["tc_from_wire", "tc_to_wire"])
    }

    /// Attaches tc_from_pod (ingress) and tc_to_pod (egress) to the host's end of a pod's veth. Idempotent.
    ///
    /// # Errors
    /// As [`Datapath::attach_uplink`].
    pub fn attach_pod(&mut self, ifname: &str) -> Result<(), Error> {
        self.attach_interface(ifname, ["tc_from_pod", "tc_to_pod"])
    }

    /// Detaches from a pod's veth, and removes pins of interfaces that are gone. Idempotent; the interface need not
    /// exist any more.
    ///
    /// # Errors
    /// [`Error::Bpffs`] when a pin cannot be removed.
    pub fn detach_pod(&mut self, ifname: &str) -> Result<(), Error> {
        let folder = bpffs::links_dir(&self.pin_root);
        for program in ["tc_from_pod", "tc_to_pod"] {
            links::detach(&folder, program, ifname)?;
        }
        self.prune_links().map(drop)
    }

    /// Removes pins whose interface or cgroup is gone; returns how many there were.
    ///
    /// # Errors
    /// [`Error::Bpffs`] when a pin cannot be removed.
    pub fn prune_links(&mut self) -> Result<usize, Error> {
        links::prune(&bpffs::links_dir(&self.pin_root))
    }

    /// What the verifier and the JIT made of each program, by name.
    ///
    /// # Errors
    /// [`Error::Program`] when the kernel does not tell.
    pub fn programs(&self) -> Result<Vec<ProgramStats>, Error> {
        let mut stats = self
            .ebpf
            .programs()
            .map(|(name, program)| {
                let info = program.info().map_err(|source| program_error(name, source))?;
                Ok(ProgramStats {
                    name: name.to_owned(),
                    verified_instructions: info.verified_instruction_count().unwrap_or_default(),
                    jited_bytes: info.size_jitted(),
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(stats)
    }

    pub(crate) fn program(&self, name: &str) -> Result<&Program, Error> {
        self.ebpf.program(name).ok_or_else(|| Error::NoProgram { program: name.to_owned() })
    }

    fn program_fd(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        Ok(self.program(name)?.fd().map_err(|source| program_error(name, source))?.as_fd())
    }

    fn attach(&self, program: &str, target: &Target) -> Result<(), Error> {
        links::attach(&bpffs::links_dir(&self.pin_root), program, self.program_fd(program)?, target)
    }

    fn attach_interface(&self, ifname: &str, programs: [&str; 2]) -> Result<(), Error> {
        if KernelVersion::current().is_ok_and(|version| version < KernelVersion::new(6, 6, 0)) {
            return Err(Error::Kernel { what: "tc programs on links (TCX)", needed: "6.6" });
        }
        let target = Target::interface(ifname)?;
        programs.iter().try_for_each(|program| self.attach(program, &target))
    }

    /// Writes into STATE whose maps these are.
    fn sign(&self) -> Result<(), Error> {
        let mut maps = self.maps()?;
        if self.adopted {
            let adoptions = maps.state(StateKey::Adoptions)?;
            return maps.set_state(StateKey::Adoptions, adoptions + 1);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        maps.set_state(StateKey::Adoptions, 0)?;
        maps.set_state(StateKey::CreatedAt, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))?;
        // Last: only maps that carry it are adopted.
        maps.set_state(StateKey::Abi, u64::from(ABI_VERSION))
    }

    /// Maps of another ABI have no users once the links hold programs of this one.
    fn forget_other_versions(&self) -> Result<(), Error> {
        let ours = bpffs::maps_dir(&self.pin_root);
        for folder in bpffs::version_dirs(&self.pin_root)?.into_iter().filter(|folder| *folder != ours) {
            tracing::info!(folder = %folder.display(), "removing the maps of another version");
            bpffs::remove_pins(&folder)?;
        }
        Ok(())
    }
}

/// Whether there is a complete set of maps of this build's layouts. A half-made or foreign one is not adopted.
fn adoptable(options: &Options) -> Result<bool, Error> {
    let folder = bpffs::maps_dir(&options.pin_root);
    let pinned = bpffs::names(&folder)?;
    if !PINNED.iter().all(|name| pinned.iter().any(|pin| pin == name)) {
        return Ok(false);
    }
    let maps = match Maps::open_pinned(&options.pin_root) {
        Ok(maps) => maps,
        Err(error @ (Error::Incompatible { .. } | Error::NoMaps { .. })) => {
            tracing::warn!(%error, "pinned maps are not adopted");
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    if maps.state(StateKey::Abi)? != u64::from(ABI_VERSION) {
        return Ok(false);
    }
    let kept = maps.capacities();
    for (table, wanted) in options.sizes.by_map() {
        let found = kept.iter().find(|(name, _)| *name == table).map_or(0, |(_, found)| *found);
        if wanted != found {
            tracing::warn!(table, wanted, found, "an adopted map keeps its size; clean up to change it");
        }
    }
    Ok(true)
}

/// Unpins what is there, so that new maps can be pinned in its place. Programs that use the old maps keep them alive.
fn discard_maps(options: &Options) -> Result<(), Error> {
    let folder = bpffs::maps_dir(&options.pin_root);
    for name in bpffs::names(&folder)? {
        bpffs::remove(&folder.join(name))?;
    }
    Ok(())
}

fn load(options: &Options) -> Result<Ebpf, Error> {
    let Options { pin_root, node_addr, node_addr6, sizes, socket_lb, .. } = options;
    let folder = bpffs::maps_dir(pin_root);
    let node_addr = node_addr.map_or(Be32::ZERO, Be32::from).0;
    let node_addr6 = node_addr6.map_or(Be128::ZERO, Be128::from).0;
    let node_netns = netns::own_cookie().map_err(|source| Error::Netns { source })?;
    let socket_lb = u32::from(*socket_lb);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("NODE_ADDR", &node_addr, true)
        .override_global("NODE_ADDR6", &node_addr6, true)
        .override_global("NODE_NETNS", &node_netns, true)
        .override_global("SOCKET_LB", &socket_lb, true);
    for (name, entries) in sizes.by_map() {
        loader.map_max_entries(name, entries);
    }
    for name in PINNED {
        loader.map_pin_path(name, folder.join(name));
    }
    loader.load(OBJECT).map_err(|source| Error::Load { source: Box::new(source) })
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), Error> {
    for (name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        result.map_err(|source| program_error(name, source))?;
    }
    Ok(())
}

fn program_error(name: &str, source: ProgramError) -> Error {
    Error::Program { program: name.to_owned(), source: Box::new(source) }
}

// The agent shares both between tasks.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Datapath>();
    shared::<Maps>();
};
