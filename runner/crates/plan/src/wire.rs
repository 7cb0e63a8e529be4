//! Steps on their way to the agent of a host.
//!
//! Invariant: here alone a secret is serialized. What is written goes to an agent over its connection, and nowhere else: the journal has no
//! step with its grants. Positions in the plan, lookups and the host itself stay behind.

/// Serializes the value of a [`Secret`](contract::Secret).
pub(super) mod secret {
    use contract::Secret;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.reveal())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

/// Serializes a [`RegistryRef`](super::RegistryRef) as a plan writes it.
pub(super) mod reference {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::RegistryRef;

    pub(crate) fn serialize<S: Serializer>(reference: &RegistryRef, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(reference)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RegistryRef, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.strip_prefix("oci://").and_then(|reference| RegistryRef::parse(reference).ok());
        parsed.ok_or_else(|| D::Error::custom("it is not a reference to a module in a registry"))
    }
}
