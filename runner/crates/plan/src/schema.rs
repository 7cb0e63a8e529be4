//! The JSON Schema (draft 7, which all editors know) of `deploy.yml`, with which they complete and check a plan.
//!
//! It is looser than the parser: it cannot check cycles, lookups or paths. A test ensures that every plan that the parser
//! accepts passes it. Deliberately absent: the configuration of modules in files and registries, and keys that are not
//! supported yet.

use serde_json::{Map, Value, json};

use super::step::RUN;

/// A module with a name, and the JSON Schema of its `with`.
#[derive(Clone, Debug)]
pub struct ModuleSchema {
    /// The name, as in `uses`.
    pub name: String,
    /// The schema of the configuration (draft 7).
    pub config: Value,
}

/// The schema of a plan. It checks the `with` of the steps that use one of these modules.
#[must_use]
pub fn schema(modules: &[ModuleSchema]) -> Value {
    let steps = |description: &str, least: u32| {
        json!({
            "type": if least == 0 { json!(["object", "null"]) } else { json!("object") },
            "minProperties": least,
            "description": description,
            "propertyNames": { "$ref": "#/definitions/name" },
            "properties": modules.iter().map(|module| (module.name.clone(), step_named(module))).collect::<Map<_, _>>(),
            "additionalProperties": { "$ref": "#/definitions/step" }
        })
    };
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Pawl deployment plan",
        "description": "The steps that `runner` deploys, in order. Lookups such as `${{ vars.root }}` are substituted in `state`, `vars`, `dirs`, `http`, `with`, `grants` and `url`.",
        "type": "object",
        "required": ["version", "app", "steps"],
        "additionalProperties": false,
        "properties": {
            "version": { "const": 1, "description": "The version of the plan format: 1." },
            "app": { "allOf": [{ "$ref": "#/definitions/name" }], "description": "The name of the application. Its history is stored under this name." },
            "state": {
                "type": "string",
                "pattern": r"^(dir:.+|git:.+|s3://.+|.*\$\{\{.*)",
                "default": "dir:.pawl",
                "description": "The location of journals and lock: `dir:PATH`, relative to the plan's folder; or `git:REMOTE` or `s3://BUCKET/PREFIX` if several machines deploy.",
                "examples": ["dir:.pawl", "git:origin", "s3://acme-deployments/shop"]
            },
            "lock": lock(),
            "secrets": { "allOf": [{ "$ref": "#/definitions/secrets" }], "description": "Secrets and the environment variables that contain them. Granted headers, database URLs and `env` can look them up." },
            "vars": { "allOf": [{ "$ref": "#/definitions/vars" }], "description": "Variables of all environments. Those of an environment override them." },
            "environments": environments(),
            "dirs": {
                "type": ["object", "null"],
                "description": "Directories by name, which steps list in their `grants`: `dirs: [app]`. `PATH` can be read and written, `PATH:ro` only read.",
                "propertyNames": { "$ref": "#/definitions/name" },
                "additionalProperties": { "type": ["string", "number", "boolean"], "examples": ["/srv/shop", "./dist:ro"] }
            },
            "http": {
                "type": ["object", "null"],
                "description": "HTTP origins by name, which steps list in their `grants`: `http: [api]`.",
                "propertyNames": { "$ref": "#/definitions/name" },
                "additionalProperties": { "$ref": "#/definitions/origin" }
            },
            "steps": steps("The steps. They run in the order written, unless `needs` sets another. A step without `uses` has the name of its module.", 1),
            "setup": steps("Steps that `runner setup` runs before the others, once per environment.", 0),
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
        "definitions": definitions(modules)
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
        "propertyNames": { "$ref": "#/definitions/name" },
        "additionalProperties": {
            "type": ["object", "null"],
            "additionalProperties": false,
            "properties": {
                "vars": { "allOf": [{ "$ref": "#/definitions/vars" }], "description": "Variables of this environment." },
                "secrets": { "allOf": [{ "$ref": "#/definitions/secrets" }], "description": "Secrets of this environment. They override those of the top level." },
                "allow": {
                    "type": ["array", "null"],
                    "minItems": 1,
                    "items": { "type": "string", "pattern": "^(github|github-team|user):[^ ]+$" },
                    "description": "The users who may change this environment. If left out: everybody.",
                    "examples": [["github:ada", "github-team:acme/deployers", "user:deploy"]]
                },
                "url": {
                    "type": ["string", "null"],
                    "description": "The web address of this environment, for the output `url` and the GitHub deployment. May contain lookups.",
                    "examples": ["https://shop.example.com"]
                },
                "hosts": hosts_or_inventories(),
                "ssh": {
                    "type": ["object", "null"],
                    "additionalProperties": false,
                    "description": "How ssh is called, in addition to its own configuration.",
                    "properties": {
                        "config": { "type": ["string", "null"], "description": "The configuration file of ssh, instead of the user's." },
                        "known-hosts": { "type": ["string", "null"], "description": "The file with the keys of the hosts, instead of the user's." },
                        "sudo": { "type": ["string", "boolean", "null"], "description": "The user that the agent works as, by `sudo -n -u USER`; `true` for root. If left out: the user that logs in.", "examples": ["app"] },
                        "dials": { "type": ["integer", "null"], "minimum": 1, "maximum": 64, "description": "How many hosts are dialed at a time. If left out: 8.", "examples": [32] }
                    }
                },
                "rollout": rollout(),
                "after": { "allOf": [{ "$ref": "#/definitions/name" }], "description": "The environment in which a release must be verified first." }
            }
        }
    })
}

