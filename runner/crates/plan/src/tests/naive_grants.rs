//! A second, naive reading of what plans grant, and its comparison with the parser's over generated plans.
//!
//! It reads the plan as a JSON value, replaces lookups as texts, and cuts URLs by hand: nothing here comes from the parser.

use std::collections::BTreeMap;

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};

use super::{label, parse, rendered};
use crate::fuzz::granted;

/// The values of lookups that are known before the run. The others stay in the text.
const KNOWN: [(&str, &str); 6] = [
    ("${{ vars.port }}", "8080"),
    ("${{ vars.host }}", "shop.example.com"),
    ("${{ vars.url }}", "http://127.0.0.1:9000/x"),
    ("${{ vars.star }}", "*"),
    ("${{ release }}", "v1.10"),
    ("${{ plan.dir }}", "/plans/shop"),
];
const VARIABLES: &str =
    r#"{ "port": 8080, "host": "shop.example.com", "url": "http://127.0.0.1:9000/x", "star": "*" }"#;

fn known(text: &str) -> String {
    KNOWN.iter().fold(text.to_owned(), |text, (lookup, value)| text.replace(lookup, value))
}

/// Whether the text has a lookup that is known only while steps run.
fn is_open(text: &str) -> bool {
    text.contains("${{ steps.") || text.contains("${{ run.") || text.contains("${{ release.path")
}

