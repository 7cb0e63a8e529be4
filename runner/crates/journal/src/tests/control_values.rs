//! Control values are recorded unchanged or refused; the records of older runners that masked them are not trusted.

use std::collections::BTreeMap;

use super::*;
use crate::{
    JournalTrust,
    decision::{StepsToUndo, UndoCandidate, UndoSupport, staged_steps_to_undo, steps_to_undo},
    redact::MASK,
    secret_scanner::{MIN_REFUSED_CHARS, is_refused},
};
use contract::{Secret, error_code::ErrorCode};

fn secrets(values: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    values.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned()))).collect()
}

fn journal(folder: &Path, values: &[(&str, &str)]) -> Journal {
    begin(folder, 1, AttemptNumber::FIRST, Redactor::of_plan(&secrets(values)))
}

fn intend(journal: &mut Journal, input: Value) -> Result<crate::StepIntent, JournalError> {
    journal.record_intent(&step_target("switch"), "key", fingerprint("switch"), input, StepEffect::Exposing)
}

#[test]
fn a_short_secret_in_control_values_changes_nothing_and_is_masked_in_texts() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), &[("NAME", "shop"), ("PIN", "abc")]);
    let input = json!({ "app": "shop", "config": { "link": "shop-live", "pin": "abc" } });
    let receipt = Receipt { outputs: object(json!({ "shop": "abc" })), notes: object(json!({ "from": "shop-old" })) };
    let intent = intend(&mut journal, input.clone()).unwrap();
    let outcome = StepOutcome::Succeeded { receipt: receipt.clone() };
    assert_eq!(journal.record_outcome(intent.complete(outcome.clone(), Duration::ZERO)).unwrap(), outcome);
    log_message(&mut journal, "switch", "shop-live has abc, not abcd");
    let record = &load(&[path(folder.path(), 1)]).unwrap().state.records[&step_target("switch")];
    assert_eq!((&record.intent.input, &record.status), (&input, &RecordStatus::Succeeded(receipt)));
    let text = fs::read_to_string(path(folder.path(), 1)).unwrap();
    assert!(text.contains("***-live has ***, not abcd"), "{text}");
}

#[test]
fn a_secret_in_an_input_is_not_recorded_and_the_step_cannot_act() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), &[("NAME", "shop-live")]);
    let refused = intend(&mut journal, json!({ "config": { "link": "shop-live" } })).unwrap_err();
    let diagnostic = Diagnostic::from(&refused);
    assert_eq!(diagnostic.code, ErrorCode::SecretInInput);
    expect!["a record would contain the value of secret `NAME` in `config.link`"].assert_eq(&diagnostic.message);
    // Nothing was written, and the journal goes on.
    let _intent = intend(&mut journal, json!({ "config": { "link": "live" } })).unwrap();
    assert!(!fs::read_to_string(path(folder.path(), 1)).unwrap().contains("shop-live"));
}

#[test]
fn a_secret_in_a_receipt_leaves_the_intent_without_an_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), &[("NAME", "shop-live")]);
    let bad = receipt(json!({ "path": "to/shop-live" }));
    let intent = intend(&mut journal, json!({})).unwrap();
    let outcome = intent.complete(StepOutcome::Succeeded { receipt: bad.clone() }, Duration::ZERO);
    let recorded = journal.record_outcome(outcome).unwrap();
    assert!(matches!(recorded, StepOutcome::Unknown { .. }), "{recorded:?}");
    assert_eq!(journal.state().status(&step_target("switch")), Some(&RecordStatus::Intended));
    let finding = ProbeFinding::Held { receipt: bad.clone() };
    let found = journal.record_probe(&step_target("switch"), ProbeInput::Recorded, Duration::ZERO, finding).unwrap();
    assert!(matches!(found, ProbeFinding::Failed { .. }), "{found:?}");
    let reason = DecisionReason::Held;
    let adopted = journal.record_decision(&step_target("switch"), Decision::Adopt { reason, receipt: bad });
    assert!(matches!(adopted, Err(JournalError::SecretInRecord { .. })));
    assert!(!fs::read_to_string(path(folder.path(), 1)).unwrap().contains("shop-live"));
}

