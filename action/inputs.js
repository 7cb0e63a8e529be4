// The action's inputs, as the environment that the runner gets. Values are passed on as they are, and no shell ever sees one. Only
// the blanks around a token or a word are cut off: a secret that came from a file ends with a newline.
"use strict";

const { Trouble, mask } = require("./say.js");

/** Inputs that are handed to the runner as text. */
const TEXTS = { plan: "PAWL_PLAN", environment: "PAWL_ENVIRONMENT", release: "PAWL_RELEASE", key: "PAWL_KEY", instance: "PAWL_INSTANCE" };

/** The options of each command, by the names of their inputs. */
const COMMANDS = {
  deploy: ["start-from", "rerun", "accept-drift", "lock-wait"],
  setup: ["start-from", "rerun", "accept-drift", "lock-wait"],
  plan: ["start-from", "accept-drift"],
  rollback: ["accept-drift", "lock-wait"],
  resolve: ["message", "lock-wait"],
};

/** Inputs that only some commands take. */
const OPTIONS = ["start-from", "rerun", "accept-drift", "lock-wait", "resolve", "message"];

/** Inputs with several values, separated by blanks. */
const LISTS = ["rerun", "accept-drift"];

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

/** The command, as arguments of the runner. Each option and its value are one argument, so that no value is taken for an option. */
function command(env) {
  const name = input(env, "command").trim() || "deploy";
  const allowed = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!allowed) {
    const names = Object.keys(COMMANDS).join(", ");
    throw new Trouble(`\`command: ${name}\` is not one of ${names}`, "It says what the action does.", "Write one of them, or leave it out for `deploy`.");
  }
  const given = OPTIONS.filter((option) => input(env, option).trim() !== "");
  const other = given.find((option) => !allowed.includes(option) && !(option === "resolve" && name === "resolve"));
  if (other) {
    const fits = Object.keys(COMMANDS).filter((command) => command === other || COMMANDS[command].includes(other)).join(", ");
    throw new Trouble(`\`${other}\` does not go with \`command: ${name}\``, `It goes with ${fits}.`, `Leave \`${other}\` out, or set \`command\`.`);
  }
  const options = given.filter((option) => allowed.includes(option)).flatMap((option) => {
    const text = input(env, option).trim();
    return (LISTS.includes(option) ? text.split(/\s+/) : [text]).map((value) => `--${option}=${value}`);
  });
  return [name, ...options, ...(name === "resolve" ? resolution(env) : [])];
}

/** `resolve: STEP=OUTCOME`, as arguments. */
function resolution(env) {
  const [, step, outcome] = /^\s*([^=\s]+)\s*=\s*([^=\s]+)\s*$/.exec(input(env, "resolve")) ?? [];
  if (!step || input(env, "message").trim() === "") {
    throw new Trouble(
      "`command: resolve` needs `resolve: STEP=OUTCOME` and a `message`",
      "OUTCOME is done, undone or not-begun; the message says why, and is recorded.",
      'Write them, such as `resolve: index=done` and `message: "checked by hand"`.',
    );
  }
  return [`--as=${outcome}`, "--", step];
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
  if (flag(env, "allow-forks")) inputs.PAWL_ALLOW_FORKS = "true";
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

module.exports = { command, environment, flag, input, maskSecrets };
