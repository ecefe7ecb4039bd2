//! Is a text signed by one of these keys? The rules that gpgv applies and rPGP leaves to its users are here.
//!
//! Debian's keys carry certifications of other people's keys, so `verify_bindings` of rPGP refuses them; what counts
//! is the key's own signatures. As for apt, one good signature by a key of the keyring is enough.

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Tag, VerifyingKey};

/// The keys of a keyring file, binary or armored.
pub(crate) fn read_keyring(bytes: &[u8]) -> Result<Vec<SignedPublicKey>, String> {
    let is_armored = bytes.starts_with(b"-----BEGIN");
    let keys: Vec<SignedPublicKey> = if is_armored {
        let (keys, _) = SignedPublicKey::from_armor_many(bytes).map_err(|e| e.to_string())?;
        keys.filter_map(Result::ok).collect()
    } else {
        SignedPublicKey::from_bytes_many(bytes).map_err(|e| e.to_string())?.filter_map(Result::ok).collect()
    };
    if keys.is_empty() { Err("it holds no OpenPGP key".to_owned()) } else { Ok(keys) }
}

/// The text that is signed, when one of `keys` has signed it and may sign at `now` (seconds since 1970).
pub(crate) fn verify(message: &str, keys: &[SignedPublicKey], now: u64) -> Result<String, String> {
    let (message, _) = CleartextSignedMessage::from_string(message)
        .map_err(|e| format!("it is not a clear-signed message ({e})"))?;
    let mut expired = None;
    for key in keys {
        match key_verdict(key, now) {
            Verdict::Good => {}
            Verdict::Expired => {
                if is_signed_by(&message, &key.primary_key, now) {
                    expired = Some(key.fingerprint());
                }
                continue;
            }
            Verdict::Unusable => continue,
        }
        let primary_signs = key_flags_sign(key);
        let by_primary = primary_signs && is_signed_by(&message, &key.primary_key, now);
        if by_primary
            || key
                .public_subkeys
                .iter()
                .any(|sub| may_sign(sub, key, now) && is_signed_by(&message, &sub.key, now))
        {
            return Ok(message.signed_text().replace("\r\n", "\n"));
        }
    }
    if let Some(fingerprint) = expired {
        return Err(format!("the key {fingerprint} has expired"));
    }
    let issuers: Vec<String> = message
        .signatures()
        .iter()
        .flat_map(|s| s.issuer_key_id().into_iter().map(ToString::to_string))
        .collect();
    Err(format!(
        "none of the {} keys of the keyring has made it; it was made by {}",
        keys.len(),
        if issuers.is_empty() { "an unknown key".to_owned() } else { issuers.join(", ") }
    ))
}

enum Verdict {
    Good,
    Expired,
    Unusable,
}

/// Whether the primary key has signed its own user id, is not revoked and has not expired.
fn key_verdict(key: &SignedPublicKey, now: u64) -> Verdict {
    let primary = &key.primary_key;
    let is_revoked = key.details.revocation_signatures.iter().any(|s| s.verify_key(primary).is_ok());
    let Some(newest) = newest_self_signature(key) else { return Verdict::Unusable };
    if is_revoked {
        return Verdict::Unusable;
    }
    if has_expired(seconds(primary.created_at()), newest, now) { Verdict::Expired } else { Verdict::Good }
}

/// The newest good certification of a user id by the key itself: what it says about the key counts.
fn newest_self_signature(key: &SignedPublicKey) -> Option<&Signature> {
    let id = key.primary_key.legacy_key_id();
    key.details
        .users
        .iter()
        .flat_map(|user| user.signatures.iter().map(move |signature| (user, signature)))
        .filter(|(_, signature)| signature.issuer_key_id().contains(&&id) && is_strong(signature))
        .filter(|(_, signature)| signature.typ() != Some(SignatureType::CertRevocation))
        .filter(|(user, s)| s.verify_certification(&key.primary_key, Tag::UserId, &user.id).is_ok())
        .map(|(_, signature)| signature)
        .max_by_key(|signature| signature.created().map(seconds))
}

/// A primary key without flags may do all that its algorithm can (RFC 9580, 10.1.5).
fn key_flags_sign(key: &SignedPublicKey) -> bool {
    newest_self_signature(key).is_some_and(|s| s.key_flags().sign() || !has_flags(s))
}

fn has_flags(signature: &Signature) -> bool {
    let flags = signature.key_flags();
    flags.certify()
        || flags.sign()
        || flags.encrypt_comms()
        || flags.encrypt_storage()
        || flags.authentication()
}

/// Whether a subkey is bound to its key (and has agreed to it), may sign, is not revoked and has not expired.
fn may_sign(sub: &SignedPublicSubKey, key: &SignedPublicKey, now: u64) -> bool {
    let is_revoked = sub.signatures.iter().any(|s| s.typ() == Some(SignatureType::SubkeyRevocation));
    let newest = sub
        .signatures
        .iter()
        .filter(|s| s.typ() == Some(SignatureType::SubkeyBinding))
        .max_by_key(|s| s.created().map(seconds));
    !is_revoked
        && sub.verify_bindings(&key.primary_key).is_ok()
        && newest.is_some_and(|s| s.key_flags().sign() && !has_expired(seconds(sub.key.created_at()), s, now))
}

fn is_signed_by(message: &CleartextSignedMessage, key: &impl VerifyingKey, now: u64) -> bool {
    let text = message.signed_text();
    message.signatures().iter().any(|signature| {
        let is_text = matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary));
        let made = signature.created().map_or(0, seconds);
        let lifetime = signature.signature_expiration_time().map_or(0, |d| u64::from(d.as_secs()));
        is_text
            && is_strong(signature)
            && (lifetime == 0 || made + lifetime >= now)
            && signature.verify(key, text.as_bytes()).is_ok()
    })
}

/// MD5, SHA-1 and RIPEMD-160 can be, or soon can be, forged.
fn is_strong(signature: &Signature) -> bool {
    !matches!(
        signature.hash_alg(),
        None | Some(HashAlgorithm::Md5 | HashAlgorithm::Sha1 | HashAlgorithm::Ripemd160)
    )
}

fn has_expired(created: u64, signature: &Signature, now: u64) -> bool {
    let lifetime = signature.key_expiration_time().map_or(0, |d| u64::from(d.as_secs()));
    lifetime > 0 && created + lifetime < now
}

fn seconds(time: pgp::types::Timestamp) -> u64 {
    u64::from(time.as_secs())
}
