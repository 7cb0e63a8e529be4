//! What GitHub is told to hide, wherever the job prints it later: secrets, line by line, and in base64.
//!
//! The runner's own output has no secrets anyway; this is for what the job prints beside it. Deliberately absent: values so
//! short that they would blank out ordinary words.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::command::workflow_command;
use contract::Secret;

/// Lines up to this many characters are not hidden.
const MAX_UNMASKED_CHARS: usize = 3;

/// The commands that hide secrets, one a line; each once.
pub(super) fn mask_commands<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Vec<String> {
    let mut masks = Vec::new();
    for secret in secrets {
        let value = secret.reveal();
        // GitHub masks a text of several lines line by line too, the shortest as well.
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
    fn lines_and_base64_are_hidden_and_short_ones_are_not() {
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
