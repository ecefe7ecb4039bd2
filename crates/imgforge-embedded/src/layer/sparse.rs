//! Sparse files in a tar: only the parts that are more than zeros are stored, and a map says where they belong.
//!
//! The map stands in the header and in blocks after it (GNU's old form), in PAX records (its forms 0.0 and 0.1), or at
//! the begin of the content (1.0): see "Storing Sparse Files" in the manual of GNU tar.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::reader::{broken, number};

/// Largest map in bytes, the limit of Go's `archive/tar`.
const MAP_MAX: u64 = 1 << 20;
/// The places of the old form's first parts, of whether there are more, and of the size of the whole.
const PARTS: std::ops::Range<usize> = 386..482;
const IS_EXTENDED: usize = 482;
const REAL_SIZE: std::ops::Range<usize> = 483..495;
/// The same in the blocks that follow.
const MORE_PARTS: std::ops::Range<usize> = 0..504;
const IS_FURTHER_EXTENDED: usize = 504;

/// The places in a content that its stored bytes belong to.
#[derive(Debug, Default)]
pub(super) struct Map {
    /// Offsets and lengths of the parts from here on, in order.
    parts: VecDeque<(u64, u64)>,
    /// The place of the next byte in the content.
    at: u64,
    /// Of the whole content.
    size: u64,
}

impl Map {
    /// Reads the map of GNU's old form; `input` stands after the header.
    pub(super) fn of_header(header: &[u8; 512], input: &mut impl Read) -> io::Result<Self> {
        let size = number(&header[REAL_SIZE]).and_then(|size| u64::try_from(size).ok());
        let mut map = Self { size: size.ok_or_else(wrong)?, ..Self::default() };
        map.add_fields(&header[PARTS])?;
        let mut is_extended = header[IS_EXTENDED] != 0;
        let mut block = [0; 512];
        while is_extended {
            if map.parts.len() as u64 * 24 > MAP_MAX {
                return Err(broken("a sparse file with too many parts"));
            }
            input.read_exact(&mut block)?;
            map.add_fields(&block[MORE_PARTS])?;
            is_extended = block[IS_FURTHER_EXTENDED] != 0;
        }
        Ok(map)
    }

    /// Offsets and lengths in fields of 12 bytes, up to one that is empty.
    fn add_fields(&mut self, fields: &[u8]) -> io::Result<()> {
        for pair in fields.chunks_exact(24).take_while(|pair| pair[0] != 0) {
            let of = |field| number(field).and_then(|value| u64::try_from(value).ok()).ok_or_else(wrong);
            self.parts.push_back((of(&pair[..12])?, of(&pair[12..])?));
        }
        Ok(())
    }

    /// Returns whether the parts are in order, inside the content, and make up what is stored.
    pub(super) fn check(&self, stored: u64) -> io::Result<()> {
        let (mut end, mut sum) = (0, 0_u64);
        for (offset, len) in &self.parts {
            if *offset < end {
                return Err(wrong());
            }
            end = offset.checked_add(*len).ok_or_else(wrong)?;
            sum += len;
        }
        if end > self.size || sum != stored { Err(wrong()) } else { Ok(()) }
    }

    /// Of the whole content.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns how many bytes come next, at most so many, and whether they are stored or zeros. 0 at the end.
    pub(super) fn next(&self, most: usize) -> (usize, bool) {
        let (until, is_stored) = match self.parts.front() {
            Some((offset, len)) if self.at >= *offset => (offset + len, true),
            Some((offset, _)) => (*offset, false),
            None => (self.size, false),
        };
        (most.min(usize::try_from(until - self.at).unwrap_or(usize::MAX)), is_stored)
    }

    /// Goes on by so many bytes.
    pub(super) fn pass(&mut self, len: u64) {
        self.at += len;
        while self.parts.front().is_some_and(|(offset, len)| offset + len <= self.at) {
            self.parts.pop_front();
        }
    }
}

fn wrong() -> io::Error {
    broken("the map of a sparse file")
}

/// The PAX records of a sparse file.
#[derive(Debug, Default)]
pub(super) struct Records {
    is_stored: bool,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Offsets and lengths, one after another.
    map: Option<Vec<u64>>,
}

