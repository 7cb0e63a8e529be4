//! Texts that are not plans: YAML, size, depth.

use std::sync::Arc;

use expect_test::expect;

use super::{check, parse, rendered, source};
use contract::{
    diagnostic::{Diagnostic, ErrorCode, SourceExcerpt},
    render::{ColorMode, render_diagnostic},
};

#[test]
fn empty() {
    check(
        "",
        expect![[r#"
            error[P0102]: the plan is empty
              hint: write a plan; docs/plan.md has an example
        "#]],
    );
    check(
        "# nothing but a comment\n",
        expect![[r#"
            error[P0102]: the plan is empty
              hint: write a plan; docs/plan.md has an example
        "#]],
    );
}

#[test]
fn ten_megabytes() {
    check(
        &"x".repeat(10_000_000),
        expect![[r#"
            error[P0103]: the plan is 10000000 bytes long; the limit is 1048576 (1 MiB)
              hint: check that this is the right file; a plan is a page or two
        "#]],
    );
}

#[test]
fn a_tab_in_the_indentation() {
    check(
        "version: 1\napp: shop\nsteps:\n\tpull: { uses: pull }\n",
        expect![[r#"
            error[P0101]: the indentation contains a tab
             --> deploy.yml:4:1
              |
            4 |     pull: { uses: pull }
              | ^^^^ a tab
              hint: indent with spaces only
        "#]],
    );
    check(
        "version: 1\napp: shop\n\tsteps: x\n",
        expect![[r#"
            error[P0101]: the indentation contains a tab
             --> deploy.yml:3:1
              |
            3 |     steps: x
              | ^^^^ a tab
              hint: indent with spaces only
        "#]],
    );
}

#[test]
fn not_yaml() {
    check(
        "version: 1\napp: \"shop\n",
        expect![[r#"
        error[P0101]: the plan is not valid YAML
         --> deploy.yml:2:6
          |
        2 | app: "shop
          |      ^ while scanning a quoted scalar, found unexpected end of stream
          hint: close it with `"`
    "#]],
    );
    check(
        "version: 1\napp: shop: x\n",
        expect![[r#"
        error[P0101]: the plan is not valid YAML
         --> deploy.yml:2:10
          |
        2 | app: shop: x
          |          ^ mapping values are not allowed in this context
          hint: quote it: `"shop: x"`
    "#]],
    );
    check(
        "version: 1\nsteps: [a\napp: x\n",
        expect![[r#"
            error[P0101]: the plan is not valid YAML
             --> deploy.yml:2:8
              |
            2 | steps: [a
              |        ^ illegal placement of ':' indicator
              hint: close this `[`
        "#]],
    );
    check(
        "a: 1\n---\nb: 1\n",
        expect![[r#"
            error[P0101]: the plan has more than one document
             --> deploy.yml:2:1
              |
            2 | ---
              | ^^^ a second one starts here
              hint: keep one document; put environments under `environments:`
        "#]],
    );
    check(
        "app: !name shop\n",
        expect![[r#"
            error[P0101]: tags are not supported
             --> deploy.yml:1:6
              |
            1 | app: !name shop
              |      ^^^^^^^^^^ a tag
              hint: remove the tag; to write a string, quote it
        "#]],
    );
    check(
        "base: &b { a: 1 }\nx:\n  <<: *b\n",
        expect![[r#"
        error[P0101]: merge keys (`<<`) are not supported
         --> deploy.yml:3:3
          |
        3 |   <<: *b
          |   ^^ a merge key
          hint: write the keys out, or give the whole mapping an alias
    "#]],
    );
    check(
        "? [a]\n: 1\n",
        expect![[r#"
            error[P0101]: a key must be a plain string
             --> deploy.yml:1:3
              |
            1 | ? [a]
              |   ^ not a key
              hint: write a name as the key
        "#]],
    );
    check(
        "a: &a [*a]\n",
        expect![[r#"
            error[P0101]: an alias refers to its own anchor
             --> deploy.yml:1:8
              |
            1 | a: &a [*a]
              |        ^^ endless
              hint: remove the alias
        "#]],
    );
    check(
        "- a\n- b\n",
        expect![[r#"
            error[P0105]: the plan must be a mapping, not a list
             --> deploy.yml:1:1
              |
            1 | - a
              | ^^^ this is a list
              hint: write a mapping; see docs/plan.md
        "#]],
    );
}

#[test]
fn an_alias_bomb() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (letter, before) in ('b'..='h').zip('a'..) {
        let aliases = vec![format!("*{before}"); 10].join(", ");
        bomb.push_str(&format!("{letter}: &{letter} [{aliases}]\n"));
    }
    check(
        &bomb,
        expect![[r#"
            error[P0103]: the plan is too complex: more than 20000 values, aliases expanded
             --> deploy.yml:4:4
              |
            4 | d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]
              |    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ one too many
              hint: use fewer aliases; a plan is a page or two
        "#]],
    );
}

#[test]
fn deep_nesting() {
    check(
        &format!("a: {}{}\n", "[".repeat(100), "]".repeat(100)),
        expect![[r#"
            error[P0103]: the plan is nested too deeply: more than 64 levels
             --> deploy.yml:1:67
              |
            1 | …[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]…
              |                                                              ^ one level too many
              hint: use fewer levels; a plan has about six
        "#]],
    );
    let mut chain = format!("a0: &a0 {}{}\n", "[".repeat(40), "]".repeat(40));
    chain.push_str(&format!("a1: &a1 {}*a0{}\n", "[".repeat(40), "]".repeat(40)));
    check(
        &chain,
        expect![[r#"
            error[P0103]: the plan is nested too deeply: more than 64 levels
             --> deploy.yml:2:49
              |
            2 | a1: &a1 [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[*a0]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
              |                                                 ^^^ one level too many
              hint: use fewer levels; a plan has about six
        "#]],
    );
}

#[test]
fn duplicate_keys() {
    check(
        "version: 1\napp: shop\nsteps:\n  a: { uses: x }\n  a: { uses: y }\napp: other\n",
        expect![[r#"
            error[P0117]: duplicate key `a`
             --> deploy.yml:5:3
              |
            5 |   a: { uses: y }
              |   ^ the second one
              hint: remove one; the first one is on line 4

            error[P0117]: duplicate key `app`
             --> deploy.yml:6:1
              |
            6 | app: other
              | ^^^ the second one
              hint: remove one; the first one is on line 2
        "#]],
    );
}

#[test]
fn the_caret_counts_characters() {
    check(
        "version: 1\napp: shop\nsteps:\n  a: { with: { \"größe\": \"日本語\" }, usse: x }\n",
        expect![[r#"
            error[P0104]: step `a` has no key `usse`
             --> deploy.yml:4:34
              |
            4 |   a: { with: { "größe": "日本語" }, usse: x }
              |                                     ^^^^ unknown key
              hint: did you mean `uses`?
        "#]],
    );
}

#[test]
fn windows_line_endings() {
    check(
        "version: 1\r\napp: shop\r\nstepz: x\r\nsteps:\r\n  a:\r\n    uses: pull\r\n    retry: 99\r\n",
        expect![[r#"
            error[P0104]: the plan has no key `stepz`
             --> deploy.yml:3:1
              |
            3 | stepz: x
              | ^^^^^ unknown key
              hint: did you mean `steps`?

            error[P0118]: `retry` cannot be 99
             --> deploy.yml:7:12
              |
            7 |     retry: 99
              |            ^^ out of range
              hint: use a whole number from 0 to 10
        "#]],
    );
}

#[test]
fn a_very_long_line() {
    let words = "é".repeat(100_000);
    let others = "x, ".repeat(1000);
    let text = format!(
        "version: 1\napp: shop\nsteps: {{ a: {{ uses: x, with: {{ t: \"{words}\", u: [{others}] }}, usse: x }} }}\n"
    );
    check(
        &text,
        expect![[r#"
        error[P0104]: step `a` has no key `usse`
         --> deploy.yml:3:103048
          |
        3 | … x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, ] }, usse: x } }
          |                                                              ^^^^ unknown key
          hint: did you mean `uses`?
    "#]],
    );
    let text = format!("version: 1\napp: shop\nsteps: {{ a: {{ uses: x, usse: \"{words}\" }} }}\n");
    check(
        &text,
        expect![[r#"
        error[P0104]: step `a` has no key `usse`
         --> deploy.yml:3:24
          |
        3 | steps: { a: { uses: x, usse: "ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…
          |                        ^^^^ unknown key
          hint: did you mean `uses`?
    "#]],
    );
}

#[test]
fn ten_megabytes_in_one_line_are_cut_around_the_mark() {
    let mut text = "ä".repeat(5_000_000);
    text.push_str("HERE");
    text.push_str(&"b".repeat(5_000_000));
    let mut diagnostic = Diagnostic::new(ErrorCode::NotYaml, "wrong");
    let span = 10_000_000..10_000_004;
    diagnostic.excerpt =
        Some(SourceExcerpt { path: "x.yml".into(), text: Arc::from(text), span, label: "here".into() });
    expect![[r#"
        error[P0101]: wrong
         --> x.yml:1:5000001
          |
        1 | …ääääääääääääääääääääääääääääääääääääääääääääääääääääääääääääHEREbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…
          |                                                              ^^^^ here
    "#]].assert_eq(&render_diagnostic(&diagnostic, ColorMode::Off));
}

#[test]
fn control_characters_are_escaped() {
    check(
        "version: 1\napp: shop\n\u{1b}[2J\u{9b}x\u{202e}: \"\u{7}\"\nsteps: { a: { uses: x } }\n",
        expect![[r#"
            error[P0104]: the plan has no key `\u{1b}[2J\u{9b}x\u{202e}`
             --> deploy.yml:3:1
              |
            3 | \u{1b}[2J\u{9b}x\u{202e}: "\u{7}"
              | ^^^^^^^^^^^^^^^^^^^^^^^^ unknown key
              hint: use one of `version`, `app`, `state`, `lock`, `secrets`, `vars`, `dirs`, `http`, `environments`, `setup`, `steps`, `hooks`, `keep`, `on-failure`
        "#]],
    );
}

#[test]
fn many_errors_are_shown_in_the_order_of_the_text_and_at_most_twenty() {
    let keys: String = (0..10_000).map(|n| format!("k{n}: 1\nk{n}: 2\n")).collect();
    let errors = parse(&keys[..100_000]).unwrap_err();
    assert_eq!(errors.errors.len(), 20);
    assert!(errors.errors.is_sorted_by_key(|error| error.span.as_ref().map(|span| span.start)));
    assert!(rendered(&errors).len() < 20_000);
}

/// An error with a cause and a hint, and without an excerpt.
#[test]
fn causes_and_hints() {
    let diagnostic = Diagnostic::new(ErrorCode::StepFailed, "step `migrate` failed on attempt 2")
        .with_cause("migrations/0007_orders.sql:3: relation \"order\" does not exist")
        .with_hint("fix it and run `runner --local` again (skips: pull)");
    expect![[r#"
        error[P0301]: step `migrate` failed on attempt 2
          caused by: migrations/0007_orders.sql:3: relation "order" does not exist
          hint: fix it and run `runner --local` again (skips: pull)
    "#]]
    .assert_eq(&render_diagnostic(&diagnostic, ColorMode::Off));
    assert!(render_diagnostic(&diagnostic, ColorMode::On).contains("\u{1b}["));
}

/// Spans off character boundaries or outside the text do not panic.
#[test]
fn any_span_can_be_shown() {
    let text: Arc<str> = source("a: é\r\nb: 日本\n").text;
    for start in 0..text.len() + 3 {
        for end in 0..text.len() + 3 {
            let mut diagnostic = Diagnostic::new(ErrorCode::NotYaml, "m");
            diagnostic.excerpt =
                Some(SourceExcerpt { path: "x".into(), text: text.clone(), span: start..end, label: "here".into() });
            let shown = render_diagnostic(&diagnostic, ColorMode::Off);
            assert!(
                shown.contains("^ here")
                    || shown.contains("^^ here")
                    || shown.contains("^^^ here")
                    || shown.contains("^^^^ here")
                    || shown.contains("^^^^^"),
                "{shown}"
            );
        }
    }
}
