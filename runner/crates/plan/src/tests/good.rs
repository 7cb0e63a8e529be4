//! Plans that parse, and what they mean.

use std::path::Path;

use expect_test::expect;
use serde_json::json;

use super::{super::*, SMALL, env, good, label, parse_for, rendered, source};
use contract::error_code::ErrorCode;

/// The example of docs/plan.md, with all four official steps of a release.
pub(super) const EXAMPLE: &str = r#"version: 1
app: shop
state: dir:.pawl                 # default; or git:origin, s3://bucket/prefix
secrets: { DB: env:DATABASE_URL }
environments:
  test: { vars: { root: ./deploy/test } }
  prod: { after: test, vars: { root: /srv/shop } }
steps:
  pull:
    uses: pull
    with: { from: "file:dist/shop-${{ release }}.tar.zst", into: app }
    grants: { dirs: { app: "${{ vars.root }}", dist: "./dist:ro" } }
    timeout: 5m
    retry: 3
  migrate:
    uses: migrate
    with: { dir: migrations, database: main }
    grants:
      dirs: { migrations: "./migrations:ro" }
      databases: { main: "sqlite:${{ vars.root }}/shop.db" }
  switch:
    uses: switch
    with: { link: current }
    grants: { dirs: { app: "${{ vars.root }}" } }
  verify:
    uses: verify
    with: { http: [{ url: "http://127.0.0.1:8080/health", status: 200 }] }
    grants: { http: ["http://127.0.0.1:8080"] }
on-failure: rollback             # default: hold
"#;

