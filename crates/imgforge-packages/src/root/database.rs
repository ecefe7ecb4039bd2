//! dpkg's database (`/var/lib/dpkg`) as it is when packages are unpacked and none is configured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use super::archive::{Conffiles, RootTar, Unpacked};
use crate::deb::Deb;

/// dpkg's database (`/var/lib/dpkg`) as it is when all packages are unpacked.
#[derive(Debug, Default)]
pub(crate) struct Database {
    status: String,
    info: BTreeMap<String, (u32, Vec<u8>)>,
    file_triggers: String,
    named_triggers: BTreeMap<String, String>,
}

impl Database {
    /// Takes in a package whose files have been unpacked.
    pub(crate) fn record(&mut self, deb: &Deb, files: &Unpacked, state: &str, conffiles: Conffiles) {
        let prefix = deb.info_prefix();
        self.add_status(deb, files, state, conffiles);
        let mut list = "/.\n".to_owned();
        for path in &files.paths {
            let _ = writeln!(list, "/{path}");
        }
        self.info.insert(format!("{prefix}.list"), (0o644, list.into_bytes()));
        for file in &deb.info {
            self.info.insert(format!("{prefix}.{}", file.name), (file.mode, file.bytes.clone()));
        }
        // A package need not bring them (policy has them as a "should"), and then dpkg makes them when it unpacks.
        if deb.info("md5sums").is_none() {
            let sums: String = files.md5.iter().map(|(path, sum)| format!("{sum}  {path}\n")).collect();
            self.info.insert(format!("{prefix}.md5sums"), (0o644, sums.into_bytes()));
        }
        self.add_triggers(&prefix, &deb.info("triggers").unwrap_or_default());
    }

    fn add_status(&mut self, deb: &Deb, files: &Unpacked, state: &str, naming: Conffiles) {
        let mut lines = deb.control.trim().lines();
        let first = lines.next().unwrap_or("");
        let _ = writeln!(self.status, "{first}\nStatus: install ok {state}");
        for line in lines {
            let _ = writeln!(self.status, "{line}");
        }
        let conffiles = deb.info("conffiles").unwrap_or_default();
        let mut listed = conffiles.lines().map(str::trim).filter(|line| line.starts_with('/')).peekable();
        if listed.peek().is_some() {
            self.status.push_str("Conffiles:\n");
        }
        for path in listed {
            let hash = match naming {
                Conffiles::InPlace => files.md5_of(path),
                Conffiles::New => None,
            };
            let hash = hash.unwrap_or("newconffile");
            let _ = writeln!(self.status, " {path} {hash}");
        }
        self.status.push('\n');
    }

    /// deb-triggers(5): whose interest in which files and names.
    fn add_triggers(&mut self, prefix: &str, text: &str) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            let mut words = line.split_whitespace();
            let (Some(directive), Some(what)) = (words.next(), words.next()) else { continue };
            let who = match directive {
                "interest" | "interest-await" => prefix.to_owned(),
                "interest-noawait" => format!("{prefix}/noawait"),
                _ => continue,
            };
            if what.starts_with('/') {
                let _ = writeln!(self.file_triggers, "{what} {who}");
            } else if !what.contains('/') {
                let _ = writeln!(self.named_triggers.entry(what.to_owned()).or_default(), "{who}");
            }
        }
    }

    /// Writes the database into the archive.
    pub(crate) fn add_to<W: io::Write>(&self, root: &mut RootTar<W>) -> io::Result<()> {
        for folder in ["alternatives", "info", "parts", "triggers", "updates"] {
            root.ensure_dir(&format!("var/lib/dpkg/{folder}"), 0o755)?;
        }
        for (name, (mode, bytes)) in &self.info {
            root.add_file(&format!("var/lib/dpkg/info/{name}"), *mode, bytes)?;
        }
        for (name, text) in &self.named_triggers {
            root.add_file(&format!("var/lib/dpkg/triggers/{name}"), 0o644, text.as_bytes())?;
        }
        let files = [
            ("info/format", "1\n"),
            ("triggers/File", self.file_triggers.as_str()),
            ("triggers/Unincorp", ""),
            ("available", ""),
            ("status", self.status.as_str()),
        ];
        for (name, text) in files {
            root.add_file(&format!("var/lib/dpkg/{name}"), 0o644, text.as_bytes())?;
        }
        Ok(())
    }
}
