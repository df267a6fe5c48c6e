//! The plugin and its configuration, put where the runtime looks. Both appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};
use thalweg_cni::version::SpecVersion;

use crate::error::{Error, Result};

/// Runtimes take the first file in the order of names.
pub const CONFLIST: &str = "05-thalweg.conflist";
pub const PLUGIN: &str = "thalweg-cni";

/// Installs the executable at `plugin` into `bin_dir`, then writes [`CONFLIST`] into `conf_dir`: a runtime that sees the
/// configuration finds the plugin. Call it when the node is ready; on shutdown both stay, because pods do.
///
/// # Errors
/// Names the file that cannot be read or written.
pub fn install(bin_dir: &Path, conf_dir: &Path, plugin: &Path, socket: &Path, state_dir: &Path) -> Result<()> {
    let source = fs::read(plugin).map_err(Error::io(format!("the plugin {} cannot be read", plugin.display())))?;
    put(&bin_dir.join(PLUGIN), &source, 0o755)?;
    let text = format!("{:#}\n", conflist(socket, state_dir));
    put(&conf_dir.join(CONFLIST), text.as_bytes(), 0o644)
}

/// `cniVersion` is what every runtime knows, `cniVersions` lets newer ones take more.
fn conflist(socket: &Path, state_dir: &Path) -> Value {
    json!({
        "cniVersion": SpecVersion::V1_0_0.as_str(),
        "cniVersions": SpecVersion::ALL.map(SpecVersion::as_str),
        "name": "thalweg",
        "plugins": [{
            "type": PLUGIN,
            "socket": socket,
            "stateDir": state_dir,
            "capabilities": {"ips": true, "mac": true, "dns": true, "portMappings": true},
        }],
    })
}

/// By rename: a plugin that runs keeps its old file ("text file busy" never happens), a reader never sees half of one.
fn put(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let failed = || Error::io(format!("{} cannot be written", path.display()));
    if is_same(path, content) {
        return Ok(());
    }
    let Some(directory) = path.parent() else { return Err(failed()(io::ErrorKind::InvalidInput.into())) };
    fs::create_dir_all(directory).map_err(failed())?;
    // Runtimes read every *.conf, *.conflist and *.json; this is none.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(failed())
}

fn is_same(path: &Path, content: &[u8]) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut present = Vec::with_capacity(content.len());
    file.read_to_end(&mut present).is_ok() && present == content
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn installs_and_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let (bin, conf, plugin) =
            (directory.path().join("opt/cni/bin"), directory.path().join("net.d"), directory.path().join("built"));
        let install = || install(&bin, &conf, &plugin, Path::new("/run/x/cni.sock"), Path::new("/var/lib/x"));
        assert!(install().unwrap_err().to_string().contains("built"), "no plugin to install");
        assert!(!conf.exists(), "no configuration without its plugin");

        fs::write(&plugin, "first").unwrap();
        install().unwrap();
        let target = bin.join(PLUGIN);
        let inode = fs::metadata(&target).unwrap().ino();
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        install().unwrap();
        assert_eq!(fs::metadata(&target).unwrap().ino(), inode, "the same content is not written again");

        let mut running = File::open(&target).unwrap();
        fs::write(&plugin, "second").unwrap();
        install().unwrap();
        let mut old = String::new();
        running.read_to_string(&mut old).unwrap();
        assert_eq!((old.as_str(), fs::read_to_string(&target).unwrap().as_str()), ("first", "second"));

        let list: Value = serde_json::from_slice(&fs::read(conf.join(CONFLIST)).unwrap()).unwrap();
        assert_eq!(list["cniVersion"], json!("1.0.0"));
        assert_eq!(list["cniVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        assert_eq!(list["plugins"][0]["socket"], json!("/run/x/cni.sock"));
        let names = |path: &Path| fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!((names(&conf), names(&bin)), (vec![CONFLIST.into()], vec![PLUGIN.into()]), "nothing besides");
    }

    #[test]
    fn the_plugin_accepts_the_configuration() {
        let list = conflist(Path::new("/run/x/cni.sock"), Path::new("/var/lib/x"));
        for version in SpecVersion::ALL {
            // What a runtime makes of a list for one plugin.
            let mut config = list["plugins"][0].clone();
            config["name"] = list["name"].clone();
            config["cniVersion"] = json!(version.as_str());
            let config = thalweg_cni::config::Config::parse(config.to_string().as_bytes()).unwrap();
            assert_eq!(config.check_supported(), Ok(()));
            assert_eq!(
                (config.socket.as_path(), config.state_dir.as_path()),
                (Path::new("/run/x/cni.sock"), Path::new("/var/lib/x"))
            );
        }
    }
}
