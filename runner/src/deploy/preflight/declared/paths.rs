//! Directories, paths in them, and sources of content.

use std::path::Path;

use plan::{OCI_SCHEME, OciRef, closest_match, split_dir_path};
use sandbox::{CapabilityKind, DeclaredValue, ValueKind};

use super::{DeclaredStep, GrantHint, GrantLine, KnownText, ValueProblem, grant_line_hint};

impl DeclaredStep<'_> {
    /// Checks the name of a directory; if it is left out, that there is only one that can be meant.
    pub(super) fn check_dir_name(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        if value.value.is_none() {
            return self.check_only_dir(value);
        }
        match self.text(value)? {
            KnownText::Whole(name) if name.contains('/') && self.is_granted(split_dir_path(name).0) => {
                let why = format!("`{name}` is a path, and only the name of a granted directory is possible");
                let hint = format!("did you mean `{}`?", split_dir_path(name).0);
                Some(self.invalid(value, &why, "a path", hint))
            }
            KnownText::Whole(name) => self.check_granted_dir(value, name, ""),
            KnownText::Prefix(_) => None,
        }
    }

    /// A step without the name uses its only directory besides those of its sources.
    fn check_only_dir(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let sources = self.values.iter().filter(|other| other.kind == ValueKind::Source);
        let of_sources: Vec<_> = sources.filter_map(|source| self.source_dir(source)).collect();
        let dirs = self.step.grants.dirs.keys().map(|name| name.as_str());
        let possible: Vec<_> = dirs.filter(|name| !of_sources.contains(name)).collect();
        let [first, _, ..] = possible.as_slice() else { return None };
        let key = value.pointer.rsplit('/').next().unwrap_or_default();
        let names = plan::quoted_list(possible.iter().copied());
        let why = format!("`{key}` is missing, and the step has several directories ({names})");
        Some(self.invalid(
            value,
            &why,
            &format!("`{key}` is missing"),
            format!("name one of them, such as `{key}: {first}`"),
        ))
    }

    /// The granted directory that a source names.
    fn source_dir<'v>(&'v self, source: &'v DeclaredValue) -> Option<&'v str> {
        let (KnownText::Whole(text) | KnownText::Prefix(text)) = self.text(source)?;
        Some(split_dir_path(text.strip_prefix("file:")?).0)
    }

    /// Checks `DIR` or `DIR/PATH`.
    pub(super) fn check_dir_path(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        self.check_path_text(value, self.text(value)?, "")
    }

    fn check_path_text(&self, value: &DeclaredValue, text: KnownText<'_>, scheme: &str) -> Option<ValueProblem> {
        let (name, path) = match text {
            KnownText::Whole(text) => (split_dir_path(text).0, text),
            // The name is known once its slash is.
            KnownText::Prefix(text) if text.trim_start_matches('/').contains('/') => (split_dir_path(text).0, text),
            KnownText::Prefix(_) => return None,
        };
        if leads_out(path) {
            let why = format!("`{path}` leads out of the directory `{name}`");
            return Some(self.invalid(value, &why, "leads out", "write a path below it, without `..`"));
        }
        let problem = self.check_granted_dir(value, name, scheme)?;
        let text = path.strip_prefix("./").unwrap_or(path);
        let meant = match text.strip_prefix('/') {
            Some(_) => self.below_granted_dir(text),
            None => (text != path && self.is_granted(split_dir_path(text).0)).then(|| text.to_owned()),
        };
        let hint = match meant {
            Some(meant) => format!("did you mean `{scheme}{meant}`? It begins with the name of a granted directory"),
            None if text.starts_with('/') => {
                format!("this is a path of the machine; grant its directory, and write `{scheme}NAME/…`")
            }
            None => return Some(problem),
        };
        Some(self.not_granted(value, CapabilityKind::Dirs, &format!("a directory `{name}`"), hint))
    }

    /// A path of the machine as `DIR/PATH`; none if it is in no granted directory.
    fn below_granted_dir(&self, path: &str) -> Option<String> {
        self.step.grants.dirs.iter().find_map(|(granted, grant)| {
            let inside = Path::new(path).strip_prefix(&grant.path).ok()?;
            Some(Path::new(granted.as_str()).join(inside).display().to_string())
        })
    }

    /// Checks that a directory is granted; `scheme` is what precedes it in the value.
    fn check_granted_dir(&self, value: &DeclaredValue, name: &str, scheme: &str) -> Option<ValueProblem> {
        if self.is_granted(name) {
            return None;
        }
        let grants = &self.step.grants;
        let hint = match closest_match(name, grants.dirs.keys().map(|granted| granted.as_str())) {
            Some(near) => GrantHint::from(format!("did you mean `{scheme}{near}`?")),
            // What is not a name can't be granted: an absolute path, such as `/srv/shop`, has an empty one.
            None if name.parse::<contract::GrantName>().is_err() => GrantHint::from(match grants.dirs.keys().next() {
                Some(granted) => format!("begin it with the name of a granted directory, such as `{scheme}{granted}`"),
                None => "grant a directory under a name (`dirs: { app: /srv/shop }`), and begin it with that name"
                    .to_owned(),
            }),
            None => {
                let entry = GrantLine::Entry(format!("{name}: \"./{name}:ro\""));
                grant_line_hint(self.plan, self.step, CapabilityKind::Dirs, &entry)
            }
        };
        Some(self.not_granted(value, CapabilityKind::Dirs, &format!("a directory `{name}`"), hint))
    }

    fn is_granted(&self, name: &str) -> bool {
        self.step.grants.dirs.keys().any(|granted| granted.as_str() == name)
    }

    /// Checks a path below a directory that another value names.
    pub(super) fn check_relative_path(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let (KnownText::Whole(path) | KnownText::Prefix(path)) = self.text(value)?;
        let is_whole = matches!(self.text(value)?, KnownText::Whole(_));
        let is_nothing = is_whole && path.split('/').all(|name| matches!(name, "" | "."));
        if !path.starts_with('/') && !path.split('/').any(|name| name == "..") && !is_nothing {
            return None;
        }
        let inner = path.strip_prefix('/').map(|trimmed| {
            let below = self.below_granted_dir(path).unwrap_or_else(|| trimmed.to_owned());
            match below.split_once('/') {
                Some((name, inner)) if self.is_granted(name) => inner.to_owned(),
                Some(_) | None => below,
            }
        });
        let inner = inner.filter(|inner| !inner.is_empty() && !inner.contains(".."));
        let hint = match inner {
            Some(inner) => format!("did you mean `{inner}`? It is relative to the granted directory"),
            None => "write a path relative to that directory, without `..`, such as `current`".to_owned(),
        };
        let why = format!("`{path}` is not a path inside the granted directory");
        Some(self.invalid(value, &why, "not inside", hint))
    }

    /// Checks a source: `file:DIR/PATH` or a URL.
    pub(super) fn check_source(&self, value: &DeclaredValue) -> Option<ValueProblem> {
        let text = self.text(value)?;
        let (KnownText::Whole(start) | KnownText::Prefix(start)) = text;
        if let Some(path) = start.strip_prefix("file:") {
            let path = match text {
                KnownText::Whole(_) => KnownText::Whole(path),
                KnownText::Prefix(_) => KnownText::Prefix(path),
            };
            return self.check_path_text(value, path, "file:");
        }
        if start.starts_with("http://") || start.starts_with("https://") {
            return match text {
                KnownText::Whole(url) => self.check_request(value, url, Some("GET")),
                KnownText::Prefix(_) => self.check_url(value),
            };
        }
        let KnownText::Whole(text) = text else { return None };
        if let Some(reference) = text.strip_prefix(OCI_SCHEME) {
            return match OciRef::parse(reference) {
                Ok(reference) => self.check_request(value, &reference.origin(), Some("GET")),
                Err(why) => {
                    let hint = "write `oci://registry.example.com/shop:${{ release }}`, or a digest as `@sha256:…`";
                    Some(self.invalid(value, &format!("`{text}` is not an artifact: {why}"), "not an artifact", hint))
                }
            };
        }
        let hint = match self.is_granted(split_dir_path(text).0) {
            true => format!("did you mean `file:{text}`?"),
            false => "write `file:DIR/PATH`, with the name of a granted directory, an http(s) URL, or `oci://REGISTRY/NAME:TAG`".to_owned(),
        };
        Some(self.invalid(value, &format!("`{text}` is not a source"), "neither a file nor a URL", hint))
    }
}

/// Whether `DIR/PATH` leads out of its directory by `..`, at any place.
fn leads_out(path: &str) -> bool {
    let mut depth = 0_i32;
    path.trim_start_matches('/').split('/').skip(1).any(|name| {
        match name {
            ".." => depth -= 1,
            "" | "." => {}
            _ => depth += 1,
        }
        depth < 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_are_known_by_their_names() {
        for (path, expected) in
            [("app", false), ("app/a/../b", false), ("app/..", true), ("app/a/../../b", true), ("/app/./a", false)]
        {
            assert_eq!(leads_out(path), expected, "{path}");
        }
    }
}
