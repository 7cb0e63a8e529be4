"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { test } = require("node:test");
const { folder, launch, program, start, stateOf } = require("./launch.js");

for (const signal of ["SIGINT", "SIGTERM"]) {
  test(`${signal} to the launcher alone reaches the runner, which is waited for`, async (t) => {
    const at = folder(t);
    const saved = path.join(at, "saved");
    const source = `
      process.once("${signal}", () => {
        console.log("asked");
        const { execFileSync } = require("node:child_process");
        // Longer than a launcher that does not wait would take to end.
        execFileSync(process.execPath, ["-e", ""]);
        require("node:fs").writeFileSync(${JSON.stringify(saved)}, "");
        process.exit(130);
      });
      console.log("ready");
      setInterval(() => {}, 1000);`;
    const running = start("main.js", { runner: program(path.join(at, "runner"), source) });
    await running.shows("ready");
    running.child.kill(signal);
    const result = await running.ended;
    assert.equal(result.code, 130, JSON.stringify(result));
    assert.ok(fs.existsSync(saved));
  });
}

test("SIGTERM after an ignored SIGINT is handed on too, and a second SIGINT does not end the launcher", async (t) => {
  const source = `
    let asked = 0;
    process.on("SIGINT", () => console.log("ignored " + (asked += 1)));
    process.on("SIGTERM", () => process.exit(130));
    console.log("ready");
    setInterval(() => {}, 1000);`;
  const running = start("main.js", { runner: program(path.join(folder(t), "runner"), source) });
  await running.shows("ready");
  running.child.kill("SIGINT");
  await running.shows("ignored 1");
  running.child.kill("SIGINT");
  await running.shows("ignored 2");
  running.child.kill("SIGTERM");
  assert.equal((await running.ended).code, 130);
});

test("a signal that comes while the runner is started is handed on to it", async (t) => {
  const at = folder(t);
  const [ready, asked] = ["ready", "asked"].map((name) => path.join(at, name));
  const runner = program(
    path.join(at, "runner"),
    `const { writeFileSync } = require("node:fs");
    process.once("SIGINT", () => {
      writeFileSync(${JSON.stringify(asked)}, "");
      process.exit(130);
    });
    writeFileSync(${JSON.stringify(ready)}, "");
    setInterval(() => {}, 1000);`,
  );
  // The launcher's `spawn`, with the signal before it, and with an end only when the runner can hear one.
  const early = path.join(at, "early.js");
  fs.writeFileSync(
    early,
    `const processes = require("node:child_process");
    const { spawn } = processes;
    processes.spawn = (...call) => {
      process.kill(process.pid, "SIGINT");
      const child = spawn(...call);
      const late = Date.now() + 20_000;
      while (!require("node:fs").existsSync(${JSON.stringify(ready)}) && Date.now() < late);
      return child;
    };`,
  );
  const result = await launch("main.js", { runner }, { NODE_OPTIONS: `--require ${early}` });
  assert.equal(result.code, 130, JSON.stringify(result));
  assert.ok(fs.existsSync(asked));
});

test("the exit code is the runner's", async (t) => {
  const at = folder(t);
  for (const code of [0, 1, 2, 3, 4, 5, 65, 70, 130]) {
    const runner = program(path.join(at, `exits-${code}`), `process.exit(${code});`);
    assert.equal((await launch("main.js", { runner })).code, code);
    assert.equal((await launch("post.js", {}, stateOf(runner))).code, code);
  }
});

test("a runner that a signal ended is 130 when it was asked to end, and said when it was killed", async (t) => {
  const at = folder(t);
  const ends = (signal) => program(path.join(at, signal), `process.kill(process.pid, "${signal}"); setInterval(() => {}, 1000);`);
  assert.equal((await launch("main.js", { runner: ends("SIGINT") })).code, 130);
  assert.equal((await launch("main.js", { runner: ends("SIGTERM") })).code, 130);
  const killed = await launch("main.js", { runner: ends("SIGKILL") });
  assert.equal(killed.code, 137);
  assert.match(killed.stdout, /^::warning title=Pawl%3A killed::.*SIGKILL/m);
});
