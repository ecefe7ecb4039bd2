//! What is kept of a container on the disk: `containers/ID/` in the store. Other calls of imgforge find it there.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use imgforge_oci::{Digest, Healthcheck};
use imgforge_state::{StateDir, identity};
use serde::{Deserialize, Serialize};

use crate::store::{sealed, unsealed};
use crate::worker::container::STATE;
use crate::worker::message::{Alive, Ended};
use crate::worker::start_of;

/// The purpose that a record is sealed for: what it says is believed, and it names folders that are removed.
const CONTAINER: &str = "container";

/// The record, in the folder that it is sealed for.
const RECORD: &str = "container";

/// A container, as it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) name: String,
    /// The image's id.
    pub(super) image: Digest,
    /// The image's, and its own.
    pub(super) labels: BTreeMap<String, String>,
    /// Its layers, lowest first.
    pub(super) stack: Vec<Utf8PathBuf>,
    pub(super) env: Vec<(String, String)>,
    pub(super) workdir: String,
    pub(super) user: String,
    /// The number of the signal that stops it.
    pub(super) stop_signal: u8,
    pub(super) healthcheck: Option<Healthcheck>,
    /// The folders of volumes that were made for it alone.
    pub(super) own_volumes: Vec<Utf8PathBuf>,
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Status {
    /// It was never started, or is being started.
    Made,
    Running(Alive),
    Ended(Ended),
}

/// The folder of all containers.
#[derive(Debug, Clone)]
pub(super) struct Folder(StateDir);

impl Folder {
    /// Returns the containers of a store.
    pub(super) fn new(store: &StateDir) -> Self {
        Self(store.sub("containers"))
    }

    pub(super) fn of(&self, id: &str) -> Utf8PathBuf {
        self.0.path().join(id)
    }

    /// Makes the folder of a container.
    pub(super) fn make(&self, id: &str) -> io::Result<Utf8PathBuf> {
        Ok(self.0.folder(id)?)
    }

    /// Returns the ids of all containers, sorted.
    pub(super) fn ids(&self) -> io::Result<Vec<String>> {
        Ok(self.0.names("")?)
    }

    /// All that there are. What is being made or removed is passed over.
    pub(super) fn all(&self) -> io::Result<Vec<Record>> {
        let mut all = Vec::new();
        for id in self.ids()? {
            all.extend(self.find_exactly(&id)?);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The one with this id or name, or the only one whose id begins so.
    pub(super) fn find(&self, container: &str) -> io::Result<Option<Record>> {
        if container.len() == 64 && container.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return self.find_exactly(container);
        }
        let mut all = self.all()?;
        if let Some(index) = all.iter().position(|record| record.name == container) {
            return Ok(Some(all.swap_remove(index)));
        }
        if container.len() < 4 {
            return Ok(None);
        }
        all.retain(|record| record.id.starts_with(container));
        Ok(if all.len() == 1 { all.pop() } else { None })
    }

    /// The one with this id, if this user has made it.
    pub(super) fn find_exactly(&self, id: &str) -> io::Result<Option<Record>> {
        // A file, or a folder that is being removed.
        let Ok(Some(folder)) = self.0.opened(id) else { return Ok(None) };
        let Some(bytes) = self.0.read(&format!("{id}/{RECORD}"))? else { return Ok(None) };
        let text = unsealed(self.0.key(), CONTAINER, &[id.as_bytes(), &identity(&folder)?], &bytes);
        Ok(text.map(serde_json::from_slice).transpose()?)
    }

    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        let id = &record.id;
        let folder = self.0.opened(id)?.ok_or(io::ErrorKind::NotFound)?;
        let text = serde_json::to_vec(record)?;
        let sealed = sealed(self.0.key(), CONTAINER, &[id.as_bytes(), &identity(&folder)?], &text);
        Ok(self.0.replace(&format!("{id}/{RECORD}"), &sealed.map_err(io::Error::other)?)?)
    }

    /// Notes how one has ended, when all that it has printed is on the disk.
    pub(super) fn write_end(&self, id: &str, ended: Ended) -> io::Result<()> {
        write(&self.of(id), "ended.json", &ended)
    }

    /// The control groups of one that was started.
    pub(super) fn groups(&self, id: &str) -> io::Result<Vec<Utf8PathBuf>> {
        Ok(read::<Alive>(&self.of(id).join(STATE))?.map_or_else(Vec::new, |alive| alive.groups))
    }

    pub(super) fn status(&self, id: &str) -> io::Result<Status> {
        let folder = self.of(id);
        if let Some(ended) = read(&folder.join("ended.json"))? {
            return Ok(Status::Ended(ended));
        }
        match read::<Alive>(&folder.join(STATE))? {
            None => Ok(Status::Made),
            Some(alive) if start_of(alive.pid) == Some(alive.start) => Ok(Status::Running(alive)),
            // Whoever should have noted its end was killed with it, or will do so soon.
            Some(_) => match read(&folder.join("ended.json"))? {
                Some(ended) => Ok(Status::Ended(ended)),
                None => Ok(Status::Ended(Ended { code: 137, out_of_memory: false })),
            },
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Utf8Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}

fn write(folder: &Utf8Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    fs::write(&new, serde_json::to_vec(value)?)?;
    fs::rename(new, folder.join(name))
}

/// The number of a signal: `SIGTERM`, `term`, `15`.
pub(super) fn signal(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let index = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(index + 1).ok()
}

/// The signals by their numbers on the architectures that imgforge runs on (`signal(7)`).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("SIGTERM", 15), ("quit", 3), ("SIGCONT", 18), ("9", 9), ("SIGHUP", 1), ("SIGWINCH", 28)]
        {
            assert_eq!(signal(text), Some(number), "{text}");
        }
        for text in ["", "0", "65", "SIGNOTHING", "-1"] {
            assert_eq!(signal(text), None, "{text}");
        }
    }
}
