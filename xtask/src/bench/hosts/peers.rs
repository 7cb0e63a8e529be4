//! What others deploy to hosts with, each doing the same: unpack an archive on each host, switch a link, check a file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::network::BenchHosts;
use crate::setup::fleet_tool;

/// Something that deploys a release to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FleetTool {
    Ours,
    /// Bash over multiplexed ssh: the least that can be done.
    Floor,
    Ansible,
    Pyinfra,
    Fabric,
    Capistrano,
}

/// What it is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FleetWork {
    NewRelease,
    /// The release is there.
    NothingToDo,
}

/// What capistrano reads beside the `Capfile` and the file of the stage.
const CAPISTRANO_CONFIG: &str = "set :log_level, :error\nset :format, :pretty\n";

impl FleetTool {
    pub(super) const ALL: [Self; 6] =
        [Self::Ours, Self::Floor, Self::Ansible, Self::Pyinfra, Self::Fabric, Self::Capistrano];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Floor => "bash + ssh, one master",
            Self::Ansible => "ansible",
            Self::Pyinfra => "pyinfra",
            Self::Fabric => "fabric",
            Self::Capistrano => "capistrano",
        }
    }

    /// Where it puts releases on a host.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Ours => "srv/ours",
            Self::Floor => "srv/floor",
            Self::Ansible => "srv/ansible",
            Self::Pyinfra => "srv/pyinfra",
            Self::Fabric => "srv/fabric",
            Self::Capistrano => "srv/capistrano",
        }
    }
}

/// A folder with the files of all tools, for the same hosts.
pub(super) struct ToolsFolder {
    folder: PathBuf,
    runner: PathBuf,
    addresses: Vec<String>,
}

impl ToolsFolder {
    pub(super) fn new(folder: &Path, runner: &Path, hosts: &BenchHosts) -> Result<Self> {
        Self::for_first(folder, runner, hosts, hosts.hosts.len())
    }

    /// For only so many of the hosts.
    pub(super) fn for_first(folder: &Path, runner: &Path, hosts: &BenchHosts, count: usize) -> Result<Self> {
        let addresses: Vec<String> = hosts.hosts[..count].iter().map(|host| host.address.clone()).collect();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text);
        fs::copy(hosts.path("ssh_config"), folder.join("ssh_config"))?;
        write("deploy.yml", &plan(&addresses))?;
        write("floor.sh", include_str!("peers/floor.sh"))?;
        write("playbook.yml", include_str!("peers/playbook.yml"))?;
        write("ansible.cfg", include_str!("peers/ansible.cfg"))?;
        write("inventory", &(addresses.join("\n") + "\n"))?;
        write("pyinfra_deploy.py", include_str!("peers/pyinfra_deploy.py"))?;
        let options = "{\"ssh_config_file\": \"ssh_config\", \"ssh_user\": \"root\"}";
        let listed: String = addresses.iter().map(|address| format!("    (\"{address}\", {options}),\n")).collect();
        write("pyinfra_inventory.py", &format!("hosts = [\n{listed}]\n"))?;
        write("fabric_deploy.py", include_str!("peers/fabric_deploy.py"))?;
        write("Capfile", include_str!("peers/Capfile"))?;
        fs::create_dir_all(folder.join("config/deploy"))?;
        write("config/deploy.rb", CAPISTRANO_CONFIG)?;
        let servers: String =
            addresses.iter().map(|address| format!("server \"{address}\", user: \"root\", roles: %w[all]\n")).collect();
        let options = format!(
            "set :ssh_options, {{ config: false, keys: [\"{}\"], keys_only: true, user_known_hosts_file: [\"{}\"], verify_host_key: :always }}\n",
            hosts.path("user-key").display(),
            hosts.path("known_hosts").display()
        );
        write("config/deploy/bench.rb", &(servers + &options))?;
        for (index, _) in addresses.iter().enumerate() {
            for tool in FleetTool::ALL {
                fs::create_dir_all(hosts.path_on(index, tool.folder()).join("releases"))?;
            }
        }
        Ok(Self { folder: folder.to_owned(), runner: runner.to_owned(), addresses })
    }

    /// The command of a tool that deploys a release.
    pub(super) fn command(&self, tool: FleetTool, work: FleetWork, release: &str) -> Result<Command> {
        let mut command = match tool {
            FleetTool::Ours => {
                let mut runner = Command::new(&self.runner);
                runner.args(["--local", "--release", release]);
                runner
            }
            FleetTool::Floor => {
                let mut bash = Command::new("bash");
                let work = if work == FleetWork::NewRelease { "deploy" } else { "check" };
                bash.args(["floor.sh", work, release]).args(&self.addresses);
                bash
            }
            FleetTool::Ansible => {
                let mut ansible = Command::new("ansible-playbook");
                ansible.args(["playbook.yml", "-e", &format!("release={release}")]);
                ansible
            }
            FleetTool::Pyinfra => {
                let mut pyinfra = Command::new(fleet_tool("pyinfra")?);
                let release = format!("release={release}");
                pyinfra.args(["-y", "--data", &release, "pyinfra_inventory.py", "pyinfra_deploy.py"]);
                pyinfra
            }
            FleetTool::Fabric => {
                let mut python = Command::new(fleet_tool("python")?);
                python.args(["fabric_deploy.py", release]).args(&self.addresses);
                python
            }
            FleetTool::Capistrano => {
                let mut cap = Command::new("cap");
                cap.args(["bench", "ship"]).env("RELEASE", release);
                cap
            }
        };
        command.current_dir(&self.folder).env("HOME", &self.folder).env_remove("XDG_CACHE_HOME");
        Ok(command)
    }
}

fn plan(addresses: &[String]) -> String {
    let hosts: String = addresses.iter().map(|address| format!("        - {address}\n")).collect();
    format!(
        r#"version: 1
app: shop
dirs: {{ app: /srv/ours, dist: "./dist:ro" }}
environments:
  test:
    ssh: {{ config: ./ssh_config }}
    hosts:
      web:
{hosts}steps:
  pull:
    on: web
    with: {{ from: "file:dist/shop-${{{{ release }}}}.tar.gz", into: app }}
    grants: {{ dirs: [app, dist] }}
    timeout: 10m
  switch: {{ on: web, with: {{ link: current }}, grants: {{ dirs: [app] }} }}
  verify:
    on: web
    with: {{ files: [{{ path: current/VERSION, equals: "${{{{ release }}}}" }}] }}
    grants: {{ dirs: ["app:ro"] }}
"#
    )
}
