//! The JSON Schema (draft 2020-12) of `deploy.yml`, with which editors complete and check a plan.
//!
//! It is looser than the parser: it cannot check cycles, lookups or paths. A test ensures that every plan that the parser
//! accepts passes it. Deliberately absent: the modules' own configuration, and keys that are not supported yet.

use serde_json::{Value, json};

/// The schema of a plan.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pawl deployment plan",
        "description": "The steps that `runner` deploys, in order. Lookups such as `${{ vars.root }}` are substituted in `state`, `vars`, `with` and `grants`.",
        "type": "object",
        "required": ["version", "app", "steps"],
        "additionalProperties": false,
        "properties": {
            "version": { "const": 1, "description": "The version of the plan format: 1." },
            "app": { "$ref": "#/$defs/name", "description": "The name of the application. Its history is stored under this name." },
            "state": {
                "type": "string",
                "pattern": r"^(dir:.+|git:.+|s3://.+|.*\$\{\{.*)",
                "default": "dir:.pawl",
                "description": "The location of journals and lock: `dir:PATH`, relative to the plan's folder; or `git:REMOTE` or `s3://BUCKET/PREFIX` if several machines deploy.",
                "examples": ["dir:.pawl", "git:origin", "s3://acme-deployments/shop"]
            },
            "lock": lock(),
            "secrets": {
                "type": ["object", "null"],
                "description": "Secrets and the sources of their values. Granted headers, database URLs and `env` can look them up.",
                "propertyNames": { "$ref": "#/$defs/word" },
                "additionalProperties": {
                    "type": "string",
                    "pattern": "^env:[^=]+$",
                    "description": "`env:VARIABLE`: the environment variable that holds the value.",
                    "examples": ["env:DATABASE_URL"]
                }
            },
            "vars": { "$ref": "#/$defs/vars", "description": "Variables of all environments. Those of an environment override them." },
            "environments": environments(),
            "steps": {
                "type": "object",
                "minProperties": 1,
                "description": "The steps. They run in the order written, unless `needs` sets another.",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": { "$ref": "#/$defs/step" }
            },
            "setup": {
                "type": ["object", "null"],
                "description": "Steps that `runner setup` runs before the others, once per environment.",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": { "$ref": "#/$defs/step" }
            },
            "hooks": hooks(),
            "keep": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "How many verified releases keep their content after a successful deployment. If left out: all, until `runner prune` removes them."
            },
            "on-failure": {
                "enum": ["hold", "rollback", null],
                "default": "hold",
                "description": "The reaction to a failure after the release was exposed to users: hold, or roll back to the last verified release."
            }
        },
        "$defs": definitions()
    })
}

fn lock() -> Value {
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": "The lock of a remote `state`.",
        "properties": {
            "ttl": {
                "type": ["string", "null"],
                "pattern": "^[0-9]+(ms|s|m|h)$",
                "default": "30s",
                "description": "The lease: how long the holder may go without renewing it, 1s to 1h.",
                "examples": ["30s"]
            }
        }
    })
}

fn environments() -> Value {
    json!({
        "type": ["object", "null"],
        "minProperties": 1,
        "description": "The environments of the app. If left out, there is one, `default`.",
        "propertyNames": { "$ref": "#/$defs/name" },
        "additionalProperties": {
            "type": ["object", "null"],
            "additionalProperties": false,
            "properties": {
                "vars": { "$ref": "#/$defs/vars", "description": "Variables of this environment." },
                "allow": {
                    "type": ["array", "null"],
                    "minItems": 1,
                    "items": { "type": "string", "pattern": "^(github|user):[^ ]+$" },
                    "description": "The users who may change this environment. If left out: everybody.",
                    "examples": [["github:ada", "user:deploy"]]
                },
                "url": {
                    "type": ["string", "null"],
                    "description": "The web address of this environment, for the output `url` and the GitHub deployment. May contain lookups.",
                    "examples": ["https://shop.example.com"]
                },
                "after": { "$ref": "#/$defs/name", "description": "The environment in which a release must be verified first." }
            }
        }
    })
}

fn hooks() -> Value {
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "description": "Steps that run around the others, in each attempt, under the lock.",
        "properties": {
            "before": { "$ref": "#/$defs/hook", "description": "Before the first step; a failure ends the attempt." },
            "after": { "$ref": "#/$defs/hook", "description": "After all steps have succeeded; a failure is a warning." },
            "on-failure": { "$ref": "#/$defs/hook", "description": "After a step has failed, and after its rollback; a failure is a warning." }
        }
    })
}

fn definitions() -> Value {
    json!({
        "name": { "type": ["string", "number"], "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" },
        "word": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
        "scalar": { "type": ["string", "number", "boolean"] },
        "vars": {
            "type": ["object", "null"],
            "propertyNames": { "$ref": "#/$defs/word" },
            "additionalProperties": {
                "$ref": "#/$defs/scalar",
                "description": "A string, a number or a boolean. A string may look up `env` and `release`."
            }
        },
        "hook": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {
                    "program": {
                        "type": "array",
                        "minItems": 1,
                        "items": { "$ref": "#/$defs/scalar" },
                        "description": "A program and its arguments; it can do whatever the host can.",
                        "examples": [["./notify.sh", "deployed"]]
                    }
                },
                "additionalProperties": { "$ref": "#/$defs/step" }
            }
        },
        "step": step(),
        "grants": grants()
    })
}

