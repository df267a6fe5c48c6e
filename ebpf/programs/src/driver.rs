//! Times tc programs (`thalweg-bench packets`). A repeated test run shows a program the packet that it has already
//! rewritten; so this one first puts the headers back, gives each packet the source port of another flow, and then calls
//! the program under test. The same with [`noop`] in its place is what is subtracted.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "map values and helpers are raw pointers in a kernel program")]

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    btf_maps::{Array, ProgramArray},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use thalweg_abi::driver::{IPV4_HEADERS, IPV6_HEADERS, SPORT_FIRST, SPORT_V4, SPORT_V6, Template};

/// The program under test.
#[btf_map]
pub static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

#[btf_map]
pub static TEMPLATE: Array<Template, 1> = Array::new();

#[classifier]
pub fn drive4(ctx: TcContext) -> i32 {
    drive::<IPV4_HEADERS, SPORT_V4>(&ctx)
}

#[classifier]
pub fn drive6(ctx: TcContext) -> i32 {
    drive::<IPV6_HEADERS, SPORT_V6>(&ctx)
}

#[classifier]
pub fn noop(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

#[inline(always)]
fn drive<const LEN: usize, const SPORT: usize>(ctx: &TcContext) -> i32 {
    let Some(template) = TEMPLATE.get_ptr_mut(0) else { return TC_ACT_SHOT };
    // SAFETY: the verifier has seen the null check; a test run is alone on its map.
    let template = unsafe { &mut *template };
    let flow = template.next;
    template.next = if flow + 1 >= template.flows { 0 } else { flow + 1 };
    let sport = (SPORT_FIRST.wrapping_add(flow as u16)).to_be_bytes();
    template.bytes[SPORT] = sport[0];
    template.bytes[SPORT + 1] = sport[1];
    let Some(headers) = template.bytes.first_chunk::<LEN>() else { return TC_ACT_SHOT };
    if ctx.skb.store(0, headers, 0).is_err() {
        return TC_ACT_SHOT;
    }
    // SAFETY: nothing here has a destructor.
    unsafe { UNDER_TEST.tail_call(ctx, 0) };
    // Only reached when there is nothing to call.
    TC_ACT_SHOT
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// See `main.rs`.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
