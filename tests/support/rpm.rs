//! A machine whose repository has rpm packages, for a real dnf.

use std::{fs, process::Command};

use tempfile::TempDir;

use super::PackageMachine;

/// A package to be built; its release is 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct RpmFixture<'t> {
    /// Lines before its description, such as `Requires: shop-base`.
    pub tags: &'t [&'t str],
    /// A section at the end, such as `%post` with a script.
    pub section: &'t str,
    /// The size of its file.
    pub bytes: usize,
}

impl PackageMachine {
    /// Builds a package into the repository; [`publish_rpms`](Self::publish_rpms) makes it known.
    pub fn build_rpm(&self, name: &str, version: &str, package: RpmFixture<'_>) {
        let folder = TempDir::new().unwrap();
        let tags: String = package.tags.iter().map(|line| format!("{line}\n")).collect();
        let spec = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: a package of a test\nLicense: MIT\nBuildArch: noarch\n{tags}\
             %description\nA package of a test.\n%install\nmkdir -p %{{buildroot}}/opt/{name}\n\
             echo {version} >%{{buildroot}}/opt/{name}/version\nhead -c {bytes} /dev/urandom >%{{buildroot}}/opt/{name}/content\n\
             %files\n/opt/{name}\n{section}\n",
            bytes = package.bytes,
            section = package.section,
        );
        let path = folder.path().join("package.spec");
        fs::write(&path, spec).unwrap();
        let mut command = Command::new("rpmbuild");
        command.args(["-bb", "--quiet", "--define", &format!("_topdir {}", folder.path().display())]);
        command.args(["--define", &format!("_rpmdir {}", self.environment().path("repository").display())]);
        command.args(["--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.rpm"]).arg(path);
        run(&mut command);
    }

    /// Lists all rpm packages of the repository, and lets the machine fetch the list.
    pub fn publish_rpms(&self) {
        self.list_rpms();
        self.run("dnf makecache --refresh").assert_exit(0);
    }

    /// Lists all rpm packages of the repository. The machine does not know it yet.
    pub fn list_rpms(&self) {
        run(Command::new("createrepo_c").arg("--quiet").arg(self.environment().path("repository")));
    }

    /// The rpm packages of the machine: name, version and release.
    pub fn rpms(&self) -> Vec<String> {
        let listed = self.run("rpm --query --all --queryformat '%{NAME} %{VERSION}-%{RELEASE}\\n' | sort");
        listed.stdout.lines().map(str::to_owned).collect()
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