/// The origin of a URL with its port; none if the text is no URL, or its host is not known yet.
fn origin(text: &str) -> Option<String> {
    let text = known(text);
    let (scheme, rest) = text.split_once("://")?;
    let port = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let host = match rest.split_once('/') {
        Some((host, _)) => host,
        None => rest,
    };
    if is_open(host) || is_open(rest) && !rest.contains('/') {
        return None;
    }
    Some(if host.contains(':') { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") })
}

fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(entries) => entries.values().for_each(|item| texts(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), known)
}

/// A path, relative to the plan's folder if it is in there.
fn path(text: &str) -> String {
    let (path, access) = match text.strip_suffix(":ro") {
        Some(path) => (path, "ro"),
        None => (text.strip_suffix(":rw").unwrap_or(text), "rw"),
    };
    let path = known(path);
    let inside = path.strip_prefix("/plans/shop/").or_else(|| path.strip_prefix("./"));
    format!("{}:{access}", inside.map_or(path.clone(), |inside| format!("./{inside}")))
}

/// What the plan grants to a step: directories, origins and programs, as texts.
fn naive(plan: &Value, name: &str, step: &Value) -> Value {
    let with = step.get("with").cloned().unwrap_or_default();
    let grants = step.get("grants").cloned().unwrap_or_default();
    let mut dirs = BTreeMap::new();
    match grants.get("dirs") {
        Some(Value::Array(names)) => {
            for item in names {
                let item = item.as_str().unwrap();
                let name = item.split(':').next().unwrap();
                let shared = path(plan["dirs"][name].as_str().unwrap());
                let only_reads = item.ends_with(":ro") || shared.ends_with(":ro");
                let bare = &shared[..shared.len() - 3];
                dirs.insert(name.to_owned(), format!("{bare}:{}", if only_reads { "ro" } else { "rw" }));
            }
        }
        Some(Value::Object(own)) => {
            dirs.extend(own.iter().map(|(name, text)| (name.clone(), path(text.as_str().unwrap()))));
        }
        _ => {}
    }
    let uses = step.get("uses").and_then(Value::as_str).unwrap_or(name);
    let is_run = step.get("program").is_some() || uses == "run";
    let mut http: Vec<String> = Vec::new();
    match grants.get("http") {
        Some(Value::Array(items)) => {
            for item in items {
                let text = item.as_str().unwrap();
                let shared = plan["http"].get(text).map(|origin| origin.as_str().unwrap().to_owned());
                http.push(origin(&shared.unwrap_or_else(|| text.to_owned())).unwrap());
            }
        }
        // A URL is only text in a program's arguments, and in the configuration of somebody's module.
        _ if is_run || uses.ends_with(".wasm") => {}
        _ => {
            let mut found = Vec::new();
            texts(&with, &mut found);
            for one in found.iter().filter_map(|text| origin(text)) {
                if !http.contains(&one) {
                    http.push(one);
                }
            }
        }
    }
    let mut programs: Vec<Vec<String>> = Vec::new();
    if let Some(Value::Array(listed)) = grants.get("programs") {
        programs = listed.iter().map(|argv| argv.as_array().unwrap().iter().map(pattern).collect()).collect();
    } else if is_run {
        let short = step.get("program").and_then(Value::as_array).cloned();
        let long = || {
            let arguments = with.get("args").and_then(Value::as_array).cloned().unwrap_or_default();
            with.get("program").map(|program| [vec![program.clone()], arguments].concat())
        };
        let probe = with.get("probe").and_then(Value::as_array).cloned();
        for argv in short.or_else(long).into_iter().chain(probe) {
            let argv: Vec<String> = argv.iter().map(word).collect();
            if !argv.iter().any(|word| is_open(word)) {
                let literal = argv.iter().map(|word| if word == "*" { "literal *".to_owned() } else { word.clone() });
                let literal: Vec<_> = literal.collect();
                if !programs.contains(&literal) {
                    programs.push(literal);
                }
            }
        }
    }
    json!({ "dirs": dirs, "http": http, "programs": programs })
}

/// A word of a listed argument vector: only what is written as `*` is a pattern.
fn pattern(value: &Value) -> String {
    match value.as_str() {
        Some("*") => "any".to_owned(),
        _ if word(value) == "*" => "literal *".to_owned(),
        _ => word(value),
    }
}

/// The same of the parser, from the grants themselves.
fn parsed(plan: &crate::Plan, step: &crate::PlanStep) -> Value {
    use crate::{ArgumentPattern, DirAccess};
    let dirs = step.grants.dirs.iter().map(|(name, grant)| {
        let path = match grant.path.strip_prefix(&plan.source.folder) {
            Ok(inside) => format!("./{}", inside.display()),
            Err(_) => grant.path.display().to_string(),
        };
        (name.to_string(), format!("{path}:{}", if grant.access == DirAccess::ReadOnly { "ro" } else { "rw" }))
    });
    let http: Vec<_> =
        step.grants.http.iter().map(|grant| format!("{}://{}:{}", grant.scheme, grant.host, grant.port)).collect();
    let word = |pattern: &ArgumentPattern| match pattern {
        ArgumentPattern::AnyOne => "any".to_owned(),
        ArgumentPattern::AnyRest => "any rest".to_owned(),
        ArgumentPattern::Exact(text) if text == "*" => "literal *".to_owned(),
        ArgumentPattern::Exact(text) => text.clone(),
    };
    let programs: Vec<Vec<_>> =
        step.grants.programs.iter().map(|grant| grant.arguments.iter().map(word).collect()).collect();
    json!({ "dirs": dirs.collect::<BTreeMap<_, _>>(), "http": http, "programs": programs })
}

fn arb_word() -> impl Strategy<Value = Value> {
    select(vec![
        json!("-l"),
        json!(8080),
        json!(true),
        json!("*"),
        json!("${{ vars.star }}"),
        json!("${{ vars.port }}"),
        json!("--to=${{ vars.host }}"),
        json!("${{ steps.pull.path }}"),
        json!("${{ release.path }}/bin"),
        json!("${{ run.id }}"),
        json!("${{ release }}"),
        json!("https://example.com/in-an-argument"),
    ])
}

fn arb_text() -> impl Strategy<Value = Value> {
    select(vec![
        json!("http://localhost/health"),
        json!("http://localhost:80/again"),
        json!("https://${{ vars.host }}:${{ vars.port }}/x"),
        json!("https://${{ vars.host }}"),
        json!("${{ vars.url }}"),
        json!("https://example.com/${{ steps.pull.path }}"),
        json!("https://example.com${{ steps.pull.path }}"),
        json!("https://${{ steps.pull.path }}/x"),
        json!("${{ steps.pull.url }}"),
        json!("a text with https://example.org in it"),
        json!("ftp://example.com/x"),
        json!("file:dist/x.tar.gz"),
        json!(3),
        Value::Null,
    ])
}

fn arb_program() -> impl Strategy<Value = Value> {
    let name = select(vec!["ls", "/bin/echo", "./build.sh", "../ops/restart", "${{ plan.dir }}/x"]);
    (name, vec(arb_word(), 0..4)).prop_map(|(name, words)| [vec![json!(name)], words].concat().into())
}

/// Grants, each kind listed or not.
fn arb_grants() -> impl Strategy<Value = Value> {
    let own = btree_map(
        select(vec!["a", "b", "c"]),
        select(vec!["./x", "./x:ro", "/srv/${{ vars.host }}", "${{ plan.dir }}/y:rw"]),
        0..3,
    );
    let names = proptest::sample::subsequence(vec!["app", "dist", "data"], 0..3);
    let narrowed = (names, any::<bool>()).prop_map(|(names, narrow)| {
        names.iter().map(|name| if narrow { format!("{name}:ro") } else { (*name).to_owned() }).collect::<Vec<_>>()
    });
    let dirs = prop_oneof![own.prop_map(|own| json!(own)), narrowed.prop_map(|names| json!(names))];
    let http = vec(select(vec!["api", "web", "https://x.example.com", "http://localhost:${{ vars.port }}"]), 0..3);
    let programs = vec(
        arb_program().prop_filter("known", |argv| {
            !argv.to_string().contains("steps.")
                && !argv.to_string().contains("release.path")
                && !argv.to_string().contains("run.id")
        }),
        0..3,
    );
    (prop::option::of(dirs), prop::option::of(http), prop::option::of(programs)).prop_map(|(dirs, http, programs)| {
        let mut grants = Map::new();
        grants.extend(dirs.map(|dirs| ("dirs".to_owned(), dirs)));
        grants.extend(http.map(|http| ("http".to_owned(), json!(http))));
        grants.extend(programs.map(|programs| ("programs".to_owned(), json!(programs))));
        grants.into()
    })
}

fn arb_step() -> impl Strategy<Value = Value> {
    let with = (
        prop::option::of(arb_program()),
        prop::option::of(vec(arb_word(), 0..3)),
        prop::option::of(arb_program()),
        vec(arb_text(), 0..4),
        any::<bool>(),
    );
    let with = with.prop_map(|(program, args, probe, checks, nested)| {
        let mut with = Map::new();
        with.extend(program.map(|argv| ("program".to_owned(), argv[0].clone())));
        with.extend(args.map(|args| ("args".to_owned(), json!(args))));
        with.extend(probe.map(|probe| ("probe".to_owned(), probe)));
        let checks = if nested { json!([{ "url": checks }, { "a/b": { "~": checks } }]) } else { json!(checks) };
        with.insert("http".to_owned(), checks);
        Value::Object(with)
    });
    let uses = prop::option::of(select(vec!["run", "verify", "./x.wasm"]));
    (uses, prop::option::of(arb_program()), with, prop::option::of(arb_grants())).prop_map(
        |(uses, short, with, grants)| {
            let mut step = Map::from_iter([("trust".to_owned(), json!("host"))]);
            let mut with = with;
            match short {
                Some(argv) => {
                    for key in ["program", "args"] {
                        with.as_object_mut().unwrap().remove(key);
                    }
                    step.insert("program".to_owned(), argv);
                }
                None => step.extend(uses.map(|uses| ("uses".to_owned(), json!(uses)))),
            }
            step.insert("with".to_owned(), with);
            step.extend(grants.map(|grants| ("grants".to_owned(), grants)));
            step.into()
        },
    )
}

fn arb_plan() -> impl Strategy<Value = Value> {
    let name = select(vec!["run", "verify", "build", "warm", "check", "restart"]);
    btree_map(name, arb_step(), 1..5).prop_map(|steps| {
        let pull = json!({ "with": { "into": "app" }, "grants": { "dirs": ["app"] } });
        let mut all = Map::from_iter([("pull".to_owned(), pull)]);
        all.extend(steps.into_iter().map(|(name, step)| (name.to_owned(), step)));
        json!({
            "version": 1,
            "app": "shop",
            "vars": serde_json::from_str::<Value>(VARIABLES).unwrap(),
            "dirs": { "app": "/srv/shop", "dist": "./dist:ro", "data": "${{ plan.dir }}/data" },
            "http": { "api": "https://api.example.com", "web": "http://${{ vars.host }}:${{ vars.port }}" },
            "steps": all,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No short form grants a step more, or less, than the naive reading; and the long form grants the same again.
    #[test]
    fn short_forms_grant_what_they_say(text in arb_plan()) {
        assert_eq!(label().as_str(), "v1.10");
        let plan = parse(&text.to_string()).unwrap_or_else(|errors| panic!("{text}: {}", rendered(&errors)));
        let long = plan.expanded_text();
        let again = parse(&long).unwrap_or_else(|errors| panic!("{long}: {}", rendered(&errors)));
        prop_assert_eq!(again.expanded_text(), long.clone());
        for (step, repeated) in plan.steps.iter().zip(&again.steps) {
            let expected = naive(&text, step.id.as_str(), &text["steps"][step.id.as_str()]);
            prop_assert_eq!(parsed(&plan, step), expected, "step {} of {}", step.id, text);
            prop_assert_eq!(granted(&step.grants), granted(&repeated.grants), "step {} of {}", step.id, long);
            prop_assert_eq!(&step.uses, &repeated.uses);
        }
    }
}
