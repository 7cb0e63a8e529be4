//! BLAKE3 hashes, and the canonical form of a JSON value for hashing.

use std::{collections::BTreeMap, fmt, io, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A BLAKE3 hash, 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blake3Hash([u8; 32]);

impl Blake3Hash {
    /// The hash of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of all that a reader returns.
    ///
    /// # Errors
    /// The reader's.
    pub fn of_reader(reader: impl io::Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(reader)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The hash of some bytes under a key: only someone who has the key can compute it.
    #[must_use]
    pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> Self {
        Self(*blake3::keyed_hash(key, bytes).as_bytes())
    }

    /// The hash of a JSON value in its canonical form: object keys sorted, no white space.
    #[must_use]
    pub fn of_json(value: &Value) -> Self {
        Self::of(canonical_json(value).to_string().as_bytes())
    }

    /// The first 8 bytes.
    #[must_use]
    pub fn first_bytes(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }

    /// The first `n` hex digits.
    #[must_use]
    pub fn hex_prefix(&self, n: usize) -> String {
        self.to_string().chars().take(n).collect()
    }
}

/// The hash of an input of a step: a file, or a directory and the files in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputHash {
    /// The hash of the content, and in a directory of the paths.
    pub hash: Blake3Hash,
    /// The hashes of a directory's files, by path, which name the file that changed. Empty for a file, and for a directory of many files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Blake3Hash>,
}

impl InputHash {
    /// How many bytes the names and hashes of files may take to be there: about a hundred files. The intent with them is one line of the
    /// journal.
    pub const MAX_FILES_BYTES: usize = 12 << 10;
}

impl From<Blake3Hash> for InputHash {
    fn from(hash: Blake3Hash) -> Self {
        Self { hash, files: BTreeMap::new() }
    }
}

/// Hashes bytes as they come.
#[derive(Clone, Debug, Default)]
pub struct Blake3Hasher(blake3::Hasher);

impl Blake3Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all of them.
    #[must_use]
    pub fn finish(&self) -> Blake3Hash {
        Blake3Hash(*self.0.finalize().as_bytes())
    }
}

/// The value with the keys of every object sorted.
#[must_use]
pub fn canonical_json(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().map(|(key, value)| (key.clone(), canonical_json(value))).collect();
            sorted.into_iter().collect()
        }
        Value::Array(items) => items.iter().map(canonical_json).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

impl fmt::Display for Blake3Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Blake3Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Blake3Hash {
    type Err = blake3::HexError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*blake3::Hash::from_hex(text)?.as_bytes()))
    }
}

impl TryFrom<String> for Blake3Hash {
    type Error = blake3::HexError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Blake3Hash> for String {
    fn from(hash: Blake3Hash) -> Self {
        hash.to_string()
    }
}
