//! Creates the folder of an environment's state.

use std::{ffi::OsStr, fs, io, path::Path};

/// The name of the folder next to a plan that a state is kept in by default.
const DEFAULT_ROOT: &str = ".pawl";

/// Creates `<root>/<app>/<environment>`. A new default root gets a `.gitignore`, so that nobody commits the state of a machine.
pub(crate) fn create_state_folder(folder: &Path) -> io::Result<()> {
    let root = folder.ancestors().nth(2).filter(|root| root.file_name() == Some(OsStr::new(DEFAULT_ROOT)));
    let is_new = root.is_some_and(|root| !root.exists());
    fs::create_dir_all(folder)?;
    match root.filter(|_| is_new) {
        Some(root) => fs::write(root.join(".gitignore"), "*\n"),
        None => Ok(()),
    }
}
