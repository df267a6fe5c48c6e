//! What a run was made with: the commit of this program, and the versions of the programs that it is measured beside.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::scenario::find;
use crate::scenarios::cni;

/// The words by which each tells its version, cheaply and without doing anything else.
const ASKED: [(&str, &[&str]); 3] = [("iptables", &["--version"]), ("unbound", &["-V"]), ("knotd", &["--version"])];

/// The commit that this program was built from: as the build said it (THALWEG_COMMIT), otherwise as the checkout has it in
/// whose folder the program lies. `unknown` where there is neither.
pub fn commit() -> String {
    let checked_out = || head(std::env::current_exe().ok()?.ancestors().find(|folder| folder.join(".git").exists())?);
    option_env!("THALWEG_COMMIT").map(str::to_owned).or_else(checked_out).unwrap_or_else(|| "unknown".to_owned())
}

/// Of a checkout, without asking git: that need not be installed.
fn head(checkout: &Path) -> Option<String> {
    let git = checkout.join(".git");
    // A work tree beside the first one has a file that names its folder.
    let git = match fs::read_to_string(&git) {
        Ok(text) => checkout.join(text.strip_prefix("gitdir:")?.trim()),
        Err(_) => git,
    };
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return hash(head.trim()) };
    let common = fs::read_to_string(git.join("commondir")).map_or_else(|_| git.clone(), |text| git.join(text.trim()));
    let loose = fs::read_to_string(common.join(name)).ok().and_then(|text| hash(text.trim()));
    loose.or_else(|| {
        let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
        packed.lines().find_map(|line| line.split_once(' ').filter(|(_, packed)| *packed == name).and_then(|(of, _)| hash(of)))
    })
}

fn hash(text: &str) -> Option<String> {
    (text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

/// The first line that each says, of those that are installed.
pub fn versions() -> BTreeMap<String, String> {
    let installed = ASKED.into_iter().filter_map(|(name, args)| Some((name, version(&find(name)?, args)?)));
    // Called by nobody, a plugin says what it is.
    let ptp = cni::ptp_program().and_then(|program| Some(("ptp", version(&program, &[])?)));
    installed.chain(ptp).map(|(name, version)| (name.to_owned(), version)).collect()
}

fn version(program: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_commit_is_read_wherever_git_keeps_it() {
        let folder = tempfile::tempdir().expect("folder");
        let git = folder.path().join(".git");
        fs::create_dir_all(git.join("refs/heads")).expect("folder");
        let put = |name: &str, text: &str| fs::write(git.join(name), text).expect("write");
        assert_eq!(head(folder.path()), None);
        put("HEAD", &format!("{COMMIT}\n"));
        assert_eq!(head(folder.path()).as_deref(), Some(COMMIT));
        put("HEAD", "ref: refs/heads/main\n");
        assert_eq!(head(folder.path()), None);
        put("packed-refs", &format!("# pack-refs with: peeled\n{COMMIT} refs/heads/main\n"));
        assert_eq!(head(folder.path()).as_deref(), Some(COMMIT));
        let newer = COMMIT.replace('0', "f");
        put("refs/heads/main", &format!("{newer}\n"));
        assert_eq!(head(folder.path()), Some(newer.clone()));
        let beside = folder.path().join("beside");
        fs::create_dir_all(&beside).expect("folder");
        fs::write(beside.join(".git"), "gitdir: ../.git\n").expect("write");
        assert_eq!(head(&beside), Some(newer));
    }

    #[test]
    fn a_version_is_the_first_line_wherever_it_is_said() {
        let shell = find("sh").expect("a shell");
        let said = |script: &str| version(&shell, &["-c", script]);
        assert_eq!(said("echo; echo one 1.2; echo more").as_deref(), Some("one 1.2"));
        assert_eq!(said("echo two 3.4 >&2").as_deref(), Some("two 3.4"));
        assert_eq!(said("true"), None);
    }
}
