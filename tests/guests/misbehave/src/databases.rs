//! Searches for the URL and the password of a granted database everywhere a step can look.
//!
//! The words to search for come reversed in `text`, so that neither the plan nor its record contains them. The guest
//! reports its finds itself, before anything is redacted.

use pawl_step::{database::Connection, log, migrations, secrets::Secret};

use crate::{BehaviorResult, MisbehaveConfig, extra::wasi::cli::environment, report_allowed};

pub(crate) fn search_for_password(config: &MisbehaveConfig) -> BehaviorResult {
    let words: Vec<String> = config.text.split('\n').map(|word| word.chars().rev().collect()).collect();
    let (mut seen, mut looked, mut rows) = (Vec::new(), 0, 0);
    let mut look = |place: &str, text: String| {
        looked += 1;
        for word in &words {
            if text.to_lowercase().contains(&word.to_lowercase()) {
                seen.push(format!("{place} has word {}", word.len()));
            }
        }
    };
    look("environment", format!("{:?}", environment::get_environment()));
    look("arguments", format!("{:?}", environment::get_arguments()));
    // Invalid names, and the messages about them.
    for name in ["", "nothing", "../main", "main?", "postgres://", "${{ secrets.PASSWORD }}"] {
        look("a wrong name", format!("{:?}", Connection::open(name)));
        look("a wrong secret", format!("{:?}", Secret::open(name).and_then(|secret| secret.reveal())));
        look("status of a wrong name", format!("{:?}", migrations::status(name, "migrations", &Default::default())));
    }
    look("a secret", format!("{:?}", Secret::open("PASSWORD").and_then(|secret| secret.reveal())));
    let options = pawl_step::serde_json::json!({ "format": config.name, "lock-timeout": "${{ secrets.PASSWORD }}" });
    for options in [Default::default(), options.as_object().cloned().unwrap_or_default()] {
        look("status", format!("{:?}", migrations::status(&config.name, "migrations", &options)));
        look("apply", format!("{:?}", migrations::apply(&config.name, "migrations", &options)));
    }
    match Connection::open(&config.name) {
        Ok(connection) => {
            look("the connection", format!("{connection:?} {}", connection.engine()));
            for sql in &config.args {
                let answer = connection.query(sql, &[]);
                rows += answer.as_ref().map_or(0, |answer| answer.rows.len());
                look(sql, format!("{answer:?}"));
                look(sql, format!("{:?}", connection.execute(sql, &[])));
            }
        }
        Err(failure) => look("open", format!("{failure:?}")),
    }
    log::info(&format!("looked at {looked} places, {rows} rows"));
    report_allowed("seen", seen.join("; "))
}
