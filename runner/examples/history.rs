//! Makes a long history of attempts, for `cargo xtask bench growth`: repeats the newest attempt of a state folder.

#[path = "../../tests/support/attempt_template.rs"]
mod attempt_template;

use std::path::Path;

use anyhow::{Result, bail};
use plan::StateLocation;
use state::StateStore;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [root, app, environment, count] = words.as_slice() else {
        bail!("usage: history ROOT APP ENVIRONMENT COUNT");
    };
    let location = StateLocation::Dir(Path::new(root).to_owned());
    let store = StateStore::new(&location, &app.parse()?, &environment.parse()?);
    attempt_template::repeat_newest_attempt(&store, count.parse()?)
}
