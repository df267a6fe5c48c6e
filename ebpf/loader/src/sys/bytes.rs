//! Maps of which keys and values are known by their size only: those of another version.

use std::{io, mem::MaybeUninit, os::fd::BorrowedFd};
#[cfg(test)]
use std::{os::fd::OwnedFd, ptr};

use aya::Pod;
use aya_obj::generated::bpf_cmd;

use super::{Batch, BatchResult, Cursor, MapShape, batch, bpf, raw, zeroed};

/// Fills the buffers, each a whole number of keys and values of the map, with entries. As [`super::lookup_batch`].
pub fn lookup_batch_bytes(
    map: BorrowedFd<'_>,
    shape: &MapShape,
    cursor: &mut Cursor,
    keys: &mut [u8],
    values: &mut [u8],
) -> BatchResult {
    let count = (keys.len() / shape.key_size as usize).min(values.len() / shape.value_size as usize);
    let cursor = cursor.for_keys_of(shape.key_size as usize);
    batch(Batch::Lookup, map, keys.as_mut_ptr().addr(), values.as_mut_ptr().addr(), count, Some(cursor))
}

/// Writes entries in order. As [`super::update_batch`].
pub fn update_batch_bytes(map: BorrowedFd<'_>, shape: &MapShape, keys: &[u8], values: &[u8]) -> BatchResult {
    let count = (keys.len() / shape.key_size as usize).min(values.len() / shape.value_size as usize);
    batch(Batch::Update, map, keys.as_ptr().addr(), values.as_ptr().addr(), count, None)
}

/// The value of one key; `None` when there is no such entry.
pub fn lookup_bytes(map: BorrowedFd<'_>, shape: &MapShape, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
    assert_eq!(key.len(), shape.key_size as usize, "a key of this map");
    let mut value = vec![0; shape.value_size as usize];
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_ptr().addr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr().addr() as u64;
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes one key; one that is not there is not an error.
pub fn delete_bytes(map: BorrowedFd<'_>, shape: &MapShape, key: &[u8]) -> io::Result<()> {
    assert_eq!(key.len(), shape.key_size as usize, "a key of this map");
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_ptr().addr() as u64;
    match bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes as a type of the same size.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "bytes of this type");
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as many bytes as the type has, and any bits are a value of a `Pod`.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
        value.assume_init()
    }
}

/// A value as its bytes.
pub fn as_bytes<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: types of maps are `#[repr(C)]` without hidden padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Loads BTF, for maps that describe themselves by it.
#[cfg(test)]
pub fn btf_load(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_7.btf = btf.as_ptr().addr() as u64;
    attr.__bindgen_anon_7.btf_size = btf.len() as u32;
    super::bpf_fd(bpf_cmd::BPF_BTF_LOAD, &mut attr)
}

/// Makes a map; `shape.btf` is not looked at.
#[cfg(test)]
pub fn map_create(shape: &MapShape, name: &str, btf: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: a union of integers, of which this is the member for the command.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = shape.map_type;
    create.key_size = shape.key_size;
    create.value_size = shape.value_size;
    create.max_entries = shape.max_entries;
    create.map_flags = shape.flags;
    create.btf_fd = raw(btf);
    create.btf_key_type_id = shape.key_type;
    create.btf_value_type_id = shape.value_type;
    let len = name.len().min(create.map_name.len() - 1);
    // SAFETY: shorter than the field, and bytes both.
    unsafe { ptr::copy_nonoverlapping(name.as_ptr().cast(), create.map_name.as_mut_ptr(), len) };
    super::bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}
