//! `runner plan` for a step that runs on many targets: what they share stands once, and of what differs only the first few.

use std::fmt::Write as _;

use crate::report::name_targets;

/// The most variants of a line that are shown.
const MAX_VARIANTS: usize = 3;
/// The most columns of the names of targets in a line.
const MAX_NAMES_COLUMNS: usize = 40;

/// Things with the targets that they are the same for.
type ByTarget<'t, T> = Vec<(&'t T, Vec<&'t str>)>;

/// The text of a step for one of its targets.
pub(super) struct TargetText {
    pub(super) target: String,
    /// The decision, and its reason.
    pub(super) decision: (&'static str, String),
    /// Changes, needs and grants.
    pub(super) lines: Vec<String>,
}

impl TargetText {
    /// The text without the host in the sentence about trust.
    pub(super) fn for_many(self) -> Self {
        let own = format!("its user on {} can", self.target);
        let lines = self.lines.iter().map(|line| line.replace(&own, "its user on the host can")).collect();
        Self { lines, ..self }
    }
}

/// The lines of a step with this name and phase for all of its targets.
pub(super) fn fold(name: &str, phase: &str, width: usize, targets: &[TargetText]) -> String {
    let mut text = String::new();
    let mut decisions: ByTarget<'_, (&'static str, String)> = Vec::new();
    for target in targets {
        push(&mut decisions, &target.decision, &target.target);
    }
    for ((word, why), on) in decisions {
        let on = if on.len() == targets.len() { format!("on {} hosts", on.len()) } else { named(&on) };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let _ = writeln!(text, "  {word:<6} {name:<width$}  {phase:<7}  {on}{why}");
    }
    for (kind, lines) in by_kind(targets) {
        let hidden = lines.len().saturating_sub(MAX_VARIANTS);
        for (line, on) in lines.iter().take(MAX_VARIANTS) {
            let on = if on.len() == targets.len() { String::new() } else { format!("  [{}]", named(on)) };
            let _ = writeln!(text, "           {line}{on}");
        }
        if hidden > 0 {
            let _ =
                writeln!(text, "           {kind} … {hidden} more that differ by host; `runner plan --json` has all");
        }
    }
    text
}

/// The lines of all targets, each once with its targets, by what they are about: the part before `=`, or the first word.
fn by_kind(targets: &[TargetText]) -> Vec<(&str, ByTarget<'_, String>)> {
    let mut kinds: Vec<(&str, ByTarget<'_, String>)> = Vec::new();
    for target in targets {
        for line in &target.lines {
            let kind =
                line.split_once(" = ").map_or_else(|| line.split(' ').next().unwrap_or_default(), |(kind, _)| kind);
            let at = kinds.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
                kinds.push((kind, Vec::new()));
                kinds.len() - 1
            });
            push(&mut kinds[at].1, line, &target.target);
        }
    }
    kinds
}

fn push<'t, K: PartialEq>(groups: &mut ByTarget<'t, K>, key: &'t K, target: &'t str) {
    match groups.iter_mut().find(|(known, _)| *known == key) {
        Some((_, targets)) => targets.push(target),
        None => groups.push((key, vec![target])),
    }
}

fn named(on: &[&str]) -> String {
    format!("on {}", name_targets(on, MAX_NAMES_COLUMNS))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_many_hosts_share_stands_once() {
        let target = |number: usize| TargetText {
            target: format!("web-{number}"),
            decision: if number == 7 {
                ("skip", "its effect still holds".to_owned())
            } else {
                ("run", "first run".to_owned())
            },
            lines: vec![
                format!("may reach directory `app` = /srv/web-{number} (read and write; from `dirs.app` of the plan)"),
                "may reach directory `dist` = /repo/dist (read only; from `dirs.dist` of the plan)".to_owned(),
                format!("TRUST: HOST — this step can do whatever its user on web-{number} can"),
            ],
        };
        let target = |number| target(number).for_many();
        let targets: Vec<_> = (1..=100).map(target).collect();
        expect![[r#"
            preview:
              run    pull      prepare  on web-1, web-2, web-3, web-4, web-5, web-6 and 93 more: first run
              skip   pull      prepare  on web-7: its effect still holds
                       may reach directory `app` = /srv/web-1 (read and write; from `dirs.app` of the plan)  [on web-1]
                       may reach directory `app` = /srv/web-2 (read and write; from `dirs.app` of the plan)  [on web-2]
                       may reach directory `app` = /srv/web-3 (read and write; from `dirs.app` of the plan)  [on web-3]
                       may reach directory `app` … 97 more that differ by host; `runner plan --json` has all
                       may reach directory `dist` = /repo/dist (read only; from `dirs.dist` of the plan)
                       TRUST: HOST — this step can do whatever its user on the host can
        "#]]
        .assert_eq(&format!("preview:\n{}", fold("pull", "prepare", 8, &targets)));
    }
}
