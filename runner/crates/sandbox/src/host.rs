//! The state of one call: its gate, its limits, its WASI context, and its open resources.

use std::sync::Arc;

use cap_std::fs::Dir;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::{
    channel::CallChannel,
    decoded::DecodedArchives,
    gate::CapabilityGate,
    kept_download::KeptDownloads,
    limits::GuestLimits,
    log::{GuestLog, GuestOutputStream},
    process::ProgramSupervisor,
};
use contract::step::{FailureKind, MessageLevel, StepFailure};
use db::migrate::MigrationFence;
use hostio::confined_path;
use plan::DirAccess;

/// The most open handles of one call: files, directories, connections, streams.
pub(super) const MAX_HANDLES: usize = 256;

/// A store's state, for one call.
pub(super) struct HostState {
    pub(super) gate: Arc<CapabilityGate>,
    pub(super) limits: GuestLimits,
    pub(super) log: GuestLog,
    pub(super) channel: CallChannel,
    /// Whether and why programs of the call must end.
    pub(super) programs: ProgramSupervisor,
    /// The call's origin, for databases that record it.
    pub(super) fence: MigrationFence,
    /// Files that stand for archives.
    pub(super) decoded_archives: DecodedArchives,
    pub(super) downloads: KeptDownloads,
    pub(super) table: ResourceTable,
    wasi: WasiCtx,
}

impl HostState {
    /// A WASI context with only the granted directories, each visible as `/<name>`. No environment, no arguments, no
    /// sockets; stdout and stderr go to the log.
    pub(super) fn new(
        gate: CapabilityGate,
        limits: GuestLimits,
        fence: MigrationFence,
        channel: CallChannel,
        programs: ProgramSupervisor,
    ) -> Result<Self, StepFailure> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let log = GuestLog::new(channel.clone());
        let mut wasi = WasiCtxBuilder::new();
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        wasi.stdout(GuestOutputStream::new(log.clone(), MessageLevel::Info))
            .stderr(GuestOutputStream::new(log.clone(), MessageLevel::Warn));
        let mut preopen = |name: &str, dir: &Dir, permissions| {
            let opened = wasi.preopened_dir(confined_path::fd_path(dir), format!("/{name}"), permissions);
            opened.map(|_| ()).map_err(|error| unopened(name, &error))
        };
        for (name, dir, access) in gate.dirs() {
            let permissions = match access {
                DirAccess::ReadOnly => FsPerms::ReadOnly,
                DirAccess::ReadWrite => FsPerms::ReadWrite,
            };
            preopen(name, dir, permissions)?;
        }
        for name in gate.missing_dirs() {
            let empty = confined_path::open_empty_dir().map_err(|error| unopened(name, &error))?;
            preopen(name, &empty, FsPerms::ReadOnly)?;
        }
        let (decoded_archives, downloads) = (DecodedArchives::default(), KeptDownloads::default());
        let (gate, wasi) = (Arc::new(gate), wasi.build());
        Ok(Self { gate, limits, log, channel, programs, fence, decoded_archives, downloads, table, wasi })
    }
}

fn unopened(name: &str, error: &dyn std::fmt::Display) -> StepFailure {
    super::failure(FailureKind::Permanent, format!("directory `{name}` can't be opened: {error}"))
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
