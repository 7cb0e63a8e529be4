//! Granted secrets, by the name in the plan: handles that the host puts into headers and environments.

use crate::Failure;
use crate::bindings::pawl::step::secrets as host;

/// A secret that can be used without its value being known here.
#[derive(Debug)]
pub struct Secret(host::Secret);

impl Secret {
    /// A granted secret: `grants: { secrets: [NAME] }`.
    ///
    /// # Errors
    /// Not granted.
    pub fn open(name: &str) -> Result<Self, Failure> {
        host::Secret::open(name).map(Self).map_err(Failure::from)
    }

    /// Its value.
    ///
    /// # Errors
    /// Granted for use only; the plan says `secrets: { NAME: reveal }` to grant this.
    pub fn reveal(&self) -> Result<String, Failure> {
        self.0.reveal().map_err(Failure::from)
    }

    pub(crate) fn handle(&self) -> &host::Secret {
        &self.0
    }
}
