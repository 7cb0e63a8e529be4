//! Words for the content that is sent: which of the offered things are meant, and how long a recipe is.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The largest recipe that is sent, in bytes.
const MAX_RECIPE_BYTES: usize = 32 << 20;

/// The sizes of the parts of a recipe, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeSizes {
    /// Where the chunks are.
    pub layout: usize,
    /// Which chunks they are.
    pub ids: usize,
    /// What is between them.
    pub skeleton: usize,
}

impl RecipeSizes {
    /// The size of the whole, unless it is too large.
    #[must_use]
    pub fn total(self) -> Option<usize> {
        let total = self.layout.checked_add(self.ids)?.checked_add(self.skeleton)?;
        (total <= MAX_RECIPE_BYTES).then_some(total)
    }
}

/// A choice of some things in a list, by their positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap(Vec<u8>);

impl Bitmap {
    /// The choice of things for which `is_chosen` holds.
    #[must_use]
    pub fn of<T>(things: impl IntoIterator<Item = T>, mut is_chosen: impl FnMut(T) -> bool) -> Self {
        let mut bytes = Vec::new();
        for (position, thing) in things.into_iter().enumerate() {
            if position % 8 == 0 {
                bytes.push(0);
            }
            if is_chosen(thing) {
                bytes[position / 8] |= 1 << (position % 8);
            }
        }
        Self(bytes)
    }

    /// Whether it chooses the thing at a position. Nothing beyond its end is chosen.
    #[must_use]
    pub fn contains(&self, position: usize) -> bool {
        self.0.get(position / 8).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl Serialize for Bitmap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bitmap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}
