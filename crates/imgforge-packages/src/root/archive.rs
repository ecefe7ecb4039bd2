//! The files of many packages in one tar archive, as dpkg would have unpacked them one after another.
//!
//! The archive is deterministic: packages in a given order, each with its own order of files, and their own times.
//! Nothing in a package can name a place outside the root, and nothing is written to disk but the archive.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use imgforge_core::links::{Entry, Last, Scope, follow};
use md5::{Digest, Md5};
use tar::EntryType;

use crate::deb::{Deb, invalid};
use crate::relation::{Alternative, Bound, parse_relations};

/// Folders that are links into `/usr`: Debian's roots are merged since bookworm.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// What is left out when documentation is not wanted; `copyright` files stay, licences ask for that.
const DOCUMENTATION: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian"];

/// Owners and permissions of one entry.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Dir,
    /// The position of the package that brings it.
    Other(usize),
}

/// What dpkg's database has to know about a package's files.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Every path as the package has it, without a slash at its start, in the package's order.
    pub(crate) paths: Vec<String>,
    /// Paths as above and MD5 sums of what dpkg keeps them of: configuration files, and all files of a package that
    /// brings no sums of its own.
    pub(crate) md5: Vec<(String, String)>,
}

impl Unpacked {
    /// The MD5 sum of the file at an absolute path, where dpkg keeps it.
    pub(crate) fn md5_of(&self, path: &str) -> Option<&str> {
        let name = path.strip_prefix('/')?;
        self.md5.iter().find(|(found, _)| found == name).map(|(_, sum)| sum.as_str())
    }
}

/// What a package's configuration files are called before it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conffiles {
    /// As they are called in the end.
    InPlace,
    /// As dpkg has it, with `.dpkg-new` at the end: until its package is configured, nothing takes them for its own.
    New,
}

/// What dpkg adds to the name of a configuration file that it has unpacked and not configured.
const NEW_SUFFIX: &str = ".dpkg-new";

/// A package that has been merged in.
struct Owner {
    name: String,
    version: String,
    replaces: Vec<Alternative>,
    /// Absolute paths.
    conffiles: HashSet<String>,
    naming: Conffiles,
    /// Whether it brings the MD5 sums of its other files itself.
    has_md5: bool,
}

impl Owner {
    fn of(deb: &Deb, naming: Conffiles) -> Self {
        let field = |name| deb.field(name).unwrap_or("").to_owned();
        let conffiles = deb.info("conffiles").unwrap_or_default();
        Self {
            name: field("Package"),
            version: field("Version"),
            replaces: parse_relations(&field("Replaces")).into_iter().flatten().collect(),
            conffiles: conffiles.lines().map(|line| line.trim().to_owned()).collect(),
            naming,
            has_md5: deb.info("md5sums").is_some(),
        }
    }

    /// Policy 7.6.1: a package may take over files of those versions of another one that its `Replaces` names.
    fn may_take_from(&self, other: &Self) -> bool {
        let is_meant = |bound: &Bound| bound.holds(&other.version);
        self.replaces
            .iter()
            .any(|named| named.name == other.name && named.bound.as_ref().is_none_or(is_meant))
    }

    /// Whether dpkg keeps the MD5 sum of the file at an absolute path.
    fn wants_md5(&self, path: &str) -> bool {
        !self.has_md5 || self.conffiles.contains(path)
    }

    /// Whether the file at an absolute path waits under another name until the package is configured.
    fn waits(&self, path: &str) -> bool {
        self.naming == Conffiles::New && self.conffiles.contains(path)
    }
}

/// Writes packages into one archive.
pub(crate) struct RootTar<W: Write> {
    out: tar::Builder<W>,
    keep_docs: bool,
    seen: HashMap<PathBuf, Seen>,
    links: HashMap<PathBuf, PathBuf>,
    /// Documentation folders that are written when something in them is.
    pending: HashMap<PathBuf, Attributes>,
    owners: Vec<Owner>,
    /// Paths that another package has taken over.
    replaced: HashMap<usize, HashSet<PathBuf>>,
    newest: u64,
}

