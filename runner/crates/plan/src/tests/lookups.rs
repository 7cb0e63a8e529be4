//! Lookups that parse: the types that they keep, and what is substituted before a step begins.

use std::collections::BTreeMap;

use expect_test::expect;
use serde_json::{Map, Value, json};

use super::{super::*, good};

fn id(text: &str) -> StepId {
    text.parse().unwrap()
}

#[test]
fn a_lone_lookup_keeps_its_type() {
    let plan = good(
        r#"
version: 1
app: shop
vars: { number: 1.10, yes: true, no: "no", trick: "${{ env.TRICK }}", tag: "r-${{ release }}" }
steps:
  a:
    uses: x
    with:
      number: ${{ vars.number }}
      text: v${{ vars.number }}
      flag: ${{ vars.yes }}
      no: ${{ vars.no }}
      tag: ${{ vars.tag }}
      "${{ key }}": $${{ vars.no }} $5 $$
      trick: ${{ vars.trick }}
      nothing: ~
      list: [on, off, 0x10, 1e3]
"#,
    );
    expect![[r#"
        {
          "number": 1.1,
          "text": "v1.10",
          "flag": true,
          "no": "no",
          "tag": "r-v1.10",
          "${{ key }}": "${{ vars.no }} $5 $$",
          "trick": "${{ secrets.TOKEN }}",
          "nothing": null,
          "list": [
            "on",
            "off",
            16,
            1000.0
          ]
        }"#]]
    .assert_eq(&format!("{:#}", plan.steps[0].with));
    assert!(plan.steps[0].pending.is_empty());
}

#[test]
fn numbers_that_are_known_later_are_texts_as_words_of_a_program() {
    let plan = good(
        r#"
version: 1
app: shop
steps:
  pull: { uses: pull }
  a: { program: [/bin/echo, "${{ run.attempt }}", "${{ steps.pull.port }}"], trust: host, with: { probe: [/bin/test, "${{ run.attempt }}"] } }
"#,
    );
    let outputs = BTreeMap::from([(id("pull"), Map::from_iter([("port".to_owned(), json!(8080))]))]);
    let config = plan.steps[1].config(&outputs, &"r1".parse().unwrap(), AttemptNumber::FIRST).unwrap();
    assert_eq!((&config["args"], &config["probe"]), (&json!(["1", "8080"]), &json!(["/bin/test", "1"])));
    let again = good(&plan.expanded_text());
    assert_eq!(again.steps[1].config(&outputs, &"r1".parse().unwrap(), AttemptNumber::FIRST).unwrap(), config);
}

#[test]
fn outputs_and_the_run_are_substituted_later() {
    let plan = good(
        r#"
version: 1
app: shop
vars: { dollar: "${{ env.TRICK }}$" }
steps:
  pull: { uses: pull }
  a:
    uses: x
    with: { "p/~": ["${{ steps.pull.port }}"], url: "http://h:${{ steps.pull.port }}/${{ vars.dollar }}${{ run.id }}", n: "${{ run.attempt }}" }
"#,
    );
    let step = &plan.steps[1];
    assert_eq!(step.pending.keys().collect::<Vec<_>>(), ["/n", "/p~1~0/0", "/url"]);
    assert_eq!(&plan.source.text[step.with_spans["/n"].clone()], "\"${{ run.attempt }}\"");
    let run: RunId = "r1".parse().unwrap();
    let outputs = |value: Value| BTreeMap::from([(id("pull"), Map::from_iter([("port".to_owned(), value)]))]);

    let config = step.config(&outputs(json!(8080)), &run, AttemptNumber::FIRST.next()).unwrap();
    expect![[r#"{"p/~":[8080],"url":"http://h:8080/${{ secrets.TOKEN }}$r1","n":2}"#]].assert_eq(&config.to_string());

    let told = |outputs| {
        let error = step.config(&outputs, &run, AttemptNumber::FIRST).unwrap_err();
        super::render_diagnostic(&error.diagnostic(&plan.source), super::ColorMode::Off)
    };
    expect![[r#"
        error[P0105]: `steps.pull.port` cannot be part of a string
         --> deploy.yml:9:63
          |
        9 | …  with: { "p/~": ["${{ steps.pull.port }}"], url: "http://h:${{ steps.pull.port }}/${{ vars.dollar }}${{ run.id }}", n: "${{ run.attempt }}"…
          |                                                              ^^^^^^^^^^^^^^^^^^^^^^ its value is a list, a mapping or null
          hint: remove the text around the lookup
    "#]].assert_eq(&told(outputs(json!([1]))));
    expect![[r#"
        error[P0108]: step `pull` has no output `port`
         --> deploy.yml:9:22
          |
        9 |     with: { "p/~": ["${{ steps.pull.port }}"], url: "http://h:${{ steps.pull.port }}/${{ vars.dollar …
          |                      ^^^^^^^^^^^^^^^^^^^^^^ no such output
          hint: use one of `path`
    "#]]
    .assert_eq(&told(BTreeMap::from([(id("pull"), Map::from_iter([("path".to_owned(), json!(1))]))])));
    expect![[r#"
        error[P0108]: step `pull` has no outputs on record
         --> deploy.yml:9:22
          |
        9 |     with: { "p/~": ["${{ steps.pull.port }}"], url: "http://h:${{ steps.pull.port }}/${{ vars.dollar …
          |                      ^^^^^^^^^^^^^^^^^^^^^^ no such output
          hint: run it first: remove `--only` and `--start-from`, or use `--start-from pull`
    "#]]
    .assert_eq(&told(BTreeMap::new()));
}
