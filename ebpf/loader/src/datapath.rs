//! The loaded programs of one node, and how they take over from an earlier agent.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use aya::{Ebpf, programs::SchedClassifier};
use thalweg_abi::{ABI_VERSION, StateKey};

use crate::{
    Error, Maps, Options, Start, bpffs,
    handover::{Handover, Pass},
    links::{self, HOOKS, Hook, Target},
    load::{Constants, program_error},
    object::OBJECT,
    programs::{ProgramStats, Programs},
    start::Plan,
    support,
};

/// Programs of a link, in the order in which they are attached: the one for IPv4 hands IPv6 on to the next.
const POD_PROGRAMS: [&str; 4] = ["tc_from_pod", "tc_from_pod6", "tc_to_pod", "tc_to_pod6"];
const UPLINK_PROGRAMS: [&str; 4] = ["tc_from_wire", "tc_from_wire6", "tc_to_wire", "tc_to_wire6"];

/// The data path of one node: loaded programs, pinned maps and links.
///
/// Dropping it detaches nothing: links and maps stay pinned, and packets flow on. [`crate::cleanup`] removes them.
#[derive(Debug)]
pub struct Datapath {
    programs: Programs,
    constants: Constants,
    /// Where its maps are pinned.
    folder: PathBuf,
    start: Start,
    /// Until it is live.
    handover: Option<Handover>,
    _lock: bpffs::Lock,
}

// === impl Datapath ===

