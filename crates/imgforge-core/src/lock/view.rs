//! A lock, looked up in.

use std::collections::{BTreeMap, HashMap};

use super::{Lock, LockedExternal, LockedPackage};
use crate::name::ImageName;

/// A lock's packages by the name that images use for them.
#[derive(Debug)]
pub struct LockView<'l> {
    lock: &'l Lock,
    packages: HashMap<(&'l str, String), &'l LockedPackage>,
}

impl<'l> LockView<'l> {
    /// Of this lock.
    pub fn new(lock: &'l Lock) -> Self {
        let key = |package: &'l LockedPackage| (package.source.as_str(), package.entry());
        Self { lock, packages: lock.packages.iter().map(|package| (key(package), package)).collect() }
    }

    /// The packages that an image adds to its parents, by the lock.
    pub fn added_by(&self, name: &ImageName) -> Vec<&'l LockedPackage> {
        let Some(image) = self.lock.images.get(name) else { return Vec::new() };
        image.packages.iter().filter_map(|entry| self.line(&image.source, entry)).collect()
    }

    /// The images from outside.
    pub fn externals(&self) -> &'l BTreeMap<String, LockedExternal> {
        &self.lock.externals
    }

    /// The line of a package, by its source and its [`entry`](LockedPackage::entry).
    pub fn line(&self, source: &str, entry: &str) -> Option<&'l LockedPackage> {
        self.packages.get(&(source, entry.to_owned())).copied()
    }
}
