//! Digests: what content is called.

use std::borrow::Borrow;
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A validated digest of a registered algorithm, `sha256:` and 64 hex digits or `sha512:` and 128 (image specification,
/// "Descriptors", sections "Digests" and "Registered algorithms"). Other algorithms cannot be verified here and are
/// refused. As JSON, it is its text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// It is made in another way.
    #[error("a digest is `sha256:` and 64 hex digits")]
    Form,
    /// Its algorithm is none that is known.
    #[error("a digest starts with `sha256:` or `sha512:`")]
    Algorithm,
    /// It has other digits, or another number of them, than the algorithm gives.
    #[error("a {algorithm} digest has {digits} digits of 0-9 and a-f")]
    Digits {
        /// The algorithm.
        algorithm: &'static str,
        /// How many digits its digests have.
        digits: usize,
    },
}

impl Digest {
    /// Returns the SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    /// Makes a digest of a SHA-256 that was computed elsewhere.
    pub fn from_sha256(hash: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(hash)))
    }

    /// Makes a digest of the digits of a SHA-256, which is how files are called.
    ///
    /// # Errors
    /// Returns [`DigestError::Digits`] for what is no such digits.
    pub fn from_sha256_hex(digits: &str) -> Result<Self, DigestError> {
        format!("sha256:{digits}").parse()
    }

    /// Returns the SHA-256 of all that a reader gives.
    ///
    /// # Errors
    /// Returns the reader's errors.
    pub fn of_reader(reader: impl Read) -> io::Result<Self> {
        Hasher::sha256().read(reader)
    }

    /// Returns the text: `sha256:...`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the digits, without the algorithm: a safe file name.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// Returns the algorithm: `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// Returns whether it is the digest of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let mut hash = Hasher::of(self);
        hash.update(bytes);
        hash.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        let (algorithm, digits) = match algorithm {
            "sha256" => ("sha256", 64),
            "sha512" => ("sha512", 128),
            _ => return Err(DigestError::Algorithm),
        };
        if hex.len() != digits || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Digits { algorithm, digits });
        }
        Ok(Self(text))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl AsRef<str> for Digest {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Digest {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Digest {
    fn eq(&self, text: &str) -> bool {
        self.0 == text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a digest piece by piece.
#[derive(Debug, Clone)]
pub struct Hasher(Algorithm);

#[derive(Debug, Clone)]
enum Algorithm {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// Begins a SHA-256.
    pub fn sha256() -> Self {
        Self(Algorithm::Sha256(Sha256::new()))
    }

    /// Begins a digest by the algorithm of another one.
    pub fn of(digest: &Digest) -> Self {
        match digest.algorithm() {
            "sha512" => Self(Algorithm::Sha512(Sha512::new())),
            _ => Self::sha256(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Algorithm::Sha256(hash) => hash.update(bytes),
            Algorithm::Sha512(hash) => hash.update(bytes),
        }
    }

    /// Returns the digest of all that was taken.
    pub fn finish(self) -> Digest {
        match self.0 {
            Algorithm::Sha256(hash) => Digest::from_sha256(hash.finalize().into()),
            Algorithm::Sha512(hash) => Digest(format!("sha512:{}", hex::encode(hash.finalize()))),
        }
    }

    /// Takes all that a reader gives, and returns the digest.
    ///
    /// # Errors
    /// Returns the reader's errors.
    pub fn read(mut self, mut reader: impl Read) -> io::Result<Digest> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(self.finish()),
                Ok(read) => self.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_other_shapes_are_refused() {
        let good = Digest::sha256(b"");
        assert_eq!(good.as_str(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(good.as_str().parse(), Ok(good.clone()));
        assert_eq!(Digest::from_sha256_hex(good.hex()), Ok(good.clone()));
        for bad in
            ["", "sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:E3b0", &good.hex()[1..]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert!(good.as_str().to_uppercase().parse::<Digest>().is_err());
        assert!(serde_json::from_str::<Digest>("\"sha256:../../x\"").is_err());
        assert_eq!(serde_json::to_string(&good).unwrap(), format!("\"{good}\""));
    }

    #[test]
    fn both_algorithms_are_verified() {
        let long: Digest = format!("sha512:{}", hex::encode(Sha512::digest(b"abc"))).parse().unwrap();
        assert!(long.is_of(b"abc") && !long.is_of(b"abd"));
        assert!(Digest::sha256(b"abc").is_of(b"abc"));
        assert_eq!(Digest::of_reader(&b"abc"[..]).unwrap(), Digest::sha256(b"abc"));
        assert_eq!(Hasher::of(&long).read(&b"abc"[..]).unwrap(), long);
    }
}