impl<W: Write> RootTar<W> {
    pub(crate) fn new(out: W, keep_docs: bool) -> Self {
        let links = MERGED.iter().map(|name| (PathBuf::from(name), Path::new("usr").join(name))).collect();
        Self {
            out: tar::Builder::new(out),
            keep_docs,
            seen: HashMap::new(),
            links,
            pending: HashMap::new(),
            owners: Vec::new(),
            replaced: HashMap::new(),
            newest: 0,
        }
    }

    /// Adds the files of a package.
    pub(crate) fn add(&mut self, deb: &Deb, conffiles: Conffiles) -> io::Result<Unpacked> {
        self.owners.push(Owner::of(deb, conffiles));
        let mut unpacked = Unpacked::default();
        for entry in tar::Archive::new(&deb.data[..]).entries()? {
            self.add_entry(&mut entry?, &mut unpacked)?;
        }
        Ok(unpacked)
    }

    fn add_entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        unpacked: &mut Unpacked,
    ) -> io::Result<()> {
        let written = plain(&entry.path()?)?;
        if written.as_os_str().is_empty() {
            return Ok(());
        }
        let name = written.to_str().ok_or_else(|| invalid("a path is not UTF-8"))?.to_owned();
        let path = self.real(&written)?;
        let header = entry.header();
        let kind = header.entry_type();
        let attributes = Attributes {
            mode: header.mode()? & 0o7777,
            uid: header.uid()?,
            gid: header.gid()?,
            mtime: header.mtime()?,
        };
        unpacked.paths.push(name.clone());
        if !self.keep_docs && is_documentation(&written, kind) {
            if kind == EntryType::Directory {
                self.pending.insert(path, attributes);
            }
            return Ok(());
        }
        self.newest = self.newest.max(attributes.mtime);
        if kind == EntryType::Directory {
            return self.dir(&path, attributes);
        }
        if !self.claim(&path, kind)? {
            return Ok(());
        }
        if let Some((folder, attributes)) = path.parent().and_then(|f| self.pending.remove_entry(f)) {
            self.dir(&folder, attributes)?;
        }
        match kind {
            EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| invalid("a link has no target"))?.into_owned();
                self.link(&path, &target, attributes)
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| invalid("a link has no target"))?.into_owned();
                let first = plain(&target)?;
                let sum = first.to_str().and_then(|target| unpacked.md5_of(&format!("/{target}")));
                if let Some(sum) = sum.map(str::to_owned).filter(|_| self.wants_md5(&name)) {
                    unpacked.md5.push((name, sum));
                }
                let target = self.unconfigured(self.real(&first)?, &first);
                let path = self.unconfigured(path, &written);
                self.out.append_link(&mut header_of(EntryType::Link, attributes, 0), path, target)
            }
            EntryType::Regular | EntryType::Continuous => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                if self.wants_md5(&name) {
                    unpacked.md5.push((name, hex::encode(Md5::digest(&bytes))));
                }
                self.file(&self.unconfigured(path, &written), attributes, &bytes)
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let mut copy = header_of(kind, attributes, 0);
                copy.set_device_major(header.device_major()?.unwrap_or(0))?;
                copy.set_device_minor(header.device_minor()?.unwrap_or(0))?;
                self.out.append_data(&mut copy, &path, io::empty())
            }
            other => {
                Err(invalid(&format!("/{name} is of the kind {other:?}, which no package should bring")))
            }
        }
    }

    fn wants_md5(&self, name: &str) -> bool {
        self.owners.last().is_some_and(|owner| owner.wants_md5(&format!("/{name}")))
    }

    /// Where a file of the package that is being added lies before it is configured; `name` is its path as the package
    /// has it.
    fn unconfigured(&self, path: PathBuf, name: &Path) -> PathBuf {
        let name = format!("/{}", name.display());
        if !self.owners.last().is_some_and(|owner| owner.waits(&name)) {
            return path;
        }
        let mut path = path.into_os_string();
        path.push(NEW_SUFFIX);
        path.into()
    }

    /// Whether the package that is being added brings `path`: not when another one replaces it there.
    fn claim(&mut self, path: &Path, kind: EntryType) -> io::Result<bool> {
        let new = self.owners.len() - 1;
        // The merged folders' links are made at the end.
        if kind == EntryType::Symlink && MERGED.iter().any(|name| path == Path::new(name)) {
            return Ok(false);
        }
        match self.seen.get(path).copied() {
            None => {}
            // As dpkg: a folder that is there stays.
            Some(Seen::Dir) if kind == EntryType::Symlink => return Ok(false),
            Some(Seen::Dir) => {
                return Err(invalid(&format!("/{} is a folder in another package", path.display())));
            }
            Some(Seen::Other(old)) => {
                if self.owners[old].may_take_from(&self.owners[new]) {
                    self.replaced.entry(new).or_default().insert(path.to_owned());
                    return Ok(false);
                }
                if !self.owners[new].may_take_from(&self.owners[old]) {
                    let message = format!("{} brings /{} too", self.owners[old].name, path.display());
                    return Err(invalid(&message));
                }
                self.replaced.entry(old).or_default().insert(path.to_owned());
            }
        }
        self.seen.insert(path.to_owned(), Seen::Other(new));
        Ok(true)
    }

    /// A folder: the first package that has it says whose it is. A link that stands there stays, as with dpkg.
    fn dir(&mut self, path: &Path, attributes: Attributes) -> io::Result<()> {
        if self.seen.contains_key(path) || self.links.contains_key(path) {
            return Ok(());
        }
        if let Some((parent, of_parent)) = path.parent().and_then(|f| self.pending.remove_entry(f)) {
            self.dir(&parent, of_parent)?;
        }
        self.seen.insert(path.to_owned(), Seen::Dir);
        let mut header = header_of(EntryType::Directory, attributes, 0);
        self.out.append_data(&mut header, path, io::empty())
    }

    fn link(&mut self, path: &Path, target: &Path, attributes: Attributes) -> io::Result<()> {
        self.links.insert(path.to_owned(), target.to_owned());
        let attributes = Attributes { mode: 0o777, ..attributes };
        self.out.append_link(&mut header_of(EntryType::Symlink, attributes, 0), path, target)
    }

    fn file(&mut self, path: &Path, attributes: Attributes, bytes: &[u8]) -> io::Result<()> {
        let mut header = header_of(EntryType::Regular, attributes, bytes.len() as u64);
        self.out.append_data(&mut header, path, bytes)
    }

    /// Whether another package has taken over what the `package`th added one had at this path.
    pub(crate) fn is_replaced(&self, package: usize, path: &str) -> bool {
        let Some(replaced) = self.replaced.get(&package) else { return false };
        self.real(Path::new(path)).is_ok_and(|real| replaced.contains(&real))
    }

    /// Adds a file that no package brings; its time is that of the newest file of the packages.
    pub(crate) fn add_file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let attributes = self.own(mode);
        self.file(Path::new(path), attributes, bytes)
    }

    /// Adds a folder and those above it, where they are missing.
    pub(crate) fn ensure_dir(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let path = Path::new(path);
        let above: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        for folder in above.into_iter().rev() {
            self.dir(folder, self.own(0o755))?;
        }
        self.dir(path, self.own(mode))
    }

    /// Adds the links of the merged root, and ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        for name in MERGED {
            self.ensure_dir(&format!("usr/{name}"), 0o755)?;
            let attributes = self.own(0o777);
            self.link(Path::new(name), &Path::new("usr").join(name), attributes)?;
        }
        self.out.finish()
    }

    fn own(&self, mode: u32) -> Attributes {
        Attributes { mode, uid: 0, gid: 0, mtime: self.newest }
    }

    /// The path with links among its folders followed: where the kernel would put it.
    fn real(&self, path: &Path) -> io::Result<PathBuf> {
        let Ok(led) = follow(path, Scope::InRoot, Last::Kept, |at| {
            Ok::<_, Infallible>(
                self.links.get(at).map_or(Entry::Folder, |target| Entry::Link(target.clone())),
            )
        });
        led.map_err(|refused| invalid(&format!("/{}: {refused}", path.display())))
    }
}

