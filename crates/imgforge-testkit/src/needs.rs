//! What tests need of the machine. What is not there fails the test that needs it, with words that say how to get it.

use std::path::PathBuf;

/// The variable that names a tar of Alpine's minimal root file system, which no Debian package holds: the tests that
/// need it are ignored, and `cargo xtask test` runs them where the variable is set.
pub const ALPINE: &str = "IMGFORGE_TEST_ALPINE";

/// The variable that names a tar of what s6-overlay adds to a root file system; the same holds.
pub const S6_OVERLAY: &str = "IMGFORGE_TEST_S6_OVERLAY";

/// Fails a test that is run by somebody else than root.
///
/// # Panics
/// With what is done that takes root.
pub fn root(what: &str) {
    assert!(is_root(), "{what} takes root, for mounts and namespaces: run the tests as root");
}

/// Returns whether this process is root's.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the folder for what no Debian package of this release holds: `tools` in the folder that cargo builds into.
///
/// # Panics
/// When cargo has not built this program.
pub fn tools() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    // Programs lie in the folder of a profile, tests in `deps` below it.
    let profile = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    profile.and_then(|folder| folder.parent()).expect("cargo has built this program").join("tools")
}

/// Returns Podman 5's Quadlet: the machine's own, or the one that `cargo xtask test` takes out of the package; `None`
/// when there is neither.
pub fn find_quadlet() -> Option<PathBuf> {
    let places = ["/usr/libexec/podman/quadlet".into(), tools().join("quadlet")];
    places.into_iter().find(|place| place.exists())
}

/// Returns Podman 5's Quadlet.
///
/// # Panics
/// When there is none.
pub fn quadlet() -> PathBuf {
    find_quadlet()
        .expect("Quadlet of Podman 5 is needed: `cargo xtask test` takes it out of Debian's package podman")
}

/// Returns a tar of Alpine's minimal root file system.
///
/// # Panics
/// When [`ALPINE`] names none.
pub fn alpine() -> PathBuf {
    let tar = std::env::var_os(ALPINE).map(PathBuf::from).filter(|tar| tar.exists());
    tar.unwrap_or_else(|| panic!("{ALPINE} names no tar of Alpine's minimal root file system"))
}
