//! `runner schema`: prints the JSON Schema of plans, for editors.

use std::io::Write;

use crate::report;
use contract::diagnostic::{Diagnostic, ExitKind};
use plan;

/// Writes the schema of plans.
///
/// # Errors
/// P0214 when the schema cannot be written.
pub(super) fn run(out: &mut dyn Write) -> Result<ExitKind, Diagnostic> {
    report::write_answer(out, &format!("{:#}\n", plan::schema(&sandbox::official_schemas())))?;
    Ok(ExitKind::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_valid_json() {
        let mut out = Vec::new();
        assert_eq!(run(&mut out).unwrap(), ExitKind::Success);
        let schema: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(schema["type"], "object");
    }
}