#[test]
fn the_example_is_parsed() {
    let plan = parse_for(EXAMPLE, Some("test")).unwrap();
    expect![[r#"
        shop to test after None, Dir("/plans/shop/.pawl"), Rollback, secrets {"DB": Secret(…)}

        pull = Official("pull") needs [], 300s, retry 3, Sandbox
        with {"from":"file:dist/shop-v1.10.tar.zst","into":"app"}
        pending {}
        StepGrants {
            dirs: {
                GrantName(
                    "app",
                ): DirGrant {
                    path: "/plans/shop/deploy/test",
                    access: ReadWrite,
                    is_relative: true,
                    source: Step,
                },
                GrantName(
                    "dist",
                ): DirGrant {
                    path: "/plans/shop/dist",
                    access: ReadOnly,
                    is_relative: true,
                    source: Step,
                },
            },
            http: [],
            tcp: [],
            databases: {},
            programs: [],
            env: {},
            sockets: {},
            renders: {},
            secrets: {},
        }

        migrate = Official("migrate") needs ["pull"], 600s, retry 0, Sandbox
        with {"dir":"migrations","database":"main"}
        pending {}
        StepGrants {
            dirs: {
                GrantName(
                    "migrations",
                ): DirGrant {
                    path: "/plans/shop/migrations",
                    access: ReadOnly,
                    is_relative: true,
                    source: Step,
                },
            },
            http: [],
            tcp: [],
            databases: {
                GrantName(
                    "main",
                ): DatabaseGrant {
                    url: ConfidentialText {
                        written: "sqlite:/plans/shop/deploy/test/shop.db",
                        value: Secret(…),
                    },
                },
            },
            programs: [],
            env: {},
            sockets: {},
            renders: {},
            secrets: {},
        }

        switch = Official("switch") needs ["migrate"], 600s, retry 0, Sandbox
        with {"link":"current"}
        pending {}
        StepGrants {
            dirs: {
                GrantName(
                    "app",
                ): DirGrant {
                    path: "/plans/shop/deploy/test",
                    access: ReadWrite,
                    is_relative: true,
                    source: Step,
                },
            },
            http: [],
            tcp: [],
            databases: {},
            programs: [],
            env: {},
            sockets: {},
            renders: {},
            secrets: {},
        }

        verify = Official("verify") needs ["switch"], 600s, retry 0, Sandbox
        with {"http":[{"url":"http://127.0.0.1:8080/health","status":200}]}
        pending {}
        StepGrants {
            dirs: {},
            http: [
                HttpGrant {
                    scheme: "http",
                    host: "127.0.0.1",
                    port: 8080,
                    methods: None,
                    network: Public,
                    headers: [],
                    source: Step,
                },
            ],
            tcp: [],
            databases: {},
            programs: [],
            env: {},
            sockets: {},
            renders: {},
            secrets: {},
        }
    "#]]
    .assert_eq(&overview(&plan));
}

#[test]
fn the_environment_decides_the_variables() {
    let plan = parse_for(EXAMPLE, Some("prod")).unwrap();
    assert_eq!(plan.after.as_ref().map(EnvironmentName::as_str), Some("test"));
    let app: GrantName = "app".parse().unwrap();
    assert_eq!(plan.steps[0].grants.dirs[&app].path, Path::new("/srv/shop"));
}

/// Everything in a plan except the text and the spans.
fn overview(plan: &Plan) -> String {
    let mut out = format!(
        "{} to {} after {:?}, {:?}, {:?}, secrets {:?}\n",
        plan.app, plan.environment, plan.after, plan.state, plan.on_failure, plan.secrets
    );
    for step in &plan.steps {
        out.push_str(&format!(
            "\n{} = {:?} needs {:?}, {:?}, retry {}, {:?}\nwith {}\npending {:?}\n{:#?}\n",
            step.id,
            step.uses,
            step.needs.iter().map(StepId::as_str).collect::<Vec<_>>(),
            step.timeout,
            step.retry,
            step.trust,
            step.with,
            step.pending,
            step.grants
        ));
    }
    out
}

#[test]
fn a_small_plan_has_defaults() {
    let plan = good(super::SMALL);
    assert_eq!(plan.environment.as_str(), "default");
    assert_eq!(plan.state, StateLocation::Dir("/plans/shop/.pawl".into()));
    assert_eq!(plan.on_failure, OnFailure::Hold);
    let step = &plan.steps[0];
    assert_eq!((step.timeout.as_secs(), step.retry, step.trust), (600, 0, StepTrust::Sandbox));
    assert_eq!((step.with.clone(), step.needs.len()), (json!({}), 0));
    assert_eq!(&plan.source.text[step.span.clone()], "pull");
}

#[test]
fn every_grant_in_its_normal_form() {
    let plan = good(
        r#"
version: 1
app: shop
secrets: { TOKEN: env:TOKEN, DB: env:DATABASE_URL }
vars: { star: "*", port: 8080 }
steps:
  a:
    uses: ../x/./module.wasm
    trust: host
    grants:
      dirs: { up: "../../other/x:rw", root: /, odd: "/a:b:ro" }
      http:
        - https://EXAMPLE.com
        - { origin: "http://[::1]:${{ vars.port }}/", methods: [get, POST], private: true, headers: { Authorization: "Bearer ${{ secrets.TOKEN }}" } }
        - http://0x7f.1
      tcp: ["DB.example.com:5432", "[0:0::1]:80"]
      databases: { one: "sqlite:///var/x.db", two: "${{ secrets.DB }}" }
      programs:
        - systemctl
        - [/usr/sbin/nginx, -s, "*", "**"]
        - [echo, "${{ vars.star }}", 5]
      env: { PATH: /usr/bin, WORD: , PORT: 80 }
"#,
    );
    assert_eq!(plan.steps[0].uses, ModuleRef::File("/plans/x/module.wasm".into()));
    expect![[r#"
        StepGrants {
            dirs: {
                GrantName(
                    "odd",
                ): DirGrant {
                    path: "/a:b",
                    access: ReadOnly,
                    is_relative: false,
                    source: Step,
                },
                GrantName(
                    "root",
                ): DirGrant {
                    path: "/",
                    access: ReadWrite,
                    is_relative: false,
                    source: Step,
                },
                GrantName(
                    "up",
                ): DirGrant {
                    path: "/other/x",
                    access: ReadWrite,
                    is_relative: true,
                    source: Step,
                },
            },
            http: [
                HttpGrant {
                    scheme: "https",
                    host: "example.com",
                    port: 443,
                    methods: None,
                    network: Public,
                    headers: [],
                    source: Step,
                },
                HttpGrant {
                    scheme: "http",
                    host: "::1",
                    port: 8080,
                    methods: Some(
                        [
                            "GET",
                            "POST",
                        ],
                    ),
                    network: Private,
                    headers: [
                        (
                            "authorization",
                            ConfidentialText {
                                written: "Bearer ${{ secrets.TOKEN }}",
                                value: Secret(…),
                            },
                        ),
                    ],
                    source: Step,
                },
                HttpGrant {
                    scheme: "http",
                    host: "127.0.0.1",
                    port: 80,
                    methods: None,
                    network: Public,
                    headers: [],
                    source: Step,
                },
            ],
            tcp: [
                "db.example.com:5432",
                "[::1]:80",
            ],
            databases: {
                GrantName(
                    "one",
                ): DatabaseGrant {
                    url: ConfidentialText {
                        written: "sqlite:/var/x.db",
                        value: Secret(…),
                    },
                },
                GrantName(
                    "two",
                ): DatabaseGrant {
                    url: ConfidentialText {
                        written: "${{ secrets.DB }}",
                        value: Secret(…),
                    },
                },
            },
            programs: [
                ProgramGrant {
                    arguments: [
                        Exact(
                            "systemctl",
                        ),
                    ],
                    source: Step,
                },
                ProgramGrant {
                    arguments: [
                        Exact(
                            "/usr/sbin/nginx",
                        ),
                        Exact(
                            "-s",
                        ),
                        AnyOne,
                        AnyRest,
                    ],
                    source: Step,
                },
                ProgramGrant {
                    arguments: [
                        Exact(
                            "echo",
                        ),
                        Exact(
                            "*",
                        ),
                        Exact(
                            "5",
                        ),
                    ],
                    source: Step,
                },
            ],
            env: {
                "PATH": Set(
                    ConfidentialText {
                        written: "/usr/bin",
                        value: Secret(…),
                    },
                ),
                "PORT": Set(
                    ConfidentialText {
                        written: "80",
                        value: Secret(…),
                    },
                ),
                "WORD": SetByStep,
            },
            sockets: {},
            renders: {},
            secrets: {},
        }"#]]
    .assert_eq(&format!("{:#?}", plan.steps[0].grants));
    let database = |name: &str| &plan.steps[0].grants.databases[&name.parse::<GrantName>().unwrap()].url;
    assert_eq!(database("two").value.reveal(), "sqlite:/plans/shop/secret.db");
    let (_, header) = &plan.steps[0].grants.http[1].headers[0];
    assert_eq!((header.written.as_str(), header.value.reveal()), ("Bearer ${{ secrets.TOKEN }}", "Bearer s3cr3t"));
}

#[test]
fn needs_make_a_stable_order() {
    let order = |steps: &str| {
        let plan = good(&format!("version: 1\napp: shop\nsteps:\n{steps}"));
        plan.steps.iter().map(|step| step.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(order("  c: { uses: x }\n  a: { uses: x }\n  b: { uses: x }\n"), "c a b");
    assert_eq!(
        order("  c: { uses: x, needs: b }\n  a: { uses: x, needs: [] }\n  b: { uses: x, needs: [a, a] }\n"),
        "a b c"
    );
    assert_eq!(order("  d: { uses: x }\n  c: { uses: x, needs: [] }\n  b: { uses: x, needs: [d] }\n"), "d c b");
}

#[test]
fn aliases_are_expanded() {
    let plan = good(
        "version: 1\napp: shop\nvars: { a: &a 5 }\nsteps:\n  x: { uses: &u pull, with: &w { n: *a } }\n  y: { uses: *u, with: *w }\n",
    );
    assert_eq!(plan.steps[1].with, json!({ "n": 5 }));
}

#[test]
fn environments_are_listed_and_located_without_secrets() {
    let names = environments(&source(EXAMPLE)).unwrap();
    assert_eq!(names.iter().map(EnvironmentName::as_str).collect::<Vec<_>>(), ["test", "prod"]);
    let location = locate_history(&source(EXAMPLE), Some("prod"), &|_| None).unwrap();
    assert_eq!((location.app.as_str(), location.environment.as_str()), ("shop", "prod"));
    assert_eq!(location.state, StateLocation::Dir("/plans/shop/.pawl".into()));

    let text = "version: 1\napp: shop\nvars: { at: \"${{ env.UNSET }}\" }\nstate: dir:${{ vars.at }}\n";
    let errors = locate_history(&source(text), None, &env).unwrap_err();
    assert_eq!(errors.errors[0].code, ErrorCode::UndefinedLookup);
}

#[test]
fn windows_line_endings_and_a_byte_order_mark_are_accepted() {
    let text = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    let request =
        PlanRequest { environment: Some("test"), release: &label(), env: &env, inventory: &crate::no_inventory };
    let plan = Plan::parse(source(&text), &request).unwrap();
    assert_eq!(&text[plan.steps[3].span.clone()], "verify");
}

#[test]
fn sockets_and_secrets_are_granted_by_name() {
    let plan = good(
        "version: 1\napp: shop\nsecrets: { A: env:TOKEN, B: env:HOME }\nsteps:\n  a:\n    uses: x\n    trust: host\n    grants:\n      sockets: { engine: unix:engine.sock }\n      secrets: { A: use, B: reveal }\n  b: { uses: x, grants: { secrets: [B] } }\n",
    );
    let [a, b] = &plan.steps[..] else { panic!("two steps") };
    let engine = a.grants.sockets.iter().map(|(name, path)| (name.as_str(), path.to_str().unwrap()));
    assert_eq!(engine.collect::<Vec<_>>(), [("engine", "/plans/shop/engine.sock")]);
    let access = |step: &PlanStep| -> Vec<(String, SecretAccess)> {
        step.grants.secrets.iter().map(|(name, grant)| (name.clone(), grant.access)).collect()
    };
    assert_eq!(access(a), [("A".to_owned(), SecretAccess::Use), ("B".to_owned(), SecretAccess::Reveal)]);
    assert_eq!(access(b), [("B".to_owned(), SecretAccess::Use)]);
    assert_eq!(a.grants.secrets["A"].value.reveal(), "s3cr3t");
    assert!(!format!("{plan:?}").contains("s3cr3t"));
}

#[test]
fn state_locations() {
    use crate::{RemoteLocation, RemoteState};
    let remote = |state: &str| {
        let text =
            format!("version: 1\napp: shop\nstate: \"{state}\"\nlock: {{ ttl: 45s }}\nsteps: {{ a: {{ uses: x }} }}\n");
        match good(&text).state {
            StateLocation::Remote(remote) => remote,
            StateLocation::Dir(folder) => panic!("{state} is {folder:?}"),
        }
    };
    let git = |text: &str| RemoteLocation::Git(text.to_owned());
    let s3 = |bucket: &str, prefix: &str| RemoteLocation::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
    for (state, place) in [
        ("git:origin", git("origin")),
        ("git:../state.git", git("/plans/state.git")),
        ("git:deploy/state.git", git("/plans/shop/deploy/state.git")),
        ("git:/srv/state.git", git("/srv/state.git")),
        ("git:git@git.example.com:acme/state.git", git("git@git.example.com:acme/state.git")),
        ("git:https://git.example.com/acme/state.git", git("https://git.example.com/acme/state.git")),
        ("s3://acme", s3("acme", "")),
        ("s3://acme/deployments/shop/", s3("acme", "deployments/shop")),
    ] {
        let RemoteState { written, location: found, ttl, .. } = remote(state);
        assert_eq!((written.as_str(), found, ttl), (state, place, std::time::Duration::from_secs(45)));
    }
}

#[test]
fn an_environment_has_a_url() {
    let text = |url: &str| {
        SMALL.replace("steps:", &format!("environments: {{ pre: {{ url: {url}, vars: {{ host: pre }} }} }}\nsteps:"))
    };
    let plan = good(&text("\"https://${{ release }}.${{ vars.host }}.example.com/x\""));
    assert_eq!(plan.url.as_deref(), Some("https://v1.10.pre.example.com/x"));
    assert_eq!(good(SMALL).url, None);
    for url in ["shop.example.com", "\"javascript:alert(1)\"", "\"https://a b\"", "\"https://\""] {
        let told = rendered(&parse_for(&text(url), None).unwrap_err());
        assert!(told.contains("error[P0118]: `url` of environment `pre` is not a web address"), "{url}: {told}");
    }
    let secret = text("\"https://${{ secrets.TOKEN }}.example.com\"");
    assert!(rendered(&parse_for(&secret, None).unwrap_err()).contains("secrets"));
}

#[test]
fn directory_and_path_are_split_by_one_rule() {
    for (text, expected) in [
        ("app", ("app", "")),
        ("app/", ("app", "")),
        ("/app", ("app", "")),
        ("app/current/VERSION", ("app", "current/VERSION")),
        ("//app//current", ("app", "current")),
        ("", ("", "")),
    ] {
        assert_eq!(split_dir_path(text), expected, "{text:?}");
    }
    let plan = parse_for(EXAMPLE, Some("test")).unwrap();
    let grants = &plan.steps[1].grants;
    for text in ["migrations/old", "/migrations/old", "migrations//old"] {
        assert_eq!(grants.host_path(text), Some("/plans/shop/migrations/old".into()), "{text:?}");
    }
    assert_eq!(grants.host_path("/migrations"), Some("/plans/shop/migrations".into()));
    assert_eq!(grants.host_path("/srv/migrations"), None);
}
