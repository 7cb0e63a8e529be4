//! Templates that the host renders: the language of Jinja, with strict rules and limits.
//!
//! Invariant: a template never sees the value of a secret, only a mark that is replaced when the text is done. So no condition, filter or
//! error message can tell anything about it. Deliberately absent: files.

use minijinja::{Environment, UndefinedBehavior, Value as TemplateValue, syntax::SyntaxConfig};
use serde_json::{Map, Value};

use super::failure;
use contract::{
    Secret,
    step::{FailureKind, StepFailure},
};

/// The longest template and the longest result, in bytes.
pub(super) const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// How many instructions a template may take.
const TEMPLATE_FUEL: u64 = 1_000_000;

/// Renders a template. `name` is its place, for messages. Secrets are members of `secrets` in the template.
pub(super) fn render(
    name: &str,
    template: &str,
    values: Map<String, Value>,
    secrets: &[(String, Secret)],
) -> Result<Vec<u8>, StepFailure> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(whitespace_rules()?);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    add_filters_and_tests(&mut environment);
    let marks: Vec<String> = secrets.iter().map(|_| new_mark()).collect::<Result<_, _>>()?;
    let named = secrets.iter().zip(&marks).map(|((name, _), mark)| (name.clone(), Value::from(mark.as_str())));
    let mut context = values;
    context.insert("secrets".to_owned(), Value::Object(named.collect()));
    let rendered = environment.render_named_str(name, template, TemplateValue::from(minijinja::value::Serde(&context)));
    let mut text = rendered.map_err(|error| template_failure(name, &error))?;
    if text.len() > MAX_TEMPLATE_BYTES {
        let message = format!("template {name} gives {} bytes; the limit is {MAX_TEMPLATE_BYTES}", text.len());
        return Err(failure(FailureKind::Limit, message));
    }
    for ((_, secret), mark) in secrets.iter().zip(&marks) {
        text = text.replace(mark, secret.reveal());
    }
    Ok(text.into_bytes())
}

/// A line with only a block leaves nothing, and the end of the file stays.
fn whitespace_rules() -> Result<SyntaxConfig, StepFailure> {
    let rules = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    rules.map_err(|error| failure(FailureKind::Permanent, error.to_string()))
}

/// The filters and tests of Jinja that configuration files need. None of them makes much of little.
fn add_filters_and_tests(environment: &mut Environment<'_>) {
    use minijinja::{filters, tests};
    environment.add_filter("default", filters::default);
    environment.add_filter("first", filters::first);
    environment.add_filter("indent", filters::indent);
    environment.add_filter("int", filters::int);
    environment.add_filter("items", filters::items);
    environment.add_filter("join", filters::join);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("replace", filters::replace);
    environment.add_filter("sort", filters::sort);
    environment.add_filter("tojson", filters::tojson);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("none", tests::is_none);
    environment.add_test("in", tests::is_in);
}

/// A text that no template contains by chance.
fn new_mark() -> Result<String, StepFailure> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| failure(FailureKind::Permanent, error.to_string()))?;
    Ok(format!("pawl-secret-{:032x}", u128::from_ne_bytes(nonce)))
}

fn template_failure(name: &str, error: &minijinja::Error) -> StepFailure {
    let line = error.line();
    let what = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    let hints = [
        (
            minijinja::ErrorKind::UndefinedError,
            "add the value to the step's `values`, or use `default(…)` in the template",
        ),
        (minijinja::ErrorKind::SyntaxError, "correct the template; a literal `{{` is written `{{ '{{' }}`"),
    ];
    let hint = hints.into_iter().find(|(kind, _)| *kind == error.kind()).map(|(_, hint)| hint);
    let failed = failure(FailureKind::BadContent, what).with_detail("file", name);
    let failed = StepFailure { hint: hint.map(str::to_owned), ..failed };
    line.map_or(failed.clone(), |line| failed.with_detail("line", line))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str, values: Value, secrets: &[(&str, &str)]) -> Result<String, String> {
        let Value::Object(values) = values else { panic!("values are an object") };
        let secrets: Vec<_> =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned()))).collect();
        let text = render("t/site.conf", template, values, &secrets).map_err(|failure| failure.message)?;
        Ok(String::from_utf8(text).unwrap())
    }

    #[test]
    fn values_and_secrets_are_filled_in() {
        let template = "{% for port in ports %}listen {{ port }};\n{% endfor %}key {{ secrets.KEY }};\n";
        let text = rendered(template, json!({ "ports": [80, 81] }), &[("KEY", "a\"b")]);
        assert_eq!(text.unwrap(), "listen 80;\nlisten 81;\nkey a\"b;\n");
    }

    #[test]
    fn template_can_not_ask_about_a_secret() {
        let guess = "{% if secrets.KEY == 'hunter22' %}yes{% else %}no{% endif %}{{ secrets.KEY | length }}";
        assert_eq!(rendered(guess, json!({}), &[("KEY", "hunter22")]).unwrap(), "no44");
        let failed = rendered("{{ secrets.KEY + 1 }}", json!({}), &[("KEY", "hunter22")]).unwrap_err();
        assert!(!failed.contains("hunter22"), "{failed}");
    }

    #[test]
    fn undefined_values_and_endless_templates_are_errors() {
        let undefined = rendered("a\n{{ port }}\n", json!({}), &[]).unwrap_err();
        assert_eq!(undefined, "undefined value");
        let endless = "{% for a in x %}{% for b in x %}{% for c in x %}{{ c }}{% endfor %}{% endfor %}{% endfor %}";
        let numbers: Vec<u32> = (0..1000).collect();
        assert!(rendered(endless, json!({ "x": numbers }), &[]).unwrap_err().contains("fuel"));
        assert!(rendered("{{ 'x' * 100000000 }}", json!({}), &[]).is_err());
    }
}
