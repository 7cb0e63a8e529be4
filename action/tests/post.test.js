"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { test } = require("node:test");
const { ECHO, digest, echoed, folder, launch, program, stateOf } = require("./launch.js");

test("main leaves the binary's path for post, which runs it with the same environment", async (t) => {
  const at = folder(t);
  const state = path.join(at, "state");
  fs.writeFileSync(state, "");
  const runner = program(path.join(at, "a\nb=c", "runner"), ECHO);
  const inputs = { runner, plan: "p.yml", key: "k-e-y" };
  await launch("main.js", inputs, { GITHUB_STATE: state });
  // As GitHub reads it: name<<end, lines, end.
  const kept = [...fs.readFileSync(state, "utf8").matchAll(/(\w+)<<(\S+)\n([^]*?)\n\2\n/g)];
  assert.deepEqual(kept.map(([, name]) => name), ["binary", "digest"]);
  const [[, , end, value], [, , , known]] = kept;
  assert.equal(value, runner);
  assert.ok(!value.includes(end));
  assert.equal(known, digest(fs.readFileSync(runner)));
  const { args, env } = echoed(await launch("post.js", inputs, { STATE_binary: value, STATE_digest: known }));
  assert.deepEqual(args, ["post"]);
  assert.equal(env.PAWL_PLAN, "p.yml");
  assert.equal(env.PAWL_KEY, "k-e-y");
});

test("post gives no secrets to a runner that was replaced after main", async (t) => {
  const at = folder(t);
  const tools = path.join(at, "tools");
  const runner = program(path.join(tools, "runner"), ECHO);
  const left = stateOf(runner);
  // Another job of the machine writes to the tool cache.
  const stolen = path.join(at, "stolen");
  program(runner, `require("node:fs").writeFileSync(${JSON.stringify(stolen)}, process.env.PAWL_KEY);`);
  const refused = await launch("post.js", { key: "k-e-y" }, left);
  assert.equal(refused.code, 2);
  assert.match(refused.stdout, /::error title=Pawl%3A the runner is not the one that main started::/);
  assert.ok(!fs.existsSync(stolen));
  // A main that left no digest was not this one.
  assert.equal((await launch("post.js", { key: "k-e-y" }, { STATE_binary: runner })).code, 2);
  assert.ok(!fs.existsSync(stolen));
});

test("post without a binary says so, and fails nothing", async (t) => {
  const never = await launch("post.js", { key: "hidden" });
  assert.equal(never.code, 0);
  assert.equal(never.stdout, "::add-mask::hidden\nPawl: main found no runner, so nothing was deployed and nothing is left to do.\n");
  const gone = await launch("post.js", {}, { STATE_binary: path.join(folder(t), "runner") });
  assert.equal(gone.code, 0);
  assert.match(gone.stdout, /^::warning title=Pawl%3A the runner is gone::/);
});
