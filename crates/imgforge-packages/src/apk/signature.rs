//! Signatures of indexes: PKCS #1 v1.5 with a key of the repository's, in a segment before what is signed.

use camino::Utf8Path;
use imgforge_state::file;
use rsa::pkcs8::DecodePublicKey;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::{files, member};

/// What is signed in `bytes` by a key of the folder `keys`, in which a key lies under the name that signatures give.
pub(super) fn signed<'b>(bytes: &'b [u8], keys: &Utf8Path) -> Result<&'b [u8], String> {
    let (segment, _, signed) = member(bytes).map_err(|error| format!("it is not gzip: {error}"))?;
    let signatures = files(&segment).map_err(|error| format!("its first segment is no tar: {error}"))?;
    let mut names = Vec::new();
    for (name, signature) in &signatures {
        let Some((algorithm, key)) = name.strip_prefix(".SIGN.").and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        names.push(key.to_owned());
        // A name with a folder in it is nobody's.
        let path = keys.join(key);
        if key.contains('/') || !path.is_file() {
            continue;
        }
        let text = file::read_text(&path, file::MAX_KEYS).map_err(|error| format!("{path}: {error}"))?;
        let public = RsaPublicKey::from_public_key_pem(&text)
            .map_err(|error| format!("{path} is no RSA public key in PEM: {error}"))?;
        let good = match algorithm {
            "RSA" => public.verify(Pkcs1v15Sign::new::<Sha1>(), &Sha1::digest(signed), signature),
            "RSA256" => public.verify(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(signed), signature),
            "RSA512" => public.verify(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(signed), signature),
            _ => continue,
        };
        return good.map(|()| signed).map_err(|_| format!("it was not made with the key {key}"));
    }
    match names.as_slice() {
        [] => Err("it is not signed".to_owned()),
        names => Err(format!("it was made with the key {}, which {keys} does not have", names.join(", "))),
    }
}
