//! Raw bpf(2): what aya does not offer (batches, links whose life is in our hands). One function per command.

#![expect(unsafe_code, reason = "bpf(2) takes pointers; each call says why they are valid")]

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

mod bytes;

use aya::Pod;
pub use aya_obj::generated::bpf_attach_type as AttachType;
use aya_obj::generated::{bpf_attr, bpf_btf_info, bpf_cmd, bpf_link_info, bpf_map_info};
pub use bytes::{as_bytes, delete_bytes, from_bytes, lookup_batch_bytes, lookup_bytes, update_batch_bytes};
#[cfg(test)]
pub use bytes::{btf_load, map_create};

/// What a link is attached to.
#[derive(Clone, Copy)]
pub enum LinkTarget<'a> {
    Cgroup(BorrowedFd<'a>),
    Interface(u32),
}

/// What the kernel says about a map.
#[derive(Clone, Copy, Debug)]
pub struct MapShape {
    pub id: u32,
    pub map_type: u32,
    pub flags: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// The object whose BTF describes keys and values, and their types in it; 0 without BTF.
    pub btf: u32,
    pub key_type: u32,
    pub value_type: u32,
}

/// Which way a batch goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batch {
    Update,
    Delete,
    Lookup,
}

/// How far a batch came: entries processed, and the error that ended it.
pub struct BatchResult {
    pub done: usize,
    pub error: Option<io::Error>,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole, initialised union of the size given; the callers keep what it points to alive.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(i32::MAX)) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers, for which zero is a value; unused fields must be zero.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command succeeded and returns a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Opens a pinned map, program or link.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr().addr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Pins an object; the path must not exist.
pub fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr().addr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(fd);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

fn object_info<T>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = MaybeUninit::<T>::zeroed();
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(fd);
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = info.as_mut_ptr().addr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: called with the kernel's plain info structures only, zeroed before and filled by the kernel.
    Ok(unsafe { info.assume_init() })
}

pub fn map_shape(fd: BorrowedFd<'_>) -> io::Result<MapShape> {
    let info: bpf_map_info = object_info(fd)?;
    Ok(MapShape {
        id: info.id,
        map_type: info.type_,
        flags: info.map_flags,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        btf: info.btf_id,
        key_type: info.btf_key_type_id,
        value_type: info.btf_value_type_id,
    })
}

/// The BTF of an object that is loaded, by its id.
pub fn btf(id: u32) -> io::Result<Vec<u8>> {
    let mut attr = zeroed();
    attr.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
    let fd = bpf_fd(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attr)?;
    let described: bpf_btf_info = object_info(fd.as_fd())?;
    let mut types = vec![0_u8; described.btf_size as usize];
    let mut info = bpf_btf_info {
        btf: types.as_mut_ptr().addr() as u64,
        btf_size: described.btf_size,
        id: 0,
        name: 0,
        name_len: 0,
        kernel_btf: 0,
    };
    let mut attr = zeroed();
    attr.info.bpf_fd = raw(fd.as_fd());
    attr.info.info_len = size_of::<bpf_btf_info>() as u32;
    attr.info.info = (&raw mut info).addr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(types)
}

/// Whether the kernel has TCX, asked without attaching anything.
pub fn has_tcx() -> io::Result<bool> {
    /// Every network namespace has its loopback at this index.
    const LOOPBACK: u32 = 1;
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = LOOPBACK;
    attr.query.attach_type = AttachType::BPF_TCX_INGRESS as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        Ok(_) => Ok(true),
        // An attach type that it does not know.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // It knows the type, and has found nothing.
        Err(_) => Ok(true),
    }
}

/// The interface a TCX link is attached to; 0 when that is gone.
pub fn link_interface(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let info: bpf_link_info = object_info(fd)?;
    // SAFETY: integers in every variant; the caller asks for a TCX link.
    Ok(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}

/// The id of the program a link runs.
pub fn link_program(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let info: bpf_link_info = object_info(fd)?;
    Ok(info.prog_id)
}

/// The id of the cgroup a link is attached to; 0 when that is gone.
pub fn link_cgroup(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let info: bpf_link_info = object_info(fd)?;
    // SAFETY: integers in every variant; the caller asks for a cgroup link.
    Ok(unsafe { info.__bindgen_anon_1.cgroup.cgroup_id })
}

pub fn link_create(program: BorrowedFd<'_>, target: LinkTarget<'_>, attach: AttachType) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    match target {
        LinkTarget::Cgroup(cgroup) => attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup),
        LinkTarget::Interface(index) => attr.link_create.__bindgen_anon_2.target_ifindex = index,
    }
    attr.link_create.attach_type = attach as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Replaces the program of a link in one step.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches now; closing the last reference would do it some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Looks one key up; the kernel writes `values`, one element, or for per-CPU maps one per possible CPU.
