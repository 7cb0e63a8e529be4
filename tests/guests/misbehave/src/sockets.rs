//! WASI's sockets and environment, which are linked but empty.

use crate::{
    BehaviorResult,
    extra::wasi::{
        cli::{environment, stdin},
        sockets::{
            instance_network::instance_network,
            ip_name_lookup::resolve_addresses,
            network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress},
            tcp_create_socket::create_tcp_socket,
            udp_create_socket::create_udp_socket,
        },
    },
    report_allowed,
};

/// Tries every way into the network, and reports the open ones.
pub(crate) fn try_all_sockets() -> BehaviorResult {
    let network = instance_network();
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: 0, address: (127, 0, 0, 1) });
    let mut open = Vec::new();
    if resolve_addresses(&network, "localhost").is_ok() {
        open.push("dns");
    }
    if let Ok(socket) = create_tcp_socket(IpAddressFamily::Ipv4) {
        if socket.start_connect(&network, address).is_ok() {
            open.push("tcp connect");
        }
    }
    if let Ok(socket) = create_tcp_socket(IpAddressFamily::Ipv4) {
        if socket.start_bind(&network, address).is_ok() {
            open.push("tcp bind");
        }
    }
    if let Ok(socket) = create_udp_socket(IpAddressFamily::Ipv4) {
        if socket.start_bind(&network, address).is_ok() {
            open.push("udp bind");
        }
    }
    report_allowed("open", open)
}

/// Reports what the guest sees of the runner: environment, arguments, standard input and directories.
pub(crate) fn visible_environment() -> BehaviorResult {
    let mut seen = Vec::new();
    seen.extend(environment::get_environment().into_iter().map(|(name, _)| format!("variable {name}")));
    seen.extend(environment::get_arguments().into_iter().map(|argument| format!("argument {argument}")));
    seen.extend(environment::initial_cwd().map(|folder| format!("folder {folder}")));
    if let Ok(bytes) = stdin::get_stdin().blocking_read(100) {
        seen.push(format!("{} bytes of standard input", bytes.len()));
    }
    let dirs = pawl_step::bindings::wasi::filesystem::preopens::get_directories();
    seen.extend(dirs.into_iter().map(|(_, name)| format!("directory {name}")));
    report_allowed("seen", seen)
}
