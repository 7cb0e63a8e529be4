// The SHA-256 of a file, by which main and post know a program.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const { pipeline } = require("node:stream/promises");

const CHUNK_BYTES = 1024 * 1024;

async function digest(file) {
  const hash = crypto.createHash("sha256");
  await pipeline(fs.createReadStream(file, { highWaterMark: CHUNK_BYTES }), hash);
  return hash.digest("hex");
}

module.exports = { digest };
