//! `runner lock status|release`: shows who holds the lock of an environment, and releases it.

use std::io::Write;

use serde_json::{Value, json};

use super::{
    guards,
    source::{self, PlanSourceArgs},
};
use crate::report::{self, OutputFormat, json, table::FieldLayout};
use contract::text::{self, format_duration, format_time, millis_between};
use contract::{
    EnvironmentName,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use journal::clock;
use state::{LockError, LockRecord, LockStatus, StateStore};

/// The column of the values.
const INDENT: usize = 12;

/// The subcommands of `lock`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum LockSubcommand {
    /// Show who holds the lock
    Status {
        #[command(flatten)]
        plan: PlanSourceArgs,
        /// Watch a remote lock for one lease, to see whether its holder is still running
        #[arg(long)]
        watch: bool,
    },
    /// Release a lock whose holder has ended, or any lock with --force
    Release(LockReleaseArgs),
}

/// Arguments of `lock release`.
#[derive(Debug, clap::Args)]
pub(super) struct LockReleaseArgs {
    #[command(flatten)]
    plan: PlanSourceArgs,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    /// Release it even if its holder is running; the holder stops before its next effect
    #[arg(long, requires = "message")]
    force: bool,
    /// The reason; `runner history` shows it
    #[arg(long, value_name = "REASON")]
    message: Option<String>,
}

/// Shows locks, in lines of at most `line_width` columns, as JSON an array of `{environment, place, standing, resource, epoch, holder: {who, url, purpose}, since,
/// counter, ttl-ms}`; or releases one, as JSON `{released: {epoch, holder, …}}`, null if it was free.
///
/// # Errors
/// P05xx when the holder is running, or the lock cannot be read.
pub(super) async fn run(
    command: &LockSubcommand,
    form: OutputFormat,
    line_width: usize,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let answer = match command {
        LockSubcommand::Status { plan, watch } => {
            let locks = plan.stores()?.into_iter().map(|(name, store)| LockView::read(name, &store, *watch));
            let locks = locks.collect::<Result<Vec<_>, _>>().map_err(|error| vec![error])?;
            match form {
                OutputFormat::Json => json::line(&locks.iter().map(LockView::json).collect::<Value>()) + "\n",
                OutputFormat::Text => locks.iter().map(|lock| lock.text(line_width)).collect::<Vec<_>>().join("\n"),
            }
        }
        LockSubcommand::Release(args) => release_lock(args, form).await?,
    };
    report::write_answer(out, &answer).map_err(|error| vec![error])?;
    Ok(ExitKind::Success)
}

async fn release_lock(args: &LockReleaseArgs, form: OutputFormat) -> Result<String, Vec<Diagnostic>> {
    guards::require_local_flag(args.local, "lock release")?;
    let message = args.message.as_deref().unwrap_or("its holder had ended").trim();
    if message.is_empty() {
        let error = Diagnostic::new(ErrorCode::HolderRunning, "`--message` is empty").with_exit(ExitKind::Refused);
        return Err(vec![error.with_hint("give a reason; `runner history` shows it")]);
    }
    let location = args.plan.location()?;
    guards::check_allowed(&location.allow, &location.environment).await.map_err(|error| vec![error])?;
    let store = StateStore::new(&location.state, &location.app, &location.environment);
    guards::check_nesting(&store).map_err(|error| vec![error])?;
    let released = store
        .release_lock(&source::user_at_host(), message, args.force)
        .map_err(|error| vec![lock_diagnostic(&error)])?;
    Ok(match (form, released) {
        (OutputFormat::Json, released) => json::line(&json!({ "released": released.as_ref().map(record_json) })) + "\n",
        (OutputFormat::Text, None) => "the lock was free\n".to_owned(),
        (OutputFormat::Text, Some(record)) => {
            let holder = record.holder.map_or_else(String::new, |holder| format!(", held by {holder}"));
            format!("released: {}, epoch {}{holder}\n", record.resource, record.epoch)
        }
    })
}

fn lock_diagnostic(error: &LockError) -> Diagnostic {
    error.into()
}

/// A record without its nonce, which only child processes of the holder may know.
fn record_json(record: &LockRecord) -> Value {
    json!({
        "resource": record.resource,
        "epoch": record.epoch,
        "counter": record.counter,
        "ttl-ms": record.ttl_ms,
        "holder": record.holder,
        "since": record.since,
    })
}

/// A lock, its holder and its status.
struct LockView {
    environment: EnvironmentName,
    location: String,
    record: Option<LockRecord>,
    status: LockStatus,
}

impl LockView {
    fn read(environment: EnvironmentName, store: &StateStore, watches: bool) -> Result<Self, Diagnostic> {
        let (record, standing) = store.lock_status(watches).map_err(|error| lock_diagnostic(&error))?;
        Ok(Self { environment, location: store.display_location(), record, status: standing })
    }

    fn json(&self) -> Value {
        let mut object = self.record.as_ref().map_or_else(|| json!({ "holder": null, "epoch": 0 }), record_json);
        object["environment"] = json!(self.environment);
        object["place"] = json!(self.location);
        object["standing"] = json!(self.status);
        object
    }

    fn text(&self, line_width: usize) -> String {
        let mut answer = format!("{}\n", self.environment);
        let layout = FieldLayout { value_column: INDENT, line_width };
        let mut row = |name: &str, value: &str| layout.push(&mut answer, name, value);
        let record = self.record.as_ref();
        let ttl = record.and_then(|record| record.ttl_ms).map(format_duration);
        row(
            "lock",
            &match (self.status, ttl) {
                (LockStatus::Free, _) => "free".to_owned(),
                (LockStatus::Held, _) => "held by a running deployment".to_owned(),
                (LockStatus::Stale, _) => "stale: its holder has ended, and the next deployment takes it".to_owned(),
                (LockStatus::Unknown, Some(ttl)) => {
                    format!("held; expires within {ttl} unless renewed (see --watch)")
                }
                (LockStatus::Unknown, None) => "held".to_owned(),
            },
        );
        if let Some(record) = record {
            if let Some(holder) = &record.holder {
                row("holder", &holder.who);
                holder.url.iter().for_each(|url| row("job", url));
                holder
                    .purpose
                    .iter()
                    .for_each(|purpose| row("for", &text::truncate(purpose, line_width.saturating_sub(INDENT))));
                let since = format_duration(millis_between(record.since, clock::now()));
                row("since", &format!("{}, {since} ago", format_time(record.since)));
            }
            row("epoch", &record.epoch.to_string());
        }
        row("state", &self.location);
        answer
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use state::LockHolder;

    #[test]
    fn a_lock_is_readable_at_80_columns() {
        let holder = LockHolder {
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
            released_by: None,
            since: clock::now(),
        };
        let view = LockView {
            environment: "prod".parse().unwrap(),
            location: "git:origin".to_owned(),
            record: Some(record),
            status: LockStatus::Unknown,
        };
        let text = view.text(80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let (head, _) = text.split_once("  since").unwrap();
        expect![[r#"
            prod
              lock      held; expires within 30.0 s unless renewed (see --watch)
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
