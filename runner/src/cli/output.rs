//! The output of the process: standard output, standard error, and the log of a GitHub job.
//!
//! In a GitHub job, a command that changes something writes its whole log to standard output, so that lines stay in order.
//! Notices next to an answer go to standard error, which GitHub reads too.

use std::{
    io::{IsTerminal as _, Write},
    sync::Arc,
};

use super::{
    github::{self, JobSummaryFile},
    masked_reporter::MaskedReporter,
    plan_file::CommandCompletion,
};
use crate::report::{
    self, ColorMode, CommandConclusion, DeploymentReporter, InteractiveMode, JsonLinesReporter, OutputFormat,
    TerminalReporter, Verbosity,
    github::{GroupedLogReporter, JobContext, JobSummaryReporter, PageSources, WorkflowOutput},
    json, messages,
};
use contract::{
    AttemptNumber, Secret,
    diagnostic::{Diagnostic, ExitKind, NoticeSeverity},
    text,
};
use journal::{JournalState, Redactor, event::JournalHeader, state::AttemptSummary};
use sandbox::NoticeHandler;
use state::StateStore;

/// What the next attempt continues after, for its heading.
fn continues_after(last: &AttemptSummary) -> String {
    match &last.resolved_step {
        Some(step_target) => messages::continues_after_resolution(&last.header.by, step_target),
        None => messages::continues_after(last.exit, last.failed_step.as_ref()),
    }
}

/// The options for the amount and the form of output.
#[derive(Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// Write JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    /// Show only failures and the last line
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Also show probes, inputs and debug messages
    #[arg(short, long, global = true)]
    verbose: bool,
    /// When to use colours; `NO_COLOR` also turns them off
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ColorChoice {
    Auto,
    Always,
    Never,
}

/// The output streams of this process, and their format.
pub(super) struct CommandOutput {
    format: OutputFormat,
    verbosity: Verbosity,
    color: ColorMode,
    interactive_mode: InteractiveMode,
    /// The log of the job, if this process is part of one.
    workflow: Option<WorkflowOutput>,
    purpose: OutputPurpose,
    /// What the commands in hints lack.
    commands: CommandCompletion,
}

/// The purpose of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputPurpose {
    /// The command prints an answer to standard output.
    Answer,
    /// The command deploys: its progress is the output, and a job gets a summary and outputs.
    Deployment,
}

/// The columns of a line of an answer, after which it is wrapped: on a terminal only, so that `grep` finds a line elsewhere.
pub(super) fn answer_width() -> usize {
    if std::io::stdout().is_terminal() { text::WIDTH } else { usize::MAX }
}

impl CommandOutput {
    pub(super) fn new(args: &OutputArgs, purpose: OutputPurpose, commands: CommandCompletion) -> Self {
        let is_terminal =
            std::io::stderr().is_terminal() && super::source::env_variable("TERM").as_deref() != Some("dumb");
        let no_color = super::source::env_variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match args.color {
            ColorChoice::Always => ColorMode::On,
            ColorChoice::Auto if is_terminal && !no_color => ColorMode::On,
            ColorChoice::Auto | ColorChoice::Never => ColorMode::Off,
        };
        let form = if args.json { OutputFormat::Json } else { OutputFormat::Text };
        let workflow = github::is_job().then(|| {
            let out: Box<dyn Write + Send> = match (form, purpose) {
                (OutputFormat::Text, OutputPurpose::Deployment) => Box::new(std::io::stdout()),
                (OutputFormat::Json, _) | (_, OutputPurpose::Answer) => Box::new(std::io::stderr()),
            };
            github::workflow_output(out)
        });
        Self {
            format: form,
            workflow,
            purpose,
            commands,
            verbosity: match (args.quiet, args.verbose || github::is_debug()) {
                (true, _) => Verbosity::Quiet,
                (false, true) => Verbosity::Verbose,
                (false, false) => Verbosity::Normal,
            },
            color,
            interactive_mode: if is_terminal { InteractiveMode::Yes } else { InteractiveMode::No },
        }
    }

    pub(super) fn format(&self) -> OutputFormat {
        self.format
    }

    pub(super) fn is_verbose(&self) -> bool {
        self.verbosity == Verbosity::Verbose
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Tells the job to hide secrets, before any other output.
    pub(super) fn mask<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        if let Some(workflow) = &self.workflow {
            workflow.mask(secrets);
        }
    }

