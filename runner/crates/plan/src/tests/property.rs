//! No text makes the parser panic, and every error points into the text.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{good::EXAMPLE, parse_for, rendered};

/// Parses a text, and renders the errors if there are any.
fn parse_without_panic(text: &str) {
    match parse_for(text, Some("test")) {
        Ok(plan) => {
            for step in &plan.steps {
                assert_eq!(&text[step.span.clone()].trim_matches(['"', '\'']), &step.id.as_str());
            }
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            for span in errors.errors.iter().filter_map(|error| error.span.clone()) {
                assert!(text.get(span.clone()).is_some(), "{span:?} is not a range of {text:?}");
            }
            assert!(rendered(&errors).lines().next().is_some_and(|line| line.starts_with("error[P01")));
        }
    }
}

#[test]
fn an_anchored_name_is_marked_without_its_anchor() {
    for anchored in ["  &a pull:\n", "  &a 'pull':\n", "  &a  \"pull\" :\n"] {
        let text = EXAMPLE.replacen("  pull:\n", anchored, 1);
        assert_ne!(text, EXAMPLE);
        assert!(parse_for(&text, Some("test")).is_ok(), "{anchored}");
        parse_without_panic(&text);
    }
}

/// Pieces for texts that are similar to plans.
const PIECES: &[&str] = &[
    "\n",
    "\r\n",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "|",
    ">-",
    "&a ",
    "*a",
    "<<",
    "!x ",
    "#",
    "---\n",
    "...",
    "? ",
    "%",
    "${{",
    "}}",
    "${{ vars.x }}",
    "$${{",
    "${{ steps.pull.x }}",
    "é",
    "\u{feff}",
    "\0",
    "0755",
    "~",
    "version: 1\n",
    "app: x\n",
    "steps:\n",
    "uses: x",
    "needs: [a]",
    "grants: ",
    "dirs: ",
    "http: ",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..400)) {
        parse_without_panic(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_pieces(pieces in vec(proptest::sample::select(PIECES), 0..60)) {
        parse_without_panic(&pieces.concat());
    }

    #[test]
    fn mutated_plans(changes in vec((any::<Index>(), 0_usize..12, proptest::sample::select(PIECES)), 1..6)) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, removed, piece) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        parse_without_panic(&text.into_iter().collect::<String>());
    }
}
