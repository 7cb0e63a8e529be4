//! Whether the server in front follows the link, found out before the switch.

use pawl_step::http::Request;
use pawl_step::process::Command;
use pawl_step::{Failure, files};
use serde::Deserialize;

/// The most lines of nginx's output in a message: the last one says only that there is an error.
const MAX_LINES: usize = 3;

/// Where the server's configuration is read.
#[derive(Debug, Clone, Deserialize)]
pub struct Wiring {
    /// A program that prints nginx's whole configuration, such as `nginx -T`.
    pub nginx: Option<Vec<String>>,
    /// The URL of Caddy's configuration, on its admin API.
    pub caddy: Option<String>,
}

impl Wiring {
    /// Refuses a server whose configuration does not name the link, given its place.
    ///
    /// # Errors
    /// The configuration can't be read, or does not name the link.
    pub(crate) fn check(&self, link: &str) -> Result<(), Failure> {
        let path = files::path(link)?;
        if let Some([program, arguments @ ..]) = self.nginx.as_deref() {
            let printed = Command::new(program).args(arguments.iter().cloned()).run()?;
            let (text, errors) = (String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&printed.stderr));
            if printed.status != 0 {
                let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
                let said = match lines.len() {
                    0 => "it wrote nothing".to_owned(),
                    count => lines[count.saturating_sub(MAX_LINES)..].join("\n"),
                };
                return Err(Failure::permanent(format!("`{program}` exited with status {}: {said}", printed.status))
                    .hint("correct the configuration of nginx"));
            }
            check_named("nginx", &text, &path)?;
        }
        if let Some(url) = &self.caddy {
            let unreadable = |why: Failure| {
                why.context("can't read the configuration of Caddy").or_hint(
                    "`wired` needs Caddy's admin API: remove `admin off` from the Caddyfile, or leave out `wired`",
                )
            };
            let answer = Request::get(url).send().map_err(unreadable)?;
            if answer.status != 200 {
                return Err(unreadable(Failure::permanent(format!("{url} answered with status {}", answer.status))));
            }
            check_named("Caddy", &String::from_utf8_lossy(&answer.body), &path)?;
        }
        Ok(())
    }
}

/// The configuration must name the link, or the folder that holds it together with the link's name.
fn check_named(server: &str, text: &str, path: &str) -> Result<(), Failure> {
    let is_named = text.match_indices(path).any(|(at, _)| {
        // `/srv/shop/live2` does not name `/srv/shop/live`.
        !text[at + path.len()..].starts_with(|next: char| next.is_ascii_alphanumeric() || "_-.".contains(next))
    });
    if is_named {
        return Ok(());
    }
    Err(Failure::conflict(format!(
        "the configuration of {server} does not name {path}, so a switch would change nothing"
    ))
    .hint(format!("let {server} follow the link, and reload it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_link_itself_counts() {
        for (text, is_good) in [
            ("root /srv/shop/live;", true),
            ("if (-f /srv/shop/live/is-b) {", true),
            ("root /srv/shop/live2; root /srv/shop/live-old;", false),
            ("{\"root\":\"/srv/shop/live\"}", true),
            ("", false),
        ] {
            assert_eq!(check_named("nginx", text, "/srv/shop/live").is_ok(), is_good, "{text}");
        }
    }
}
