//! What tests need of the machine. What is not there fails the test that needs it, with words that say how to get it.

use std::io::Write as _;
use std::path::PathBuf;

/// The variable with which nothing may be skipped: `1`, as `cargo xtask test` sets it.
pub const STRICT: &str = "IMGFORGE_TEST_STRICT";

/// The variable that names a file for the reasons of what is skipped, a line each.
pub const SKIPPED: &str = "IMGFORGE_TEST_SKIPPED";

/// The variable that names a tar of Alpine's minimal root file system, in place of the one that `cargo xtask test`
/// fetches.
pub const ALPINE: &str = "IMGFORGE_TEST_ALPINE";

/// Says on stderr that the rest of a test is skipped: only for what not every machine can have, since a program that
/// can be installed is not skipped. The reason says what is not there, and what to do about it. A line with it is
/// added to the file that [`SKIPPED`] names.
///
/// # Panics
/// Where nothing may be skipped: when [`STRICT`] is `1`.
pub fn skip(reason: &str) {
    let is_strict = std::env::var_os(STRICT).is_some_and(|value| value == "1");
    assert!(!is_strict, "with {STRICT}=1 nothing is skipped: {reason}");
    eprintln!("skipped: {reason}");
    if let Some(file) = std::env::var_os(SKIPPED) {
        let file = std::fs::File::options().append(true).create(true).open(file);
        file.and_then(|mut file| writeln!(file, "{reason}")).expect("the file of what is skipped");
    }
}

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

/// Returns a tar of Alpine's minimal root file system: the one that [`ALPINE`] names, or the one that `cargo xtask
/// test` has fetched; `None` when neither is there.
pub fn find_alpine() -> Option<PathBuf> {
    let place = std::env::var_os(ALPINE).map_or_else(|| tools().join("alpine.tar.gz"), PathBuf::from);
    place.exists().then_some(place)
}

/// Returns a tar of Alpine's minimal root file system.
///
/// # Panics
/// When there is none.
pub fn alpine() -> PathBuf {
    let needed = "a tar of Alpine's minimal root file system is needed";
    find_alpine().unwrap_or_else(|| panic!("{needed}: `cargo xtask test` fetches it, or {ALPINE} names it"))
}
