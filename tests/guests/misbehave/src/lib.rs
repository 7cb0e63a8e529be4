//! A module that does what no step should: each behavior tests the sandbox, and `with: { do: … }` selects it.
//!
//! A behavior that the sandbox allows succeeds and reports in `outputs`, so that a test for a denial fails loudly.
//! Deliberately absent: correct behavior, except for the use of a granted secret.

#![cfg(target_arch = "wasm32")]

mod databases;
mod files;
mod floods;
mod hangs;
mod renders;
mod secrets;
mod sockets;

use pawl_step::{
    Change, Failure, Finding, Input, ModuleDescription, ProbeSupport, Receipt, RerunSafety, Step, blobs, database,
    http, log, process,
};

#[allow(unsafe_code, missing_docs)]
pub(crate) mod extra {
    wit_bindgen::generate!({ world: "misbehave:extra/extra", path: ["../../../wit", "wit"], generate_all });
}

struct MisbehaveStep;

/// The behavior, and its arguments.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
pub(crate) struct MisbehaveConfig {
    r#do: String,
    /// A URL, a source or an address.
    url: String,
    method: String,
    /// A path, `<dir>/<path>`.
    path: String,
    to: String,
    /// The name of a database, an environment variable or a secret.
    name: String,
    sql: String,
    program: String,
    args: Vec<String>,
    text: String,
    /// The way to leave a transaction: `trap`, `panic`, `loop`, `hang`, `fail` or `forget`.
    end: String,
}

/// The result of a behavior.
type BehaviorResult = Result<Receipt, Failure>;

impl Step for MisbehaveStep {
    type Config = MisbehaveConfig;

    fn describe() -> ModuleDescription {
        let new = ModuleDescription::new(
            "misbehave",
            "0.1.0",
            "does what it must not",
            include_str!("../config.schema.json"),
        );
        ModuleDescription { repeatable: RerunSafety::Always, probes: ProbeSupport::Never, rehearses: true, ..new }
    }

    fn preview(input: &Input<MisbehaveConfig>) -> Result<Vec<Change>, Failure> {
        match input.config.r#do.as_str() {
            "many-changes" => {
                let change = Change::new(pawl_step::ChangeAction::Update, "x".repeat(1000), "y".repeat(1000));
                Ok(vec![change; 1000])
            }
            "print-secret" => Ok(secrets::changes_with_secret(&input.config)),
            "preview-act" => {
                perform(&MisbehaveConfig { r#do: input.config.text.clone(), ..clone_config(&input.config) })
                    .map(|_| Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn rehearse(input: &Input<MisbehaveConfig>) -> Result<(), Failure> {
        match input.config.r#do.as_str() {
            "refuse" => Err(Failure::permanent(input.config.text.clone()).hint("make the port free")),
            "rehearse-act" => {
                let acting = MisbehaveConfig { r#do: input.config.text.clone(), ..clone_config(&input.config) };
                perform(&acting).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn apply(input: &Input<MisbehaveConfig>) -> BehaviorResult {
        perform(&input.config)
    }

    fn probe(_: &Input<MisbehaveConfig>) -> Result<Finding, Failure> {
        Ok(Finding::Absent)
    }
}

fn clone_config(config: &MisbehaveConfig) -> MisbehaveConfig {
    MisbehaveConfig {
        r#do: config.r#do.clone(),
        url: config.url.clone(),
        method: config.method.clone(),
        path: config.path.clone(),
        to: config.to.clone(),
        name: config.name.clone(),
        sql: config.sql.clone(),
        program: config.program.clone(),
        args: config.args.clone(),
        text: config.text.clone(),
        end: config.end.clone(),
    }
}

fn perform(config: &MisbehaveConfig) -> BehaviorResult {
    match config.r#do.as_str() {
        "loop" => hangs::loop_forever(),
        "sleep" => hangs::sleep_forever(),
        "recurse" => report_allowed("depth", hangs::recurse(config.text.len() as u64)),
        "trap" => core::arch::wasm32::unreachable(),
        "panic" => panic!("{}", config.text),
        "exit" => {
            extra::wasi::cli::exit::exit(Ok(()));
            unreachable!("exit does not return")
        }
        "request" => {
            let method = if config.method.is_empty() { "GET" } else { &config.method };
            let response = http::Request::new(method, &config.url).send()?;
            report_allowed("status", response.status)
        }
        "request-with" => {
            let secret = pawl_step::secrets::Secret::open(&config.name)?;
            let response = http::Request::get(&config.url).secret("Authorization", "Bearer ", secret).send()?;
            report_allowed("status", response.status)
        }
        "run-with" => {
            let secret = pawl_step::secrets::Secret::open(&config.name)?;
            let command = process::Command::new(&config.program).args(config.args.clone());
            report_allowed("status", command.secret("TOKEN", secret).run()?.status)
        }
        "connect" => {
            pawl_step::tcp::connect(&config.url, core::time::Duration::from_secs(600))?;
            report_allowed("connected", true)
        }
        "unpack" => {
            let blob = blobs::fetch(&config.url, &config.text.clone().try_into().map_err(Failure::invalid_config)?)?;
            let unpacked = blob.unpack(&config.path, &config.to, &blobs::UnpackLimits::default())?;
            report_allowed("files", unpacked.files)
        }
        "resolve" => report_allowed("digest", blobs::resolve(&config.url)?.to_string()),
        "run" => {
            let mut command = process::Command::new(&config.program).args(config.args.clone());
            if !config.name.is_empty() {
                command = command.env(&config.name, "value");
            }
            if !config.path.is_empty() {
                command = command.dir(&config.path);
            }
            let completion = command.run()?;
            report_allowed("stdout", String::from_utf8_lossy(&completion.stdout).len())
        }
        "query" => {
            let rows = database::Connection::open(&config.name)?.query(&config.sql, &[])?;
            report_allowed("rows", rows.rows.len())
        }
        "transaction" => hangs::leave_transaction_open(config),
        "reveal" => report_allowed("length", pawl_step::secrets::Secret::open(&config.name)?.reveal()?.len()),
        "print-secret" => secrets::print_secret_everywhere(config),
        "memory" | "log" | "stdout" | "progress" | "endless-line" | "handles" | "connections" | "random" => {
            floods::flood_host(config)
        }
        "receipt" | "failure" | "kind" => floods::return_oversized(&config.r#do),
        "hand-over" => floods::pass_oversized_arguments(config),
        "render" | "render-and-read" | "set-mode" | "place" | "move" => renders::act_on_renders(config),
        "exchange" => {
            let options = pawl_step::socket::ExchangeOptions { end_of_request: true, ..Default::default() };
            let answer = pawl_step::socket::exchange(&config.name, config.text.as_bytes(), options)?;
            report_allowed("answer", String::from_utf8_lossy(&answer).into_owned())
        }
        "refuse" | "rehearse-act" => report_allowed("nothing", true),
        "network" => sockets::try_all_sockets(),
        "surroundings" => sockets::visible_environment(),
        "look-for-password" => databases::search_for_password(config),
        "nothing" => report_allowed("nothing", true),
        _ => files::act_on_files(config),
    }
}

/// Reports something that the sandbox should have denied.
fn report_allowed(what: &str, value: impl Into<pawl_step::serde_json::Value>) -> BehaviorResult {
    log::info("the sandbox allowed it");
    Ok(Receipt::new().output(what, value))
}

pawl_step::export!(MisbehaveStep);
