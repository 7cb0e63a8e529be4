//! What the process writes to: standard output and standard error, with colours or without.

use std::io::{IsTerminal as _, Write as _};

use crate::{
    diagnose::{Diagnostic, Notice, Weight},
    report::{self, Color, Form, Interactive, JsonLines, Report, Terminal, Verbosity, json},
    sandbox::Tell,
};

/// How much is shown, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Show failures and the last line only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Show probes, inputs and debug messages too
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours; `NO_COLOR` turns them off as well
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

/// The streams of this process, and how to write to them.
pub(super) struct Screen {
    form: Form,
    verbosity: Verbosity,
    color: Color,
    interactive: Interactive,
}

impl Screen {
    pub(super) fn new(args: &Args) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && super::source::variable("TERM").as_deref() != Some("dumb");
        let no_color = super::source::variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match args.color {
            When::Always => Color::On,
            When::Auto if is_terminal && !no_color => Color::On,
            When::Auto | When::Never => Color::Off,
        };
        Self {
            form: if args.json { Form::Json } else { Form::Text },
            verbosity: match (args.quiet, args.verbose) {
                (true, _) => Verbosity::Quiet,
                (false, true) => Verbosity::Verbose,
                (false, false) => Verbosity::Normal,
            },
            color,
            interactive: if is_terminal { Interactive::Yes } else { Interactive::No },
        }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    pub(super) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// A report of an attempt that continues after something, or begins anew.
    pub(super) fn report(&self, continues: Option<String>) -> Box<dyn Report> {
        match self.form {
            Form::Json => Box::new(JsonLines::new(Box::new(std::io::stdout()))),
            Form::Text => {
                let options = report::Options {
                    verbosity: self.verbosity,
                    color: self.color,
                    interactive: self.interactive,
                    continues,
                };
                Box::new(Terminal::new(Box::new(std::io::stderr()), Box::new(std::io::stdout()), options))
            }
        }
    }

    /// Tells what is worth knowing and no error while a deployment goes on: with `--json`, as a line like any other.
    pub(super) fn tell(&self) -> Tell {
        match self.form {
            Form::Text => self.tell_beside(),
            Form::Json => std::sync::Arc::new(|notice| {
                annotate(&notice);
                // A reader that went away is no reason to stop.
                let _ = writeln!(std::io::stdout(), "{}", json::line(&json::notice(&notice)));
            }),
        }
    }

    /// The same beside a command's answer: on standard error.
    pub(super) fn tell_beside(&self) -> Tell {
        let (verbosity, color) = (self.verbosity, self.color);
        std::sync::Arc::new(move |notice| {
            annotate(&notice);
            if verbosity == Verbosity::Quiet && notice.weight == Weight::Note {
                return;
            }
            // Without a standard error nobody is told.
            let _ = std::io::stderr().write_all(report::diagnostic::notice(&notice, color).as_bytes());
        })
    }

    /// Shows an error.
    pub(super) fn error(&self, diagnostic: &Diagnostic) {
        let text = report::diagnostic::render(diagnostic, self.color);
        // Without a standard error there is only the exit code.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// On GitHub, what has a place is shown there: a workflow command, which is read from standard error too.
fn annotate(notice: &Notice) {
    let Some(spot) = &notice.spot else { return };
    if super::source::variable("GITHUB_ACTIONS").as_deref() != Some("true") {
        return;
    }
    let here = std::path::absolute(".").unwrap_or_default();
    let path = spot.path.strip_prefix(here).unwrap_or(&spot.path).display().to_string();
    let message = notice.message.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| {
        let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        text.replace(':', "%3A").replace(',', "%2C")
    };
    let level = if notice.weight == Weight::Warning { "warning" } else { "notice" };
    let (path, title) = (property(&path), property(&spot.title));
    // Without a standard error nobody is told.
    let _ = writeln!(std::io::stderr(), "::{level} file={path},line={},title={title}::{message}", spot.line);
}