impl Records {
    /// Takes over a record whose key begins with `GNU.sparse.`.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = |value: &[u8]| decimal(value).ok_or_else(wrong);
        match key {
            b"GNU.sparse.name" => self.name = Some(value.to_vec()),
            b"GNU.sparse.major" => self.is_stored = number(value)? == 1,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.size = Some(number(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.map.get_or_insert_default().push(number(value)?);
            }
            b"GNU.sparse.map" if value.is_empty() => self.map = Some(Vec::new()),
            b"GNU.sparse.map" => {
                let values: io::Result<Vec<u64>> = value.split(|byte| *byte == b',').map(number).collect();
                self.map = Some(values?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The file's own name: that of the entry is for programs which do not know of sparse files.
    pub(super) fn take_name(&mut self) -> Option<Vec<u8>> {
        self.name.take()
    }

    /// The map, when they say that there is one. `content` begins with it in the form 1.0.
    pub(super) fn map(self, content: &mut impl Read) -> io::Result<Option<Map>> {
        let values = match self.map {
            _ if self.is_stored => stored_map(content)?,
            Some(values) => values,
            None => return Ok(None),
        };
        let size = self.size.ok_or_else(wrong)?;
        if values.len() % 2 != 0 {
            return Err(wrong());
        }
        let parts = values.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(Some(Map { parts, at: 0, size }))
    }
}

/// The map in front of a content: how many parts there are, offsets and lengths, each on a line; whole blocks.
fn stored_map(content: &mut impl Read) -> io::Result<Vec<u64>> {
    let (mut values, mut line) = (Vec::new(), Vec::new());
    let mut wanted = None;
    for _ in 0..MAP_MAX / 512 {
        let mut block = [0; 512];
        content.read_exact(&mut block)?;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let value = decimal(&std::mem::take(&mut line)).ok_or_else(wrong)?;
            match wanted {
                None => wanted = Some(value.checked_mul(2).ok_or_else(wrong)?),
                Some(_) => values.push(value),
            }
            if wanted == Some(values.len() as u64) {
                return Ok(values);
            }
        }
    }
    Err(broken("a sparse file with too many parts"))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reader::Tar;
    use super::*;

    /// A sparse file in GNU's old form: a header, one block of parts that follows it, and the content.
    fn old_form() -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[0] = b's';
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_size(15);
        for (at, text) in [(386, "1"), (398, "5"), (410, "10"), (422, "5"), (483, "50")] {
            header.as_mut_bytes()[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        header.as_mut_bytes()[IS_EXTENDED] = 1;
        header.set_cksum();
        let mut more = [0; 512];
        for (at, text) in [(0, "30"), (12, "5")] {
            more[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        let mut content = b"aaaaabbbbbccccc".to_vec();
        content.resize(512, 0);
        [header.as_bytes().as_slice(), &more, &content].concat()
    }

    #[test]
    fn parts_in_the_block_after_a_header_count() {
        let bytes = old_form();
        let mut tar = Tar::new(&bytes[..]);
        let entry = tar.next().unwrap().unwrap();
        assert_eq!((entry.size, entry.is_sparse), (0o50, true));
        let mut content = Vec::new();
        tar.read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), 0o50);
        assert_eq!(
            (&content[1..6], &content[8..13], &content[24..29]),
            (&b"aaaaa"[..], &b"bbbbb"[..], &b"ccccc"[..])
        );
        content.retain(|byte| *byte != 0);
        assert_eq!(content, b"aaaaabbbbbccccc");
        assert!(tar.next().unwrap().is_none());
    }

    proptest! {
        #[test]
        fn whatever_a_map_says_is_read_or_refused(changes in proptest::collection::vec((386_usize..1024, any::<u8>()), 0..8)) {
            let mut bytes = old_form();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(&bytes[..512]);
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
            let mut tar = Tar::new(&bytes[..]);
            if let Ok(Some(entry)) = tar.next() {
                let read = io::copy(&mut tar.by_ref().take(1 << 16), &mut io::sink()).unwrap();
                prop_assert_eq!(read, entry.size.min(1 << 16));
                prop_assert!(tar.next().is_ok());
            }
        }

        #[test]
        fn whatever_records_say_is_read_or_refused(map in "[0-9,-]{0,30}", size in "[0-9]{1,20}", stored in 0_u64..2000) {
            let mut records = Records::default();
            let added = records.add(b"GNU.sparse.map", map.as_bytes()).and_then(|()| records.add(b"GNU.sparse.size", size.as_bytes()));
            if added.is_ok()
                && let Ok(Some(mut map)) = records.map(&mut io::empty())
                && map.check(stored).is_ok()
            {
                map.pass(0);
                let mut left = stored;
                for _ in 0..100 {
                    let (len, is_stored) = map.next(1000);
                    left -= if is_stored { len as u64 } else { 0 };
                    map.pass(len as u64);
                }
                prop_assert!(map.at <= map.size() && (map.at < map.size() || left == 0));
            }
        }
    }
}
