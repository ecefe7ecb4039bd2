//! Alpine's minimal root file system for the tests, as Alpine publishes it: no Debian package holds it.

use std::fs;

use anyhow::{Context, Result, ensure};
use imgforge_oci::Digest;
use imgforge_testkit::needs;

/// Where Alpine publishes it.
const ADDRESS: &str =
    "https://dl-cdn.alpinelinux.org/alpine/v3.20/releases/x86_64/alpine-minirootfs-3.20.3-x86_64.tar.gz";

/// What it is.
const DIGEST: &str = "sha256:d4e6fd67dcf75e40c451560ac7265166c2b72a0f38ddc9aae756a7de3d1efa0c";

/// Puts it where the tests find it, unless it is there or a variable names one.
pub(crate) fn install() -> Result<()> {
    if needs::find_alpine().is_some() {
        return Ok(());
    }
    let named = std::env::var_os(needs::ALPINE);
    ensure!(named.is_none(), "{} names a file that is not there", needs::ALPINE);
    eprintln!("   Install {ADDRESS}");
    let bytes = fetch().with_context(|| format!("cannot fetch it; {} may name it", needs::ALPINE))?;
    let found = Digest::sha256(&bytes);
    ensure!(found.as_str() == DIGEST, "what {ADDRESS} gives has the digest {found}, not {DIGEST}");
    let place = needs::tools();
    fs::create_dir_all(&place)?;
    let part = place.join("alpine.part");
    fs::write(&part, bytes)?;
    fs::rename(part, place.join("alpine.tar.gz"))?;
    Ok(())
}

fn fetch() -> Result<Vec<u8>, ureq::Error> {
    ureq::get(ADDRESS).call()?.body_mut().read_to_vec()
}
