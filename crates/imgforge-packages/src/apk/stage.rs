//! Packages that apk installs in a build, with no network: the files, and a script that makes a repository of them.

use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;

use crate::cache::Cache;

/// The script.
pub(crate) const INSTALL: &str = include_str!("../../../../templates/alpine/install.sh");

/// The files that an image's build needs to install `added`: `.imgforge/packages/NAME-VERSION.apk`, the script
/// `.imgforge/packages/install`, and `.imgforge/packages/world` with the names that were asked for, without versions. All
/// of `added` have to be in the cache.
pub fn stage_packages(added: &[LockedPackage], wanted: &[String], cache: &Cache) -> Vec<SuppliedFile> {
    let supplied = |path: &str, executable, content| SuppliedFile {
        path: format!(".imgforge/packages/{path}").into(),
        executable,
        content,
    };
    let package = |package: &LockedPackage| {
        let name = format!("{}-{}.apk", package.name, package.version);
        supplied(&name, false, SuppliedContent::File(cache.file(&package.sha256)))
    };
    let text = |text: String| SuppliedContent::Bytes(text.into_bytes());
    let mut files: Vec<SuppliedFile> = added.iter().map(package).collect();
    files.push(supplied("install", true, text(INSTALL.to_owned())));
    files.push(supplied("world", false, text(format!("{}\n", wanted.join("\n")))));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
