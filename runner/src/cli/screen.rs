//! What the process writes to: standard output and standard error, with colours or without; in a job on GitHub, its log.
//!
//! A command that changes something tells of it in that log, all on standard output, so that lines stay in order. What
//! belongs beside an answer goes to standard error, which GitHub reads too.

use std::{
    io::{IsTerminal as _, Write},
    sync::Arc,
};

use super::github::{self, Page};
use crate::report::{
    self, Color, Conclusion, Form, Interactive, JsonLines, Report, Terminal, Verbosity,
    github::{Log, Summary, Workflow},
    json, words,
};
use contract::{
    Attempt, Secret,
    diagnostic::{Diagnostic, Exit, Weight},
};
use journal::{State, event::Header};
use sandbox::Tell;

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
    /// The log of the job, if this is one.
    workflow: Option<Workflow>,
    purpose: Purpose,
}

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its answer, on standard output.
    Answer,
    /// To deploy: what goes on is the output, and a job has a page and outputs of it.
    Deployment,
}

impl Screen {
    pub(super) fn new(args: &Args, purpose: Purpose) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && super::source::variable("TERM").as_deref() != Some("dumb");
        let no_color = super::source::variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match args.color {
            When::Always => Color::On,
            When::Auto if is_terminal && !no_color => Color::On,
            When::Auto | When::Never => Color::Off,
        };
        let form = if args.json { Form::Json } else { Form::Text };
        let workflow = github::is_job().then(|| {
            let out: Box<dyn Write + Send> = match (form, purpose) {
                (Form::Text, Purpose::Deployment) => Box::new(std::io::stdout()),
                (Form::Json, _) | (_, Purpose::Answer) => Box::new(std::io::stderr()),
            };
            github::workflow(out)
        });
        Self {
            form,
            workflow,
            purpose,
            verbosity: match (args.quiet, args.verbose || github::is_debug()) {
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

    /// Has the job hide secrets, before anything else is said.
    pub(super) fn mask<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        if let Some(workflow) = &self.workflow {
            workflow.mask(secrets);
        }
    }

    /// A report of an attempt that begins after what is on record; `again` is the command that continues it.
    pub(super) fn report(&self, before: &State, header: &Header, again: &str) -> Box<dyn Report> {
        let last = before.attempts.last().filter(|_| header.attempt != Attempt::FIRST);
        let options = report::Options {
            verbosity: self.verbosity,
            color: self.color,
            interactive: self.interactive,
            continues: last.map(|last| words::continues_after(last.exit, last.stuck.as_ref())),
        };
        let told: Box<dyn Report> = match (self.form, &self.workflow) {
            (Form::Json, _) => Box::new(JsonLines::new(Box::new(std::io::stdout()))),
            (Form::Text, Some(workflow)) => Box::new(Log::new(workflow.clone(), options)),
            (Form::Text, None) => {
                Box::new(Terminal::new(Box::new(std::io::stderr()), Box::new(std::io::stdout()), options))
            }
        };
        let Some(page) = Page::of_job() else { return told };
        let (room, tell) = (page.room(), self.tell());
        let write = Box::new(move |text: &str| page.write(text).into_iter().for_each(|notice| tell(notice)));
        let earlier = github::earlier(&before.attempts, header);
        Box::new((told, Summary::new(earlier, github::by_hand(again), super::ci::is_believed(), room, write)))
    }

    /// Tells what is worth knowing and no error while a deployment goes on: with `--json`, as a line like any other.
    pub(super) fn tell(&self) -> Tell {
        match self.form {
            Form::Text => self.tell_beside(),
            Form::Json => {
                let workflow = self.workflow.clone();
                Arc::new(move |notice| {
                    workflow.iter().for_each(|workflow| workflow.annotate(&notice));
                    // A reader that went away is no reason to stop.
                    let _ = writeln!(std::io::stdout(), "{}", json::line(&json::notice(&notice)));
                })
            }
        }
    }

    /// The same beside a command's answer: on standard error.
    pub(super) fn tell_beside(&self) -> Tell {
        let (verbosity, color, workflow) = (self.verbosity, self.color, self.workflow.clone());
        Arc::new(move |notice| {
            let is_shown = verbosity > Verbosity::Quiet || notice.weight != Weight::Note;
            match &workflow {
                Some(workflow) => {
                    workflow.annotate(&notice);
                    if is_shown {
                        workflow.notice(&notice, color);
                    }
                }
                None if is_shown => {
                    // Without a standard error nobody is told.
                    let _ = std::io::stderr().write_all(contract::render::notice(&notice, color).as_bytes());
                }
                None => {}
            }
        })
    }

    /// Shows an error.
    pub(super) fn error(&self, diagnostic: &Diagnostic) {
        match &self.workflow {
            Some(workflow) => workflow.error(diagnostic, self.color),
            None => {
                let text = contract::render::render(diagnostic, self.color);
                // Without a standard error there is only the exit code.
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        }
    }

    /// Shows why a command did nothing. The first error says how the process ends.
    pub(super) fn refuse(&self, problems: &[Diagnostic]) -> Exit {
        problems.iter().for_each(|problem| self.error(problem));
        let Some(first) = problems.first() else { return Exit::Bug };
        if self.is_json() {
            let conclusion = Conclusion { exit: first.exit, error: Some(first) };
            // A reader that went away is told by the exit code.
            let _ = writeln!(std::io::stdout(), "{}", json::line(&json::result(&conclusion)));
        }
        if self.purpose == Purpose::Deployment {
            if let Some(page) = Page::of_job() {
                let text = report::github::of_problems(first.exit, problems, page.room());
                page.write(&text).into_iter().for_each(|notice| self.tell()(notice));
            }
            self.outputs(&[("result", &github::result(first.exit))]);
        }
        first.exit
    }

    /// Sets outputs of the job, if this is one.
    pub(super) fn outputs(&self, outputs: &[(&str, &str)]) {
        github::outputs(outputs).into_iter().for_each(|notice| self.tell()(notice));
    }

    /// Called once, last.
    pub(super) fn close(&self) {
        self.workflow.iter().for_each(Workflow::close);
    }
}
