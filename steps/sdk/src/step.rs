//! The one trait of a step, and the adapter between it and the contract's exports.

use core::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::bindings::exports::pawl::step::step::Guest;
use crate::bindings::pawl::step::types;
use crate::input::parse;
use crate::{Change, Failure, Finding, Input, ModuleDescription, Receipt, json};

/// A step. Stateless: each call runs in a fresh sandbox.
pub trait Step {
    /// The step's `with:`. `#[serde(deny_unknown_fields)]` is usual.
    type Config: DeserializeOwned;

    /// What the module says about itself.
    fn describe() -> ModuleDescription;

    /// What [`apply`](Step::apply) would do, found out with read-only grants. Nothing to do is an empty list.
    ///
    /// # Errors
    /// What would make `apply` fail, as far as it can be seen.
    fn preview(input: &Input<Self::Config>) -> Result<Vec<Change>, Failure>;

    /// Does it. Idempotent: the same input twice has the effect of once, and a call after one that was killed at any
    /// point finishes what that one began.
    ///
    /// # Errors
    /// Why it did not happen. What was begun is undone, or finished by the next call.
    fn apply(input: &Input<Self::Config>) -> Result<Receipt, Failure>;

    /// Whether the effect of this input holds, here and now. Writes nothing.
    ///
    /// # Errors
    /// When the look itself failed; the runner tries again, then asks an operator.
    fn probe(input: &Input<Self::Config>) -> Result<Finding, Failure> {
        Ok(Finding::Unknown(format!("step `{}` has no probe", input.step)))
    }

    /// Undoes what `apply` did for this input, by its receipt. Idempotent too.
    ///
    /// # Errors
    /// Why it cannot be undone.
    fn revert(input: &Input<Self::Config>, _receipt: &Receipt) -> Result<(), Failure> {
        Err(Failure::permanent(format!("step `{}` cannot be undone", input.step)))
    }
}

/// What [`export!`](crate::export) puts between a [`Step`] and the contract.
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

fn run_with_input<C: DeserializeOwned, T>(
    input: &str,
    body: impl FnOnce(&Input<C>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    install_panic_hook();
    body(&parse(input)?)
}

/// A panic ends in a trap without a word, so its text and place go to the log first.
fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("(no text)");
        match panic.location() {
            Some(place) => crate::log::error(format!("the step panicked at {}:{}: {text}", place.file(), place.line())),
            None => crate::log::error(format!("the step panicked: {text}")),
        }
    }));
}
