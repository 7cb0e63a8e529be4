// Finds the runner's binary: the input `runner`, the tool cache, the release of this very version, or a build from source.
//
// What is downloaded is checked against the digest that lies in digests.json, in the tree that the user pinned, before it can be
// run; what the tool cache has is checked each time too, since any job of the machine may write there. Deliberately absent: "latest",
// and any digest that comes from where the file comes from.
"use strict";

const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { run } = require("./child.js");
const { flag, input } = require("./inputs.js");
const { Trouble, warn } = require("./say.js");

const ACTION = path.dirname(__dirname);
const BY_HAND = "Or set `runner:` to the path of a binary.";

/** The path of a runner that may be started. */
async function find(env, digests = read()) {
  const given = input(env, "runner").trim();
  if (given) return checked(path.resolve(given));
  const mayBuild = flag(env, "build");
  const machine = `${process.platform}-${process.arch}`;
  const file = digests.files[machine];
  if (!file) {
    if (mayBuild) return build(env);
    const has = Object.keys(digests.files).join(", ") || "none yet";
    throw new Trouble(
      `there is no released runner of version ${digests.version} for ${machine}`,
      `Released binaries of this version: ${has}.`,
      `Set \`build: true\` to build it with cargo (Rust and some minutes). ${BY_HAND}`,
    );
  }
  const cached = cachePath(env, digests.version, file);
  // Loaded when needed: a job that brings its binary waits for the launcher.
  const { download, Unreachable } = require("./download.js");
  const { digest } = require("./digest.js");
  if (isFile(cached)) {
    const found = await digest(cached);
    if (found === file.program) return cached;
    warn(
      "the runner in the tool cache has the wrong digest",
      `${cached} has SHA-256 ${found}; action/digests.json says ${file.program}.`,
      "It was not run, and will be replaced. Check who else can write there.",
    );
  }
  // As with `uses: ./`: there is nobody to ask for a release.
  if (mayBuild && !env.GITHUB_ACTION_REPOSITORY) return build(env);
  try {
    await download(address(env, digests.version, file), file, cached);
    return cached;
  } catch (error) {
    // Only for want of a connection: a file with another digest is never passed over.
    if (!(error instanceof Unreachable)) throw error;
    if (!mayBuild) throw new Trouble(error.message, error.why, `${error.next} Or set \`build: true\`. ${BY_HAND}`);
    warn(error.message, error.why, "Building it from source, since `build: true` is set.");
    return build(env);
  }
}

/** Which binaries this version of the action has. */
function read() {
  return JSON.parse(fs.readFileSync(path.join(__dirname, "digests.json"), "utf8"));
}

/**
 * By digest too: forks may share a machine, and a version. Without a folder of the job's, a new one that is ours alone: in a
 * shared one, others could make the path before us.
 */
function cachePath(env, version, file) {
  const own = () => (env.RUNNER_TEMP ? path.join(env.RUNNER_TEMP, "tools") : fs.mkdtempSync(path.join(os.tmpdir(), "pawl-")));
  const cache = env.RUNNER_TOOL_CACHE || own();
  return path.join(cache, "pawl", `${version}-${file.sha256.slice(0, 16)}`, process.arch, "runner");
}

function address(env, version, file) {
  const repository = env.GITHUB_ACTION_REPOSITORY;
  if (!repository) {
    throw new Trouble(
      "the action does not know which repository it comes from",
      "GITHUB_ACTION_REPOSITORY is empty, as it is with `uses: ./`.",
      `Use it as \`uses: OWNER/REPOSITORY@COMMIT\`, or set \`build: true\`. ${BY_HAND}`,
    );
  }
  const server = env.GITHUB_SERVER_URL || "https://github.com";
  return `${server.replace(/\/+$/, "")}/${repository}/releases/download/v${version}/${file.name}`;
}

function checked(given) {
  if (isFile(given)) {
    try {
      fs.accessSync(given, fs.constants.X_OK);
      return given;
    } catch {
      // Told below.
    }
  }
  throw new Trouble(
    `\`runner: ${given}\` is not an executable file`,
    isFile(given) ? "The file is not executable." : "There is no such file.",
    "A relative path starts at the workspace. Check that an earlier step puts the file there, and run `chmod +x` on it.",
  );
}

function isFile(name) {
  try {
    return fs.statSync(name).isFile();
  } catch {
    return false;
  }
}

/** Cargo says where it put the program, whatever target directory is configured. */
async function build(env) {
  let built;
  const args = ["build", "--locked", "--release", "--package", "runner", "--message-format", "json-render-diagnostics"];
  const onLine = (line) => {
    if (!line.startsWith('{"reason":"compiler-artifact"')) return;
    const artifact = JSON.parse(line);
    if (artifact.executable && artifact.target?.name === "runner") built = artifact.executable;
  };
  const own = Object.entries(env).filter(([name]) => !name.startsWith("INPUT_") && name !== "ACTIONS_RUNTIME_TOKEN");
  const cargo = await run("cargo", args, { cwd: ACTION, env: Object.fromEntries(own), onLine }).catch((error) => {
    throw new Trouble("`build: true` needs cargo", error.why ?? error.message, `Install Rust first. ${BY_HAND}`);
  });
  if (cargo === 130) throw new Trouble("interrupted while the runner was being built", "Nothing was deployed.", "", 130);
  if (cargo === 0 && built) return built;
  throw new Trouble(
    "the runner could not be built",
    `cargo exited with code ${cargo}; its messages are above.`,
    `Step modules need Rust's standard library for wasm32-unknown-unknown: \`rustup target add wasm32-unknown-unknown\`. ${BY_HAND}`,
  );
}

module.exports = { find };
