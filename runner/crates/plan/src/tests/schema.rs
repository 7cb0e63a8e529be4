//! The JSON Schema agrees with the parser.

use serde_json::{Map, Value};

use super::{
    super::yaml::{self, YamlNode, YamlValue},
    good::EXAMPLE,
    parse, parse_for,
};
use crate::{ModuleSchema, error::PlanErrorCollector, schema};

/// The plan as an editor's validator sees it.
fn json(text: &str) -> Value {
    fn value(node: YamlNode) -> Value {
        match node.kind {
            YamlValue::Null => Value::Null,
            YamlValue::Bool(value) => Value::Bool(value),
            YamlValue::Number { value, .. } => Value::Number(value),
            YamlValue::Text(text) => Value::String(text),
            YamlValue::List(items) => Value::Array(items.into_iter().map(value).collect()),
            YamlValue::Map(entries) => {
                Value::Object(entries.into_iter().map(|(key, node)| (key.text, value(node))).collect::<Map<_, _>>())
            }
        }
    }
    value(yaml::parse(text, &mut PlanErrorCollector::default()).expect("YAML"))
}

/// Two modules: one like `run`, and one with values that are no texts.
fn modules() -> Vec<ModuleSchema> {
    let run = serde_json::json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["program"],
        "properties": { "program": { "type": "string" }, "args": { "type": "array", "items": { "type": "string" } }, "tty": { "type": "boolean" } }
    });
    let verify = serde_json::json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "tries": { "type": "integer" },
            "http": { "type": "array", "items": { "type": "object", "properties": { "status": { "type": "integer" } } } }
        }
    });
    let module = |name: &str, config| ModuleSchema { name: name.to_owned(), config };
    vec![module("run", run), module("verify", verify)]
}

fn accepts(text: &str) -> bool {
    jsonschema::draft7::new(&schema(&modules())).unwrap().is_valid(&json(text))
}

#[test]
fn it_is_a_schema_with_a_description_of_each_key() {
    let schema = schema(&modules());
    assert!(jsonschema::draft7::meta::is_valid(&schema));
    for properties in ["/properties", "/definitions/step/properties", "/definitions/grants/properties"] {
        for (key, property) in schema.pointer(properties).unwrap().as_object().unwrap() {
            assert!(property.get("description").is_some_and(Value::is_string), "{properties}/{key}");
        }
    }
}

#[test]
fn it_accepts_what_the_parser_accepts() {
    let many = r#"
version: 1
app: shop
state: "dir:${{ env.HOME }}/state"
secrets: { T: env:TOKEN }
vars: { a: 1, b: true, c: x }
environments: { e: }
steps:
  5: { uses: ./x.wasm, needs: , with: , grants: , timeout: 500ms, retry: 10, on: local, trust: host }
  b:
    uses: /x.wasm
    needs: 5
    trust: host
    grants:
      dirs: { a: ./x }
      http: ["https://x.org", { origin: "https://y.org", methods: [GET], private: true, headers: { A: "${{ secrets.T }}" } }]
      tcp: ["x:1"]
      databases: { d: "sqlite:x" }
      programs: [ls, [cat, "*"]]
      env: { A: , B: 1, C: x }
  c: { uses: x, needs: [5, b] }
"#;
    let hosts = "{ web: [a@b], file: { from: file:hosts.yml }, program: { from: { program: [./list, \"- a\"], trust: host, env: { A: x } } } }";
    let fleet = format!(
        "version: 1\napp: shop\nenvironments: {{ a: {{ hosts: {hosts}, ssh: {{ sudo: app, dials: 32 }} }} }}\nsteps: {{ x: {{}} }}\n"
    );
    super::good(&fleet);
    assert!(accepts(&fleet));
    assert!(parse_for(EXAMPLE, Some("test")).is_ok());
    assert!(accepts(EXAMPLE));
    super::good(many);
    assert!(accepts(many));
}

#[test]
fn it_rejects_what_it_can_see() {
    let bad = [
        "version: 2\napp: shop\nsteps: { a: { uses: x } }",
        "app: shop\nsteps: { a: { uses: x } }",
        "version: 1\napp: ../shop\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nsteps: {}",
        "version: 1\napp: shop\nsteps: [a]",
        "version: 1\napp: shop\nstep: {}\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nstate: here\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\non-failure: undo\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nsecrets: { A: hunter2 }\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nvars: { a: [1] }\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nenvironments: { a: { hosts: {} , x: 1 } }\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nenvironments: { a: { hosts: { web: { from: hosts.yml } } } }\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nenvironments: { a: { hosts: { web: { from: { program: [ls] } } } } }\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nenvironments: { a: { ssh: { dials: 65 } } }\nsteps: { a: { uses: x } }",
        "version: 1\napp: shop\nsteps: { a: { program: ls } }",
        "version: 1\napp: shop\nsteps: { a: { uses: x, timeout: 30 } }",
        "version: 1\napp: shop\nsteps: { a: { uses: x, retry: 11 } }",
        "version: 1\napp: shop\nsteps: { a: { uses: x, on: { host: web } } }",
        "version: 1\napp: shop\nsteps: { a: { uses: oci://x } }",
        "version: 1\napp: shop\nsteps: { a: { uses: x, grants: { net: [] } } }",
        "version: 1\napp: shop\nsteps: { a: { uses: x, grants: { http: [{ methods: [GET] }] } } }",
    ];
    for text in bad {
        assert!(parse(text).is_err(), "the parser accepts {text}");
        assert!(!accepts(text), "the schema accepts {text}");
    }
}

#[test]
fn it_checks_the_configuration_of_modules() {
    let step = |step: &str| format!("version: 1\napp: shop\nsteps: {{ {step} }}");
    let good = [
        "verify: { with: { tries: 3, http: [{ status: \"${{ vars.status }}\" }] } }",
        "verify: { program: [ls], with: { tty: true } }",
        "check: { uses: verify, with: { tries: \"${{ vars.tries }}\" } }",
        "run: { with: { program: ls, args: [-l] } }",
        "other: { with: { anything: goes } }",
    ];
    let bad = [
        "verify: { with: { trys: 3 } }",
        "check: { uses: verify, with: { http: [{ status: ok }] } }",
        "build: { program: [ls], with: { args: [x] } }",
        "run: { with: { args: [x] } }",
        "run: { uses: run, with: { program: ls, args: -l } }",
    ];
    for text in good {
        assert!(accepts(&step(text)), "the schema refuses {text}");
    }
    for text in bad {
        assert!(!accepts(&step(text)), "the schema accepts {text}");
    }
}
