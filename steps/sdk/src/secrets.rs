//! Granted secrets, opened by their name in the plan: handles that the host puts into headers and environments.

use crate::Failure;
use crate::bindings::pawl::step::secrets as host;

/// A secret that a step can use without knowing its value.
#[derive(Debug)]
pub struct Secret(host::Secret);

impl Secret {
    /// Opens a granted secret: `grants: { secrets: [NAME] }`.
    ///
    /// # Errors
    /// Not granted.
    pub fn open(name: &str) -> Result<Self, Failure> {
        host::Secret::open(name).map(Self).map_err(Failure::from)
    }

    /// Returns the value of the secret.
    ///
    /// # Errors
    /// When the secret is granted for use only; `secrets: { NAME: reveal }` in the plan grants its value.
    pub fn reveal(&self) -> Result<String, Failure> {
        self.0.reveal().map_err(Failure::from)
    }

    pub(crate) fn handle(&self) -> &host::Secret {
        &self.0
    }
}
