//! The identity of a machine: a random id in a file of this user, which the journals name.
//!
//! It is bound to the operating system's installation, so that a copied home is another machine. It is no secret, and never in the
//! state, which travels. Deliberately absent: the host's name, which many machines share.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use contract::{MachineId, hash::Blake3Hash};
use hostio::atomic_file::StagedFile;
use rustix::fs::Mode;

/// The file's name: `<binding> <id>`.
const FILE: &str = "machine";
/// What tells one installation of an operating system from another; the second is for containers, which lack the first.
const BINDINGS: [&str; 2] = ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"];
const ID_BYTES: usize = 16;

/// The identity of this machine for this user. It is made on the first call.
///
/// # Errors
/// The file can't be read or written.
pub fn machine_id(folder: &Path) -> io::Result<MachineId> {
    identity(folder, &binding())
}

fn identity(folder: &Path, binding: &str) -> io::Result<MachineId> {
    if let Some(id) = read(folder, binding)? {
        return Ok(id);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut random = [0; ID_BYTES];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{binding} {id}\n");
    let (dir, mode) = (File::open(folder)?, Mode::RUSR | Mode::WUSR);
    StagedFile::write_in(&dir, FILE, &[line.as_bytes()], mode)?.replace()?;
    // If another process made one meanwhile, the last one counts for both.
    read(folder, binding)?.ok_or_else(|| io::Error::other("the identity can't be read back"))
}

/// The identity on file, if it is bound to this installation.
fn read(folder: &Path, binding: &str) -> io::Result<Option<MachineId>> {
    let text = match fs::read_to_string(folder.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let id = text.trim().split_once(' ').filter(|(bound_to, _)| *bound_to == binding);
    Ok(id.and_then(|(_, id)| id.parse().ok()))
}

fn binding() -> String {
    let texts = BINDINGS.iter().filter_map(|path| fs::read_to_string(path).ok());
    let text = texts.map(|text| text.trim().to_owned()).find(|text| !text.is_empty()).unwrap_or_default();
    Blake3Hash::of(format!("pawl machine {text}").as_bytes()).hex_prefix(ID_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn identity_stays_and_a_copied_home_has_another_one() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state/pawl");
        let first = identity(&folder, "here").unwrap();
        assert_eq!(identity(&folder, "here").unwrap(), first);
        let mode = fs::metadata(folder.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let copied = identity(&folder, "elsewhere").unwrap();
        assert_ne!(copied, first);
        assert_eq!(identity(&folder, "elsewhere").unwrap(), copied);
        assert_ne!(identity(&home.path().join("other"), "here").unwrap(), first);
    }
}
