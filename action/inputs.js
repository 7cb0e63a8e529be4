// The action's inputs, as the environment that the runner gets. Values are passed on as they are, and no shell ever sees one. Only
// the blanks around a token or a word are cut off: a secret that came from a file ends with a newline.
"use strict";

const { Trouble, mask } = require("./say.js");

/** Inputs that are handed to the runner as text. */
const TEXTS = { plan: "PAWL_PLAN", environment: "PAWL_ENVIRONMENT", release: "PAWL_RELEASE", key: "PAWL_KEY" };

/** What `missing_journal` may be. The runner knows them too, but would answer in its log, where nobody sees it. */
const POLICIES = ["probe", "fail", "restart"];

/** What GitHub makes of an input's name: upper case, spaces to underscores. */
const variable = (name) => `INPUT_${name.replaceAll(" ", "_").toUpperCase()}`;

function input(env, name) {
  return env[variable(name)] ?? "";
}

/** An input that is on or off. GitHub hands over text. */
function flag(env, name) {
  const value = input(env, name).trim().toLowerCase();
  if (value === "true") return true;
  if (value === "" || value === "false") return false;
  throw new Trouble(`\`${name}: ${input(env, name)}\` is neither true nor false`, "It is either on or off.", `Write \`${name}: true\`, or leave it out.`);
}

/** What a missing journal means, or nothing. */
function policy(env) {
  const value = input(env, "missing_journal").trim();
  if (value === "" || POLICIES.includes(value)) return value;
  throw new Trouble(
    `\`missing_journal: ${value}\` is not one of ${POLICIES.join(", ")}`,
    "It says what to do when a later attempt finds no journal.",
    "Write one of the three, or leave it out for `probe`.",
  );
}

/** The runner's environment: ours, with the inputs under their own names. Empty ones are left out. */
function environment(env) {
  const inputs = {};
  for (const [name, target] of Object.entries(TEXTS)) {
    const value = input(env, name);
    if (value.trim() !== "") inputs[target] = value;
  }
  const missing = policy(env);
  if (missing) inputs.PAWL_MISSING_JOURNAL = missing;
  const token = input(env, "token").trim();
  if (token) inputs.PAWL_TOKEN = token;
  if (flag(env, "deployments")) inputs.PAWL_DEPLOYMENTS = "true";
  // A job without a matrix has `null` on GitHub, `{}` elsewhere.
  const matrix = input(env, "matrix").trim();
  if (!["", "null", "{}"].includes(matrix)) inputs.PAWL_MATRIX = matrix;
  const rest = Object.entries(env).filter(([name]) => !name.startsWith("INPUT_") && !name.startsWith("STATE_"));
  return { ...Object.fromEntries(rest), ...inputs };
}

/** Before anything else is printed. */
function maskSecrets(env) {
  for (const name of ["key", "token"]) mask(input(env, name));
}

module.exports = { environment, flag, input, maskSecrets };
