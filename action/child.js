// Runs a program and waits for it, whatever happens to us: a cancelled job signals the launcher alone.
//
// GitHub sends SIGINT, 7.5 s later SIGTERM, and kills 2.5 s after that. Both are handed on; the program decides how it ends.
"use strict";

const { spawn } = require("node:child_process");
const os = require("node:os");
const { Trouble, warn } = require("./say.js");

const FORWARDED = ["SIGINT", "SIGTERM"];

/** Resolves to the program's exit code. Its output goes where ours goes; `onLine` gets its standard output instead. */
function run(program, args, { env, cwd, onLine } = {}) {
  return new Promise((resolve, reject) => {
    // Before the child is there: a signal without a handler ends Node at once, wherever it is. With one, it waits for the event
    // loop, so it is handed on when `spawn` is done.
    const forward = (signal) => child.kill(signal);
    const done = () => FORWARDED.forEach((signal) => process.off(signal, forward));
    for (const signal of FORWARDED) process.on(signal, forward);
    const child = spawn(program, args, { env, cwd, shell: false, stdio: ["ignore", onLine ? "pipe" : "inherit", "inherit"] });
    if (onLine) lines(child.stdout, onLine);
    child.once("error", (error) => {
      done();
      reject(new Trouble(`can't start ${program}`, error.message, "Check that the file exists, is executable, and was built for this machine."));
    });
    child.once("close", (code, signal) => {
      done();
      resolve(signal === null ? code : ended(program, signal));
    });
  });
}

/** The exit code of a program that a signal ended. Interrupted is 130, as when it ends by itself. */
function ended(program, signal) {
  if (FORWARDED.includes(signal)) return 130;
  warn("killed", `${program} was killed by ${signal}; the machine may have run out of memory.`, "A later attempt resumes from the last checkpoint.");
  return 128 + (os.constants.signals[signal] ?? 0);
}

function lines(stream, onLine) {
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (text) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop();
    parts.forEach(onLine);
  });
  stream.on("end", () => rest && onLine(rest));
}

module.exports = { run };
