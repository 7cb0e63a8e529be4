//! A double of ssh and an agent, for more hosts than this machine can have: it answers each call after a while, and does nothing.
//!
//! The runner starts it as `ssh`, so that its own work for a host, the process and the frames, is what it is. Deliberately absent: the
//! host.

use std::{
    env,
    io::{self, Read as _, Write as _},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The name by which the double is started.
const NAME: &str = "ssh";
/// What a real agent of this runner says first, with its clock.
const HELLO_VARIABLE: &str = "PAWL_DOUBLE_HELLO";
const LATENCY_VARIABLE: &str = "PAWL_DOUBLE_LATENCY_MS";
/// The kind of a frame that is a message.
const MESSAGE: u8 = 0;

/// Whether this process is to be the double.
pub(crate) fn is_asked_for() -> bool {
    env::args_os().next().is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == NAME))
}

/// A command that finds the double as `ssh`, which is made in this folder.
pub(super) fn command(runner: &Path, folder: &Path, latency: Duration) -> Result<Command> {
    let programs = folder.join("programs");
    std::fs::create_dir_all(&programs)?;
    let link = programs.join(NAME);
    if !link.exists() {
        symlink(env::current_exe()?, link)?;
    }
    let mut command = Command::new(runner);
    command.env("PATH", &programs).env(HELLO_VARIABLE, hello_of(runner)?);
    command.env(LATENCY_VARIABLE, latency.as_millis().to_string()).env_remove("LD_LIBRARY_PATH");
    Ok(command)
}

/// What the runner says first as an agent.
fn hello_of(runner: &Path) -> Result<String> {
    let mut command = Command::new(runner);
    command.arg("agent").stdin(Stdio::null()).env_remove("LD_LIBRARY_PATH").env("HOME", "/nonexistent");
    let said = command.output()?.stdout;
    let start = said.windows(2).position(|pair| pair == b"{\"").context("an agent says hello")?;
    let end = said[start..].iter().position(|byte| *byte == b'}').context("its hello has an end")?;
    Ok(String::from_utf8(said[start..=start + end].to_vec())?)
}

/// Answers until nobody asks any more.
#[expect(clippy::disallowed_methods, reason = "its options come from the bench through the runner")]
pub(crate) fn run() -> Result<()> {
    let mut hello: Value = serde_json::from_str(&env::var(HELLO_VARIABLE)?)?;
    hello["build"] = shipped_build(hello["build"].as_str().unwrap_or_default())?.into();
    let latency = Duration::from_millis(env::var(LATENCY_VARIABLE)?.parse()?);
    let (mut from, mut to) = (io::stdin().lock(), io::stdout().lock());
    to.write_all(b"\nPAWL-HERE\n\nPAWL-AGENT\n")?;
    write_message(&mut to, &hello)?;
    while let Some(message) = read_message(&mut from)? {
        let answer = |answer: Value| json!({ "say": "answer", "call": message["call"], "answer": answer });
        let reply = match message["say"].as_str() {
            Some("begin") => json!({ "say": "begun", "records": [], "attempts": [] }),
            Some("ping") => json!({ "say": "pong" }),
            Some("check") => answer(json!({ "answer": "checked", "problems": [] })),
            Some("call") => {
                thread::sleep(latency);
                answer(answer_to(&message["export"]))
            }
            _ => continue,
        };
        write_message(&mut to, &reply)?;
    }
    Ok(())
}

/// The build that the runner would send to a host: its own version, with the digest of the binary without symbols, which it keeps.
#[expect(clippy::disallowed_methods, reason = "the runner passes on where it keeps things")]
fn shipped_build(own: &str) -> Result<String> {
    let cache = Path::new(&env::var_os("HOME").context("the runner has a HOME")?).join(".cache/pawl");
    let facts = cache.join(format!("agent-binary-{}.json", env::consts::ARCH));
    let facts: Value = serde_json::from_slice(&std::fs::read(facts)?)?;
    let digest = facts["facts"]["digest"].as_str().context("the runner keeps the digest")?;
    Ok(format!("{} {digest}", own.split(' ').next().unwrap_or_default()))
}

fn answer_to(export: &Value) -> Value {
    let receipt = json!({ "outputs": {}, "notes": {} });
    match export["export"].as_str() {
        Some("input-hashes") => json!({ "answer": "input-hashes", "hashes": {} }),
        Some("rehearse") => json!({ "answer": "rehearsed" }),
        Some("probe") => json!({ "answer": "finding", "finding": { "finding": "held", "receipt": receipt } }),
        Some("apply") => {
            json!({ "answer": "outcome", "outcome": { "result": "succeeded", "receipt": receipt } })
        }
        _ => json!({ "answer": "preview", "changes": [] }),
    }
}

/// The next message; frames with bytes of files are dropped.
fn read_message(from: &mut impl io::Read) -> Result<Option<Value>> {
    loop {
        let mut head = [0; 5];
        if from.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let mut body = Vec::new();
        from.take(u64::from(length)).read_to_end(&mut body)?;
        if head[4] == MESSAGE {
            return Ok(Some(serde_json::from_slice(&body)?));
        }
    }
}

fn write_message(to: &mut impl io::Write, message: &Value) -> Result<()> {
    let body = serde_json::to_vec(message)?;
    to.write_all(&u32::try_from(body.len())?.to_be_bytes())?;
    to.write_all(&[MESSAGE])?;
    to.write_all(&body)?;
    Ok(to.flush()?)
}

/// A plan with one step for so many hosts that are not there. With several steps, the line of the journal that lists all of them for all
/// hosts would be longer than a line may be.
pub(super) fn plan(hosts: usize) -> String {
    let listed: String = (1..=hosts).map(|number| format!("        - web-{number}\n")).collect();
    format!(
        "version: 1\napp: shop\nenvironments:\n  test:\n    hosts:\n      web:\n{listed}steps:\n  \
         a: {{ on: web, program: [/bin/true], trust: host, with: {{ repeatable: true }} }}\n"
    )
}
