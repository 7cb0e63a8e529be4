//! Granted programs. No shell: the host matches the argument vector against the grant.

use serde_json::{Map, Value};

use crate::bindings::pawl::step::process as host;
pub use crate::bindings::pawl::step::process::Completion;
use crate::secrets::Secret;
use crate::{Failure, json};

/// A program and its arguments, run by [`run`](Command::run).
#[derive(Debug)]
#[must_use = "a command does nothing until it is run"]
pub struct Command {
    program: String,
    arguments: Vec<String>,
    stdin: Option<Vec<u8>>,
    env: Map<String, Value>,
    secrets: Vec<(String, Secret)>,
    dir: Option<String>,
    logged: bool,
    terminal: bool,
}

impl Command {
    /// Returns a command without arguments.
    pub fn new(program: impl Into<String>) -> Self {
        let program = program.into();
        Self {
            program,
            arguments: Vec::new(),
            stdin: None,
            env: Map::new(),
            secrets: Vec::new(),
            dir: None,
            logged: false,
            terminal: false,
        }
    }

    /// Adds arguments.
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable. The program gets no others except those that the host gives every program.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), Value::String(value.into()));
        self
    }

    /// Sets an environment variable to a secret.
    pub fn secret(mut self, name: impl Into<String>, secret: Secret) -> Self {
        self.secrets.push((name.into(), secret));
        self
    }

    /// Sets the standard input; without it, the input is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the working directory: `<granted dir>/<path>`.
    pub fn dir(mut self, dir: impl Into<String>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Lets the host log each line of the program as it comes. The completion has the output too.
    pub fn logged(mut self) -> Self {
        self.logged = true;
        self
    }

    /// Gives the program a terminal for its output, so that it writes each line at once. The completion's `stdout` is both streams.
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Runs the program until it exits. A status other than 0 is a completion, not a failure.
    ///
    /// # Errors
    /// Not granted, not found, or timed out.
    pub fn run(self) -> Result<Completion, Failure> {
        let mut options = Map::new();
        if !self.env.is_empty() {
            options.insert("env".to_owned(), Value::Object(self.env));
        }
        if let Some(dir) = self.dir {
            options.insert("dir".to_owned(), Value::String(dir));
        }
        for (name, is_set) in [("log", self.logged), ("tty", self.terminal)] {
            if is_set {
                options.insert(name.to_owned(), Value::Bool(true));
            }
        }
        let command = host::Command {
            program: self.program,
            arguments: self.arguments,
            stdin: self.stdin,
            options: json::text(&Value::Object(options)),
        };
        let secrets: Vec<_> = self.secrets.iter().map(|(name, secret)| (name.clone(), secret.handle())).collect();
        host::run_with(&command, &secrets).map_err(Failure::from)
    }
}
