//! A copy of the example app to deploy and to kill the runner over.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use plan::StateLocation;
use state::StateStore;
use tar::{Builder, Header};

use crate::attempt_template;

/// After so many attempts, the next one is the last that an archive waits for.
pub(crate) const ATTEMPTS_BEFORE_ARCHIVE: u64 = 271;

/// The migrations that come with r2. The first fails when it is applied twice; of the second, rows and prices tell.
const R2_MIGRATIONS: [(&str, &str); 2] = [
    ("0003_stock.sql", "ALTER TABLE product ADD COLUMN stock INTEGER NOT NULL DEFAULT 0;\n"),
    (
        "0004_spares.sql",
        "INSERT INTO product (name, price_cents) SELECT 'spare ' || count(*), 90 FROM product;\n\
         UPDATE product SET price_cents = price_cents + 1;\n",
    ),
];

/// A folder with a plan.
pub(crate) struct ExampleShop {
    folder: PathBuf,
}

impl ExampleShop {
    /// The example with an HTTP check against `origin`; its releases are r1 and r2. Nothing is deployed yet.
    pub(crate) fn new(folder: &Path, origin: &str) -> Result<Self> {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
        copy_dir(&example.join("migrations"), &folder.join("migrations"))?;
        let plan = fs::read_to_string(example.join("deploy.yml"))?;
        let grants = "    grants: { dirs: [\"app:ro\"] }\n";
        ensure!(plan.ends_with(grants), "the example's plan ends with another step than the kill tests know");
        let check = format!(
            "      http: [{{ url: \"{origin}/health\", status: 200 }}]\n      tries: 1\n{grants}on-failure: rollback\n"
        );
        fs::write(folder.join("deploy.yml"), plan.replace(grants, &check))?;
        fs::create_dir(folder.join("dist"))?;
        for release in ["r1", "r2"] {
            pack(&example.join("app"), release, &folder.join(format!("dist/shop-{release}.tar.zst")))?;
        }
        Ok(Self::open(folder))
    }

    /// Deploys r1, which is verified then, and adds the migrations of r2.
    pub(crate) fn deploy_first(&self) -> Result<()> {
        self.run_expecting(&deploy_arguments("r1"), 0)?;
        for (name, sql) in R2_MIGRATIONS {
            fs::write(self.folder.join("migrations").join(name), sql)?;
        }
        Ok(())
    }

    /// Adds `count` attempts to the state that are as the newest one.
    pub(crate) fn repeat_newest_attempt(&self, count: u64) -> Result<()> {
        let location = StateLocation::Dir(self.folder.join(".pawl"));
        let store = StateStore::new(&location, &"shop".parse()?, &"test".parse()?);
        attempt_template::repeat_newest_attempt(&store, count)
    }

    /// A folder that has a plan already.
    pub(crate) fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The same again, with modes, links and times, in a folder that is not there yet.
    pub(crate) fn copy_to(&self, to: &Path) -> Result<Self> {
        copy_dir(&self.folder, to)?;
        Ok(Self { folder: to.to_owned() })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder that the releases go to.
    pub(crate) fn deployed_dir(&self) -> PathBuf {
        self.folder.join("deploy/test")
    }

    /// The folder of journals and lock.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.join(".pawl/shop/test")
    }

    /// The runner, in the folder, with nothing in its environment but a PATH.
    pub(crate) fn runner_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        self.make_hermetic(&mut command);
        command.args(words);
        command
    }

    /// Cuts a command off from whatever the environment of the test is.
    pub(crate) fn make_hermetic(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").current_dir(&self.folder);
    }

    /// Runs the runner to its end, and expects an exit code.
    pub(crate) fn run_expecting(&self, words: &[&str], code: i32) -> Result<Output> {
        let output = self.runner_command(words).output().context("start the runner")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "`runner {}` ended with {}, expected {code}:\n{stderr}",
            words.join(" "),
            output.status
        );
        Ok(output)
    }
}

/// The words that deploy a release.
pub(crate) fn deploy_arguments(release: &str) -> [&str; 3] {
    ["--local", "--release", release]
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().context("start cp")?;
    ensure!(status.success(), "cp -a {} {}: {status}", from.display(), to.display());
    Ok(())
}

/// The example's files under `app`, for a release, as an archive that is the same each time.
fn pack(app: &Path, release: &str, archive: &Path) -> Result<()> {
    let mut builder = Builder::new(zstd::Encoder::new(Vec::new(), 0)?);
    for name in ["VERSION", "index.html", "assets/style.css"] {
        let text = fs::read_to_string(app.join(name)).with_context(|| format!("the example's app/{name}"))?;
        let text = text.replace("@VERSION@", release);
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_795_000_000);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes())?;
    }
    fs::write(archive, builder.into_inner()?.finish()?)?;
    Ok(())
}
