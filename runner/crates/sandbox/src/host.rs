//! What one call has: its gate, its limits, its WASI, and the resources that it opened.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::{
    gate::Gate,
    limits::Limits,
    log::{GuestLog, Stream},
};
use contract::step::{Failure, Level, Progress};
use db::migrate::Fence;
use hostio::confined_path;
use plan::Access;

/// How many handles one call may have open: files, directories, connections, streams.
pub(super) const HANDLES: usize = 256;

/// The state of a store: one call.
pub(super) struct Host {
    pub(super) gate: Arc<Gate>,
    pub(super) limits: Limits,
    pub(super) log: GuestLog,
    /// Whose call it is, for databases that remember it.
    pub(super) fence: Fence,
    pub(super) table: ResourceTable,
    wasi: WasiCtx,
}

impl Host {
    /// WASI is always linked, and empty but for the granted directories, each seen as `/<name>`. No environment, no
    /// arguments, no sockets; stdout and stderr go to the log.
    pub(super) fn new(
        gate: Gate,
        limits: Limits,
        fence: Fence,
        progress: UnboundedSender<Progress>,
    ) -> Result<Self, Failure> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES);
        let log = GuestLog::new(progress);
        let mut wasi = WasiCtxBuilder::new();
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        wasi.stdout(Stream::new(log.clone(), Level::Info)).stderr(Stream::new(log.clone(), Level::Warn));
        for (name, dir, access) in gate.dirs() {
            let permissions = match access {
                Access::ReadOnly => FsPerms::ReadOnly,
                Access::ReadWrite => FsPerms::ReadWrite,
            };
            wasi.preopened_dir(confined_path::path_of(dir), format!("/{name}"), permissions)
                .map_err(|error| super::failure("permanent", format!("directory `{name}` can't be opened: {error}")))?;
        }
        Ok(Self { gate: Arc::new(gate), limits, log, fence, table, wasi: wasi.build() })
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
