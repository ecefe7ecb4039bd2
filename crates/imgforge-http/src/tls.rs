//! Whose certificates are trusted: those of the system, and what a user names.

use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Those of the system, read once.
static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
});

/// Returns what connections are encrypted with. A system without certificates is no error here: plain HTTP needs none.
///
/// # Errors
/// In words, when `more`, in PEM, holds no certificate or a broken one.
pub(crate) fn config(more: Option<&[u8]>) -> Result<ClientConfig, String> {
    let mut roots = SYSTEM.clone();
    if let Some(pem) = more {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|error| error.to_string())?;
        if found.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        for certificate in found {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What there is to say of a certificate that is not trusted.
pub(crate) fn untrusted(reason: String) -> String {
    if SYSTEM.is_empty() {
        return format!(
            "{reason}; this machine has no certificates at all (Debian's are in ca-certificates)"
        );
    }
    reason
}
