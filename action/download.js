// Fetches a gzipped program, checks its digests, packed and unpacked, and puts it in place in one rename: a half one is never found there.
//
// Bounded in size, time and tries. An https address leads to https alone; no credential is sent anywhere.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { pipeline } = require("node:stream/promises");
const zlib = require("node:zlib");
const { digest } = require("./digest.js");
const { Trouble } = require("./say.js");

const TRIES = 4;
const REDIRECTS = 5;
const MOST_BYTES = 200 * 1024 * 1024;
const MOST_UNPACKED = 600 * 1024 * 1024;
/** For one try, in milliseconds. Silence ends it much earlier. */
const TRY = 5 * 60 * 1000;
const SILENCE = 30 * 1000;

/** The file can't be had now: no answer, or a wrong one. A wrong digest is something else. */
class Unreachable extends Trouble {}

/** A failure that another try may mend. */
class Passing extends Error {}

/** `sha256` is the digest of the file, `program` that of what is in it. */
async function download(url, { sha256, program }, target, { pause = 1000 } = {}) {
  const folder = path.dirname(target);
  try {
    fs.mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new Unreachable("can't write to the tool cache", error.message, "Check RUNNER_TOOL_CACHE on that machine.");
  }
  const packed = path.join(folder, `.download-${process.pid}-${crypto.randomUUID()}`);
  try {
    await fetched(url, packed, pause);
    await check(packed, sha256, url);
    await unpack(packed, `${packed}.program`);
    // Follows from the first one, unless digests.json is wrong: then each job would fetch it anew.
    await check(`${packed}.program`, program, `the program in ${url}`);
    fs.renameSync(`${packed}.program`, target);
  } finally {
    for (const left of [packed, `${packed}.program`]) fs.rmSync(left, { force: true });
  }
}

async function check(file, sha256, what) {
  const found = await digest(file);
  if (found === sha256) return;
  throw new Trouble(
    "the downloaded runner has the wrong digest",
    `${what} has SHA-256 ${found}; action/digests.json says ${sha256}.`,
    "Do not use it. Report it, and pin another version until it is fixed.",
  );
}

async function fetched(url, file, pause) {
  let last;
  for (let attempt = 0; attempt < TRIES; attempt += 1) {
    if (attempt > 0) await new Promise((done) => setTimeout(done, pause * 2 ** (attempt - 1)));
    try {
      return await once(new URL(url), file);
    } catch (error) {
      if (error instanceof Trouble) throw error;
      last = error;
    }
  }
  throw new Unreachable("the released runner can't be downloaded", `${url}: ${last.message} (${TRIES} tries).`, "Run the job again.");
}

async function once(url, file, redirects = 0) {
  const { answer, end } = await get(url);
  try {
    if (answer.statusCode >= 300 && answer.statusCode < 400 && answer.headers.location) {
      answer.resume();
      return await once(next(url, answer.headers.location, redirects), file, redirects + 1);
    }
    if (answer.statusCode !== 200) {
      answer.resume();
      const passing = answer.statusCode === 429 || answer.statusCode >= 500;
      if (passing) throw new Passing(`status ${answer.statusCode}`);
      throw new Unreachable("there is no released runner at this address", `${url}: status ${answer.statusCode}.`, "Check the version that you pinned.");
    }
    await pipeline(answer, limited(MOST_BYTES, url), fs.createWriteStream(file));
  } finally {
    end();
  }
}

/** Where a redirect leads, if it may lead there. */
function next(url, location, redirects) {
  const to = new URL(location, url);
  const isSafe = to.protocol === "https:" || to.origin === url.origin;
  if (isSafe && redirects < REDIRECTS) return to;
  throw new Unreachable("the released runner can't be downloaded", `${url} redirects to ${to.origin}${isSafe ? ", after too many redirects" : ", without TLS"}.`, "Check for a proxy between this machine and the server.");
}

/** The answer's head. `end` must be called, and ends whatever is left of it. */
function get(url) {
  return new Promise((resolve, reject) => {
    const request = require(url.protocol === "https:" ? "node:https" : "node:http").get(url, { headers: { "user-agent": "pawl-action" } });
    const late = setTimeout(() => request.destroy(new Passing(`not finished after ${TRY / 1000} s`)), TRY);
    const end = () => {
      clearTimeout(late);
      request.destroy();
    };
    request.setTimeout(SILENCE, () => request.destroy(new Passing(`no data for ${SILENCE / 1000} s`)));
    request.once("response", (answer) => resolve({ answer, end }));
    request.on("error", (error) => {
      end();
      reject(error);
    });
  });
}

/** Lets so many bytes through. */
function limited(most, what) {
  return async function* (chunks) {
    let seen = 0;
    for await (const chunk of chunks) {
      seen += chunk.length;
      if (seen > most) throw new Trouble("the released runner is too large", `${what} is larger than ${most} bytes.`, "Do not use it, and report it.");
      yield chunk;
    }
  };
}

async function unpack(packed, program) {
  const out = fs.createWriteStream(program, { mode: 0o755, flush: true });
  await pipeline(fs.createReadStream(packed), zlib.createGunzip(), limited(MOST_UNPACKED, packed), out);
}

module.exports = { Unreachable, download };
