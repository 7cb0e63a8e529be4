//! The JSON Schema (draft 2020-12) of `deploy.yml`, so that editors complete and check while one types.
//!
//! It is looser than the parser: it cannot see cycles, look-ups or paths. A test holds that every plan the parser accepts
//! passes it. Deliberately absent: the modules' own configuration, and keys that are not supported yet.

use serde_json::{Value, json};

/// The schema of a plan.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pawl deployment plan",
        "description": "What `runner` deploys, step by step. Look-ups such as `${{ vars.root }}` are substituted in `state`, `vars`, `with` and `grants`.",
        "type": "object",
        "required": ["version", "app", "steps"],
        "additionalProperties": false,
        "properties": {
            "version": { "const": 1, "description": "The version of the plan format: 1." },
            "app": { "$ref": "#/$defs/name", "description": "The name of the application; its history is kept under it." },
            "state": {
                "type": "string",
                "pattern": r"^(dir:.+|git:.+|s3://.+|.*\$\{\{.*)",
                "default": "dir:.pawl",
                "description": "Where journals, the lock and the record of live releases are kept: `dir:PATH`, relative to the plan's folder; `git:REMOTE` or `s3://BUCKET/PREFIX` where several machines deploy.",
                "examples": ["dir:.pawl", "git:origin", "s3://acme-deployments/shop"]
            },
            "lock": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "description": "The lock of a remote `state`.",
                "properties": {
                    "ttl": {
                        "type": ["string", "null"],
                        "pattern": "^[0-9]+(ms|s|m|h)$",
                        "default": "30s",
                        "description": "How long its holder may be silent: 1s to 1h.",
                        "examples": ["30s"]
                    }
                }
            },
            "secrets": {
                "type": ["object", "null"],
                "description": "Secrets and where their values come from. They can be looked up in granted headers, database URLs and `env`.",
                "propertyNames": { "$ref": "#/$defs/word" },
                "additionalProperties": {
                    "type": "string",
                    "pattern": "^env:[^=]+$",
                    "description": "`env:VARIABLE`: the environment variable that holds the value.",
                    "examples": ["env:DATABASE_URL"]
                }
            },
            "vars": { "$ref": "#/$defs/vars", "description": "Variables of all environments; an environment's own override them." },
            "environments": {
                "type": ["object", "null"],
                "minProperties": 1,
                "description": "Where the app is deployed to. Left out, there is one, `default`.",
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
                            "description": "Who may change this environment. Left out: everybody.",
                            "examples": [["github:ada", "user:deploy"]]
                        },
                        "url": {
                            "type": ["string", "null"],
                            "description": "Where what is deployed can be seen: for the output `url`, and GitHub's list of deployments. May hold look-ups.",
                            "examples": ["https://shop.example.com"]
                        },
                        "after": { "$ref": "#/$defs/name", "description": "The environment where a release must have been verified before it comes here." }
                    }
                }
            },
            "steps": {
                "type": "object",
                "minProperties": 1,
                "description": "The steps, in the order in which they run unless `needs` says otherwise.",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": { "$ref": "#/$defs/step" }
            },
            "setup": {
                "type": ["object", "null"],
                "description": "Steps that `runner setup` runs before the others: what is done once for an environment.",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": { "$ref": "#/$defs/step" }
            },
            "hooks": {
                "type": ["object", "null"],
                "additionalProperties": false,
                "description": "What runs around the steps, in each attempt, under the lock.",
                "properties": {
                    "before": { "$ref": "#/$defs/hook", "description": "Before the first step; a failure ends the attempt." },
                    "after": { "$ref": "#/$defs/hook", "description": "Once all steps have succeeded; a failure is said." },
                    "on-failure": { "$ref": "#/$defs/hook", "description": "Once a step has failed, and was rolled back; a failure is said." }
                }
            },
            "keep": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "How many verified releases stay when a deployment has succeeded. Left out: all; `runner prune` removes them then."
            },
            "on-failure": {
                "enum": ["hold", "rollback", null],
                "default": "hold",
                "description": "What happens when a step fails after the release was exposed to users: stay as it is, or go back to the last verified release."
            }
        },
        "$defs": {
            "name": { "type": ["string", "number"], "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" },
            "word": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
            "scalar": { "type": ["string", "number", "boolean"] },
            "vars": {
                "type": ["object", "null"],
                "propertyNames": { "$ref": "#/$defs/word" },
                "additionalProperties": {
                    "$ref": "#/$defs/scalar",
                    "description": "A text, a number or a boolean. A text may look up `env` and `release`."
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
        }
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
                "description": "The module: one that the runner carries, a component in a file, or one in a registry, pinned by the digest of its manifest.",
                "examples": ["pull", "configure", "migrate", "start", "switch", "verify", "run", "./steps/x.wasm"]
            },
            "with": {
                "type": ["object", "null"],
                "description": "The module's configuration. May look up `release`, `vars`, `env`, `run` and the outputs of earlier steps: `${{ steps.pull.path }}`."
            },
            "grants": { "$ref": "#/$defs/grants", "description": "What the step may reach. Everything else is denied." },
            "needs": {
                "description": "The steps that this one waits for. Left out: the step before. `[]`: none.",
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
                "description": "The longest time one call of the module may take.",
                "examples": ["30s", "5m"]
            },
            "retry": {
                "type": ["integer", "null"],
                "minimum": 0,
                "maximum": 10,
                "default": 0,
                "description": "How many times more a failure is tried that the module calls retryable."
            },
            "irreversible": {
                "type": ["boolean", "null"],
                "default": false,
                "description": "What it does can't be taken back: a rollback that would pass over it stops and says so."
            },
            "trust": {
                "enum": ["host", null],
                "description": "`host`: this step is granted programs or sockets, through which it can do whatever the host can."
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
                "description": "Directories by name. `PATH` may be read and written, `PATH:ro` only read.",
                "propertyNames": name_keys,
                "additionalProperties": { "$ref": "#/$defs/scalar", "examples": ["/srv/shop", "./dist:ro"] }
            },
            "http": {
                "type": ["array", "null"],
                "description": "HTTP origins.",
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
                                    "description": "The methods that may be used. Left out: all."
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
            },
            "tcp": {
                "type": ["array", "null"],
                "description": "TCP addresses, `host:port`.",
                "items": { "type": "string", "examples": ["db.example.com:5432", "[::1]:5432"] }
            },
            "databases": {
                "type": ["object", "null"],
                "description": "Databases by name; the URL stays in the host. May look up `secrets`.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["sqlite:./shop.db"] }
            },
            "programs": {
                "type": ["array", "null"],
                "description": "Programs with their arguments, the program first: `*` is any one argument, `**` at the end any more. Needs `trust: host`.",
                "items": {
                    "oneOf": [
                        { "$ref": "#/$defs/scalar" },
                        { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/scalar" } }
                    ]
                }
            },
            "env": {
                "type": ["object", "null"],
                "description": "The environment of the granted programs. A name without a value may be set by the step. May look up `secrets`.",
                "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] }
            },
            "sockets": {
                "type": ["object", "null"],
                "description": "Unix sockets by name, asked over HTTP. Needs `trust: host`.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["unix:/run/podman/podman.sock"] }
            },
            "secrets": {
                "description": "Secrets that the step may use by handle; `reveal` lets it see the value too.",
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
