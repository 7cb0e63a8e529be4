// The action's main step: find the runner, tell `post` where it is, and run it with our environment.
//
// The exit code is the runner's. Deliberately absent: any knowledge of plans, journals and artifacts; that is the runner's.
"use strict";

const { find } = require("./binary.js");
const { digest } = require("./digest.js");
const { run } = require("./child.js");
const { command, environment, maskSecrets } = require("./inputs.js");
const { Trouble, keep, output, report } = require("./say.js");

/** The output `result`, by exit code, where the runner was not started; the words are its own. */
const RESULTS = { 2: "refused", 130: "interrupted" };

async function main() {
  maskSecrets(process.env);
  const settings = environment(process.env);
  const args = command(process.env);
  const runner = await find(process.env);
  // Between main and post, other jobs may write to its place, such as a tool cache that they share.
  const known = await digest(runner);
  keep("binary", runner);
  keep("digest", known);
  return run(runner, args, { env: settings });
}

main().then(
  (code) => {
    process.exitCode = code;
  },
  (error) => {
    report(error);
    process.exitCode = error instanceof Trouble ? error.code : 70;
    output("result", RESULTS[process.exitCode] ?? "bug");
  },
);