fn hosts() -> Value {
    json!({
        "type": ["object", "null"],
        "description": "The hosts of this environment, by group. Steps run on a group with `on`.",
        "propertyNames": { "$ref": "#/definitions/name" },
        "additionalProperties": {
            "type": "array",
            "minItems": 1,
            "items": {
                "oneOf": [
                    { "type": "string", "description": "`local`, or a host as ssh reaches it: `deploy@10.0.0.7`." },
                    {
                        "type": "object",
                        "required": ["at"],
                        "additionalProperties": false,
                        "properties": {
                            "at": { "type": "string", "description": "`local`, `USER@HOST` or `ssh://USER@HOST:PORT`.", "examples": ["ssh://deploy@10.0.0.8:2222"] },
                            "name": { "type": ["string", "number", "null"], "description": "The name in journal and output. If left out: the address." },
                            "vars": { "allOf": [{ "$ref": "#/definitions/vars" }], "description": "What differs on this host: `${{ host.vars.NAME }}`." },
                            "labels": {
                                "type": ["array", "null"],
                                "items": { "$ref": "#/definitions/name" },
                                "description": "Words by which `--limit` chooses this host, besides its name and its groups.",
                                "examples": [["canary"]]
                            }
                        }
                    }
                ]
            }
        }
    })
}

/// The same, where a group may be listed elsewhere too.
fn hosts_or_inventories() -> Value {
    let mut schema = hosts();
    let list = schema["additionalProperties"].take();
    schema["additionalProperties"] = json!({ "oneOf": [list, inventory()] });
    schema
}

fn inventory() -> Value {
    json!({
        "type": "object",
        "required": ["from"],
        "additionalProperties": false,
        "properties": {
            "from": {
                "description": "Where the hosts are listed: a file with the same list, or a program that prints it.",
                "oneOf": [
                    { "type": "string", "pattern": "^file:.", "examples": ["file:inventory.yml"] },
                    {
                        "type": "object",
                        "required": ["program", "trust"],
                        "additionalProperties": false,
                        "properties": {
                            "program": { "type": "array", "minItems": 1, "items": { "type": ["string", "number", "boolean"] }, "description": "The program and its arguments. It runs in the plan's folder for at most 30 s.", "examples": [["./inventory.sh", "prod"]] },
                            "trust": { "const": "host", "description": "The program can do whatever the runner's user can." },
                            "env": { "allOf": [{ "$ref": "#/definitions/vars" }], "description": "The environment variables of the program, in addition to `PATH`, `HOME` and `PAWL_ENVIRONMENT`. May look up secrets." }
                        }
                    }
                ]
            }
        }
    })
}

