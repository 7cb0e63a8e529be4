//! `runner step MODULE --with k=v`: runs a single module. It becomes a plan of one step, so it is journaled, locked and resumed
//! like any deployment; there is no second way to run a module.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    deploy::{self, DeployRequest},
    guards,
    output::CommandOutput,
    plan_file, selection, source,
    wait::LockWaitArgs,
    xdg_dirs,
};
use crate::deploy::{PinPolicy, PreflightOptions, RequestedRelease};
use contract::{
    Label,
    diagnostic::{Diagnostic, ErrorCode, ExitKind},
};
use plan::{Plan, PlanRequest, PlanSource};

/// Arguments of `step`.
#[derive(Debug, clap::Args)]
pub(super) struct StepArgs {
    /// The module: an official one (`pull`), a file (`./x.wasm`), or one in a registry (`oci://…@sha256:…`)
    module: String,
    /// Run it from this machine, outside of CI
    #[arg(long)]
    local: bool,
    /// A configuration value; parsed if it is valid JSON, otherwise a string
    #[arg(long, value_name = "KEY=VALUE")]
    with: Vec<String>,
    /// A directory that the step may use: `app=./shop`, `dist=./dist:ro`
    #[arg(long, value_name = "NAME=PATH")]
    dir: Vec<String>,
    /// A database that the step may use: `main=sqlite:shop.db`
    #[arg(long, value_name = "NAME=URL")]
    database: Vec<String>,
    /// An HTTP origin that the step may send requests to
    #[arg(long, value_name = "ORIGIN")]
    http: Vec<String>,
    /// A TCP address that the step may connect to
    #[arg(long, value_name = "HOST:PORT")]
    tcp: Vec<String>,
    /// A program that the step may run, as a JSON list: `["systemctl","restart","shop"]`; implies `trust: host`
    #[arg(long, value_name = "ARGV")]
    program: Vec<String>,
    /// A unix socket that the step may use: `engine=unix:/run/podman/podman.sock`; implies `trust: host`
    #[arg(long, value_name = "NAME=unix:PATH")]
    socket: Vec<String>,
    /// A directory in which the step may have templates rendered, and which it can't read: `units=/etc/systemd/system`
    #[arg(long, value_name = "NAME=PATH")]
    render: Vec<String>,
    /// An environment variable of the step's programs, or only its name if the step sets it
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A secret that the step may use, and its environment variable: `TOKEN=env:DEPLOY_TOKEN`
    #[arg(long, value_name = "NAME=env:VARIABLE")]
    secret: Vec<String>,
    /// The label of the release
    #[arg(long, value_name = "LABEL", default_value = "none")]
    release: Label,
    #[command(flatten)]
    selection: selection::SelectionArgs,
    #[command(flatten)]
    wait: LockWaitArgs,
}

/// Runs one module.
///
/// # Errors
/// As `deploy`.
pub(super) async fn run(args: &StepArgs, screen: &CommandOutput) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |diagnostic: Diagnostic| vec![diagnostic];
    guards::require_local_flag(args.local, "step")?;
    let label = args.release.clone();
    let text = format!("{:#}", plan_json(args).map_err(one)?);
    let folder = std::path::absolute(".").map_err(|error| one(invalid_argument(".", &error.to_string())))?;
    let source = PlanSource { path: "(command line)".into(), folder, text: text.into() };
    let request =
        PlanRequest { environment: None, release: &label, env: &source::env_variable, inventory: &plan::no_inventory };
    let plan = Plan::parse(source, &request).map_err(|errors| errors.diagnostics())?;
    let again = plan_file::command_of_process();
    // There is no plan file, so there is no lock file next to it.
    let setting =
        PreflightOptions { pin_policy: PinPolicy::Disabled, ..xdg_dirs::preflight_options(screen.notifier()) };
    let wanted = RequestedRelease { label, digest: None };
    let job = DeployRequest {
        plan,
        release: wanted,
        commit: None,
        preflight: setting,
        overrides: args.selection.overrides(),
        verified_deployment: None,
        wait: args.wait.wait(),
        resume_command: &again,
        resolve_command: None,
    };
    deploy::deploy(job, screen).await
}

/// The plan as JSON, which is YAML.
fn plan_json(args: &StepArgs) -> Result<Value, Diagnostic> {
    let id: String = step_id(&args.module);
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let text = |text: &str| Value::String(text.to_owned());
    let mut step = json!({
        "uses": args.module,
        "with": parse_pairs(&args.with, "--with", value)?,
        "grants": {
            "dirs": parse_pairs(&args.dir, "--dir", text)?,
            "databases": parse_pairs(&args.database, "--database", text)?,
            "http": args.http,
            "tcp": args.tcp,
            "sockets": parse_pairs(&args.socket, "--socket", text)?,
            "renders": parse_pairs(&args.render, "--render", text)?,
            "env": args.env.iter().map(|variable| env_grant(variable)).collect::<Map<_, _>>(),
        },
    });
    let secrets = parse_pairs(&args.secret, "--secret", text)?;
    step["grants"]["secrets"] = secrets.keys().cloned().collect();
    if !args.program.is_empty() {
        let argv = |argv: &String| {
            serde_json::from_str::<Vec<String>>(argv).map_err(|why| invalid_argument(argv, &why.to_string()))
        };
        step["grants"]["programs"] = json!(args.program.iter().map(argv).collect::<Result<Vec<_>, _>>()?);
    }
    if !args.program.is_empty() || !args.socket.is_empty() {
        step["trust"] = json!("host");
    }
    Ok(json!({"version": 1, "app": format!("step-{id}"), "secrets": secrets, "steps": {id: step}}))
}

fn step_id(module: &str) -> String {
    // A registry digest would make the name too long.
    let name = module.split_once('@').map_or(module, |(name, _)| name);
    let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect()
}

/// A variable with its value, or one that the step may set.
fn env_grant(variable: &str) -> (String, Value) {
    match variable.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.into()),
        None => (variable.to_owned(), Value::Null),
    }
}

fn parse_pairs(
    texts: &[String],
    option: &str,
    value: impl Fn(&str) -> Value,
) -> Result<Map<String, Value>, Diagnostic> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, text)) => Ok((name.to_owned(), value(text))),
            None => Err(invalid_argument(text, &format!("`{option}` expects NAME=VALUE"))),
        })
        .collect()
}

fn invalid_argument(what: &str, why: &str) -> Diagnostic {
    Diagnostic::new(ErrorCode::InvalidStepArgument, format!("invalid argument `{}`", contract::text::escape_line(what)))
        .with_cause(why)
        .with_hint("see `runner step --help`")
}
