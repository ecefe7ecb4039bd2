//! Packages that apk installs in a build, with no network: the files, and a script that makes a repository of them.

use std::fs;

use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;
use rayon::prelude::*;

use crate::cache::{Cache, sha256};
use crate::error::Error;

/// The script.
pub(crate) const INSTALL: &str = include_str!("../../../../templates/alpine/install.sh");

/// The files that an image's build needs to install `added`: `.imgforge/packages/NAME-VERSION.apk`, the script
/// `.imgforge/packages/install`, and `.imgforge/packages/world` with the names that were asked for, without versions.
/// All of `added` have to be in the cache.
///
/// # Errors
/// [`Error::Hash`] for a file of the cache that is not the one that was locked, [`Error::Io`].
pub fn stage_packages(
    added: &[LockedPackage],
    wanted: &[String],
    cache: &Cache,
) -> Result<Vec<SuppliedFile>, Error> {
    let supplied = |path: &str, executable, content| SuppliedFile {
        path: format!(".imgforge/packages/{path}").into(),
        executable,
        content,
    };
    let package = |package: &LockedPackage| {
        let (name, path) = (format!("{}-{}.apk", package.name, package.version), cache.file(&package.sha256));
        // apk is told not to look at signatures in the build, since the lock says which bytes are meant.
        let found = sha256(&fs::read(&path).map_err(Error::io(&path))?);
        if found != package.sha256 {
            return Err(Error::Hash { what: path.into_string(), expected: package.sha256.clone(), found });
        }
        Ok(supplied(&name, false, SuppliedContent::File(path)))
    };
    let text = |text: String| SuppliedContent::Bytes(text.into_bytes());
    let mut files: Vec<SuppliedFile> = added.par_iter().map(package).collect::<Result<_, _>>()?;
    files.push(supplied("install", true, text(INSTALL.to_owned())));
    files.push(supplied("world", false, text(format!("{}\n", wanted.join("\n")))));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
