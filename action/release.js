#!/usr/bin/env node
// For a release: the digests.json of the binaries in a folder, `action/release.js FOLDER`. The version stays what it is.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");

const [folder] = process.argv.slice(2);
const { version } = JSON.parse(fs.readFileSync(path.join(__dirname, "digests.json"), "utf8"));
const files = {};
for (const name of fs.readdirSync(folder).sort()) {
  const machine = /^runner-([a-z0-9]+-[a-z0-9]+)\.gz$/.exec(name)?.[1];
  if (!machine) throw new Error(`${name} is no released binary`);
  const sha256 = crypto.createHash("sha256").update(fs.readFileSync(path.join(folder, name))).digest("hex");
  files[machine] = { name, sha256 };
}
console.log(JSON.stringify({ version, files }, null, 2));
