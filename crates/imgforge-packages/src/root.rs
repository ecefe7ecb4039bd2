//! A root file system made of packages alone: one tar with every package unpacked and dpkg's database that says so.
//! The build configures it from inside, with dpkg's own `--configure`.
//!
//! dpkg's database is written as dpkg 1.21 does when it has unpacked a package (deb-triggers(5), dpkg's
//! `doc/triggers.txt`, and the files below `/var/lib/dpkg` of a Debian 12 machine): `status`, the files below `info/`,
//! whose names have `:ARCH` for `Multi-Arch: same`, and the interests in triggers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, BufWriter, Read, Write};

use imgforge_core::context::{SuppliedContent, SuppliedFile};
use imgforge_core::lock::LockedPackage;
use md5::{Digest, Md5};
use rayon::prelude::*;

use crate::control::stanzas;
use crate::deb::Deb;
use crate::install::{CONFIGURE, script_fingerprint};
use crate::{Cache, Error, Options, is_documentation};

/// Times of everything in the tar that imgforge writes itself: 2023-11-14, any fixed time will do.
const EPOCH: u64 = 1_700_000_000;

/// Top folders that are links into `/usr` (Debian 12 is usr-merged).
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// One entry of the tar.
struct Entry {
    header: tar::Header,
    content: Vec<u8>,
    link: Option<String>,
}

/// A package's entries, and what dpkg's database says of it.
struct Unpacked {
    entries: Vec<(String, Entry)>,
    status: String,
    info: Vec<(String, Vec<u8>, u32)>,
    file_triggers: Vec<String>,
    named_triggers: Vec<(String, String)>,
}

/// The files for a build that begins with a root: `.imgforge/root.tar` and the script that configures it.
///
/// # Errors
/// A package that is not in the cache or cannot be unpacked.
pub fn stage_root(
    packages: &[LockedPackage],
    options: Options,
    cache: &Cache,
) -> Result<Vec<SuppliedFile>, Error> {
    let tar = root_tar(packages, options, cache)?;
    Ok(vec![
        SuppliedFile {
            path: ".imgforge/packages/configure".into(),
            executable: true,
            content: SuppliedContent::Bytes(CONFIGURE.as_bytes().to_vec()),
        },
        SuppliedFile {
            path: ".imgforge/root.tar".into(),
            executable: false,
            content: SuppliedContent::File(tar),
        },
    ])
}

/// The tar's path in the cache; made when it is not there.
fn root_tar(
    packages: &[LockedPackage],
    options: Options,
    cache: &Cache,
) -> Result<camino::Utf8PathBuf, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(script_fingerprint(options).as_bytes());
    let sorted: BTreeSet<&LockedPackage> = packages.iter().collect();
    for package in &sorted {
        hasher.update(package.sha256.as_bytes());
    }
    let path = cache.derived("root", &format!("{}.tar", hasher.finalize().to_hex()));
    if path.exists() {
        return Ok(path);
    }
    let unpacked: Vec<Unpacked> = sorted
        .par_iter()
        .map(|package| {
            let deb = Deb::open(package, cache)?;
            unpack(package, &deb, options).map_err(|error| Error::Package {
                package: format!("{} {}", package.name, package.version),
                message: error.to_string(),
            })
        })
        .collect::<Result<_, _>>()?;
    Cache::put_with(&path, |file| write_tar(unpacked, BufWriter::with_capacity(1 << 20, file)))?;
    Ok(path)
}