impl Datapath {
    /// Mounts or finds bpffs for the pins, finds what an earlier agent has left, and loads the programs. See [`Start`] for
    /// what can be found.
    ///
    /// Maps of this version are adopted: the programs in pinned links are replaced at once, and packets never see a moment
    /// without. A map of another size is made anew and filled from the old one before that, and no flow is lost; asking for
    /// less than it holds is an error.
    ///
    /// Maps of another version stay in use, with their programs, until [`Datapath::go_live`]: bring the new ones up to date
    /// first. An agent therefore does, in all cases:
    ///
    /// 1. `open`, and `maps` for its tables, which hold what an earlier agent wrote, as far as it can be read;
    /// 2. write everything that it knows from its sources, as after any restart;
    /// 3. `go_live`;
    /// 4. `attach_cgroup`, `attach_uplink` and `attach_pod` for what is there, which also brings hooks that the old version
    ///    did not have. To attach goes live first where that has not happened: a pod that is plugged in before step 3
    ///    would otherwise be on other maps than the rest of the node. What was taken over serves it until then.
    ///
    /// # Errors
    /// [`Error::NoObject`] in a build without kernel programs, [`Error::Busy`] when another agent has the folder,
    /// [`Error::TooSmall`] when a map is to be smaller than what it holds, [`Error::Program`] with the verifier's words when
    /// the kernel refuses a program. Errors of which [`Error::is_unsupported`] is true say that this machine cannot do it;
    /// nothing has been changed then.
    pub fn open(options: &Options) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        support::check()?;
        bpffs::prepare(&options.pin_root)?;
        let lock = bpffs::lock(&options.pin_root)?;
        let plan = Plan::make(options)?;
        plan.prepare(options)?;
        let folder = plan.folder(&options.pin_root);
        let constants = Constants::new(options)?;
        let programs = programs(&constants, &plan, &folder)?;
        let mut handover = match &plan {
            Plan::Replace { predecessor, .. } => Some(Handover::between(predecessor, &folder)?),
            Plan::Fresh | Plan::Adopt => None,
        };
        if let Some(handover) = &mut handover {
            handover.check_room()?;
            if handover.is_bridgeable() {
                handover.bridge();
            }
            handover.carry(Pass::Ahead)?;
        }
        let mut datapath = Self { programs, constants, folder, start: plan.start(), handover, _lock: lock };
        match datapath.start {
            Start::Fresh => {
                datapath.sign()?;
                datapath.forget_predecessors()?;
            }
            Start::Adopted => {
                datapath.sign()?;
                datapath.take_over()?;
            }
            Start::Resized { .. } => datapath.go_live()?,
            Start::Migrated { .. } => {}
        }
        Ok(datapath)
    }

    /// How it began.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Whether the maps are those of an earlier agent of this version.
    pub fn adopted(&self) -> bool {
        matches!(self.start, Start::Adopted | Start::Resized { .. })
    }

    /// Whether packets meet this agent's programs. False only after [`Start::Migrated`], until [`Datapath::go_live`].
    pub fn is_live(&self) -> bool {
        self.handover.is_none()
    }

    /// Puts the new programs into every link, on the new maps; flows that the old ones began until that moment come along.
    /// Then the old maps go. Does nothing when it has been done. Call it when the maps hold all that the agent knows.
    ///
    /// # Errors
    /// [`Error::Attach`] when the kernel refuses a program in a link, [`Error::Table`] when a map cannot be read or written.
    /// Call it again: links of which the program was not replaced run the old one.
    pub fn go_live(&mut self) -> Result<(), Error> {
        let Some(mut handover) = self.handover.take() else { return Ok(()) };
        let result = self.switch(&mut handover);
        if result.is_err() {
            self.handover = Some(handover);
        }
        result
    }

    fn switch(&mut self, handover: &mut Handover) -> Result<(), Error> {
        handover.carry(Pass::Ahead)?;
        let (old, new) = (&handover.from, &self.folder);
        // Loaded before anything is moved: from here on it takes milliseconds.
        let bridges = if handover.is_bridgeable() {
            let bridge = |own, other| self.constants.load_switching(new, own, other);
            Some([bridge(old, new)?, bridge(new, old)?])
        } else {
            None
        };
        self.put_in_place(handover)?;
        for bridge in bridges.iter().flatten() {
            links::replace_some(&self.links_dir(), |name| fd_of(bridge, name).ok())?;
        }
        if bridges.is_none() {
            self.replace_programs()?;
        }
        handover.carry(Pass::Behind)?;
        if bridges.is_some() {
            self.replace_programs()?;
        }
        self.forget_predecessors()
    }

    /// Gives the folder of the new maps the name by which everybody finds them.
    fn put_in_place(&mut self, handover: &mut Handover) -> Result<(), Error> {
        let pin_root = &self.constants.options.pin_root;
        let live = bpffs::maps_dir(pin_root);
        if self.folder == live {
            return Ok(());
        }
        // Signed before that: whoever finds it there finds it complete.
        self.sign()?;
        if live.is_dir() {
            let retired = bpffs::retired_dir(pin_root);
            bpffs::remove_pins(&retired)?;
            bpffs::rename(&live, &retired)?;
            if handover.from == live {
                handover.from = retired;
            }
        }
        bpffs::rename(&self.folder, &live)?;
        self.folder = live;
        Ok(())
    }

    /// Opens the maps: those that this data path's programs use, in use already or not.
    ///
    /// # Errors
    /// As [`Maps::open_pinned`].
    pub fn maps(&self) -> Result<Maps, Error> {
        Maps::open_in(&self.folder)
    }

    /// Attaches the socket load balancer to the node's cgroup. Idempotent.
    ///
    /// # Errors
    /// [`Error::Cgroup`] when the folder is no cgroup2, [`Error::Attach`] when the kernel refuses.
    pub fn attach_cgroup(&mut self) -> Result<(), Error> {
        self.go_live()?;
        let target = Target::cgroup(&self.constants.options.cgroup)?;
        HOOKS
            .iter()
            .filter(|(_, hook)| matches!(hook, Hook::Cgroup(_)))
            .try_for_each(|(program, _)| self.attach(program, &target))
    }

    /// Attaches tc_from_wire (ingress) and tc_to_wire (egress), of each family, to the node's uplink. Idempotent.
    ///
    /// # Errors
    /// [`Error::Interface`] when there is none of that name in this network namespace; [`Error::Kernel`] before 6.6.
    pub fn attach_uplink(&mut self, ifname: &str) -> Result<(), Error> {
        self.attach_interface(ifname, UPLINK_PROGRAMS)
    }

    /// Attaches tc_from_pod (ingress) and tc_to_pod (egress), of each family, to the host's end of a pod's veth. Idempotent.
    ///
    /// # Errors
    /// As [`Datapath::attach_uplink`].
    pub fn attach_pod(&mut self, ifname: &str) -> Result<(), Error> {
        self.attach_interface(ifname, POD_PROGRAMS)
    }

    /// Detaches from a pod's veth, and removes pins of interfaces that are gone. Idempotent; the interface need not
    /// exist any more.
    ///
    /// # Errors
    /// [`Error::Bpffs`] when a pin cannot be removed.
    pub fn detach_pod(&mut self, ifname: &str) -> Result<(), Error> {
        let folder = self.links_dir();
        for program in POD_PROGRAMS {
            links::detach(&folder, program, ifname)?;
        }
        self.prune_links().map(drop)
    }

    /// Removes pins whose interface or cgroup is gone; returns how many there were.
    ///
    /// # Errors
    /// [`Error::Bpffs`] when a pin cannot be removed.
    pub fn prune_links(&mut self) -> Result<usize, Error> {
        links::prune(&self.links_dir())
    }

    /// What the verifier and the JIT made of each program, by name.
    ///
    /// # Errors
    /// [`Error::Program`] when the kernel does not tell.
    pub fn programs(&self) -> Result<Vec<ProgramStats>, Error> {
        self.programs.stats()
    }

    pub(crate) fn classifier(&self, name: &str) -> Result<SchedClassifier, Error> {
        self.programs.classifier(name)
    }

    fn links_dir(&self) -> PathBuf {
        bpffs::links_dir(&self.constants.options.pin_root)
    }

    fn attach(&self, program: &str, target: &Target) -> Result<(), Error> {
        links::attach(&self.links_dir(), program, self.programs.fd(program)?, target)
    }

    fn attach_interface(&mut self, ifname: &str, programs: [&str; 4]) -> Result<(), Error> {
        self.go_live()?;
        let target = Target::interface(ifname)?;
        programs.iter().try_for_each(|program| self.attach(program, &target))
    }

    /// Writes into STATE whose maps these are.
    fn sign(&self) -> Result<(), Error> {
        let mut maps = self.maps()?;
        if self.adopted() {
            let adoptions = maps.state(StateKey::Adoptions)?;
            return maps.set_state(StateKey::Adoptions, adoptions + 1);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        maps.set_state(StateKey::Adoptions, 0)?;
        maps.set_state(StateKey::CreatedAt, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))?;
        // Last: only maps that carry it are adopted.
        maps.set_state(StateKey::Abi, u64::from(ABI_VERSION))
    }

    fn replace_programs(&self) -> Result<(), Error> {
        links::replace_all(&self.links_dir(), |name| self.programs.fd(name).ok())
    }

    /// Puts the new programs into links that run those of an earlier agent. That may have died in the middle of a switch:
    /// its links, or some, run programs on older maps, and flows of those are still to come.
    fn take_over(&mut self) -> Result<(), Error> {
        let mut folders = bpffs::map_dirs(&self.constants.options.pin_root)?.into_iter();
        match folders.find(|folder| *folder != self.folder) {
            None => {
                self.replace_programs()?;
                self.forget_predecessors()
            }
            Some(older) => {
                tracing::info!(folder = %older.display(), "an earlier agent did not finish to take these maps over");
                let mut handover = Handover::between(&older, &self.folder)?.resumed();
                self.switch(&mut handover)
            }
        }
    }

    /// Old maps and programs have no users once the links hold these programs on these maps.
    fn forget_predecessors(&self) -> Result<(), Error> {
        for folder in bpffs::map_dirs(&self.constants.options.pin_root)?.into_iter().filter(|folder| *folder != self.folder) {
            tracing::info!(folder = %folder.display(), "removing maps that are not in use any more");
            bpffs::remove_pins(&folder)?;
        }
        self.programs.forget_others(&self.constants.options.pin_root)
    }
}

/// Those of an earlier agent, if they are the very same; otherwise the kernel verifies them.
fn programs(constants: &Constants, plan: &Plan, maps: &Path) -> Result<Programs, Error> {
    if matches!(plan, Plan::Adopt)
        && let Some(programs) = Programs::find(constants, maps)?
    {
        tracing::debug!("the programs of an earlier agent are the very same");
        return Ok(programs);
    }
    Programs::pin(&constants.load(maps)?, constants, maps)
}

/// An error also for a program that was not loaded.
fn fd_of<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>, Error> {
    let program = ebpf.program(name).ok_or_else(|| Error::NoProgram { program: name.to_owned() })?;
    Ok(program.fd().map_err(|source| program_error(name, source))?.as_fd())
}

// The agent shares both between tasks.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Datapath>();
    shared::<Maps>();
};
