"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { test } = require("node:test");
const { ACTION, ECHO, echoed, folder, launch, program } = require("./launch.js");

const NASTY = "a b'c\"d-e$(touch INJECTED)`touch INJECTED`;\n$HOME && touch INJECTED %0A::error::x";

test("values reach the runner as they are, and no shell sees them", async (t) => {
  const at = folder(t);
  // The path of the binary is no better.
  const runner = program(path.join(at, "my runner's $(touch INJECTED)", "run ner"), `process.chdir(${JSON.stringify(at)});${ECHO}`);
  const names = ["plan", "environment", "release", "key", "token"];
  const inputs = Object.fromEntries(names.map((name) => [name, NASTY]));
  const result = await launch("main.js", { runner, ...inputs, matrix: '{\n  "os": "it\'s"\n}' }, { KEPT: "1" });
  assert.equal(result.code, 0, result.stdout + result.stderr);
  const { args, env } = echoed(result);
  assert.deepEqual(args, ["deploy"]);
  for (const name of names) assert.equal(env[`PAWL_${name.toUpperCase()}`], NASTY);
  assert.equal(env.PAWL_MATRIX, '{\n  "os": "it\'s"\n}');
  assert.equal(env.KEPT, "1");
  assert.deepEqual(Object.keys(env).filter((name) => name.startsWith("INPUT_")), []);
  assert.equal(fs.existsSync(path.join(at, "INJECTED")) || fs.existsSync("INJECTED"), false);
});

test("empty inputs are left out, and what the job set itself stays", async (t) => {
  const runner = program(path.join(folder(t), "runner"), ECHO);
  const inputs = { runner, plan: "", environment: " ", release: "", missing_journal: "", key: "", token: "", deployments: "false" };
  for (const matrix of ["null", "{}", ""]) {
    const result = await launch("main.js", { ...inputs, matrix }, { PAWL_PLAN: "from the job" });
    const { env } = echoed(result);
    assert.deepEqual(Object.entries(env).filter(([name]) => name.startsWith("PAWL_")), [["PAWL_PLAN", "from the job"]]);
  }
});

test("deployments is true or false", async (t) => {
  const runner = program(path.join(folder(t), "runner"), ECHO);
  const yes = await launch("main.js", { runner, deployments: "True" });
  assert.equal(echoed(yes).env.PAWL_DEPLOYMENTS, "true");
  const maybe = await launch("main.js", { runner, deployments: "maybe" });
  assert.equal(maybe.code, 2);
  assert.match(maybe.stdout, /^::error title=Pawl%3A `deployments%3A maybe` is neither true nor false::.*%0AWrite /m);
});

test("blanks around a token and a word are cut off", async (t) => {
  const runner = program(path.join(folder(t), "runner"), ECHO);
  for (const word of ["probe", "fail", "restart"]) {
    const { env } = echoed(await launch("main.js", { runner, missing_journal: `${word}\n`, token: " ghs_x\n", key: "k\n" }));
    assert.equal(env.PAWL_MISSING_JOURNAL, word);
    assert.equal(env.PAWL_TOKEN, "ghs_x");
    // Signs journals as it is: a shorter one would be another key.
    assert.equal(env.PAWL_KEY, "k\n");
  }
});

test("a command and its options are arguments of their own", async (t) => {
  const runner = program(path.join(folder(t), "runner"), ECHO);
  for (const [inputs, args] of [
    [{}, ["deploy"]],
    [{ command: "setup", "start-from": "warm", "lock-wait": "10m" }, ["setup", "--start-from=warm", "--lock-wait=10m"]],
    [{ command: " plan " }, ["plan"]],
    [{ rerun: "index warm" }, ["deploy", "--rerun=index", "--rerun=warm"]],
    [{ "accept-drift": "index warm", "start-from": "--only=x" }, ["deploy", "--start-from=--only=x", "--accept-drift=index", "--accept-drift=warm"]],
    [{ command: "rollback", "lock-wait": "1m" }, ["rollback", "--lock-wait=1m"]],
    [{ command: "resolve", resolve: "index = done", message: NASTY }, ["resolve", `--message=${NASTY}`, "--as=done", "--", "index"]],
  ]) {
    const result = await launch("main.js", { runner, ...inputs });
    assert.deepEqual(echoed(result).args, args, JSON.stringify(inputs));
  }
  const { env } = echoed(await launch("main.js", { runner, instance: "eu", "allow-forks": "true" }));
  assert.deepEqual([env.PAWL_INSTANCE, env.PAWL_ALLOW_FORKS], ["eu", "true"]);
});

