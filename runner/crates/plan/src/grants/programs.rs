//! The program grants of a step: argument vectors and their patterns.

use super::GrantReader;
use crate::{
    ArgumentPattern, GrantSource, ProgramGrant,
    yaml::{YamlNode, YamlValue},
};

impl GrantReader<'_> {
    pub(super) fn program(&mut self, node: &YamlNode) -> Option<ProgramGrant> {
        let hint = "write a list with the program first: `[/usr/sbin/nginx, -t]`";
        let items = match &node.kind {
            YamlValue::List(items) => items.as_slice(),
            YamlValue::Text(text) if text.contains(char::is_whitespace) && !text.contains("${{") => {
                return self.bad_grant(
                    &node.span,
                    format!("`{text}` contains a space, and no shell splits it"),
                    "not a program",
                    hint,
                );
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::Map(_) => std::slice::from_ref(node),
        };
        let mut arguments = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let pattern = self.argument(item)?;
            let last = index + 1 == items.len();
            match &pattern {
                ArgumentPattern::Exact(program) if index == 0 => self.program_name(item, program)?,
                ArgumentPattern::AnyOne | ArgumentPattern::AnyRest if index == 0 => {
                    return self.bad_grant(
                        &item.span,
                        "a grant must name its program".into(),
                        "a pattern",
                        "write the program, such as `/usr/sbin/nginx`",
                    );
                }
                ArgumentPattern::AnyRest if !last => {
                    return self.bad_grant(
                        &item.span,
                        "`**` stands for all further arguments, so it must be last".into(),
                        "not last",
                        "use `*` for exactly one argument",
                    );
                }
                ArgumentPattern::Exact(_) | ArgumentPattern::AnyOne | ArgumentPattern::AnyRest => {}
            }
            arguments.push(pattern);
        }
        if arguments.is_empty() {
            return self.bad_grant(&node.span, "a program grant is empty".into(), "no program", hint);
        }
        Some(ProgramGrant { arguments, source: GrantSource::Step })
    }

    fn argument(&mut self, node: &YamlNode) -> Option<ArgumentPattern> {
        match &node.kind {
            YamlValue::Text(text) if text == "*" => return Some(ArgumentPattern::AnyOne),
            YamlValue::Text(text) if text == "**" => return Some(ArgumentPattern::AnyRest),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Number { .. }
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => {}
        }
        let text = self.text(node, "an argument")?;
        if text.contains('\0') {
            return self.bad_grant(
                &node.span,
                "an argument contains a NUL character".into(),
                "invalid argument",
                "remove it",
            );
        }
        Some(ArgumentPattern::Exact(text))
    }

    fn program_name(&mut self, node: &YamlNode, program: &str) -> Option<()> {
        if is_program(program) {
            return Some(());
        }
        let message = format!("`{program}` is neither a bare name nor a path that begins with `/`, `./` or `../`");
        self.bad_grant(&node.span, message, "not a program", "write `/usr/sbin/nginx`, `nginx` or `./build.sh`")
    }
}

/// Whether a text names a program: an absolute path, a path in the plan's folder (`./x`, `../x`), or a bare name.
pub(crate) fn is_program(text: &str) -> bool {
    let is_bare = !text.is_empty() && !text.contains('/') && text != "." && text != "..";
    let is_path = ["/", "./", "../"].iter().any(|start| text.starts_with(start)) && !text.ends_with('/');
    (is_bare || is_path) && !text.contains('\0')
}
