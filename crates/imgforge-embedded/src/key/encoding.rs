//! How what is hashed is written down.

use blake3::Hasher;

/// A hash over values, each of which could be read back from the bytes that are hashed: two that differ never have the
/// same. A number has eight bytes, a text and a list begin with their length, and what is one of several begins with
/// the number of that kind.
pub(super) struct Encoding(Hasher);

impl Encoding {
    /// Begins a hash that is that of no other purpose, whatever is added.
    pub(super) fn new(purpose: &str) -> Self {
        Self(Hasher::new_derive_key(purpose))
    }

    pub(super) fn number(&mut self, number: impl Into<u64>) {
        self.0.update(&number.into().to_le_bytes());
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.number(u8::from(flag));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        for item in items {
            each(self, item);
        }
    }

    pub(super) fn texts(&mut self, texts: &[String]) {
        self.list(texts, |to, text| to.text(text));
    }

    pub(super) fn pairs(&mut self, pairs: &[(String, String)]) {
        self.list(pairs, |to, (name, value)| {
            to.text(name);
            to.text(value);
        });
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, some: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            some(self, value);
        }
    }

    /// Returns the hash in hex.
    pub(super) fn finish(self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
