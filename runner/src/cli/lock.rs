//! `runner lock status|release`: who holds the lock of an environment, and how to take it from who does not let go.

use std::io::Write;

use serde_json::{Value, json};

use super::{
    permission,
    source::{self, PlanArgs},
};
use crate::report::{self, Form, json};
use contract::text::{self, WIDTH, between, moment, took};
use contract::{
    EnvironmentName,
    diagnostic::{Code, Diagnostic, Exit},
};
use journal::clock;
use state::{LockError, LockRecord, Standing, Store};

/// Where the answers stand.
const INDENT: usize = 12;

/// What to do about a lock.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show who holds the lock
    Status {
        #[command(flatten)]
        plan: PlanArgs,
        /// Where only time tells whether the holder lives, watch it for one lease
        #[arg(long)]
        watch: bool,
    },
    /// Free a lock whose holder has ended; with --force, take it from one that lives
    Release(Release),
}

/// Arguments of `lock release`.
#[derive(Debug, clap::Args)]
pub(super) struct Release {
    #[command(flatten)]
    plan: PlanArgs,
    /// Release it from here, outside a CI
    #[arg(long)]
    local: bool,
    /// Take it from a holder that lives; it stops before its next effect
    #[arg(long, requires = "message")]
    force: bool,
    /// Why; `runner history` shows it
    #[arg(long, value_name = "WHY")]
    message: Option<String>,
}

/// Tells of locks, as JSON an array of `{environment, place, standing, resource, epoch, holder: {who, url, purpose}, since,
/// counter, ttl-ms}`; or releases one, as JSON `{released: {epoch, holder, …}}`, null when it was free.
///
/// # Errors
/// P05xx when it lives, or can't be read.
pub(super) fn run(command: &Command, form: Form, out: &mut dyn Write) -> Result<Exit, Vec<Diagnostic>> {
    let answer = match command {
        Command::Status { plan, watch } => {
            let locks = plan.stores()?.into_iter().map(|(name, store)| View::read(name, &store, *watch));
            let locks = locks.collect::<Result<Vec<_>, _>>().map_err(|error| vec![error])?;
            match form {
                Form::Json => json::line(&locks.iter().map(View::json).collect::<Value>()) + "\n",
                Form::Text => locks.iter().map(View::text).collect::<Vec<_>>().join("\n"),
            }
        }
        Command::Release(args) => release(args, form)?,
    };
    report::emit(out, &answer).map_err(|error| vec![error])?;
    Ok(Exit::Success)
}

fn release(args: &Release, form: Form) -> Result<String, Vec<Diagnostic>> {
    permission::local(args.local, "lock release")?;
    let message = args.message.as_deref().unwrap_or("its holder had ended").trim();
    if message.is_empty() {
        let error = Diagnostic::new(Code("P0504"), Exit::Refused, "`--message` says nothing");
        return Err(vec![error.hint("say why, for those who read the history")]);
    }
    let store = args.plan.store()?;
    permission::nesting(&store).map_err(|error| vec![error])?;
    let released = store.release(&source::who(), message, args.force).map_err(|error| vec![said(&error)])?;
    Ok(match (form, released) {
        (Form::Json, released) => json::line(&json!({ "released": released.as_ref().map(public) })) + "\n",
        (Form::Text, None) => "the lock was free\n".to_owned(),
        (Form::Text, Some(record)) => {
            let holder = record.holder.map_or_else(String::new, |holder| format!(", held by {holder}"));
            format!("released: {}, epoch {}{holder}\n", record.resource, record.epoch)
        }
    })
}

fn said(error: &LockError) -> Diagnostic {
    error.into()
}

/// A record without its nonce: that is for the holder's own children.
fn public(record: &LockRecord) -> Value {
    json!({
        "resource": record.resource,
        "epoch": record.epoch,
        "counter": record.counter,
        "ttl-ms": record.ttl_ms,
        "holder": record.holder,
        "since": record.since,
    })
}

/// A lock and what is known of its holder.
struct View {
    environment: EnvironmentName,
    place: String,
    record: Option<LockRecord>,
    standing: Standing,
}

impl View {
    fn read(environment: EnvironmentName, store: &Store, watches: bool) -> Result<Self, Diagnostic> {
        let (record, standing) = store.look(watches).map_err(|error| said(&error))?;
        Ok(Self { environment, place: store.place(), record, standing })
    }

    fn json(&self) -> Value {
        let mut object = self.record.as_ref().map_or_else(|| json!({ "holder": null, "epoch": 0 }), public);
        object["environment"] = json!(self.environment);
        object["place"] = json!(self.place);
        object["standing"] = json!(self.standing);
        object
    }

    fn text(&self) -> String {
        let mut answer = format!("{}\n", self.environment);
        let mut row = |name: &str, value: &str| {
            for (index, line) in text::wrap(value, WIDTH - INDENT, WIDTH - INDENT).iter().enumerate() {
                let name = if index == 0 { name } else { "" };
                answer.push_str(format!("  {name:<8}  {line}").trim_end());
                answer.push('\n');
            }
        };
        let record = self.record.as_ref();
        let ttl = record.and_then(|record| record.ttl_ms).map(took);
        row(
            "lock",
            &match (self.standing, ttl) {
                (Standing::Free, _) => "free".to_owned(),
                (Standing::Lives, _) => "held by one who lives".to_owned(),
                (Standing::Ended, _) => "its holder has ended; the next deployment takes it".to_owned(),
                (Standing::Unknown, Some(ttl)) => {
                    format!("held; renewed within {ttl}, or free after that (--watch tells)")
                }
                (Standing::Unknown, None) => "held".to_owned(),
            },
        );
        if let Some(record) = record {
            if let Some(holder) = &record.holder {
                row("holder", &holder.who);
                holder.url.iter().for_each(|url| row("job", url));
                holder.purpose.iter().for_each(|purpose| row("for", &text::cut(purpose, WIDTH - INDENT)));
                let since = took(between(record.since, clock::now()));
                row("since", &format!("{}, {since} ago", moment(record.since)));
            }
            row("epoch", &record.epoch.to_string());
        }
        row("state", &self.place);
        answer
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use state::Holder;

    #[test]
    fn a_lock_is_readable_at_80_columns() {
        let holder = Holder {
            who: "ann@build-agent-17.internal.example.com, process 4711".to_owned(),
            url: Some("https://github.example.com/acme/shop/actions/runs/123456789012345".to_owned()),
            purpose: Some(format!("v1.4.2 sha256:{}", "ab".repeat(32))),
        };
        let record = LockRecord {
            resource: "shop/prod".to_owned(),
            epoch: 17,
            nonce: "secret".to_owned(),
            counter: 4,
            ttl_ms: Some(30_000),
            holder: Some(holder),
            since: clock::now(),
        };
        let view = View {
            environment: "prod".parse().unwrap(),
            place: "git:origin".to_owned(),
            record: Some(record),
            standing: Standing::Unknown,
        };
        let text = view.text();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let (head, _) = text.split_once("  since").unwrap();
        expect![[r#"
            prod
              lock      held; renewed within 30.0 s, or free after that (--watch tells)
              holder    ann@build-agent-17.internal.example.com, process 4711
              job       https://github.example.com/acme/shop/actions/runs/123456789012345
              for       v1.4.2 sha256:ababababababababababababababababababababababababababa…
        "#]]
        .assert_eq(head);
        let json = view.json();
        assert!(!json.to_string().contains("secret"), "{json}");
        assert_eq!((json["standing"].as_str(), json["epoch"].as_u64()), (Some("unknown"), Some(17)));
    }
}