/// `./usr/bin/x` as `usr/bin/x`; an error when it could lead out of the root.
fn plain(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(part) => plain.push(part),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid(&format!("the path {} leads out of the root", path.display())));
            }
        }
    }
    Ok(plain)
}

fn is_documentation(path: &Path, kind: EntryType) -> bool {
    let Some(inside) = DOCUMENTATION.iter().find_map(|folder| path.strip_prefix(folder).ok()) else {
        return false;
    };
    let depth = inside.components().count();
    let is_of_doc = path.starts_with(DOCUMENTATION[0]);
    let is_copyright = is_of_doc && depth == 2 && inside.ends_with("copyright");
    // Of packages that share their documentation folder, all but one have a link to it.
    let is_shared = is_of_doc && depth == 1 && kind == EntryType::Symlink;
    depth > 0 && !is_copyright && !is_shared
}

fn header_of(kind: EntryType, attributes: Attributes, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(attributes.mode);
    header.set_uid(attributes.uid);
    header.set_gid(attributes.gid);
    header.set_mtime(attributes.mtime);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Item {
        Dir,
        Link(&'static str),
        File(&'static str),
    }

    fn deb(control: &str, items: &[(&str, Item)]) -> Deb {
        let mut data = tar::Builder::new(Vec::new());
        let attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 7 };
        for (path, item) in items {
            let header = |kind, size| header_of(kind, attributes, size);
            match item {
                Item::Dir => {
                    data.append_data(&mut header(EntryType::Directory, 0), path, io::empty()).unwrap();
                }
                Item::Link(to) => data.append_link(&mut header(EntryType::Symlink, 0), path, to).unwrap(),
                Item::File(text) => {
                    let mut header = header(EntryType::Regular, text.len() as u64);
                    data.append_data(&mut header, path, text.as_bytes()).unwrap();
                }
            }
        }
        Deb { control: control.to_owned(), info: Vec::new(), data: data.into_inner().unwrap() }
    }

    fn merge(debs: &[Deb]) -> io::Result<Vec<String>> {
        let mut bytes = Vec::new();
        let mut root = RootTar::new(&mut bytes, false);
        for deb in debs {
            root.add(deb, Conffiles::New)?;
        }
        root.finish()?;
        let mut archive = tar::Archive::new(&bytes[..]);
        let shown = archive.entries()?.map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            match entry.header().entry_type() {
                EntryType::Directory => format!("{path}/"),
                EntryType::Symlink => format!("{path} -> {}", entry.link_name().unwrap().unwrap().display()),
                _ => {
                    let mut text = String::new();
                    entry.read_to_string(&mut text).unwrap();
                    format!("{path} = {text}")
                }
            }
        });
        Ok(shown.collect())
    }

    #[test]
    fn files_go_where_links_lead() {
        let a = deb(
            "Package: a\n",
            &[
                ("./bin/", Item::Dir),
                ("./bin/sh", Item::File("1")),
                ("./run/", Item::Dir),
                ("./var/", Item::Dir),
                ("./var/run", Item::Link("/run")),
            ],
        );
        let b = deb("Package: b\n", &[("./var/run/", Item::Dir), ("./var/run/x/", Item::Dir)]);
        let found = merge(&[a, b]).unwrap();
        assert_eq!(found[..4], ["usr/bin/sh = 1", "run/", "var/", "var/run -> /run"].map(str::to_owned));
        assert_eq!(found[4], "run/x/");
        assert!(found.contains(&"bin -> usr/bin".to_owned()) && found.contains(&"usr/bin/".to_owned()));
    }

    #[test]
    fn configuration_files_wait_for_their_package_to_be_configured() {
        let items = [("etc/", Item::Dir), ("etc/a", Item::File("1")), ("etc/b", Item::File("2"))];
        let mut a = deb("Package: a\n", &items);
        let conffiles =
            crate::deb::InfoFile { name: "conffiles".into(), mode: 0o644, bytes: b"/etc/a\n".into() };
        a.info.push(conffiles);
        let found = merge(&[a]).unwrap();
        assert_eq!(found[..3], ["etc/", "etc/a.dpkg-new = 1", "etc/b = 2"].map(str::to_owned));
    }

    #[test]
    fn documentation_is_left_out_but_licences_stay() {
        let a = deb(
            "Package: a\n",
            &[
                ("usr/", Item::Dir),
                ("usr/share/", Item::Dir),
                ("usr/share/doc/", Item::Dir),
                ("usr/share/doc/a/", Item::Dir),
                ("usr/share/doc/a/README", Item::File("x")),
                ("usr/share/doc/a/copyright", Item::File("c")),
                ("usr/share/doc/b", Item::Link("a")),
                ("usr/share/doc/c/", Item::Dir),
                ("usr/share/man/man1/", Item::Dir),
                ("usr/share/man/man1/a.1", Item::File("m")),
            ],
        );
        let found = merge(&[a]).unwrap();
        let expected = [
            "usr/",
            "usr/share/",
            "usr/share/doc/",
            "usr/share/doc/a/",
            "usr/share/doc/a/copyright = c",
            "usr/share/doc/b -> a",
        ];
        assert_eq!(found[..expected.len()], expected.map(str::to_owned));
        assert!(!found.iter().any(|line| line.contains("README") || line.contains("man")), "{found:?}");
    }

    #[test]
    fn two_packages_bring_the_same_file_only_when_one_replaces_the_other() {
        let x = |control: &str, text| deb(control, &[("x", Item::File(text))]);
        let error = merge(&[x("Package: a\n", "a"), x("Package: b\n", "b")]).unwrap_err();
        assert_eq!(error.to_string(), "a brings /x too");
        let last =
            |debs: &[Deb]| merge(debs).unwrap().into_iter().rfind(|line| line.starts_with("x =")).unwrap();
        assert_eq!(last(&[x("Package: a\n", "a"), x("Package: b\nReplaces: a\n", "b")]), "x = b");
        assert_eq!(last(&[x("Package: a\nReplaces: b\n", "a"), x("Package: b\n", "b")]), "x = a");
    }

    #[test]
    fn a_package_takes_over_files_of_the_versions_that_it_replaces_and_of_no_others() {
        let of = |version: &str| {
            let old = deb(&format!("Package: a\nVersion: {version}\n"), &[("x", Item::File("a"))]);
            let new = deb("Package: b\nVersion: 9\nReplaces: a (<< 2)\n", &[("x", Item::File("b"))]);
            merge(&[old, new])
        };
        assert!(of("1.9").unwrap().contains(&"x = b".to_owned()));
        assert_eq!(of("2").unwrap_err().to_string(), "a brings /x too");
    }

    #[test]
    fn links_that_go_round_in_a_circle_are_refused() {
        let a =
            deb("Package: a\n", &[("x", Item::Link("y")), ("y", Item::Link("x")), ("x/z", Item::File(""))]);
        assert!(merge(&[a]).unwrap_err().to_string().contains("more than 40 links"));
    }

    #[test]
    fn a_path_that_leads_out_of_the_root_is_refused() {
        assert!(plain(Path::new("./a/../../b")).is_err());
        assert_eq!(plain(Path::new("/a/./b")).unwrap(), Path::new("a/b"));
    }
}
