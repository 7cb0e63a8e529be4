"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { test } = require("node:test");
const { ECHO, echoed, folder, launch, program } = require("./launch.js");

test("main leaves the binary's path for post, which runs it with the same environment", async (t) => {
  const at = folder(t);
  const state = path.join(at, "state");
  fs.writeFileSync(state, "");
  const runner = program(path.join(at, "a\nb=c", "runner"), ECHO);
  const inputs = { runner, plan: "p.yml", key: "k-e-y" };
  await launch("main.js", inputs, { GITHUB_STATE: state });
  // As GitHub reads it: name<<end, lines, end.
  const [, name, end, value] = /^(\w+)<<(\S+)\n([^]*)\n\2\n$/.exec(fs.readFileSync(state, "utf8"));
  assert.equal(name, "binary");
  assert.equal(value, runner);
  assert.ok(!value.includes(end));
  const { args, env } = echoed(await launch("post.js", inputs, { STATE_binary: value }));
  assert.deepEqual(args, ["post"]);
  assert.equal(env.PAWL_PLAN, "p.yml");
  assert.equal(env.PAWL_KEY, "k-e-y");
});

test("post without a binary says so, and fails nothing", async (t) => {
  const never = await launch("post.js", { key: "hidden" });
  assert.equal(never.code, 0);
  assert.equal(never.stdout, "::add-mask::hidden\nPawl: main found no runner, so nothing was deployed and nothing is left to do.\n");
  const gone = await launch("post.js", {}, { STATE_binary: path.join(folder(t), "runner") });
  assert.equal(gone.code, 0);
  assert.match(gone.stdout, /^::warning title=Pawl%3A the runner is gone::/);
});
