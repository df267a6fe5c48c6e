//! The helper processes alone, as the `thalweg` binary carries them in hidden subcommands: lets the crate's own tests run
//! pods without building the whole binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest = args.collect();
    match verb.to_str() {
        Some("kubelet-pause") => thalweg_kubelet::pause_main(rest),
        Some("kubelet-container") => thalweg_kubelet::container_main(rest),
        _ => {
            eprintln!("usage: thalweg-kubelet-helper kubelet-pause|kubelet-container …");
            ExitCode::from(2)
        }
    }
}
