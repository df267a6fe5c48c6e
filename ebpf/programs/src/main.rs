//! The kernel side of Thalweg, one hook per module. Built for bpfel-unknown-none by `cargo xtask ebpf`.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(unsafe_code, reason = "contexts, map values and helpers are raw pointers in a kernel program")]

mod config;
mod count;
mod dns;
mod flows;
mod maps;
mod policy;
mod sock;
mod tc;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Several helpers are for GPL-compatible programs only, so this declaration must be one; the source itself is
/// under the licence of the repository, which is compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
