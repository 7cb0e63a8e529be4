//! `runner publish FILE TO…`: puts a release, or a Python package, where others get it, and says what to write in the plan.
//!
//! With `-`, the file is the standard input. Each target is tried; the first error decides the exit code.

use std::{io::Write, path::PathBuf};

use serde_json::{Value, json};

use super::{output::CommandOutput, source::env_variable, xdg_dirs};
use crate::report::{self, OutputFormat, json};
use ::pack::publish::{PublishError, PublishSource, PublishTarget, Published, Publisher, S3Bucket};
use contract::{
    Secret,
    diagnostic::{Diagnostic, ErrorCode, ExitKind, Notice},
};

/// Arguments of `publish`.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The archive, wheel or sdist; `-` is the standard input
    file: String,
    /// A folder, https://…, s3://BUCKET/KEY, oci://REGISTRY/NAME:TAG, or pypi+https://… (the URL for uploads)
    #[arg(required = true, value_name = "TO")]
    targets: Vec<String>,
    /// The environment variable that holds the credentials: `Basic USER:PASSWORD` or `Bearer TOKEN`
    #[arg(long, value_name = "NAME")]
    authorization: Option<String>,
    /// The size of the chunks of a large upload to a registry or a bucket
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    chunk: Option<u64>,
}

/// Publishes the file.
///
/// # Errors
/// P0237, P0238: one for each target that failed; P0214.
pub(super) async fn run(
    args: &PublishArgs,
    screen: &CommandOutput,
    out: &mut dyn Write,
) -> Result<ExitKind, Vec<Diagnostic>> {
    let one = |error: Diagnostic| vec![error];
    let name = PathBuf::from(&args.file).file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.filter(|_| args.file != "-");
    // A wrong target is known before a long file is read.
    let targets = args
        .targets
        .iter()
        .map(|text| PublishTarget::parse(text, name.as_deref()).map_err(|error| one(error.diagnostic(text))));
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    let publisher = publisher(args, screen)?;
    let source = match args.file.as_str() {
        "-" => PublishSource::spool(std::io::stdin().lock()),
        path => PublishSource::open(path.as_ref()),
    };
    let source = source.map_err(|error| one(error.diagnostic(&args.targets[0])))?;
    let mut problems = Vec::new();
    for (text, target) in args.targets.iter().zip(&targets) {
        let published = match bucket(target) {
            Ok(bucket) => publisher.publish(&source, target, bucket.as_ref()).await,
            Err(error) => Err(error),
        };
        match published {
            Ok(published) => {
                report::write_answer(out, &answer(screen.format(), text, &source, &published)).map_err(one)?;
            }
            Err(error) => problems.push(error.diagnostic(text)),
        }
    }
    if problems.is_empty() { Ok(ExitKind::Success) } else { Err(problems) }
}

fn publisher(args: &PublishArgs, screen: &CommandOutput) -> Result<Publisher, Vec<Diagnostic>> {
    let client = state::http::client().map_err(|error| error.to_string());
    let client = client.and_then(|client| client.build().map_err(|error| error.to_string()));
    let client = client.map_err(|why| {
        vec![
            Diagnostic::new(ErrorCode::RunnerFault, "can't set up https")
                .with_cause(why)
                .with_hint("install the system's ca-certificates, or set SSL_CERT_FILE"),
        ]
    })?;
    let authorization = authorization(args).map_err(|error| vec![error])?;
    screen.mask(&authorization);
    let paths = xdg_dirs::cache_dirs();
    let tell = screen.stderr_notifier();
    Ok(Publisher {
        client,
        authorization,
        docker_config: paths.docker_config,
        sessions: paths.state_dir.map(|folder| folder.join("uploads")),
        chunk_bytes: args.chunk,
        tell: Box::new(move |text| tell(Notice::note(text))),
    })
}

fn authorization(args: &PublishArgs) -> Result<Option<Secret>, Diagnostic> {
    let Some(name) = &args.authorization else { return Ok(None) };
    match env_variable(name).filter(|value| !value.is_empty()) {
        Some(value) => Ok(Some(fetch::oci::header_value(&value))),
        None => Err(Diagnostic::new(ErrorCode::MissingSecret, format!("the variable {name} is not set"))
            .with_hint(format!("set {name} to `Basic USER:PASSWORD` or `Bearer TOKEN`"))),
    }
}

/// Access to the bucket of a target.
fn bucket(target: &PublishTarget) -> Result<Option<S3Bucket>, PublishError> {
    let PublishTarget::S3 { bucket, .. } = target else { return Ok(None) };
    let store = state::open_bucket(bucket, &plan::s3_settings(&env_variable));
    let store = store.map_err(|error| PublishError::Credentials(contract::text::error_chain_text(&error)))?;
    Ok(Some(S3Bucket { signer: std::sync::Arc::new(store) }))
}

fn answer(form: OutputFormat, target: &str, source: &PublishSource, published: &Published) -> String {
    match form {
        OutputFormat::Json => {
            let object: Value = json!({
                "target": target, "location": published.location, "digest": published.digest,
                "archive-digest": source.digest, "bytes": source.size, "was-published": published.was_published,
                "resumed-bytes": published.resumed_bytes, "plan": published.snippet,
            });
            json::line(&object) + "\n"
        }
        OutputFormat::Text => {
            let done = if published.was_published { "already published" } else { "published" };
            let snippet: String = published.snippet.lines().map(|line| format!("  {line}\n")).collect();
            format!("{done} {}\n  {}\nin the plan:\n{snippet}", published.location, published.digest)
        }
    }
}
