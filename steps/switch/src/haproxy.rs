//! A map of HAProxy that follows the link: first its file, then the running process, which reads the file only when it starts.

use pawl_step::socket::{self, ExchangeOptions};
use pawl_step::{Failure, FailureKind, files, fs};
use serde::Deserialize;

/// The map, and the key whose value is the slot.
#[derive(Debug, Clone, Deserialize)]
pub struct HaproxyMap {
    /// The granted socket of HAProxy's runtime API, with level admin.
    pub socket: String,
    /// The file of the map, `DIR/PATH`.
    pub map: String,
    /// The key.
    pub key: String,
}

impl HaproxyMap {
    /// Asks HAProxy for the map, and changes nothing.
    ///
    /// # Errors
    /// It does not answer, or does not use the map.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.running_value(&files::path(&self.map)?).map(drop)
    }

    /// Lets the key's value be the name of a slot.
    ///
    /// # Errors
    /// The file can't be written, or HAProxy refuses.
    pub(crate) fn set(&self, slot: &str) -> Result<(), Failure> {
        let before = fs::read_text_if_exists(&self.map)?.unwrap_or_default();
        let after = with_value(&before, &self.key, slot);
        if before != after {
            fs::write_atomic(&self.map, after.as_bytes())?;
        }
        let path = files::path(&self.map)?;
        if self.running_value(&path)?.is_none() {
            return self.command(&format!("add map {path} {} {slot}", self.key));
        }
        self.command(&format!("set map {path} {} {slot}", self.key))
    }

    /// Whether file and process say so.
    pub(crate) fn is_set(&self, slot: &str) -> Result<bool, Failure> {
        let text = fs::read_text_if_exists(&self.map)?.unwrap_or_default();
        let in_file = value_of(&text, &self.key) == Some(slot);
        Ok(in_file && self.running_value(&files::path(&self.map)?)?.as_deref() == Some(slot))
    }

    fn running_value(&self, path: &str) -> Result<Option<String>, Failure> {
        let listed = self.ask(&format!("show map {path}"))?;
        if listed.contains("Unknown map") {
            return Err(Failure::not_found(format!("HAProxy does not use the map {path}"))
                .hint("name the file in its configuration as `map(FILE,DEFAULT)`, and reload it"));
        }
        // `0x55d2 KEY VALUE`
        let mut values = listed.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == self.key).then(|| words.next().unwrap_or_default().to_owned())
        });
        Ok(values.next_back())
    }

    fn command(&self, command: &str) -> Result<(), Failure> {
        let said = self.ask(command)?;
        match said.trim() {
            "" => Ok(()),
            said => Err(Failure::permanent(format!("HAProxy refused `{command}`: {said}"))
                .hint("give its socket the level admin: `stats socket PATH level admin`")),
        }
    }

    fn ask(&self, command: &str) -> Result<String, Failure> {
        let answer = socket::exchange(&self.socket, format!("{command}\n").as_bytes(), ExchangeOptions::default())
            .map_err(|failure| match failure.kind == FailureKind::Transient {
                true => failure.context("HAProxy does not answer"),
                false => failure,
            })?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// The text of a map with another value for a key; its other lines stay as they are.
fn with_value(text: &str, key: &str, value: &str) -> String {
    let line = format!("{key} {value}");
    let is_ours = |line: &str| line.split_whitespace().next() == Some(key);
    let mut lines: Vec<&str> = Vec::new();
    for old in text.lines() {
        match is_ours(old) {
            true if lines.contains(&line.as_str()) => {}
            true => lines.push(&line),
            false => lines.push(old),
        }
    }
    if !lines.contains(&line.as_str()) {
        lines.push(&line);
    }
    lines.join("\n") + "\n"
}

fn value_of<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(key)).then(|| words.next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_key_changes() {
        let text = "# slots\nshop a\nblog a\n";
        assert_eq!(with_value(text, "shop", "b"), "# slots\nshop b\nblog a\n");
        assert_eq!(with_value("", "shop", "b"), "shop b\n");
        assert_eq!(with_value("shop a\nshop c\n", "shop", "b"), "shop b\n");
        assert_eq!((value_of(text, "blog"), value_of(text, "x")), (Some("a"), None));
    }
}