    /// Creates the reporter of a new attempt.
    pub(super) fn deployment_reporter(
        &self,
        before: &JournalState,
        header: &JournalHeader,
        context: &JobContext,
        store: &StateStore,
        redactor: &Redactor,
    ) -> Box<dyn DeploymentReporter> {
        let last = before.attempts.last().filter(|_| header.attempt != AttemptNumber::FIRST);
        let options = report::ReportOptions {
            verbosity: self.verbosity,
            color: self.color,
            interactive: self.interactive_mode,
            continues_after: last.map(continues_after),
            logs_command: self.commands.text("`runner logs`"),
        };
        let reporter: Box<dyn DeploymentReporter> = match (self.format, &self.workflow) {
            (OutputFormat::Json, _) => Box::new(JsonLinesReporter::new(Box::new(std::io::stdout()))),
            (OutputFormat::Text, Some(workflow)) => {
                let log = GroupedLogReporter::new(workflow.clone(), options);
                Box::new(MaskedReporter::new(redactor.clone(), log))
            }
            (OutputFormat::Text, None) => {
                let (progress, summary) = (Box::new(std::io::stderr()), Box::new(std::io::stdout()));
                Box::new(MaskedReporter::new(redactor.clone(), TerminalReporter::new(progress, summary, options)))
            }
        };
        let Some(page) = JobSummaryFile::of_job() else { return reporter };
        let (room, tell) = (page.remaining_bytes(), self.notifier());
        let write = Box::new(move |text: &str| page.append(text).into_iter().for_each(|notice| tell(notice)));
        let sources = PageSources {
            previous_attempts: github::previous_attempts(store, before, header),
            journal_url: github::journal_url(store),
            write,
        };
        let page = JobSummaryReporter::new(github::live_before(before), context.clone(), sources, room);
        Box::new((reporter, MaskedReporter::new(redactor.clone(), page)))
    }

    /// The handler of notices during a deployment; with `--json`, it prints a notice as a line like any other.
    pub(super) fn notifier(&self) -> NoticeHandler {
        match self.format {
            OutputFormat::Text => self.stderr_notifier(),
            OutputFormat::Json => {
                let (workflow, commands) = (self.workflow.clone(), self.commands.clone());
                Arc::new(move |notice| {
                    let notice = commands.notice(notice);
                    workflow.iter().for_each(|workflow| workflow.annotate(&notice));
                    // A closed output is not a reason to stop.
                    let _ = writeln!(std::io::stdout(), "{}", json::line(&json::notice(&notice)));
                })
            }
        }
    }

    /// The handler of notices next to a command's answer: they go to standard error.
    pub(super) fn stderr_notifier(&self) -> NoticeHandler {
        let (verbosity, color, workflow) = (self.verbosity, self.color, self.workflow.clone());
        let commands = self.commands.clone();
        Arc::new(move |notice| {
            let notice = commands.notice(notice);
            let is_shown = verbosity > Verbosity::Quiet || notice.severity != NoticeSeverity::Note;
            match &workflow {
                Some(workflow) => {
                    workflow.annotate(&notice);
                    if is_shown {
                        workflow.notice(&notice, color);
                    }
                }
                None if is_shown => {
                    // Without standard error, the notice is lost.
                    let _ = std::io::stderr().write_all(contract::render::render_notice(&notice, color).as_bytes());
                }
                None => {}
            }
        })
    }

    /// An error whose hint names the plan where a command needs it.
    pub(super) fn complete(&self, diagnostic: &Diagnostic) -> Diagnostic {
        self.commands.diagnostic(diagnostic)
    }

    /// Shows an error.
    pub(super) fn show_error(&self, diagnostic: &Diagnostic) {
        let diagnostic = &self.complete(diagnostic);
        match &self.workflow {
            Some(workflow) => workflow.error(diagnostic, self.color),
            None => {
                let text = contract::render::render_diagnostic(diagnostic, self.color);
                // Without standard error, there is only the exit code.
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        }
    }

    /// Shows the errors that kept a command from starting. The first one determines the exit code.
    pub(super) fn report_problems(&self, problems: &[Diagnostic]) -> ExitKind {
        let problems: Vec<_> = problems.iter().map(|problem| self.complete(problem)).collect();
        problems.iter().for_each(|problem| self.show_error(problem));
        let Some(first) = problems.first() else { return ExitKind::Bug };
        if self.is_json() {
            let conclusion = CommandConclusion { exit: first.exit, error: Some(first) };
            // If the output is closed, there is still the exit code.
            let _ = writeln!(std::io::stdout(), "{}", json::line(&json::result(&conclusion)));
        }
        if self.purpose == OutputPurpose::Deployment {
            if let Some(page) = JobSummaryFile::of_job() {
                let text = report::github::render_problems_page(first.exit, &problems, page.remaining_bytes());
                page.append(&text).into_iter().for_each(|notice| self.notifier()(notice));
            }
            self.set_job_outputs(&[("result", &github::result_output(first.exit))]);
        }
        first.exit
    }

    /// Sets outputs of the job, if this process is part of one.
    pub(super) fn set_job_outputs(&self, outputs: &[(&str, &str)]) {
        github::set_job_outputs(outputs).into_iter().for_each(|notice| self.notifier()(notice));
    }

    /// Ends the output; called once, at the end.
    pub(super) fn close(&self) {
        self.workflow.iter().for_each(WorkflowOutput::close);
    }
}
