// What the launcher's tests share: a folder, stubs for programs, and the launcher as GitHub starts it.
"use strict";

const { spawn } = require("node:child_process");
const crypto = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const ACTION = path.dirname(__dirname);

/** A folder that is gone after the test. */
function folder(t) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), "pawl-launcher-"));
  t.after(() => fs.rmSync(made, { recursive: true, force: true }));
  return made;
}

/** A program in JavaScript. */
function program(file, source) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, `#!${process.execPath}\n${source}`, { mode: 0o755 });
  return file;
}

/** SHA-256 in hex. */
const digest = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");

/** What main leaves for post about a runner. */
const stateOf = (runner) => ({ STATE_binary: runner, STATE_digest: digest(fs.readFileSync(runner)) });

/** Prints what it was called with, as JSON. */
const ECHO = "console.log(JSON.stringify({ args: process.argv.slice(2), env: process.env }));";

/** A copy of the launcher with digests of its own. */
function copy(to, digests) {
  const action = path.join(to, "repository", "action");
  fs.mkdirSync(action, { recursive: true });
  for (const name of fs.readdirSync(ACTION).filter((name) => name.endsWith(".js"))) {
    fs.copyFileSync(path.join(ACTION, name), path.join(action, name));
  }
  fs.writeFileSync(path.join(action, "digests.json"), JSON.stringify(digests));
  return action;
}

/** Starts main or post; `inputs` by name, `env` beside them. */
function start(script, inputs, env = {}, action = ACTION) {
  const given = Object.entries(inputs).map(([name, value]) => [`INPUT_${name.toUpperCase()}`, value]);
  const child = spawn(process.execPath, [path.join(action, script)], {
    env: { PATH: process.env.PATH, ...Object.fromEntries(given), ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  // A runner that a launcher left behind must not keep the test waiting.
  child.once("exit", () => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // Nothing was left.
    }
  });
  const seen = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) child[name].setEncoding("utf8").on("data", (text) => (seen[name] += text));
  const ended = new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ ...seen, code, signal }));
  });
  /** Waits until the output has that text. */
  const shows = (text) =>
    new Promise((resolve, reject) => {
      const look = () => seen.stdout.includes(text) && resolve();
      child.stdout.on("data", look);
      child.once("close", () => reject(new Error(`ended without ${text}: ${JSON.stringify(seen)}`)));
      look();
    });
  return { child, ended, shows };
}

const launch = (script, inputs, env, action) => start(script, inputs, env, action).ended;

/** What ECHO printed: the last line. */
const echoed = ({ stdout }) => JSON.parse(stdout.trim().split("\n").pop());

module.exports = { ACTION, ECHO, copy, digest, echoed, folder, launch, program, start, stateOf };
