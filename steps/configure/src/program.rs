//! The programs that check files or are told of them.

use pawl_step::process::{Command, Completion};
use pawl_step::{Failure, log};

/// The argument that stands for the new file.
pub(crate) const CANDIDATE: &str = "{}";
/// The most lines of a program's output in a message.
const MAX_LINES: usize = 6;

/// Runs a program, whose lines the host logs.
pub(crate) fn run(argv: &[String]) -> Result<(), Failure> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let completion = Command::new(program).args(arguments.iter().cloned()).logged().run()?;
    succeeded(argv, &completion)
}

/// Lets a program check the file at a path of the host.
pub(crate) fn check_file(argv: &[String], path: &str, to: &str) -> Result<(), Failure> {
    let filled: Vec<String> =
        argv.iter().map(|argument| if argument == CANDIDATE { path.to_owned() } else { argument.clone() }).collect();
    let Some((program, arguments)) = filled.split_first() else { return Ok(()) };
    let completion = Command::new(program).args(arguments.iter().cloned()).run()?;
    if let Err(failure) = succeeded(argv, &completion) {
        log::error(failure.message.clone());
        return Err(Failure { message: format!("the check refuses {to}: {}", failure.message), ..failure }
            .hint("correct the template or its values"));
    }
    Ok(())
}

/// A program with its arguments, for people.
pub(crate) fn command_line(argv: &[String]) -> String {
    argv.join(" ")
}

fn succeeded(argv: &[String], completion: &Completion) -> Result<(), Failure> {
    if completion.status == 0 {
        return Ok(());
    }
    let stream = if completion.stderr.iter().any(|byte| !byte.is_ascii_whitespace()) {
        &completion.stderr
    } else {
        &completion.stdout
    };
    let text = String::from_utf8_lossy(stream);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let said = match lines.len() {
        0 => "it wrote nothing".to_owned(),
        count => lines[count.saturating_sub(MAX_LINES)..].join("\n"),
    };
    Err(Failure::permanent(format!("`{}` exited with status {}: {said}", command_line(argv), completion.status)))
}
