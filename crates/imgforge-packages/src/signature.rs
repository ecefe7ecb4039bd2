//! OpenPGP: is an InRelease signed by a key of a keyring?
//!
//! rPGP checks signatures; what gpgv adds is done here: a key counts when it is bound by its own signature, has not
//! expired, is not revoked, and may sign. One good signature is enough, which is apt's rule. Certifications of keys by
//! third parties, which Debian's keys carry, are passed over.

use std::time::{SystemTime, UNIX_EPOCH};

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag};

/// The signed text of an InRelease file, with Unix line ends.
///
/// # Errors
/// In words, when the file is not a signed message, the keyring holds no keys, or none of them has signed it.
pub(crate) fn verify(inrelease: &str, keyring: &[u8]) -> Result<String, String> {
    let (message, _) = CleartextSignedMessage::from_string(inrelease)
        .map_err(|error| format!("it is not a signed message: {error}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut usable = 0;
    for key in keys(keyring)? {
        if !is_valid(&key, now) {
            continue;
        }
        usable += 1;
        let may_sign = |signatures: &[Signature]| signatures.iter().any(|s| s.key_flags().sign());
        let by_primary = key.details.users.iter().any(|user| may_sign(&user.signatures))
            && message.verify(&key.primary_key).is_ok();
        let by_subkey = || {
            key.public_subkeys.iter().any(|subkey| {
                let created = u64::from(subkey.key.created_at().as_secs());
                let expired = |s: &Signature| is_expired(s, created, now);
                subkey.verify_bindings(&key.primary_key).is_ok()
                    && subkey.signatures.iter().any(|s| s.key_flags().sign() && !expired(s))
                    && !subkey.signatures.iter().any(|s| s.typ() == Some(SignatureType::SubkeyRevocation))
                    && message.verify(&subkey.key).is_ok()
            })
        };
        if by_primary || by_subkey() {
            return Ok(message.signed_text().replace("\r\n", "\n"));
        }
    }
    Err(match usable {
        0 => "the keyring holds no key that is valid now".into(),
        n => format!("none of the keyring's {n} valid keys has made a good signature"),
    })
}

/// Binary or armoured keys.
fn keys(keyring: &[u8]) -> Result<Vec<SignedPublicKey>, String> {
    let unreadable = |error: pgp::errors::Error| format!("the keyring is not one: {error}");
    if keyring.starts_with(b"-----BEGIN") {
        let (keys, _) = SignedPublicKey::from_armor_many(keyring).map_err(unreadable)?;
        return Ok(keys.filter_map(Result::ok).collect());
    }
    Ok(SignedPublicKey::from_bytes_many(keyring).map_err(unreadable)?.filter_map(Result::ok).collect())
}

/// Bound to one of its user ids by itself, not expired, not revoked.
fn is_valid(key: &SignedPublicKey, now: u64) -> bool {
    let id = key.legacy_key_id();
    let created = u64::from(key.created_at().as_secs());
    let is_bound = key.details.users.iter().any(|user| {
        user.signatures.iter().filter(|s| s.issuer_key_id().contains(&&id)).any(|s| {
            s.verify_certification(&key.primary_key, Tag::UserId, &user.id).is_ok()
                && !is_expired(s, created, now)
        })
    });
    is_bound && key.details.revocation_signatures.is_empty()
}

fn is_expired(signature: &Signature, created: u64, now: u64) -> bool {
    let lives = signature.key_expiration_time().map_or(0, |lives| u64::from(lives.as_secs()));
    lives > 0 && created + lives < now
}
