//! A pull of an image from Debian's docker-registry into memory-backed storage: beside `skopeo copy` to `umoci unpack`, which verify and
//! unpack the same, and beside `podman pull`, which keeps the layers apart. And the runner's memory for a large image.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tar::{Builder, EntryType};
use tempfile::TempDir;

use super::{
    BenchRow, BenchTarget, interleaved_medians,
    output::peak_memory,
    pull::{fresh_folder, text_files_tar},
    wall_time,
};
use crate::{pack::header, workspace};

const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;
const MAX_RATIO: f64 = 1.0;
/// Of the large image.
const LARGE_BYTES: u64 = 2 << 30;
const QUICK_LARGE_BYTES: u64 = 256 << 20;
/// Of one of its files.
const FILE_BYTES: u64 = 16 << 20;
const MAX_MEMORY_BYTES: u64 = 64 << 20;
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn rows(runner: &Path, quick: bool) -> Result<Vec<BenchRow>> {
    let registry = BenchRegistry::start(fresh_folder()?)?;
    let upper = |files: &[(&str, &str)]| -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, text) in files {
            builder.append_data(&mut header(EntryType::Regular, text.len() as u64), path, text.as_bytes())?;
        }
        Ok(builder.into_inner()?)
    };
    let layers = [
        text_files_tar()?,
        upper(&[("part-00/file-0000.txt", "replaced\n"), ("part-01/.wh.file-0001.txt", "")])?,
        upper(&[("VERSION", "r1\n"), (".wh.part-02", "")])?,
    ];
    let image = BenchImage::new(registry.folder.path())?;
    for layer in &layers {
        image.add_layer(|file| Ok(file.write_all(layer)?))?;
    }
    image.push(&registry, "text")?;
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let mut rows = Vec::new();
    for (peer, line) in [("`skopeo copy` to `umoci unpack`", SKOPEO_AND_UMOCI), ("`podman pull`", PODMAN_PULL)] {
        let ours = || {
            let folder = fresh_folder()?;
            wall_time(&mut registry.pull(runner, folder.path(), "text")?)
        };
        let theirs = || {
            let folder = fresh_folder()?;
            let mut command = Command::new("sh");
            command.args(["-euc", line]).env("FROM", registry.reference("text")).current_dir(folder.path());
            wall_time(command.stderr(Stdio::null()))
        };
        let (ours, theirs) = interleaved_medians(rounds, ours, theirs)?;
        let name = format!("pull of an image of 8,500 files in three layers · {peer}");
        rows.push(BenchRow { name, ours, theirs, target: BenchTarget::Ratio(MAX_RATIO) });
    }
    rows.push(memory_row(runner, if quick { QUICK_LARGE_BYTES } else { LARGE_BYTES })?);
    Ok(rows)
}

const SKOPEO_AND_UMOCI: &str = "skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://$FROM oci:image:r1; \
     umoci unpack --rootless --image image:r1 bundle";
const PODMAN_PULL: &str = "podman --root $PWD/root --runroot $PWD/run pull --quiet --tls-verify=false $FROM";

/// What is large goes through the disk: it would compete for the memory with what is measured.
fn memory_row(runner: &Path, bytes: u64) -> Result<BenchRow> {
    let on_disk = || Ok::<_, anyhow::Error>(tempfile::tempdir_in(workspace::target_dir()?)?);
    let registry = BenchRegistry::start(on_disk()?)?;
    let image = BenchImage::new(registry.folder.path())?;
    image.add_layer(|file| write_large_tar(file, bytes))?;
    image.push(&registry, "large")?;
    let folder = on_disk()?;
    let began = Instant::now();
    let largest = peak_memory(&mut registry.pull(runner, folder.path(), "large")?)?;
    println!("{} MB in {:.1} s", bytes / 1_000_000, began.elapsed().as_secs_f64());
    let unpacked = folder.path().join("out/releases");
    ensure!(unpacked.is_dir() && fs::read_dir(unpacked)?.count() == 1, "the image was not unpacked");
    Ok(BenchRow {
        name: format!("largest memory in a pull of an image of {} MB", bytes >> 20),
        ours: Duration::ZERO,
        theirs: Duration::ZERO,
        target: BenchTarget::Bytes { largest, limit: MAX_MEMORY_BYTES },
    })
}

/// Files that do not compress.
fn write_large_tar(file: &mut File, bytes: u64) -> Result<()> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut builder = Builder::new(BufWriter::new(file));
    for number in 0..bytes / FILE_BYTES {
        let mut content = Vec::with_capacity(FILE_BYTES as usize);
        while (content.len() as u64) < FILE_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend(state.to_le_bytes());
        }
        builder.append_data(&mut header(EntryType::Regular, FILE_BYTES), format!("file-{number:03}"), &content[..])?;
    }
    builder.into_inner()?.flush()?;
    Ok(())
}

/// An image of an OCI layout, layer by layer, by umoci.
struct BenchImage(TempDir);

impl BenchImage {
    fn new(place: &Path) -> Result<Self> {
        let image = Self(tempfile::tempdir_in(place)?);
        image.run("umoci", &["init", "--layout", "image"])?;
        image.run("umoci", &["new", "--image", "image:r1"])?;
        Ok(image)
    }

    /// Adds a layer, the tar that is written.
    fn add_layer(&self, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let path = self.0.path().join("layer.tar");
        write(&mut File::create(&path)?)?;
        self.run("umoci", &["raw", "add-layer", "--image", "image:r1", "layer.tar"])?;
        Ok(fs::remove_file(path)?)
    }

    fn push(self, registry: &BenchRegistry, name: &str) -> Result<()> {
        let target = format!("docker://{}", registry.reference(name));
        self.run(
            "skopeo",
            &["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "oci:image:r1", &target],
        )
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        wall_time(command.args(arguments).current_dir(self.0.path()).stderr(Stdio::null())).map(drop)
    }
}

/// A registry with its storage, until it is dropped.
struct BenchRegistry {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl BenchRegistry {
    fn start(folder: TempDir) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {}/data }} }}\n\
             http: {{ addr: 127.0.0.1:{port} }}\n",
            folder.path().display()
        );
        fs::write(folder.path().join("config.yml"), config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("start docker-registry; `cargo xtask setup` installs it")?;
        let registry = Self { folder, port, process };
        let deadline = Instant::now() + REGISTRY_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "the registry does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}:r1", self.port)
    }

    /// The runner, ready to pull an image into a folder.
    fn pull(&self, runner: &Path, folder: &Path, name: &str) -> Result<Command> {
        let plan = format!(
            "version: 1\napp: bench\nenvironments: {{ bench: {{}} }}\nsteps:\n  pull:\n    with: {{ from: \"oci://{}\", into: app, rootfs: true }}\n    \
             grants: {{ dirs: {{ app: ./out }}, http: [\"http://127.0.0.1:{}\"] }}\n",
            self.reference(name),
            self.port
        );
        fs::write(folder.join("deploy.yml"), plan)?;
        let mut command = Command::new(runner);
        command.args(["--local", "--release", "r1"]).current_dir(folder);
        Ok(command)
    }
}

impl Drop for BenchRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