fn rollout() -> Value {
    json!({
        "type": ["object", "null"],
        "required": ["on"],
        "anyOf": [{ "required": ["batches"] }, { "required": ["max-failures"] }],
        "additionalProperties": false,
        "description": "In which portions a group of hosts gets a release, and how many of them may fail. If left out: all at the same time, and none.",
        "properties": {
            "on": { "allOf": [{ "$ref": "#/definitions/name" }], "description": "The group." },
            "batches": {
                "type": "array",
                "minItems": 1,
                "items": { "type": ["integer", "string"], "minimum": 1, "pattern": "^[1-9][0-9]*%?$" },
                "description": "How many of the hosts have the release after each batch: numbers or percentages that grow. The rest follows after the last.",
                "examples": [[1, "25%", "100%"]]
            },
            "pause": { "type": ["string", "null"], "pattern": "^[0-9]+(ms|s|m|h)$", "description": "How long to wait after each batch.", "examples": ["2m"] },
            "max-failures": {
                "type": ["integer", "string", "null"],
                "minimum": 0,
                "pattern": "^[0-9]+%?$",
                "default": 0,
                "description": "How many hosts of the group may fail, or be out of reach, while the others go on: a number, or a percentage that is rounded down.",
                "examples": ["10%"]
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
            "before": { "allOf": [{ "$ref": "#/definitions/hook" }], "description": "Before the first step; a failure ends the attempt." },
            "after": { "allOf": [{ "$ref": "#/definitions/hook" }], "description": "After all steps have succeeded; a failure is a warning." },
            "on-failure": { "allOf": [{ "$ref": "#/definitions/hook" }], "description": "After a step has failed, and after its rollback; a failure is a warning." }
        }
    })
}

fn definitions(modules: &[ModuleSchema]) -> Value {
    let mut all = json!({
        "name": { "type": ["string", "number"], "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" },
        "word": { "pattern": "^[A-Za-z0-9_-]{1,64}$" },
        "scalar": { "type": ["string", "number", "boolean"] },
        "vars": {
            "type": ["object", "null"],
            "propertyNames": { "$ref": "#/definitions/word" },
            "additionalProperties": {
                "$ref": "#/definitions/scalar",
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
                        "items": { "$ref": "#/definitions/scalar" },
                        "description": "A program and its arguments; it can do whatever the runner's user can.",
                        "examples": [["./notify.sh", "deployed"]]
                    }
                },
                "additionalProperties": { "$ref": "#/definitions/step" }
            }
        },
        "secrets": {
            "type": ["object", "null"],
            "propertyNames": { "$ref": "#/definitions/word" },
            "additionalProperties": {
                "type": "string",
                "pattern": "^env:[^=]+$",
                "description": "`env:VARIABLE`: the environment variable that holds the value.",
                "examples": ["env:DATABASE_URL"]
            }
        },
        "step": step(modules),
        "origin": http_origin(),
        "grants": grants()
    });
    for module in modules {
        all[format!("with-{}", module.name)] = with_lookups(&module.config);
    }
    if let Some(run) = modules.iter().find(|module| module.name == RUN) {
        all[WITH_OF_PROGRAM] = with_lookups(&without_program(&run.config));
    }
    all
}

/// The definition of `with` next to `program: […]`.
const WITH_OF_PROGRAM: &str = "with-of-program";

/// A step whose name is the module's, unless it names another module.
fn step_named(module: &ModuleSchema) -> Value {
    json!({
        "allOf": [
            { "$ref": "#/definitions/step" },
            {
                "if": { "not": { "anyOf": [{ "required": ["uses"] }, { "required": ["program"] }] } },
                "then": { "properties": { "with": { "$ref": format!("#/definitions/with-{}", module.name) } } }
            }
        ]
    })
}