fn unpack(package: &LockedPackage, deb: &Deb, options: Options) -> io::Result<Unpacked> {
    let conffiles: BTreeSet<String> =
        deb.text("conffiles").unwrap_or_default().lines().map(conffile).collect();
    let (mut entries, mut list, mut sums) = (Vec::new(), String::from("/.\n"), HashMap::new());
    for entry in tar::Archive::new(&deb.data[..]).entries()? {
        let mut entry = entry?;
        let written = plain_path(&String::from_utf8_lossy(&entry.path_bytes()))?;
        if written.is_empty() {
            continue;
        }
        list.push('/');
        list.push_str(&written);
        list.push('\n');
        let path = merged(&written);
        if !options.keep_docs && is_documentation(&path) {
            continue;
        }
        let kind = entry.header().entry_type();
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        let link = match link {
            Some(link) if kind.is_hard_link() => Some(merged(&plain_path(&link)?)),
            other => other,
        };
        let mut content = Vec::with_capacity(usize::try_from(entry.size()).unwrap_or(0));
        entry.read_to_end(&mut content)?;
        let absolute = format!("/{written}");
        if conffiles.contains(&absolute) {
            sums.insert(absolute, hex::encode(Md5::digest(&content)));
        }
        let mut header = header(kind, entry.header().mode()?);
        header.set_uid(entry.header().uid()?);
        header.set_gid(entry.header().gid()?);
        header.set_mtime(entry.header().mtime()?);
        entries.push((path, Entry { header, content, link }));
    }
    record(package, deb, entries, list, &sums)
}

fn conffile(line: &str) -> String {
    line.trim().trim_start_matches("remove-on-upgrade ").to_owned()
}

/// What dpkg's database says of an unpacked package.
fn record(
    package: &LockedPackage,
    deb: &Deb,
    entries: Vec<(String, Entry)>,
    list: String,
    sums: &HashMap<String, String>,
) -> io::Result<Unpacked> {
    let control = deb.text("control").ok_or_else(|| io::Error::other("control.tar has no control file"))?;
    let is_same = stanzas(&control).next().is_some_and(|stanza| stanza.get("Multi-Arch") == Some("same"));
    let prefix =
        if is_same { format!("{}:{}", package.name, package.architecture) } else { package.name.clone() };
    let mut status = String::new();
    for (n, line) in control.trim_end().lines().enumerate() {
        status.push_str(line);
        status.push('\n');
        if n == 0 {
            status.push_str("Status: install ok unpacked\n");
        }
    }
    let mut info = vec![(format!("{prefix}.list"), list.into_bytes(), 0o644)];
    let (mut file_triggers, mut named_triggers) = (Vec::new(), Vec::new());
    for (name, content, mode) in deb.control.iter().filter(|(name, ..)| name != "control") {
        let text = String::from_utf8_lossy(content);
        match name.as_str() {
            "conffiles" => {
                status.push_str("Conffiles:\n");
                for line in text.lines().map(str::trim).filter(|line| line.starts_with('/')) {
                    let sum = sums.get(line).map_or("newconffile", String::as_str);
                    status.push_str(&format!(" {line} {sum}\n"));
                }
            }
            "triggers" => {
                for (name, who) in text.lines().filter_map(|line| interest(line, &prefix)) {
                    if name.starts_with('/') {
                        file_triggers.push(format!("{name} {who}\n"));
                    } else {
                        named_triggers.push((name, who));
                    }
                }
            }
            _ => {}
        }
        info.push((format!("{prefix}.{name}"), content.clone(), *mode));
    }
    status.push('\n');
    Ok(Unpacked { entries, status, info, file_triggers, named_triggers })
}

/// `interest NAME` of a package's triggers file, as dpkg keeps it.
fn interest(line: &str, package: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let who = match words.next()? {
        "interest" | "interest-await" => package.to_owned(),
        "interest-noawait" => format!("{package}/noawait"),
        _ => return None,
    };
    Some((words.next()?.to_owned(), who))
}

/// Without `./` and a slash at the end. A path with `..` is refused: nothing is written outside the root.
fn plain_path(path: &str) -> io::Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(io::Error::other(format!("the path {path} leads outside")));
    }
    Ok(parts.join("/"))
}

