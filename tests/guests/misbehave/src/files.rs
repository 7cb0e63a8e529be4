//! Tries to leave its directories: by `..`, by absolute paths, by links, and by other names for the same file.

use pawl_step::{
    Failure,
    bindings::wasi::filesystem::{
        preopens,
        types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
    },
};

use crate::{BehaviorResult, MisbehaveConfig, report_allowed};

/// Returns the granted directory and the rest of `<dir>/<path>`, without the SDK's checks.
fn open_granted_dir(text: &str) -> Result<(Descriptor, &str), Failure> {
    let (dir, path) = text.split_once('/').ok_or_else(|| Failure::invalid_config("the path has no directory"))?;
    let named = preopens::get_directories().into_iter().find(|(_, name)| name.trim_start_matches('/') == dir);
    Ok((named.ok_or_else(|| Failure::denied(format!("no directory `{dir}`")))?.0, path))
}

fn wasi_failure(what: &str) -> impl Fn(ErrorCode) -> Failure {
    move |code| {
        let kind = match code {
            ErrorCode::NotPermitted | ErrorCode::Access | ErrorCode::ReadOnly => pawl_step::FailureKind::Denied,
            _ => pawl_step::FailureKind::Permanent,
        };
        Failure::new(kind, format!("{what}: {}", code.name()))
    }
}

/// Runs the behaviours on files.
pub(crate) fn act_on_files(config: &MisbehaveConfig) -> BehaviorResult {
    let (dir, path) = open_granted_dir(&config.path)?;
    match config.r#do.as_str() {
        "read" => {
            let file = dir.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ);
            let (bytes, _) = file.map_err(wasi_failure("open"))?.read(100, 0).map_err(wasi_failure("read"))?;
            report_allowed("bytes", bytes.len())
        }
        "write" => {
            let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE;
            let file = dir.open_at(PathFlags::SYMLINK_FOLLOW, path, flags, DescriptorFlags::WRITE);
            let written = file.map_err(wasi_failure("open"))?.write(b"owned", 0).map_err(wasi_failure("write"))?;
            report_allowed("written", written)
        }
        "link" => {
            dir.symlink_at(&config.text, path).map_err(wasi_failure("symlink"))?;
            let file = dir.open_at(PathFlags::SYMLINK_FOLLOW, &config.to, OpenFlags::empty(), DescriptorFlags::READ);
            let (bytes, _) = file.map_err(wasi_failure("open"))?.read(100, 0).map_err(wasi_failure("read"))?;
            report_allowed("bytes", bytes.len())
        }
        "plant" => {
            dir.symlink_at(&config.text, path).map_err(wasi_failure("symlink"))?;
            report_allowed("planted", true)
        }
        "hardlink" | "rename" => {
            let (to, name) = open_granted_dir(&config.to)?;
            if config.r#do == "rename" {
                dir.rename_at(path, &to, name).map_err(wasi_failure("rename"))?;
            } else {
                dir.link_at(PathFlags::empty(), path, &to, name).map_err(wasi_failure("link"))?;
            }
            let file = to.open_at(PathFlags::empty(), name, OpenFlags::empty(), DescriptorFlags::WRITE);
            report_allowed(
                "written",
                file.map_err(wasi_failure("open"))?.write(b"owned", 0).map_err(wasi_failure("write"))?,
            )
        }
        "delete" => {
            dir.unlink_file_at(path).map_err(wasi_failure("unlink"))?;
            report_allowed("deleted", true)
        }
        "folder" => {
            dir.create_directory_at(path).map_err(wasi_failure("create"))?;
            report_allowed("created", true)
        }
        "times" => {
            use pawl_step::bindings::wasi::filesystem::types::NewTimestamp;
            let now = dir.set_times_at(PathFlags::SYMLINK_FOLLOW, path, NewTimestamp::Now, NewTimestamp::Now);
            now.map_err(wasi_failure("times"))?;
            report_allowed("touched", true)
        }
        other => Err(Failure::invalid_config(format!("unknown behavior `{other}`"))),
    }
}
