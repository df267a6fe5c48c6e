//! Every program is accepted by the running kernel's verifier; what it costs is printed.

mod kit;

use thalweg_loader::Datapath;

/// The verifier's limit on instructions walked; a program near it cannot grow.
const LIMIT: u32 = 1_000_000;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn every_program_loads() {
    let pins = kit::Pins::new("verifier");
    let datapath = Datapath::open(&pins.options()).expect("programs that the kernel accepts");
    let programs = datapath.programs().expect("what the kernel says of them");
    println!("{:<16} {:>22} {:>12}", "program", "verified instructions", "jited bytes");
    for program in &programs {
        println!("{:<16} {:>22} {:>12}", program.name, program.verified_instructions, program.jited_bytes);
        assert!(program.verified_instructions > 0 && program.verified_instructions < LIMIT / 2, "{program:?}");
        assert!(program.jited_bytes > 0, "{program:?}: not compiled to machine code");
    }
    for call in ["connect", "sendmsg", "recvmsg", "getpeername", "post_bind"] {
        for family in ["4", "6"] {
            let name = format!("{call}{family}");
            assert!(programs.iter().any(|program| program.name == name), "{name} is missing from the object");
        }
    }
    for hook in ["tc_from_pod", "tc_to_pod", "tc_from_wire", "tc_to_wire"] {
        for name in [hook.to_owned(), format!("{hook}6")] {
            assert!(programs.iter().any(|program| program.name == name), "{name} is missing from the object");
        }
    }
    assert!(programs.iter().any(|program| program.name == "sock_release"), "sock_release is missing from the object");
}