/// The configuration schema, in which each value that is not any text may be a lookup too.
fn with_lookups(schema: &Value) -> Value {
    let Value::Object(entries) = schema else { return schema.clone() };
    let mut changed = Map::new();
    for (key, value) in entries {
        let value = match (key.as_str(), value) {
            ("$schema", _) => continue,
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, property)| (name.clone(), or_lookup(property)))
                .collect::<Map<_, _>>()
                .into(),
            ("items" | "additionalProperties", Value::Object(_)) => or_lookup(value),
            _ => value.clone(),
        };
        changed.insert(key.clone(), value);
    }
    changed.into()
}

fn or_lookup(schema: &Value) -> Value {
    let mut inner = with_lookups(schema);
    if ["program", "argument"].iter().any(|word| inner["x-pawl-input"] == *word) {
        // The words of a program are texts, however a plan writes them.
        inner["type"] = json!(["string", "number", "boolean"]);
        return inner;
    }
    let is_any_text = inner["type"] == "string" && inner.get("pattern").is_none() && inner.get("enum").is_none();
    if is_any_text || inner.get("type").is_none() && inner.get("enum").is_none() {
        return inner;
    }
    let mut outer = Map::new();
    for key in ["description", "default"] {
        outer.extend(inner.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    outer.insert("anyOf".into(), json!([inner, { "type": "string", "pattern": r"\$\{\{" }]));
    outer.into()
}

/// The configuration of `run` without its program.
fn without_program(schema: &Value) -> Value {
    let mut schema = schema.clone();
    for key in ["program", "args"] {
        schema["properties"].as_object_mut().and_then(|properties| properties.shift_remove(key));
    }
    schema.as_object_mut().and_then(|schema| schema.shift_remove("required"));
    schema
}

fn step(modules: &[ModuleSchema]) -> Value {
    let with_of = |condition: Value, definition: String| json!({ "if": condition, "then": { "properties": { "with": { "$ref": format!("#/definitions/{definition}") } } } });
    let mut conditions: Vec<_> = modules
        .iter()
        .map(|module| {
            let uses = json!({ "required": ["uses"], "properties": { "uses": { "const": module.name } } });
            with_of(uses, format!("with-{}", module.name))
        })
        .collect();
    if modules.iter().any(|module| module.name == RUN) {
        conditions.push(with_of(json!({ "required": ["program"] }), WITH_OF_PROGRAM.to_owned()));
    }
    let mut step = json!({
        "type": ["object", "null"],
        "not": { "required": ["uses", "program"] },
        "additionalProperties": false,
        "properties": {
            "uses": {
                "type": "string",
                "pattern": r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63}|(\.{1,2})?/.*\.wasm|oci://[^@/]+/[a-z0-9._/-]+@sha256:[0-9a-f]{64})$",
                "description": "The module: an official one, a component in a file, or one in a registry, pinned by the digest of its manifest. If left out: the one that has the name of the step.",
                "examples": ["pull", "migrate", "configure", "supervisord", "systemd", "container", "images", "compose", "switch", "verify", "run", "./steps/x.wasm"]
            },
            "program": {
                "type": "array",
                "minItems": 1,
                "items": { "$ref": "#/definitions/scalar" },
                "description": "A program and its arguments, short for `uses: run`. Needs `trust: host`.",
                "examples": [["./build.sh", "all"]]
            },
            "with": {
                "type": ["object", "null"],
                "description": "The module's configuration. May look up `release`, `vars`, `env`, `run`, `host`, `plan.dir`, `release.path` and the outputs of earlier steps: `${{ steps.pull.path }}`."
            },
            "grants": { "allOf": [{ "$ref": "#/definitions/grants" }], "description": "The resources that the step may use. Everything else is denied." },
            "needs": {
                "description": "The steps that this one waits for. If left out: the step before it. `[]`: none.",
                "oneOf": [
                    { "$ref": "#/definitions/name" },
                    { "type": "array", "items": { "$ref": "#/definitions/name" } },
                    { "type": "null" }
                ]
            },
            "on": {
                "default": "local",
                "description": "Where the step runs: `local`, the runner's machine, or groups of the environment's `hosts`. With `once: true`, it runs on the first host that takes part, for the whole group.",
                "oneOf": [
                    { "$ref": "#/definitions/name" },
                    { "type": "array", "minItems": 1, "items": { "$ref": "#/definitions/name" } },
                    {
                        "type": "object",
                        "required": ["hosts"],
                        "additionalProperties": false,
                        "properties": {
                            "hosts": {
                                "description": "The group, or groups.",
                                "oneOf": [
                                    { "$ref": "#/definitions/name" },
                                    { "type": "array", "minItems": 1, "items": { "$ref": "#/definitions/name" } }
                                ]
                            },
                            "once": { "type": ["boolean", "null"], "default": false, "description": "Run on the first host, for the whole group." }
                        }
                    },
                    { "type": "null" }
                ]
            },
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
            "confirm": {
                "type": ["string", "null"],
                "pattern": "^[0-9]+(ms|s|m|h)$",
                "description": "For a step with `on` that shows the release: another host undoes it by itself unless the runner confirms it over a new connection within this time, 5s to 10m.",
                "examples": ["30s"]
            },
            "trust": {
                "enum": ["host", null],
                "description": "`host`: through granted programs or sockets, this step can do whatever the runner's user can."
            }
        }
    });
    if !conditions.is_empty() {
        step["allOf"] = conditions.into();
    }
    step
}

fn grants() -> Value {
    let name_keys = json!({ "$ref": "#/definitions/name" });
    json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "dirs": {
                "description": "Directories. By name and path: `PATH` can be read and written, `PATH:ro` only read. Or a list of names under `dirs` at the top level, with `:ro` where the step only reads.",
                "oneOf": [
                    { "type": "array", "items": { "type": ["string", "number"], "examples": ["app", "dist:ro"] } },
                    {
                        "type": ["object", "null"],
                        "propertyNames": name_keys,
                        "additionalProperties": { "type": ["string", "number", "boolean"], "examples": ["/srv/shop", "./dist:ro"] }
                    }
                ]
            },
            "http": http_grants(),
            "tcp": {
                "type": ["array", "null"],
                "description": "TCP addresses that the step may connect to, `host:port`.",
                "items": { "type": "string", "examples": ["db.example.com:5432", "[::1]:5432"] }
            },
            "databases": {
                "type": ["object", "null"],
                "description": "Databases by name. The URL stays in the runner, and may look up `secrets`.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["sqlite:./shop.db"] }
            },
            "programs": {
                "type": ["array", "null"],
                "description": "Programs with their arguments, the program first: `*` is any single argument, `**` at the end any further ones. Needs `trust: host`. If left out: what `with` of a `run` step says.",
                "items": {
                    "oneOf": [
                        { "$ref": "#/definitions/scalar" },
                        { "type": "array", "minItems": 1, "items": { "$ref": "#/definitions/scalar" } }
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
                "description": "Unix sockets by name. Needs `trust: host`.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["unix:/run/podman/podman.sock"] }
            },
            "renders": {
                "type": ["object", "null"],
                "description": "Directories by name in which the runner renders templates for the step. The step can't read there, so a template may write secrets.",
                "propertyNames": name_keys,
                "additionalProperties": { "type": "string", "examples": ["/etc/nginx/conf.d"] }
            },
            "secrets": {
                "description": "Secrets that the step may use by handle. With `reveal`, it also sees the value.",
                "oneOf": [
                    { "type": "array", "items": { "$ref": "#/definitions/word" } },
                    {
                        "type": "object",
                        "propertyNames": { "$ref": "#/definitions/word" },
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
        "description": "HTTP origins that the step may send requests to, or their names under `http` at the top level. If left out: those of the URLs in `with`.",
        "items": { "$ref": "#/definitions/origin" }
    })
}

fn http_origin() -> Value {
    json!({
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
                        "description": "Headers that the runner adds; the step does not see them. May look up `secrets`.",
                        "additionalProperties": { "$ref": "#/definitions/scalar" }
                    }
                }
            }
        ]
    })
}
