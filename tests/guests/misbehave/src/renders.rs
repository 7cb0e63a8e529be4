//! Rendered files, and attempts to see what is in them.

use pawl_step::files::{self, Ownership, Template};
use pawl_step::secrets::Secret;
use pawl_step::{Receipt, fs, serde_json::Map};

use crate::{BehaviorResult, MisbehaveConfig, report_allowed};

pub(crate) fn act_on_renders(config: &MisbehaveConfig) -> BehaviorResult {
    match config.r#do.as_str() {
        "set-mode" => {
            files::set(&config.path, &Ownership { mode: Some(config.text.clone()), ..Ownership::default() }, true)?;
            report_allowed("set", true)
        }
        "place" => report_allowed("path", files::path(&config.path)?),
        "move" => {
            files::rename(&config.path, &config.to, None)?;
            report_allowed("moved", true)
        }
        _ => render(config),
    }
}

fn render(config: &MisbehaveConfig) -> BehaviorResult {
    let secrets = match config.name.as_str() {
        "" => Vec::new(),
        name => vec![(name.to_owned(), Secret::open(name)?)],
    };
    let mut values = Map::new();
    values.insert("text".to_owned(), config.text.as_str().into());
    let template = Template { place: &config.path, values: &values, secrets: &secrets };
    template.render(&config.to, &Ownership::default())?;
    let is_same = template.is_rendered(&config.to)?;
    if config.r#do == "render-and-read" {
        return report_allowed("content", String::from_utf8_lossy(&fs::read(&config.to)?).into_owned());
    }
    let size = files::status(&config.to)?.map_or(0, |status| status.size);
    Ok(Receipt::new().output("same", is_same).output("size", size).output("path", files::path(&config.to)?))
}
