//! Arguments that are only defined when their command is called.
//!
//! clap defines the arguments of all commands before it reads the first word: a quarter of what a short deployment computes.

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Subcommand, builder::Resettable};

/// The arguments of a command, or the commands below it.
#[derive(Debug)]
pub(super) struct Deferred<T>(pub(super) T);

impl<T: FromArgMatches> FromArgMatches for Deferred<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// Defines arguments, and keeps the description of the command: the doc comment of the arguments' type would take its place.
fn keeping_description(command: Command, augment: impl FnOnce(Command) -> Command) -> Command {
    let (about, long_about) = (command.get_about().cloned(), command.get_long_about().cloned());
    augment(command).about(Resettable::from(about)).long_about(Resettable::from(long_about))
}

impl<T: Args> Args for Deferred<T> {
    fn augment_args(command: Command) -> Command {
        command.defer(|command| keeping_description(command, T::augment_args))
    }

    fn augment_args_for_update(command: Command) -> Command {
        command.defer(T::augment_args_for_update)
    }
}

impl<T: Subcommand> Subcommand for Deferred<T> {
    fn augment_subcommands(command: Command) -> Command {
        command.defer(|command| keeping_description(command, T::augment_subcommands))
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        command.defer(T::augment_subcommands_for_update)
    }

    fn has_subcommand(name: &str) -> bool {
        T::has_subcommand(name)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::Deferred;

    /// The arguments' own words.
    #[derive(Debug, clap::Args)]
    struct SomeArgs {
        #[arg(long)]
        word: Option<String>,
    }

    #[test]
    fn description_is_that_of_the_command() {
        let mut command = Deferred::<SomeArgs>::augment_args(Command::new("why")).about("Explain why");
        command.build();
        assert_eq!(command.get_about().map(ToString::to_string).as_deref(), Some("Explain why"));
        assert!(command.get_arguments().any(|argument| argument.get_id() == "word"));
    }
}
