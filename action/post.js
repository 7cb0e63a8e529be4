// The action's post step, which runs whatever became of main: `runner post` uploads what is left and gives up the lock.
//
// That there is no runner to do it with is no failure: then main did nothing either.
"use strict";

const fs = require("node:fs");
const { run } = require("./child.js");
const { environment, maskSecrets } = require("./inputs.js");
const { report, warn } = require("./say.js");

async function post() {
  maskSecrets(process.env);
  const runner = process.env.STATE_binary;
  if (!runner) {
    console.log("Pawl: main found no runner, so nothing was deployed and nothing is left to do.");
    return 0;
  }
  if (!fs.existsSync(runner)) {
    warn("the runner is gone", `${runner} was there when the main step ran.`, "The last checkpoint is in the artifacts; a later attempt resumes from it.");
    return 0;
  }
  return run(runner, ["post"], { env: environment(process.env) });
}

post().then(
  (code) => {
    process.exitCode = code;
  },
  (error) => {
    report(error);
    process.exitCode = 1;
  },
);
