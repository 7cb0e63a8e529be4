//! Names that must not be mixed up. Each is parsed once, at the edge, and valid from then on.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    diagnostic::{Diagnostic, ErrorCode},
    text::escape_line,
};

/// A text is not a valid name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid {kind}: it must be {rule}", escape_line(text))]
pub struct NameError {
    /// The kind of name.
    pub kind: &'static str,
    /// The text.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

const IDENTIFIER: &str = "a letter or digit, then up to 63 letters, digits, `_` or `-`";
const LABEL: &str = "a letter or digit, then up to 127 letters, digits or `._+-`";

fn is_identifier(text: &str, longest: usize, more: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= longest
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || more.contains(b))
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $longest:literal, $more:literal, $rule:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_identifier(text, $longest, $more) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { kind: $kind, text: text.to_owned(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )*};
}

names! {
    /// The name of a step in the plan.
    StepId, "step name", 64, b"_-", IDENTIFIER;
    /// The name of the application.
    AppName, "app name", 64, b"_-", IDENTIFIER;
    /// The name of an environment.
    EnvironmentName, "environment name", 64, b"_-", IDENTIFIER;
    /// The name that a grant gives to a directory or a database.
    GrantName, "grant name", 64, b"_-", IDENTIFIER;
    /// Where a step runs: `local`, or a host of a group.
    TargetName, "target name", 128, b"_-.@:", "a letter or digit, then letters, digits or `_-.@:`";
    /// The name of a group of hosts.
    HostGroup, "host group", 64, b"_-", IDENTIFIER;
    /// A word by which people choose hosts, such as `canary`.
    HostLabel, "host label", 64, b"_-", IDENTIFIER;
    /// The name that people give to a release.
    Label, "release label", 128, b"._+-", LABEL;
    /// A machine, by a random id (docs/journal.md).
    MachineId, "machine id", 64, b"", "letters and digits, at most 64";
    /// One deployment of a release to an environment.
    RunId, "run id", 64, b"-", IDENTIFIER;
}

impl TargetName {
    /// The machine that the runner runs on.
    #[must_use]
    pub fn local() -> Self {
        Self("local".to_owned())
    }
}

/// The number of an attempt within its run, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptNumber(pub NonZeroU32);

impl AttemptNumber {
    /// The first attempt.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The next attempt.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for AttemptNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content digest of an archive or an OCI manifest, `sha256:` and 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest from a SHA-256 sum.
    #[must_use]
    pub fn from_bytes(sum: [u8; 32]) -> Self {
        Self(sum)
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
    }
}

impl FromStr for Digest {
    type Err = NameError;
    /// Accepts the hex digits with or without `sha256:`, in either case.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError { kind: "digest", text: text.to_owned(), rule: "`sha256:` and 64 hex digits" };
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if hex.len() != 64 || !hex.iter().all(u8::is_ascii_hexdigit) {
            return Err(error());
        }
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(hex.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| error())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| error())?;
        }
        Ok(Self(sum))
    }
}

impl TryFrom<String> for Digest {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret's value. It has no `Display`, and its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// Returns the value. The caller is responsible for where it goes.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<NameError> for Diagnostic {
    /// Reports an invalid name from outside the plan, such as `--release ../x`.
    fn from(error: NameError) -> Self {
        Self::new(ErrorCode::InvalidName, format!("`{}` is not a valid {}", escape_line(&error.text), error.kind))
            .with_hint(format!("write {}", error.rule))
    }
}