test("a command that is none, and an option that does not go with it, are refused before a runner starts", async (t) => {
  const runner = program(path.join(folder(t), "runner"), ECHO);
  for (const [inputs, message] of [
    [{ command: "deplyo" }, /`command%3A deplyo` is not one of deploy%2C setup%2C plan%2C rollback%2C resolve::/],
    [{ command: "toString" }, /is not one of/],
    [{ command: "rollback", "start-from": "warm" }, /`start-from` does not go with `command%3A rollback`::It goes with deploy, setup, plan\./],
    [{ resolve: "index=done" }, /`resolve` does not go with `command%3A deploy`::It goes with resolve\./],
    [{ command: "resolve", resolve: "index" }, /needs `resolve%3A STEP=OUTCOME` and a `message`/],
    [{ command: "resolve", resolve: "index=done" }, /needs `resolve%3A STEP=OUTCOME` and a `message`/],
  ]) {
    const result = await launch("main.js", { runner, ...inputs });
    assert.equal(result.code, 2, JSON.stringify(inputs));
    assert.match(result.stdout, message);
  }
});

test("a wrong word for missing_journal is refused before a runner starts, with the right ones", async (t) => {
  const at = folder(t);
  const output = path.join(at, "output");
  fs.writeFileSync(output, "");
  const result = await launch("main.js", { runner: program(path.join(at, "runner"), ECHO), missing_journal: "prove" }, { GITHUB_OUTPUT: output });
  assert.equal(result.code, 2);
  assert.match(result.stdout, /^::error title=Pawl%3A `missing_journal%3A prove` is not one of probe%2C fail%2C restart::.*Write one/);
  assert.equal(result.stdout.trim().split("\n").length, 1);
  assert.equal(fs.readFileSync(output, "utf8"), "result<<end\nrefused\nend\n");
  // Where the output can't be written, the error is still there.
  const unwritten = await launch("main.js", { missing_journal: "prove" }, { GITHUB_OUTPUT: at });
  assert.equal(unwritten.code, 2);
  assert.match(unwritten.stdout, /^::error title=Pawl%3A `missing_journal.*\n::warning title=Pawl%3A could not write the job outputs::/);
});

test("each line of a secret is masked before anything else is said", async (t) => {
  const runner = program(path.join(folder(t), "runner"), ECHO);
  const result = await launch("main.js", { runner, key: "first line\r\n}\nsecond 100%\n", token: "ghs_x" });
  const lines = result.stdout.split("\n");
  assert.deepEqual(lines.slice(0, 3), ["::add-mask::first line", "::add-mask::second 100%25", "::add-mask::ghs_x"]);
  assert.equal(lines.length, 5, result.stdout);
});

test("action.yml declares what the launcher reads", () => {
  const manifest = fs.readFileSync(path.join(ACTION, "..", "action.yml"), "utf8");
  const section = manifest.slice(manifest.indexOf("inputs:"), manifest.indexOf("outputs:"));
  const declared = [...section.matchAll(/^ {2}([\w-]+):$/gm)].map((match) => match[1]);
  const own = ["command", "start-from", "rerun", "accept-drift", "resolve", "message", "lock-wait", "instance", "allow-forks"];
  const read = ["plan", "environment", "release", "runner", "build", ...own, "deployments", "missing_journal", "key", "token", "matrix"];
  assert.deepEqual(declared, read);
});

test("the digests are of this version", () => {
  const { version, files } = JSON.parse(fs.readFileSync(path.join(ACTION, "digests.json"), "utf8"));
  const cargo = fs.readFileSync(path.join(ACTION, "..", "Cargo.toml"), "utf8");
  assert.equal(version, /^\[workspace\.package\]\nversion = "([^"]+)"/m.exec(cargo)[1]);
  for (const { sha256, program: inside } of Object.values(files)) {
    for (const digest of [sha256, inside]) assert.match(digest, /^[0-9a-f]{64}$/);
  }
});
