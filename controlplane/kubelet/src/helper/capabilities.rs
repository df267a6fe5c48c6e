//! The capabilities of a container: the default set of the container runtimes, plus and minus what the pod says.

use anyhow::{Result, bail};

use crate::runtime::Security;

/// Names by number, from linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// The numbers a container keeps. Drops go first, as `drop: [ALL], add: [X]` means X.
fn kept(security: &Security) -> Result<Vec<usize>> {
    let add = numbers(&security.add_capabilities)?;
    let drop = numbers(&security.drop_capabilities)?;
    let default = |n: &usize| DEFAULT.contains(&NAMES[*n]);
    Ok((0..NAMES.len()).filter(|n| (default(n) && !drop.contains(n)) || add.contains(n)).collect())
}

fn numbers(names: &[String]) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for name in names {
        let plain = name.to_uppercase();
        let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
        match NAMES.iter().position(|n| *n == plain) {
            Some(n) => numbers.push(n),
            None if plain == "ALL" => numbers.extend(0..NAMES.len()),
            None => bail!("unknown capability {name}"),
        }
    }
    Ok(numbers)
}

/// Shrinks the bounding set of this process: a program executed as root gets no more than it, as another user nothing.
pub(super) fn bound(security: &Security) -> Result<()> {
    if security.privileged {
        return Ok(());
    }
    let kept = kept(security)?;
    for number in (0..NAMES.len()).filter(|n| !kept.contains(n)) {
        #[expect(unsafe_code, reason = "nix has no wrapper for PR_CAPBSET_DROP")]
        // SAFETY: prctl with integer arguments only; it changes nothing but this thread's bounding set.
        let status = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        let error = std::io::Error::last_os_error();
        // EINVAL: a capability this kernel does not know, so nobody has it.
        if status != 0 && error.raw_os_error() != Some(libc::EINVAL) {
            bail!("drop capability {}: {error}", NAMES[number]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        let security = Security { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Security::default() };
        let names: Vec<_> = kept(&security).expect("known names").into_iter().map(|n| NAMES[n]).collect();
        assert_eq!(names, expected, "add {add:?} drop {drop:?}");
    }

    #[test]
    fn additions_win_over_drops() {
        check(&[], &["ALL"], &[]);
        check(&["NET_ADMIN"], &["ALL"], &["NET_ADMIN"]);
        check(&["cap_net_admin"], &["all"], &["NET_ADMIN"]);
        check(&[], &[], &{
            let mut all = DEFAULT;
            all.sort_by_key(|n| NAMES.iter().position(|m| m == n));
            all
        });
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let security = Security { add_capabilities: vec!["NET_ADMINN".into()], ..Security::default() };
        assert!(kept(&security).expect_err("unknown").to_string().contains("NET_ADMINN"));
    }
}
