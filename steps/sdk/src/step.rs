//! The trait of a step, and the adapter between it and the contract's exports.

use core::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::bindings::exports::pawl::step::{rehearsal, step::Guest};
use crate::bindings::pawl::step::types;
use crate::input::parse;
use crate::{Change, Failure, Finding, Input, ModuleDescription, Receipt, json};

/// A step. It has no state: each call runs in a fresh sandbox.
pub trait Step {
    /// The configuration, from the step's `with:`; it usually has `#[serde(deny_unknown_fields)]`.
    type Config: DeserializeOwned;

    /// Describes the module.
    fn describe() -> ModuleDescription;

    /// Returns what [`apply`](Step::apply) would do, using read-only grants. An empty list means that nothing is to be
    /// done.
    ///
    /// # Errors
    /// What would make `apply` fail, as far as a preview can see it.
    fn preview(input: &Input<Self::Config>) -> Result<Vec<Change>, Failure>;

    /// Brings about the effect. It is idempotent: two calls with the same input have the effect of one, and the call
    /// after one that was killed at any point finishes its work.
    ///
    /// # Errors
    /// Why the effect did not happen. The step undoes what it began, or its next call finishes it.
    fn apply(input: &Input<Self::Config>) -> Result<Receipt, Failure>;

    /// Finds out before the first commit step whether [`apply`](Step::apply) would be refused, and changes nothing. It may run granted
    /// programs. Values that depend on commit steps are null. Called only if the description says
    /// [`rehearses`](ModuleDescription::rehearses).
    ///
    /// # Errors
    /// Why `apply` would be refused.
    fn rehearse(_input: &Input<Self::Config>) -> Result<(), Failure> {
        Ok(())
    }

    /// Determines whether the effect of this input holds now. It writes nothing.
    ///
    /// # Errors
    /// When the probe itself fails; the runner retries, then asks an operator.
    fn probe(input: &Input<Self::Config>) -> Result<Finding, Failure> {
        Ok(Finding::Unknown(format!("step `{}` has no probe", input.step)))
    }

    /// Undoes what `apply` did for this input, using its receipt. It is idempotent too.
    ///
    /// # Errors
    /// Why the effect cannot be undone.
    fn revert(input: &Input<Self::Config>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!("step `{}` cannot be undone", input.step)))
    }
}

/// The adapter that [`export!`](crate::export) puts between a [`Step`] and the contract.
#[derive(Debug)]
pub struct StepAdapter<S>(PhantomData<S>);

impl<S: Step> Guest for StepAdapter<S> {
    fn describe() -> String {
        install_panic_hook();
        json::text(&S::describe().to_json())
    }

    fn preview(input: String) -> Result<Vec<types::Change>, types::Failure> {
        let changes = run_with_input(&input, S::preview)?;
        Ok(changes.into_iter().map(Into::into).collect())
    }

    fn apply(input: String) -> Result<types::Receipt, types::Failure> {
        Ok(run_with_input(&input, S::apply)?.into())
    }

    fn probe(input: String) -> Result<types::Finding, types::Failure> {
        Ok(run_with_input(&input, S::probe)?.into())
    }

    fn revert(input: String, receipt: types::Receipt) -> Result<(), types::Failure> {
        let receipt = receipt.into();
        Ok(run_with_input(&input, |input| S::revert(input, &receipt))?)
    }
}

impl<S: Step> rehearsal::Guest for StepAdapter<S> {
    fn rehearse(input: String) -> Result<(), types::Failure> {
        Ok(run_with_input(&input, S::rehearse)?)
    }
}

fn run_with_input<C: DeserializeOwned, T>(
    input: &str,
    body: impl FnOnce(&Input<C>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    install_panic_hook();
    body(&parse(input)?)
}

/// Installs a hook that logs the text and location of a panic, because the trap that follows has no message.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("(no text)");
        match panic.location() {
            Some(place) => crate::log::error(format!("the step panicked at {}:{}: {text}", place.file(), place.line())),
            None => crate::log::error(format!("the step panicked: {text}")),
        }
    }));
}