pub fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, elements: usize) -> io::Result<Option<Vec<V>>> {
    let mut values = Vec::<V>::with_capacity(elements);
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key).addr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = values.as_mut_ptr().addr() as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => {
            // SAFETY: the kernel has written as many elements as the caller knows the map to have per key.
            unsafe { values.set_len(elements) };
            Ok(Some(values))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key).addr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value).addr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

pub fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key).addr() as u64;
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr).map(drop)
}

/// The key after `key`, or the first; `None` after the last.
pub fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::zeroed();
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.map_or(0, |key| std::ptr::from_ref(key).addr() as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr().addr() as u64;
    match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) {
        // SAFETY: the kernel has written the key; any bits are a value of a `Pod`.
        Ok(_) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes entries in order; both slices have the same length.
pub fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> BatchResult {
    debug_assert_eq!(keys.len(), values.len());
    let count = keys.len().min(values.len());
    batch(Batch::Update, map, keys.as_ptr().addr(), values.as_ptr().addr(), count, None)
}

/// Deletes keys in order; stops at one that is not there.
pub fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> BatchResult {
    batch(Batch::Delete, map, keys.as_ptr().addr(), 0, keys.len(), None)
}

/// Where a batched look-up continues. Opaque: a bucket number for hashes, the last index for arrays, and for tries the last
/// key, as a whole.
#[derive(Default)]
pub struct Cursor {
    /// Both are at least as long as a key of the map.
    at: Vec<u64>,
    out: Vec<u64>,
    started: bool,
}

/// Appends up to the vectors' spare capacity of entries. `NotFound` is the end of the map; `done` entries are valid
/// with any error.
pub fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
) -> BatchResult {
    let count = (keys.capacity() - keys.len()).min(values.capacity() - values.len());
    let (key, value) = (keys.spare_capacity_mut().as_mut_ptr().addr(), values.spare_capacity_mut().as_mut_ptr().addr());
    let result = batch(Batch::Lookup, map, key, value, count, Some(cursor.for_keys_of(size_of::<K>())));
    // SAFETY: the kernel has written `done` entries behind the initialised ones, at most as many as were spare.
    unsafe {
        keys.set_len(keys.len() + result.done);
        values.set_len(values.len() + result.done);
    }
    result
}

// === impl Cursor ===

impl Cursor {
    /// With room for what the kernel writes there.
    fn for_keys_of(&mut self, size: usize) -> &mut Self {
        let words = size.div_ceil(size_of::<u64>()).max(1);
        self.at.resize(words, 0);
        self.out.resize(words, 0);
        self
    }
}

fn batch(
    kind: Batch,
    map: BorrowedFd<'_>,
    keys: usize,
    values: usize,
    count: usize,
    mut cursor: Option<&mut Cursor>,
) -> BatchResult {
    let mut attr = zeroed();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys as u64;
    attr.batch.values = values as u64;
    attr.batch.count = u32::try_from(count).unwrap_or(u32::MAX);
    if let Some(cursor) = &mut cursor {
        attr.batch.in_batch = if cursor.started { cursor.at.as_ptr().addr() as u64 } else { 0 };
        attr.batch.out_batch = cursor.out.as_mut_ptr().addr() as u64;
    }
    let command = match kind {
        Batch::Update => bpf_cmd::BPF_MAP_UPDATE_BATCH,
        Batch::Delete => bpf_cmd::BPF_MAP_DELETE_BATCH,
        Batch::Lookup => bpf_cmd::BPF_MAP_LOOKUP_BATCH,
    };
    let error = bpf(command, &mut attr).err();
    // SAFETY: the field that was set above; the kernel replaced it with the entries it processed.
    let reported = unsafe { attr.batch.count } as usize;
    let done = match &error {
        // The end of the map: what was found before it counts.
        Some(error) if kind == Batch::Lookup && error.kind() == io::ErrorKind::NotFound => reported.min(count),
        Some(_) if kind == Batch::Lookup => 0,
        // At least one entry failed; where the kernel gave up before it counted, the field still holds what was asked for.
        Some(_) if reported >= count => 0,
        _ => reported.min(count),
    };
    if let Some(cursor) = cursor
        && error.as_ref().is_none_or(|error| error.kind() == io::ErrorKind::NotFound)
    {
        std::mem::swap(&mut cursor.at, &mut cursor.out);
        cursor.started = true;
    }
    BatchResult { done, error }
}

/// The kernel has no batches for this map type (or none at all).
pub fn is_unsupported(error: &io::Error) -> bool {
    /// The kernel's own ENOTSUPP, which libc does not name.
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}
