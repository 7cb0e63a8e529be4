//! What people do without a link that the server follows: the server's configuration names the slot, and the server is reloaded. For the
//! comparison in `cargo xtask bench switches`.

use std::{fs, path::Path, process::Command};

use super::{
    Proxy, get,
    measured::{SwitchLoad, SwitchWay},
    program_path, run,
};
use crate::support::wait_until;

/// The answers in a row after which a switch is over.
const ANSWERS: usize = 10;

/// Measures `nginx -s reload` with another upstream.
pub(super) fn measure_nginx(load: SwitchLoad, app: &Path) {
    let mut proxy = Proxy::new();
    let (slot, port) = (proxy.path("slot.conf"), proxy.port);
    let name_slot = |slot_name: &str| {
        let line = format!("server unix:{}/slots/{slot_name}/sock; keepalive 16;\n", app.display());
        fs::write(&slot, line).unwrap();
    };
    name_slot("a");
    let lines = format!(
        "upstream shop {{ include {}; }}
         server {{
             listen 127.0.0.1:{port};
             location / {{ proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
         }}",
        slot.display()
    );
    proxy.start_nginx(&lines);
    measure(load, "nginx, its configuration and `nginx -s reload`", &proxy, |slot| {
        name_slot(slot);
        proxy.reload_nginx();
    });
}

/// Measures `caddy reload` with another address.
pub(super) fn measure_caddy(load: SwitchLoad, app: &Path) {
    let mut proxy = Proxy::new();
    let (conf, port, admin) = (proxy.path("Caddyfile"), proxy.port, proxy.admin);
    let name_slot = |slot: &str| {
        let text = format!(
            "{{\n\tadmin 127.0.0.1:{admin}\n\tauto_https off\n}}\nhttp://:{port} {{\n\tbind 127.0.0.1\n\treverse_proxy unix/{}/slots/{slot}/sock\n}}\n",
            app.display()
        );
        fs::write(&conf, text).unwrap();
    };
    name_slot("a");
    proxy.start_caddy();
    measure(load, "Caddy, its configuration and `caddy reload`", &proxy, |slot| {
        name_slot(slot);
        let mut command = Command::new(program_path("caddy"));
        command.args(["reload", "--adapter", "caddyfile", "--address", &format!("127.0.0.1:{admin}"), "--config"]);
        run(command.arg(&conf).env("HOME", proxy.folder.path()).env("XDG_DATA_HOME", proxy.folder.path()));
    });
}

/// A switch is over when new connections reach the other slot, so many in a row that no process from before the reload takes one.
fn measure(load: SwitchLoad, name: &str, proxy: &Proxy, reload: impl Fn(&str)) {
    let address = proxy.address();
    let way = SwitchWay { name, address: &address, answers: ["release a", "release b"] };
    load.run(&way, |answer| {
        reload(answer.trim_start_matches("release "));
        let reaches_it = || get(proxy.port).is_some_and(|found| found.contains(answer));
        wait_until("the other slot answers", || (0..ANSWERS).all(|_| reaches_it()));
    });
}
