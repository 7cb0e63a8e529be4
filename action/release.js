#!/usr/bin/env node
// For a release: the digests.json of the binaries in a folder, `action/release.js FOLDER`. The version stays what it is.
//
// `sha256` is of the file that is downloaded, `program` of what is in it, which lies in tool caches.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const zlib = require("node:zlib");

const [folder] = process.argv.slice(2);
const { version } = JSON.parse(fs.readFileSync(path.join(__dirname, "digests.json"), "utf8"));
const digest = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");
const files = {};
for (const name of fs.readdirSync(folder).sort()) {
  const machine = /^runner-([a-z0-9]+-[a-z0-9]+)\.gz$/.exec(name)?.[1];
  if (!machine) throw new Error(`${name} is no released binary`);
  const packed = fs.readFileSync(path.join(folder, name));
  files[machine] = { name, sha256: digest(packed), program: digest(zlib.gunzipSync(packed)) };
}
console.log(JSON.stringify({ version, files }, null, 2));
