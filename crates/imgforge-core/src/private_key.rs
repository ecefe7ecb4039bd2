//! Private keys, known by what is in a file.

/// What is larger is no key.
pub const MAX: u64 = 1 << 20;

/// What a file of another form than PEM begins with.
const BEGINNINGS: [&[u8]; 2] = [b"PuTTY-User-Key-File-", b"AGE-SECRET-KEY-1"];

/// Whether a file holds a private key: PEM (RFC 7468) of any kind, OpenSSH's, PGP's, PuTTY's, age's.
///
/// A program that has the words of such a header in it, in quotes or in the middle of a line, is none: the header
/// stands alone on its line, and what comes next is as in a key.
pub fn is_one(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).peekable();
    while let Some(line) = lines.next() {
        if BEGINNINGS.iter().any(|begin| line.starts_with(begin)) {
            return true;
        }
        if is_header(line) && lines.peek().is_some_and(|next| is_body(next)) {
            return true;
        }
    }
    false
}

/// `-----BEGIN RSA PRIVATE KEY-----`, `-----BEGIN PGP PRIVATE KEY BLOCK-----`.
fn is_header(line: &[u8]) -> bool {
    let label = line.strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----"));
    label.is_some_and(|label| label.ends_with(b"PRIVATE KEY") || label.ends_with(b"PRIVATE KEY BLOCK"))
}

/// Base 64, or a header of what follows (`Proc-Type: 4,ENCRYPTED`), or the empty line before it.
fn is_body(line: &[u8]) -> bool {
    let is_base64 = line.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    let is_field = |name: &[u8]| name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    is_base64
        || line
            .iter()
            .position(|byte| *byte == b':')
            .is_some_and(|colon| colon > 0 && is_field(&line[..colon]) && line.get(colon + 1) == Some(&b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_content() {
        for text in [
            "-----BEGIN PRIVATE KEY-----\nMIIEvQ==\n-----END PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIE\n",
            "-----BEGIN OPENSSH PRIVATE KEY-----\r\nb3BlbnNzaC1rZXktdjE=\r\n",
            "Bag Attributes\n-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n  -----BEGIN EC PRIVATE KEY-----\n  MHc=\n",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOY\n",
            "PuTTY-User-Key-File-3: ssh-ed25519\n",
            "# created: 2026\nAGE-SECRET-KEY-1QQQ\n",
        ] {
            assert!(is_one(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "-----BEGIN PUBLIC KEY-----\nMIIB\n",
            "-----BEGIN CERTIFICATE-----\nMIIB\n",
            "const HEADER: &str = \"-----BEGIN PRIVATE KEY-----\";\n",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n(the key goes here)\n",
            "ssh-ed25519 AAAA user@host\n",
        ] {
            assert!(!is_one(text.as_bytes()), "{text}");
        }
    }
}