fn step() -> Value {
    json!({
        "type": "object",
        "required": ["uses"],
        "additionalProperties": false,
        "properties": {
            "uses": {
                "type": "string",
                "pattern": r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63}|(\.{1,2})?/.*\.wasm|oci://[^@/]+/[a-z0-9._/-]+@sha256:[0-9a-f]{64})$",
                "description": "The module: an official one, a component in a file, or one in a registry, pinned by the digest of its manifest.",
                "examples": ["pull", "configure", "migrate", "start", "switch", "verify", "run", "./steps/x.wasm"]
            },
            "with": {
                "type": ["object", "null"],
                "description": "The module's configuration. May look up `release`, `vars`, `env`, `run` and the outputs of earlier steps: `${{ steps.pull.path }}`."
            },
            "grants": { "$ref": "#/$defs/grants", "description": "The resources that the step may use. Everything else is denied." },
            "needs": {
                "description": "The steps that this one waits for. If left out: the step before it. `[]`: none.",
                "oneOf": [
                    { "$ref": "#/$defs/name" },
                    { "type": "array", "items": { "$ref": "#/$defs/name" } },
                    { "type": "null" }
                ]
            },
            "on": { "enum": ["local", null], "default": "local", "description": "Where the step runs: the runner's machine." },
            "timeout": {
                "type": ["string", "null"],
                "pattern": "^[0-9]+(ms|s|m|h)$",
                "default": "10m",
                "description": "The longest time that one call of the module may take.",
                "examples": ["30s", "5m"]
            },
            "retry": {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": 10,
                "default": 0,
                "description": "How often to retry a failure that the module calls retryable."
            },
            "irreversible": {
                "type": ["boolean", "null"],
                "default": false,
                "description": "The effect of this step cannot be undone: a rollback that would leave it in place does not begin."
            },
            "always": {
                "type": ["boolean", "null"],
                "default": false,
                "description": "This step runs in each attempt. It must be safe to run again."
            },
            "after-undo": {
                "type": ["boolean", "null"],
                "description": "Whether this step runs again for the release that a rollback switched back to. If left out: a repeatable `run` step does."
            },
            "effects": {
                "enum": ["here", "elsewhere", null],
                "default": "here",
                "description": "`elsewhere`: the effects of this step are not on the machine that it runs on, so its record counts on each machine."
            },
            "trust": {
                "enum": ["host", null],
                "description": "`host`: through granted programs or sockets, this step can do whatever the host can."
            }
        }
    })
}

fn grants() -> Value {
    let name_keys = json!({ "$ref": "#/$defs/name" });
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "dirs": {
                "type": ["object", "null"],
                "description": "Directories by name. `PATH` can be read and written, `PATH:ro` only read.",
                "propertyNames": name_keys,
                "additionalProperties": { "$ref": "#/$defs/scalar", "examples": ["/srv/shop", "./dist:ro"] }
            },
            "http": http_grants(),
            "tcp": {
                "type": ["array", "null"],
                "description": "TCP addresses that the step may connect to, `host:port`.",
                "items": { "type": "string", "examples": ["db.example.com:5432", "[::1]:5432"] }
            },
            "databases": {
                "type": ["object", "null"],
                "description": "Databases by name. The URL stays in the host, and may look up `secrets`.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["sqlite:./shop.db"] }
            },
            "programs": {
                "type": ["array", "null"],
                "description": "Programs with their arguments, the program first: `*` is any single argument, `**` at the end any further ones. Needs `trust: host`.",
                "items": {
                    "oneOf": [
                        { "$ref": "#/$defs/scalar" },
                        { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/scalar" } }
                    ]
                }
            },
            "env": {
                "type": ["object", "null"],
                "description": "The environment variables of the granted programs. The step may set a variable without a value. May look up `secrets`.",
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] }
            },
            "sockets": {
                "type": ["object", "null"],
                "description": "Unix sockets by name, reached over HTTP. Needs `trust: host`.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["unix:/run/podman/podman.sock"] }
            },
            "secrets": {
                "description": "Secrets that the step may use by handle. With `reveal`, it also sees the value.",
                "oneOf": [
                    { "type": "array", "items": { "$ref": "#/$defs/word" } },
                    {
                        "type": "object",
                        "propertyNames": { "$ref": "#/$defs/word" },
                        "additionalProperties": { "enum": ["use", "reveal"] }
                    },
                    { "type": "null" }
                ]
            }
        }
    })
}

fn http_grants() -> Value {
    json!({
        "type": ["array", "null"],
        "description": "HTTP origins that the step may send requests to.",
        "items": {
            "oneOf": [
                { "type": "string", "examples": ["https://example.com"] },
                {
                    "type": "object",
                    "required": ["origin"],
                    "additionalProperties": false,
                    "properties": {
                        "origin": { "type": "string", "description": "Scheme, host and port.", "examples": ["https://example.com"] },
                        "methods": {
                            "type": ["array", "null"],
                            "minItems": 1,
                            "items": { "type": "string" },
                            "description": "The allowed methods. If left out: all."
                        },
                        "private": { "type": ["boolean", "null"], "default": false, "description": "Whether the name may resolve to a private address." },
                        "headers": {
                            "type": ["object", "null"],
                            "description": "Headers that the host adds; the step does not see them. May look up `secrets`.",
                            "additionalProperties": { "$ref": "#/$defs/scalar" }
                        }
                    }
                }
            ]
        }
    })
}
