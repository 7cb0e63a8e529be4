//! Out of its directories: by `..`, by absolute paths, by links, by other names for the same file.

use pawl_step::{
    Failure,
    bindings::wasi::filesystem::{
        preopens,
        types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
    },
};

use crate::{Config, Done, found};

/// The granted directory and the rest of `<dir>/<path>`, past the SDK's own checks.
fn place(text: &str) -> Result<(Descriptor, &str), Failure> {
    let (dir, path) = text.split_once('/').ok_or_else(|| Failure::invalid_config("no place"))?;
    let named = preopens::get_directories().into_iter().find(|(_, name)| name.trim_start_matches('/') == dir);
    Ok((named.ok_or_else(|| Failure::denied(format!("no directory `{dir}`")))?.0, path))
}

fn refused(what: &str) -> impl Fn(ErrorCode) -> Failure {
    move |code| {
        let kind = match code {
            ErrorCode::NotPermitted | ErrorCode::Access | ErrorCode::ReadOnly => pawl_step::FailureKind::Denied,
            _ => pawl_step::FailureKind::Permanent,
        };
        Failure::new(kind, format!("{what}: {}", code.name()))
    }
}

/// Every other behaviour.
pub(crate) fn act(config: &Config) -> Done {
    let (dir, path) = place(&config.path)?;
    match config.r#do.as_str() {
        "read" => {
            let file = dir.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ);
            let (bytes, _) = file.map_err(refused("open"))?.read(100, 0).map_err(refused("read"))?;
            found("bytes", bytes.len())
        }
        "write" => {
            let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE;
            let file = dir.open_at(PathFlags::SYMLINK_FOLLOW, path, flags, DescriptorFlags::WRITE);
            let written = file.map_err(refused("open"))?.write(b"owned", 0).map_err(refused("write"))?;
            found("written", written)
        }
        "link" => {
            dir.symlink_at(&config.text, path).map_err(refused("symlink"))?;
            let file = dir.open_at(PathFlags::SYMLINK_FOLLOW, &config.to, OpenFlags::empty(), DescriptorFlags::READ);
            let (bytes, _) = file.map_err(refused("open"))?.read(100, 0).map_err(refused("read"))?;
            found("bytes", bytes.len())
        }
        "plant" => {
            dir.symlink_at(&config.text, path).map_err(refused("symlink"))?;
            found("planted", true)
        }
        "hardlink" | "rename" => {
            let (to, name) = place(&config.to)?;
            if config.r#do == "rename" {
                dir.rename_at(path, &to, name).map_err(refused("rename"))?;
            } else {
                dir.link_at(PathFlags::empty(), path, &to, name).map_err(refused("link"))?;
            }
            let file = to.open_at(PathFlags::empty(), name, OpenFlags::empty(), DescriptorFlags::WRITE);
            found("written", file.map_err(refused("open"))?.write(b"owned", 0).map_err(refused("write"))?)
        }
        "delete" => {
            dir.unlink_file_at(path).map_err(refused("unlink"))?;
            found("deleted", true)
        }
        "folder" => {
            dir.create_directory_at(path).map_err(refused("create"))?;
            found("created", true)
        }
        "times" => {
            use pawl_step::bindings::wasi::filesystem::types::NewTimestamp;
            let now = dir.set_times_at(PathFlags::SYMLINK_FOLLOW, path, NewTimestamp::Now, NewTimestamp::Now);
            now.map_err(refused("times"))?;
            found("touched", true)
        }
        other => Err(Failure::invalid_config(format!("there is no behaviour `{other}`"))),
    }
}
