"use strict";

const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const { test } = require("node:test");
const zlib = require("node:zlib");
const { ACTION, ECHO, copy, digest, echoed, folder, launch, program } = require("./launch.js");

const MACHINE = `${process.platform}-${process.arch}`;
const PROGRAM = `#!${process.execPath}\n${ECHO}`;
const PACKED = zlib.gzipSync(PROGRAM);
const SHA256 = digest(PACKED);

/** A launcher of version 9.9.9 whose release has one file. */
function released(at, sha256 = SHA256, inside = digest(PROGRAM)) {
  return copy(at, { version: "9.9.9", files: { [MACHINE]: { name: "runner.gz", sha256, program: inside } } });
}

/** A folder for PATH with a cargo that says it made that program. */
function cargoOf(at, built) {
  const line = JSON.stringify({ reason: "compiler-artifact", target: { name: "runner" }, executable: built });
  return path.dirname(program(path.join(at, "bin", "cargo"), `console.log(${JSON.stringify(line)});`));
}

/** A server that answers as told, one answer a request; the last one goes on. */
async function serve(t, ...answers) {
  const seen = [];
  const server = http.createServer((request, response) => {
    seen.push(request.url);
    answers[Math.min(seen.length, answers.length) - 1](response, request);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  t.after(() => new Promise((done) => server.close(done).closeAllConnections?.()));
  return { url: `http://127.0.0.1:${server.address().port}`, seen };
}

const good = (response) => response.end(PACKED);
const status = (code) => (response) => response.writeHead(code).end("not the file");
const cut = (response) => {
  response.writeHead(200, { "content-length": PACKED.length });
  response.write(PACKED.subarray(0, 10), () => response.destroy());
};

const environment = (at, server) => ({
  RUNNER_TOOL_CACHE: path.join(at, "tools"),
  GITHUB_SERVER_URL: server?.url ?? "http://127.0.0.1:9",
  GITHUB_ACTION_REPOSITORY: "pawl/pawl",
});

const cached = (at) => path.join(at, "tools", "pawl", `9.9.9-${SHA256.slice(0, 16)}`, process.arch, "runner");

test("a released binary is downloaded, in spite of a broken first try, and then found in the tool cache", async (t) => {
  const at = folder(t);
  const server = await serve(t, cut, status(503), good);
  const first = await launch("main.js", { plan: "x.yml" }, environment(at, server), released(at));
  assert.equal(first.code, 0, first.stdout + first.stderr);
  assert.equal(echoed(first).env.PAWL_PLAN, "x.yml");
  assert.deepEqual(server.seen, Array(3).fill("/pawl/pawl/releases/download/v9.9.9/runner.gz"));
  assert.deepEqual(fs.readdirSync(path.dirname(cached(at))), ["runner"]);
  assert.equal(fs.statSync(cached(at)).mode & 0o777, 0o755);
  // Nothing answers any more.
  const second = await launch("main.js", {}, environment(at), released(at));
  assert.equal(second.code, 0, second.stdout);
  assert.equal(server.seen.length, 3);
});

test("another digest is refused, and nothing is left; `build: true` does not pass it over", async (t) => {
  const at = folder(t);
  const server = await serve(t, good);
  for (const [build, packed, inside] of [["false", "0".repeat(64)], ["true", "0".repeat(64)], ["true", SHA256, "0".repeat(64)]]) {
    const action = released(at, packed, inside);
    const result = await launch("main.js", { build }, environment(at, server), action);
    assert.equal(result.code, 2);
    assert.match(result.stdout, /^::error title=Pawl%3A the downloaded runner has the wrong digest::.* has SHA-256 [0-9a-f]{64}; .*%0ADo not use it/m);
    const left = fs.readdirSync(path.join(at, "tools"), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    assert.deepEqual(left, []);
  }
});

test("another program in the tool cache is not run, and is replaced", async (t) => {
  const at = folder(t);
  const server = await serve(t, good);
  const ran = path.join(at, "ran");
  program(cached(at), `require("node:fs").writeFileSync(${JSON.stringify(ran)}, "");`);
  const result = await launch("main.js", { plan: "x.yml" }, environment(at, server), released(at));
  assert.equal(result.code, 0, result.stdout + result.stderr);
  assert.match(result.stdout, /^::warning title=Pawl%3A the runner in the tool cache has the wrong digest::.* has SHA-256 [0-9a-f]{64}; .*It was not run/m);
  assert.equal(echoed(result).env.PAWL_PLAN, "x.yml");
  assert.equal(fs.existsSync(ran), false);
  assert.equal(fs.readFileSync(cached(at), "utf8"), PROGRAM);
  assert.equal(server.seen.length, 1);
});

test("without folders of the job's, each job has a new one that is its user's alone", async (t) => {
  const at = folder(t);
  const server = await serve(t, good);
  const env = { ...environment(at, server), RUNNER_TOOL_CACHE: "", TMPDIR: at };
  const action = released(at);
  for (const time of [1, 2]) {
    const result = await launch("main.js", {}, env, action);
    assert.equal(result.code, 0, result.stdout + result.stderr);
    const made = fs.readdirSync(at).filter((name) => name.startsWith("pawl-"));
    assert.equal(made.length, time);
    for (const name of made) assert.equal(fs.statSync(path.join(at, name)).mode & 0o777, 0o700);
    assert.equal(server.seen.length, time);
  }
  // The job's own is found again.
  for (const _ of [1, 2]) await launch("main.js", {}, { ...env, RUNNER_TEMP: path.join(at, "job") }, action);
  assert.equal(server.seen.length, 3);
});

test("what release.js writes is what the launcher reads", async (t) => {
  const at = folder(t);
  fs.mkdirSync(path.join(at, "release"));
  fs.writeFileSync(path.join(at, "release", `runner-${MACHINE}.gz`), PACKED);
  const script = path.join(ACTION, "release.js");
  const digests = JSON.parse(execFileSync(process.execPath, [script, path.join(at, "release")], { encoding: "utf8" }));
  assert.deepEqual(digests.files, { [MACHINE]: { name: `runner-${MACHINE}.gz`, sha256: SHA256, program: digest(PROGRAM) } });
  const server = await serve(t, good);
  const result = await launch("main.js", {}, environment(at, server), copy(at, digests));
  assert.equal(result.code, 0, result.stdout + result.stderr);
  assert.deepEqual(server.seen, [`/pawl/pawl/releases/download/v${digests.version}/runner-${MACHINE}.gz`]);
  fs.writeFileSync(path.join(at, "release", "notes.txt"), "");
  assert.throws(() => execFileSync(process.execPath, [script, path.join(at, "release")], { stdio: "pipe" }), /notes.txt is no released binary/);
});

test("redirects are followed within the server, and not from there to another one without TLS", async (t) => {
  const at = folder(t);
  const other = await serve(t, good);
  const to = (location) => (response) => response.writeHead(302, { location }).end();
  const away = await serve(t, to(`${other.url}/x`));
  const refused = await launch("main.js", {}, environment(at, away), released(at));
  assert.equal(refused.code, 2);
  assert.match(refused.stdout, /redirects to http:\/\/127.0.0.1:\d+, without TLS/);
  assert.deepEqual(other.seen, []);
  const around = await serve(t, to("/elsewhere"), good);
  assert.equal((await launch("main.js", {}, environment(at, around), released(at))).code, 0);
  fs.rmSync(path.join(at, "tools"), { recursive: true });
  const circle = await serve(t, to("/elsewhere"));
  const endless = await launch("main.js", {}, environment(at, circle), released(at));
  assert.match(endless.stdout, /after too many redirects/);
  assert.equal(circle.seen.length, 6);
});

test("a tool cache that can't be written to is said", async (t) => {
  const at = folder(t);
  fs.writeFileSync(path.join(at, "tools"), "a file in its place");
  const result = await launch("main.js", {}, environment(at), released(at));
  assert.equal(result.code, 2);
  assert.match(result.stdout, /^::error title=Pawl%3A can't write to the tool cache::.*ENOTDIR/m);
});

test("a release that is not there is not asked for again", async (t) => {
  const at = folder(t);
  const server = await serve(t, status(404));
  const result = await launch("main.js", {}, environment(at, server), released(at));
  assert.equal(result.code, 2);
  assert.match(result.stdout, /^::error title=Pawl%3A there is no released runner at this address::.*status 404.*`build%3A true`|`build: true`/m);
  assert.equal(server.seen.length, 1);
});

test("without a release, the error names what helps", async (t) => {
  const at = folder(t);
  const action = copy(at, { version: "9.9.9", files: { "plan9-mips": { name: "x", sha256: SHA256 } } });
  const result = await launch("main.js", {}, environment(at), action);
  assert.equal(result.code, 2);
  const expected = `::error title=Pawl%3A there is no released runner of version 9.9.9 for ${MACHINE}::Released binaries of this version: plan9-mips.%0ASet \`build: true\` to build it with cargo (Rust and some minutes). Or set \`runner:\` to the path of a binary.\n`;
  assert.equal(result.stdout, expected);
  const unknown = await launch("main.js", {}, { ...environment(at), GITHUB_ACTION_REPOSITORY: "" }, released(at));
  assert.match(unknown.stdout, /GITHUB_ACTION_REPOSITORY is empty/);
});

test("`build: true` runs cargo in the action's folder and uses what it made", async (t) => {
  const at = folder(t);
  const action = copy(at, { version: "9.9.9", files: {} });
  const built = program(path.join(at, "target of mine", "runner"), ECHO);
  const call = path.join(at, "call.json");
  const lines = [
    { reason: "compiler-artifact", target: { name: "serde" }, executable: null },
    { reason: "compiler-artifact", target: { name: "runner" }, executable: null },
    { reason: "compiler-artifact", target: { name: "runner" }, executable: built },
    { reason: "build-finished", success: true },
  ].map((line) => JSON.stringify(line));
  const cargo = `
    const { cwd, argv, env } = process;
    require("node:fs").writeFileSync(${JSON.stringify(call)}, JSON.stringify({ cwd: cwd(), args: argv.slice(2), env }));
    console.log(${JSON.stringify(lines.join("\n"))});
    process.exit(Number(env.CARGO_ENDS ?? 0));`;
  program(path.join(at, "bin", "cargo"), cargo);
  const env = { ...environment(at), PATH: `${path.join(at, "bin")}:${process.env.PATH}`, ACTIONS_RUNTIME_TOKEN: "secret" };
  const result = await launch("main.js", { build: "true", key: "k-e-y" }, env, action);
  assert.equal(result.code, 0, result.stdout + result.stderr);
  assert.equal(echoed(result).env.ACTIONS_RUNTIME_TOKEN, "secret");
  const { cwd, args, env: inside } = JSON.parse(fs.readFileSync(call, "utf8"));
  assert.equal(cwd, fs.realpathSync(path.dirname(action)));
  assert.deepEqual(args, ["build", "--locked", "--release", "--package", "runner", "--message-format", "json-render-diagnostics"]);
  // Build scripts have no business with them.
  assert.equal(inside.ACTIONS_RUNTIME_TOKEN ?? inside.INPUT_KEY, undefined);

  const broken = await launch("main.js", { build: "true" }, { ...env, CARGO_ENDS: "101" }, action);
  assert.equal(broken.code, 2);
  assert.match(broken.stdout, /^::error title=Pawl%3A the runner could not be built::cargo exited with code 101/m);
  const absent = await launch("main.js", { build: "true" }, { ...env, PATH: path.join(at, "nowhere") }, action);
  assert.match(absent.stdout, /^::error title=Pawl%3A `build%3A true` needs cargo::/m);
});

test("`build: true` builds when the server does not answer", async (t) => {
  const at = folder(t);
  const server = await serve(t, status(404));
  const bin = cargoOf(at, program(path.join(at, "runner"), ECHO));
  const env = { ...environment(at, server), PATH: `${bin}:${process.env.PATH}` };
  const result = await launch("main.js", { build: "true" }, env, released(at));
  assert.equal(result.code, 0, result.stdout + result.stderr);
  assert.match(result.stdout, /^::warning title=Pawl%3A there is no released runner at this address::/m);
});

test("`build: true` builds when nobody can be asked for a release, as with `uses: ./`", async (t) => {
  const at = folder(t);
  const bin = cargoOf(at, program(path.join(at, "runner"), ECHO));
  const env = { ...environment(at), GITHUB_ACTION_REPOSITORY: "", PATH: `${bin}:${process.env.PATH}` };
  const result = await launch("main.js", { build: "true", plan: "x.yml" }, env, released(at));
  assert.equal(result.code, 0, result.stdout + result.stderr);
  assert.equal(echoed(result).env.PAWL_PLAN, "x.yml");
});

test("`runner` names a program", async (t) => {
  const at = folder(t);
  const file = path.join(at, "runner");
  const absent = await launch("main.js", { runner: file });
  assert.equal(absent.code, 2);
  assert.match(absent.stdout, /^::error title=Pawl%3A `runner%3A .*` is not an executable file::There is no such file/m);
  fs.writeFileSync(file, "x", { mode: 0o644 });
  assert.match((await launch("main.js", { runner: file })).stdout, /The file is not executable/);
  fs.mkdirSync(path.join(at, "folder"));
  assert.equal((await launch("main.js", { runner: path.join(at, "folder") })).code, 2);
  const strange = path.join(at, "strange");
  fs.writeFileSync(strange, "#!/nowhere/interpreter\n", { mode: 0o755 });
  const failed = await launch("main.js", { runner: strange });
  assert.equal(failed.code, 2);
  assert.match(failed.stdout, /^::error title=Pawl%3A can't start .*::/m);
});
