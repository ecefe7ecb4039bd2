//! The shell scripts that run inside a build. They are written to be read: `templates/debian` has them.

use crate::apk;
use crate::relation::Scheme;

/// Changes whenever a root archive of the same packages gets other bytes, or packages are unpacked in another order.
const ROOT_FORMAT: u32 = 3;

const BEGIN: &str = include_str!("../../../templates/debian/begin.sh");
const CONFIGURE: &str = include_str!("../../../templates/debian/configure.sh");
const INSTALL: &str = include_str!("../../../templates/debian/install.sh");
const END: &str = include_str!("../../../templates/debian/end.sh");

/// How packages are unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep documentation, manual pages, translations and the like; licences are always kept.
    pub keep_docs: bool,
}

/// 64 hex digits that change whenever what the scripts and the root archive produce of the same packages may change:
/// an input of every image that has packages.
pub fn script_fingerprint(scheme: Scheme, options: Options) -> String {
    if scheme == Scheme::Alpine {
        return blake3::hash(apk::INSTALL.as_bytes()).to_hex().to_string();
    }
    let mut hasher = blake3::Hasher::new_derive_key("imgforge 2026 package scripts");
    hasher.update(&ROOT_FORMAT.to_le_bytes());
    for script in [configure(options), install(options)] {
        hasher.update(&(script.len() as u64).to_le_bytes());
        hasher.update(script.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The script that configures a root whose packages are unpacked.
pub(crate) fn configure(options: Options) -> String {
    script(options, CONFIGURE)
}

/// The script that installs packages on an image that has dpkg.
pub(crate) fn install(options: Options) -> String {
    script(options, INSTALL)
}

fn script(options: Options, middle: &str) -> String {
    let keep_docs = if options.keep_docs { "yes" } else { "no" };
    format!("#!/bin/sh\nkeep_docs={keep_docs}\n{BEGIN}\n{middle}\n{END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_tells_the_options_apart() {
        let fingerprints =
            [false, true].map(|keep_docs| script_fingerprint(Scheme::Debian, Options { keep_docs }));
        assert_ne!(fingerprints[0], fingerprints[1]);
        assert!(fingerprints.iter().all(|f| f.len() == 64 && f.bytes().all(|b| b.is_ascii_hexdigit())));
    }

    #[test]
    fn scripts_are_valid_for_a_plain_shell() {
        for script in [configure(Options::default()), install(Options::default())] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut file, script.as_bytes()).unwrap();
            let checked = std::process::Command::new("sh").arg("-n").arg(file.path()).status().unwrap();
            assert!(checked.success());
        }
    }
}
