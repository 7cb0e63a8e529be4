//! Hints that show the line to add to a step's grants, such that it works when it is pasted.

use plan::StepGrants;
use sandbox::CapabilityKind;

/// What a grant lacks.
pub(in super::super) enum GrantLine {
    /// An item of a list.
    Item(String),
    /// An entry of a mapping.
    Entry(String),
}

/// Where to add a line to the grants of a step, which has others already or not.
pub(in super::super) fn grant_line_hint(grants: &StepGrants, capability: CapabilityKind, line: &GrantLine) -> String {
    let StepGrants { dirs, http, tcp, databases, programs, env, sockets, secrets } = grants;
    let has_others = match capability {
        CapabilityKind::Dirs => !dirs.is_empty(),
        CapabilityKind::Http => !http.is_empty(),
        CapabilityKind::Tcp => !tcp.is_empty(),
        CapabilityKind::Databases => !databases.is_empty(),
        CapabilityKind::Programs => !programs.is_empty(),
        CapabilityKind::Sockets => !sockets.is_empty(),
        CapabilityKind::Secrets => !secrets.is_empty(),
    };
    let is_empty = dirs.is_empty()
        && http.is_empty()
        && tcp.is_empty()
        && databases.is_empty()
        && programs.is_empty()
        && env.is_empty()
        && sockets.is_empty()
        && secrets.is_empty();
    let key = capability.name();
    let (text, whole) = match line {
        GrantLine::Item(text) => (text, format!("{key}: [{text}]")),
        GrantLine::Entry(text) => (text, format!("{key}: {{ {text} }}")),
    };
    if has_others {
        format!("add `{text}` to `{key}:` in the step's `grants:`")
    } else if is_empty {
        format!("add to the step: `grants: {{ {whole} }}`")
    } else {
        format!("add `{whole}` to the step's `grants:`")
    }
}
