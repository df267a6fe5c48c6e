//! How a long-lived process that keeps little has it look little to the node: the C library gives back what was needed for
//! a moment only. Here because it takes a call that the compiler cannot check.

/// Blocks of this many bytes and more are mapped by themselves, and unmapped when they are freed.
const LARGE: libc::c_int = 128 * 1024;
/// Threads share so many heaps: each keeps free what its threads once needed.
const HEAPS: libc::c_int = 2;

/// Call it before threads are started; it concerns the whole process.
///
/// By itself, glibc takes the largest block that was ever freed (a page of objects, a file) for the size of blocks to keep,
/// and twice that for how much free memory each heap keeps; and there are eight heaps for each CPU.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_ARENA_MAX, HEAPS)] {
        // SAFETY: takes integers alone, and is safe to be called at any time; a value that it refuses changes nothing.
        #[expect(unsafe_code, reason = "mallopt(3) is C")]
        let is_taken = unsafe { libc::mallopt(option, value) } == 1;
        debug_assert!(is_taken, "mallopt({option}, {value})");
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn the_c_library_takes_both() {
        // It asserts that.
        super::keep_small();
    }
}
