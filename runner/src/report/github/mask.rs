//! Masks for GitHub: it hides each secret, line by line and in base64, wherever the job prints it later.
//!
//! The runner's own output is redacted anyway; masks are for the other output of the job. Deliberately absent: values so short
//! that their masks would hide ordinary words.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::command::workflow_command;
use contract::Secret;

/// Lines of at most this many characters are not masked.
const MAX_UNMASKED_CHARS: usize = 3;

/// The commands that mask secrets, without duplicates.
pub(super) fn mask_commands<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Vec<String> {
    let mut masks = Vec::new();
    for secret in secrets {
        let value = secret.reveal();
        // GitHub itself would mask each line of a multi-line text, even the shortest.
        let lines = value.split(['\r', '\n']).map(str::trim).filter(|line| line.chars().count() > MAX_UNMASKED_CHARS);
        let whole = (value.chars().count() > MAX_UNMASKED_CHARS).then(|| STANDARD_NO_PAD.encode(value));
        for mask in lines.map(str::to_owned).chain(whole) {
            let mask = workflow_command("add-mask", &[], &mask);
            if !masks.contains(&mask) {
                masks.push(mask);
            }
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_base64_are_masked_unless_short() {
        let secrets =
            ["-----BEGIN\r\n  k%y,one\nabc\n-----END\n", "hunter2", "abc"].map(|text| Secret::new(text.to_owned()));
        assert_eq!(
            mask_commands(&secrets),
            [
                "::add-mask::-----BEGIN",
                "::add-mask::k%25y,one",
                "::add-mask::-----END",
                "::add-mask::LS0tLS1CRUdJTg0KICBrJXksb25lCmFiYwotLS0tLUVORAo",
                "::add-mask::hunter2",
                "::add-mask::aHVudGVyMg",
            ]
        );
    }
}
