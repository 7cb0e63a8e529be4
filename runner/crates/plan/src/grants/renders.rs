//! The directories in which the host renders templates for a step.

use std::collections::BTreeMap;

use super::GrantReader;
use crate::{
    DirGrant, RenderGrant, paths,
    yaml::{YamlKey, YamlNode},
};
use contract::GrantName;

impl GrantReader<'_> {
    pub(super) fn render(&mut self, key: &YamlKey, node: &YamlNode) -> Option<RenderGrant> {
        let text = self.text(node, &format!("directory `{}`", key.text))?;
        let reason = match [":ro", ":rw"].iter().find(|end| text.ends_with(**end)) {
            Some(_) => Some("`:ro` and `:rw` have no meaning here: the step can do neither"),
            None => paths::path_error(&text),
        };
        if let Some(why) = reason {
            let message = format!("directory `{}` of `renders` has an invalid path: {why}", key.text);
            return self.bad_grant(&node.span, message, "invalid path", "write a path, such as `/etc/nginx/conf.d`");
        }
        let path = paths::resolve(&self.source.folder, &text);
        Some(RenderGrant { path, is_relative: !text.starts_with('/') })
    }

    /// Reports a directory that the step could read through a grant of `dirs`: it could see the secrets that are rendered there.
    pub(super) fn check_unread(
        &mut self,
        dirs: &BTreeMap<GrantName, DirGrant>,
        key: &YamlKey,
        node: &YamlNode,
        dir: &RenderGrant,
    ) {
        let overlaps = |grant: &DirGrant| grant.path.starts_with(&dir.path) || dir.path.starts_with(&grant.path);
        if let Some((name, _)) = dirs.iter().find(|(_, grant)| overlaps(grant)) {
            let message =
                format!("the step could read directory `{}` of `renders` through directory `{name}`", key.text);
            self.bad_grant::<()>(
                &node.span,
                message,
                "overlaps",
                "render into a directory of its own, outside of the step's `dirs`: templates may write secrets there",
            );
        }
    }
}
