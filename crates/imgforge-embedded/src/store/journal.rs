//! Which images there are and what they are called. A change is a line at the end of a file, so that it costs the same
//! however many images there are; the last line without an end is one that a killed process had begun, and counts for
//! nothing. Nor does one that this user has not sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;

use camino::Utf8PathBuf;
use imgforge_oci::Digest;
use imgforge_state::file::{MAX_STATE, rest};
use imgforge_state::{Key, KeyError, OFlags, StateDir, identity};
use serde::{Deserialize, Serialize};

use super::images::ImageRecord;
use super::{StoreError, made, sealed, unsealed};

/// Its name, and that of the next one while it is written.
const FILE: &str = "journal";
const NEW: &str = "journal.new";

/// The purpose that lines are sealed for.
const CHANGE: &str = "change of the journal";

/// One change.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Change {
    /// An image is there.
    Image(Box<ImageRecord>),
    /// A name leads to an image.
    Name { reference: String, id: Digest },
    /// A name leads nowhere any more.
    Unname { reference: String },
    /// An image is gone, and its names with it.
    Gone { id: Digest },
}

/// More dead lines than living ones by this many, and the file is written anew.
const SLACK: usize = 4000;

/// The journal, as far as it was read.
pub(super) struct Journal {
    dir: StateDir,
    path: Utf8PathBuf,
    /// The identity of the file that was read, and how far it was. Its inode alone does not tell it: once another
    /// process has written the journal anew, the next new one may get the number of the one that has gone.
    file: [u8; 20],
    offset: u64,
    lines: usize,
    images: BTreeMap<Digest, ImageRecord>,
    names: BTreeMap<String, Digest>,
}

impl Journal {
    pub(super) fn open(dir: &StateDir) -> Result<Self, StoreError> {
        let mut journal = Self {
            dir: dir.clone(),
            path: dir.path().join(FILE),
            file: [0; 20],
            offset: 0,
            lines: 0,
            images: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        journal.read()?;
        Ok(journal)
    }

    /// Reads what others have written.
    pub(super) fn read(&mut self) -> Result<(), StoreError> {
        match self.dir.open(FILE, OFlags::RDONLY)? {
            Some(mut file) => self.read_from(&mut file).map_err(StoreError::io(&self.path)),
            None => Ok(()),
        }
    }

    fn read_from(&mut self, file: &mut File) -> io::Result<()> {
        let found = identity(&*file)?;
        if found != self.file {
            (self.file, self.offset, self.lines) = (found, 0, 0);
            self.images.clear();
            self.names.clear();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let bytes = rest(file, MAX_STATE)?;
        for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            self.offset += line.len() as u64;
            self.lines += 1;
            // A line that makes no sense was damaged, or is of another user: what it said is built again.
            let text = unsealed(self.dir.key(), CHANGE, &[], &line[..line.len() - 1]);
            if let Some(change) = text.and_then(|text| serde_json::from_slice(text).ok()) {
                self.apply(change);
            }
        }
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Image(record) => {
                self.images.insert(record.id.clone(), *record);
            }
            Change::Name { reference, id } => {
                self.names.insert(reference, id);
            }
            Change::Unname { reference } => {
                self.names.remove(&reference);
            }
            Change::Gone { id } => {
                self.images.remove(&id);
                self.names.retain(|_, named| *named != id);
            }
        }
    }

    /// Writes changes behind what others have written, decided by what is there then.
    pub(super) fn change<T>(
        &mut self,
        decide: impl FnOnce(&Self) -> (Vec<Change>, T),
    ) -> Result<T, StoreError> {
        let path = self.path.clone();
        let mut file = self.locked()?;
        self.read_from(&mut file).map_err(StoreError::io(&path))?;
        let (changes, answer) = decide(self);
        if changes.is_empty() {
            return Ok(answer);
        }
        let mut text = Vec::new();
        for change in &changes {
            text.extend(line(self.dir.key(), change)?);
        }
        // What a killed process had begun is written over.
        let mut write = || {
            file.set_len(self.offset)?;
            file.seek(SeekFrom::Start(self.offset))?;
            file.write_all(&text)
        };
        write().map_err(StoreError::io(&path))?;
        self.offset += text.len() as u64;
        self.lines += changes.len();
        changes.into_iter().for_each(|change| self.apply(change));
        if self.lines > 2 * (self.images.len() + self.names.len()) + SLACK {
            self.rewrite()?;
        }
        Ok(answer)
    }

    /// The file, locked: the one that has the name then, since it may be replaced before the lock is there.
    fn locked(&self) -> Result<File, StoreError> {
        loop {
            let file = made(&self.dir, FILE, OFlags::RDWR)?;
            file.lock().map_err(StoreError::io(&self.path))?;
            let current = fs::symlink_metadata(&self.path).map(|metadata| metadata.ino()).ok();
            if current == file.metadata().map(|metadata| metadata.ino()).ok() {
                return Ok(file);
            }
        }
    }

    fn rewrite(&mut self) -> Result<(), StoreError> {
        let mut text = Vec::new();
        let images = self.images.values().map(|record| Change::Image(Box::new(record.clone())));
        let names = self
            .names
            .iter()
            .map(|(reference, id)| Change::Name { reference: reference.clone(), id: id.clone() });
        let mut lines = 0;
        for change in images.chain(names) {
            text.extend(line(self.dir.key(), &change)?);
            lines += 1;
        }
        // One that a killed process has begun.
        self.dir.remove(NEW)?;
        let mut new = made(&self.dir, NEW, OFlags::WRONLY | OFlags::EXCL)?;
        let mut write = || {
            new.write_all(&text)?;
            let written = identity(&new)?;
            fs::rename(self.dir.path().join(NEW), &self.path).map(|()| written)
        };
        self.file = write().map_err(StoreError::io(&self.path))?;
        (self.offset, self.lines) = (text.len() as u64, lines);
        Ok(())
    }

    pub(super) fn images(&self) -> impl Iterator<Item = &ImageRecord> {
        self.images.values()
    }

    pub(super) fn image(&self, id: &str) -> Option<&ImageRecord> {
        self.images.get(id)
    }

    pub(super) fn named(&self, reference: &str) -> Option<&Digest> {
        self.names.get(reference)
    }

    pub(super) fn names(&self) -> &BTreeMap<String, Digest> {
        &self.names
    }

    /// The only image whose id begins with these digits.
    pub(super) fn by_prefix(&self, digits: &str) -> Option<&ImageRecord> {
        let wanted = format!("sha256:{digits}");
        let from = (Bound::Included(wanted.as_str()), Bound::Unbounded);
        let mut found =
            self.images.range::<str, _>(from).take_while(|(id, _)| id.as_str().starts_with(&wanted));
        let first = found.next();
        first.filter(|_| found.next().is_none()).map(|(_, record)| record)
    }

    /// The ids that have a name.
    pub(super) fn with_names(&self) -> BTreeSet<&Digest> {
        self.names.values().collect()
    }
}

/// A change as the journal has it, with its end.
fn line(key: &Key, change: &Change) -> Result<Vec<u8>, KeyError> {
    let text = serde_json::to_vec(change).expect("texts and numbers are JSON");
    let mut line = sealed(key, CHANGE, &[], &text)?;
    line.push(b'\n');
    Ok(line)
}
