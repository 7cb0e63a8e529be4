//! Programs with their arguments, and the variables that a step sets for them.

use contract::{diagnostic::ErrorCode, text::pointer_token};
use plan::EnvGrant;
use sandbox::{CapabilityKind, DeclaredValue, ValueKind, argv_may_match};
use serde_json::Value;

use super::{
    DeclaredStep, GrantLine, KnownText, ValueProblem, env_line_hint, grant_line_hint, grant_lines::without_lookups,
};

impl DeclaredStep<'_> {
    /// The argument vector of a program or command; none for an argument that is known later.
    pub(in super::super) fn argv<'v>(&'v self, value: &'v DeclaredValue) -> Option<Vec<Option<&'v str>>> {
        if value.kind == ValueKind::Command {
            return self.list(value).filter(|argv| !argv.is_empty());
        }
        let program = whole(self.text(value)?);
        let arguments = match self.beside(value, ValueKind::Arguments) {
            Some(arguments) if arguments.value.is_some() => self.list(arguments)?,
            Some(_) | None => Vec::new(),
        };
        Some([vec![program], arguments].concat())
    }

    fn list<'v>(&'v self, value: &'v DeclaredValue) -> Option<Vec<Option<&'v str>>> {
        let items = value.value.as_ref()?.as_array()?.iter().enumerate();
        items.map(|(index, item)| Some(whole(self.text_at(&format!("{}/{index}", value.pointer), item)?))).collect()
    }

    /// Checks that a grant covers a program with its arguments.
    pub(super) fn check_argv(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let argv = self.argv(value)?;
        let grants = &self.step.grants;
        if grants.programs.iter().any(|grant| argv_may_match(&grant.arguments, &argv)) {
            return None;
        }
        let words: Vec<_> = argv.iter().map(|word| word.unwrap_or("*")).collect();
        let Some(program) = argv.first().copied().flatten() else {
            // The program is known later, so there is no line to show.
            let what = format!("a program with the arguments `{}`", words[1..].join(" "));
            let hint = "grant each program that this can be, with these arguments".to_owned();
            return Some(self.not_granted(value, CapabilityKind::Programs, &what, hint));
        };
        let line = without_lookups(&serde_json::json!(words).to_string().replace("\",\"", "\", \""));
        let mut hint = grant_line_hint(self.plan, self.step, CapabilityKind::Programs, &GrantLine::Item(line));
        if grants.programs.is_empty() && self.step.trust != plan::StepTrust::Host {
            hint = hint.and(", and `trust: host` to the step");
        }
        if let Some(known) =
            grants.programs.iter().find(|grant| argv_may_match(&grant.arguments[..1], &[Some(program)]))
        {
            let granted: Vec<_> = known.arguments.iter().map(plan::ArgumentPattern::written).collect();
            hint = hint.and(&format!("; `{program}` is granted as `[{}]` only", granted.join(", ")));
        }
        let what = format!("the program `{}`", words.join(" "));
        Some(self.not_granted(value, CapabilityKind::Programs, &what, hint))
    }

    /// Checks that the grants leave the variables open that the step sets.
    pub(super) fn check_program_environment(&self, value: &DeclaredValue) -> Vec<ValueProblem> {
        let variables = value.value.as_ref().and_then(Value::as_object).into_iter().flat_map(|map| map.keys());
        variables.filter_map(|name| self.check_variable(value, name)).collect()
    }

    fn check_variable(&self, value: &DeclaredValue, name: &str) -> Option<ValueProblem> {
        let pointer = format!("{}/{}", value.pointer, pointer_token(name));
        let at = DeclaredValue { pointer, ..value.clone() };
        let grants = &self.step.grants;
        match grants.env.get(name) {
            Some(EnvGrant::SetByStep) => None,
            Some(EnvGrant::Set(_)) => {
                let why = format!("the grant sets the variable `{name}` already");
                let hint =
                    format!("remove it here, or write `{name}:` without a value in the step's `grants: {{ env: … }}`");
                Some(self.invalid(&at, &why, "set twice", hint))
            }
            None => {
                let message =
                    format!("step `{}` sets the variable `{name}`, but the plan does not leave it open", self.step.id);
                let hint = env_line_hint(&format!("{name}:"));
                Some(self.problem(ErrorCode::MissingGrant, &at, None, message, "not granted", hint))
            }
        }
    }
}

fn whole(text: KnownText<'_>) -> Option<&str> {
    match text {
        KnownText::Whole(text) => Some(text),
        KnownText::Prefix(_) => None,
    }
}
