// What the launcher says to GitHub: workflow commands, and the state that main leaves for post.
//
// Whatever comes from outside is escaped, so that no path and no error text can become a command.
"use strict";

const fs = require("node:fs");

/** A failure that the user can do something about. `code` is the exit code; `next` says what to do. */
class Trouble extends Error {
  constructor(what, why, next, code = 2) {
    super(what);
    this.why = why;
    this.next = next;
    this.code = code;
  }
}

const escapeData = (text) => String(text).replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
const escapeProperty = (text) => escapeData(text).replaceAll(":", "%3A").replaceAll(",", "%2C");

function annotate(kind, what, why, next) {
  const text = [why, next].filter(Boolean).join("\n");
  process.stdout.write(`::${kind} title=${escapeProperty(`Pawl: ${what}`)}::${escapeData(text)}\n`);
}

const warn = (what, why, next) => annotate("warning", what, why, next);

/** Tells why there will be no deployment. */
function report(error) {
  if (error instanceof Trouble) {
    annotate("error", error.message, error.why, error.next);
  } else {
    annotate("error", "the launcher failed", error.stack ?? String(error), "This is a bug in Pawl: please report it.");
  }
}

/** Keeps a secret out of the log: GitHub masks by line, so each line of it is named. */
function mask(secret) {
  for (const line of secret.split(/\r?\n/).map((line) => line.trim())) {
    // One or two characters are no secret, and masking them would make the whole log unreadable.
    if (line.length > 2) process.stdout.write(`::add-mask::${escapeData(line)}\n`);
  }
}

/** Leaves a value for post, which finds it as STATE_<name>. */
const keep = (name, value) => append(process.env.GITHUB_STATE, name, value);

/** Sets an output of the action. The runner sets its own; this is for when it was never started. */
function output(name, value) {
  try {
    append(process.env.GITHUB_OUTPUT, name, value);
  } catch (error) {
    // Said beside what went wrong before, and never instead of it.
    warn("could not write the job outputs", error.message);
  }
}

function append(file, name, value) {
  if (!file) return;
  let end = "end";
  while (value.includes(end)) end += "-";
  fs.appendFileSync(file, `${name}<<${end}\n${value}\n${end}\n`);
}

module.exports = { Trouble, keep, mask, output, report, warn };