#[test]
fn a_secret_in_the_header_begins_no_attempt() {
    for value in ["1.4.0-rc", "abababab", "r1-k3x9-", "prod-eu1"] {
        let folder = tempfile::tempdir().unwrap();
        let mut header = header(1, AttemptNumber::FIRST);
        header.release.label = "1.4.0-rc1".parse().unwrap();
        (header.run, header.environment) = ("r1-k3x9-0".parse().unwrap(), "prod-eu1".parse().unwrap());
        let redactor = Redactor::of_plan(&secrets(&[("NAME", value)]));
        let file = path(folder.path(), 1);
        let begun = Journal::create(&file, header, LoadedJournals::default(), redactor, Box::new(|_| {}));
        assert!(matches!(begun, Err(JournalError::SecretInRecord { .. })), "{value}");
        assert_eq!(fs::read(file).unwrap(), b"");
    }
}

fn masked_fixture() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/fixtures/journal-1.2-masked");
    (1..=3).map(|epoch| path(&folder, epoch)).collect()
}

/// The files are of format 1.2: the secret was `shop`, the link `shop-live`, and the undo of the second release failed.
#[test]
fn records_with_masks_of_format_1_2_are_not_trusted() {
    let paths = masked_fixture();
    let first = load(&paths[..1]).unwrap().state;
    let switch = &first.records[&step_target("switch")];
    assert!(switch.is_masked() && matches!(switch.status, RecordStatus::Succeeded(_)), "{switch:?}");
    assert_eq!(first.authenticated_receipt(&step_target("switch")), None);
    assert_eq!(first.head.live.as_ref().unwrap().label.as_str(), "one");
    assert_eq!(first.head.verified.len(), 1);
    let all = load(&paths).unwrap().state;
    let switch = &all.records[&step_target("switch")];
    assert!(matches!(switch.status, RecordStatus::Undoing(Some(_))), "{switch:?}");
    assert!(all.records.values().all(|record| record.trust == JournalTrust::Untrusted));
    let target = step_target("switch");
    let candidates = [UndoCandidate { step_target: &target, support: UndoSupport::Possible, exposes: true }];
    assert_eq!(steps_to_undo(&all, &switch.intent.run, &candidates), StepsToUndo::default());
    assert_eq!(staged_steps_to_undo(&all, &switch.intent.run, &candidates), []);
}

/// A mask that a user wrote into the plan is no mask of ours.
#[test]
fn a_mask_in_a_record_of_this_format_is_a_value_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(folder.path(), &[]);
    act(
        &mut journal,
        "pull",
        StepEffect::Mutating,
        StepOutcome::Succeeded { receipt: receipt(json!({ "path": MASK })) },
    );
    assert!(journal.state().authenticated_receipt(&step_target("pull")).is_some());
}

/// A value that a step gets or returns, made of words that secrets are made of too.
fn arb_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        arb_words().prop_map(Value::String),
        any::<u32>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!(1234)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(arb_words(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn arb_words() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "a",
        "x1",
        "abc",
        "123",
        "1234",
        "shop",
        "live",
        "shop-live",
        "hunter2",
        "deadbeef",
        "s3cr€t",
        "pa/ss \"word\"",
        "two words",
        "QUJD",
        "c2hvcC1saXZl",
        "%20",
        "ü",
    ]);
    (prop::collection::vec(word, 1..4), prop::sample::select(vec!["-", "/", " ", "", "\n"]))
        .prop_map(|(words, separator)| words.join(separator))
}