fn merged(path: &str) -> String {
    let top = path.split('/').next().unwrap_or("");
    if MERGED.contains(&top) { format!("usr/{path}") } else { path.to_owned() }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(EPOCH);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

fn folder(mode: u32) -> Entry {
    Entry { header: header(tar::EntryType::Directory, mode), content: Vec::new(), link: None }
}

fn file(content: Vec<u8>, mode: u32) -> Entry {
    Entry { header: header(tar::EntryType::Regular, mode), content, link: None }
}

/// Sorted by path, hard links last, since what they link to must be there.
fn write_tar(packages: Vec<Unpacked>, out: impl Write) -> io::Result<()> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for path in ["dev", "mnt", "proc", "run", "sys", "var/cache", "var/log"] {
        entries.insert(path.to_owned(), folder(0o755));
    }
    entries.insert("tmp".to_owned(), folder(0o1777));
    for top in MERGED {
        let link = Entry {
            header: header(tar::EntryType::Symlink, 0o777),
            content: Vec::new(),
            link: Some(format!("usr/{top}")),
        };
        entries.insert(top.to_owned(), link);
        entries.insert(format!("usr/{top}"), folder(0o755));
    }
    let (mut status, mut file_triggers) = (String::new(), String::new());
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    for path in ["alternatives", "info", "parts", "triggers", "updates"] {
        entries.insert(format!("var/lib/dpkg/{path}"), folder(0o755));
    }
    for package in packages {
        status.push_str(&package.status);
        package.file_triggers.iter().for_each(|line| file_triggers.push_str(line));
        for (name, who) in package.named_triggers {
            let lines = named.entry(name).or_default();
            lines.push_str(&who);
            lines.push('\n');
        }
        for (name, content, mode) in package.info {
            entries.insert(format!("var/lib/dpkg/info/{name}"), file(content, mode));
        }
        for (path, entry) in package.entries {
            // The folders of merged paths stay folders.
            if !(entry.header.entry_type().is_dir() && entries.contains_key(&path)) {
                entries.insert(path, entry);
            }
        }
    }
    for (path, text) in [
        ("status", status),
        ("available", String::new()),
        ("diversions", String::new()),
        ("statoverride", String::new()),
        ("info/format", "1\n".to_owned()),
        ("triggers/File", file_triggers),
        ("triggers/Unincorp", String::new()),
    ] {
        entries.insert(format!("var/lib/dpkg/{path}"), file(text.into_bytes(), 0o644));
    }
    for (name, text) in named {
        entries.insert(format!("var/lib/dpkg/triggers/{name}"), file(text.into_bytes(), 0o644));
    }
    let mut tar = tar::Builder::new(out);
    let is_hard = |entry: &Entry| entry.header.entry_type().is_hard_link();
    for (path, entry) in entries.iter().filter(|(_, entry)| !is_hard(entry)) {
        append(&mut tar, path, entry)?;
    }
    for (path, entry) in entries.iter().filter(|(_, entry)| is_hard(entry)) {
        append(&mut tar, path, entry)?;
    }
    tar.into_inner()?.flush()
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> io::Result<()> {
    let mut header = entry.header.clone();
    match &entry.link {
        Some(link) => tar.append_link(&mut header, path, link),
        None => {
            header.set_size(entry.content.len() as u64);
            tar.append_data(&mut header, path, &entry.content[..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_merged_folders_lie_below_usr_and_none_leads_outside() {
        assert_eq!(merged(&plain_path("./bin/sh").unwrap()), "usr/bin/sh");
        assert_eq!(merged(&plain_path("/etc//x/").unwrap()), "etc/x");
        assert_eq!(merged("libx/y"), "libx/y");
        assert!(plain_path("a/../../b").is_err());
    }

    #[test]
    fn interests_are_kept_as_dpkg_keeps_them() {
        assert_eq!(interest("interest /usr/lib", "a"), Some(("/usr/lib".into(), "a".into())));
        assert_eq!(interest("interest-noawait x", "a"), Some(("x".into(), "a/noawait".into())));
        assert_eq!(interest("activate-noawait ldconfig", "a"), None);
        assert_eq!(interest("# interest", "a"), None);
    }
}