/// All spellings of a secret, made without the redactor.
fn forms(value: &str) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
    let quoted = Value::from(value).to_string();
    // The last digit of an incomplete group depends on what follows.
    let base64 = STANDARD_NO_PAD.encode(value);
    vec![
        value.to_owned(),
        quoted[1..quoted.len() - 1].to_owned(),
        base64[..base64.len() - usize::from(!value.len().is_multiple_of(3))].to_owned(),
        value.bytes().map(|byte| format!("{byte:02x}")).collect(),
        url::form_urlencoded::byte_serialize(value.as_bytes()).collect(),
    ]
}

fn strings(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Number(number) => into.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, into)),
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            into.push(key.clone());
            strings(value, into);
        }),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Whether a text contains a word that stands alone.
fn stands_alone(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let ends = [text[..at].chars().next_back(), text[at + word.len()..].chars().next()];
        ends.into_iter().flatten().all(|c| !c.is_alphanumeric())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever collides: a control value is recorded unchanged or not at all, a secret of 8 characters or more is in no file in
    /// any form, and a shorter one is in no text.
    #[test]
    fn secrets_that_collide_with_values_change_none_and_leak_nowhere(
        secret_values in prop::collection::vec(arb_words(), 1..4),
        config in arb_value(),
        output in arb_value(),
        message in arb_words(),
    ) {
        let named: Vec<_> = secret_values.iter().enumerate().map(|(n, value)| (format!("S{n}"), Secret::new(value.clone()))).collect();
        let redactor = Redactor::of_plan(&named.into_iter().collect());
        let folder = crate::fuzz::scratch_folder();
        let mut journal = begin(folder.path(), 1, AttemptNumber::FIRST, redactor);
        let target = step_target("pull");
        let input = json!({ "config": config });
        let receipt = Receipt { outputs: object(json!({ "out": output })), notes: Map::new() };
        log_message(&mut journal, "pull", &message);
        let intent = journal.record_intent(&target, "key", fingerprint("pull"), input.clone(), StepEffect::Mutating);
        let long: Vec<_> = secret_values.iter().map(|value| value.trim()).filter(|value| is_refused(value)).collect();
        let has_secret = |value: &Value| {
            let mut all = Vec::new();
            strings(value, &mut all);
            all.iter().any(|text| long.iter().any(|secret| text.contains(secret)))
        };
        prop_assert!(intent.is_err() || !has_secret(&input), "{:?}", input);
        if let Ok(intent) = intent {
            let outcome = StepOutcome::Succeeded { receipt: receipt.clone() };
            let recorded = journal.record_outcome(intent.complete(outcome, Duration::ZERO)).unwrap();
            let record = &journal.state().records[&target];
            prop_assert_eq!(&record.intent.input, &input);
            match recorded {
                StepOutcome::Succeeded { receipt: recorded } => prop_assert_eq!(&recorded, &receipt),
                StepOutcome::Failed { .. } => prop_assert!(false, "a clean failure"),
                StepOutcome::Unknown { .. } => prop_assert_eq!(&record.status, &RecordStatus::Intended),
            }
        }
        let file = fs::read_to_string(path(folder.path(), 1)).unwrap();
        for line in file.lines() {
            let entry: Value = serde_json::from_str(&line[9..]).unwrap();
            let event = &entry["event"];
            for secret in &long {
                for form in forms(secret).iter().filter(|form| form.chars().count() >= MIN_REFUSED_CHARS) {
                    prop_assert!(!line.contains(form), "{} is in {}", form, line);
                }
            }
            for control in [&event["input"], &event["receipt"]] {
                prop_assert!(!control.to_string().contains(MASK), "{}", line);
            }
            if let Some(text) = event["message"].as_str() {
                for secret in secret_values.iter().map(|value| value.trim()).filter(|value| !value.is_empty()) {
                    let is_leaked = if secret.len() < 4 { stands_alone(text, secret) } else { text.contains(secret) };
                    prop_assert!(!is_leaked, "{:?} is in {:?}", secret, text);
                }
            }
        }
    }
}
