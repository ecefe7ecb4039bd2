//! Reads a tar that anyone may have made: ustar, GNU long names and large numbers, PAX.
//!
//! The crate `tar` would hold a name of any length in memory, and takes a PAX value with a line break for two; so this
//! only has it decode the fields of a header.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::Attribute;

/// Largest PAX header or GNU long name, the limit of Go's `archive/tar`.
const META_MAX: u64 = 1 << 20;

/// An entry's header.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryType,
    /// With setuid, setgid and sticky bit.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of its content; 0 for what has none.
    pub(super) size: u64,
    /// Seconds since 1970, nanoseconds.
    pub(super) mtime: (i64, i64),
    pub(super) device: (u32, u32),
    pub(super) attributes: Vec<Attribute>,
}

/// A tar that is read.
pub(super) struct Tar<R> {
    input: R,
    /// What is left of the content of the entry that was read last.
    left: u64,
    /// What follows that, up to a whole block.
    padding: u64,
}

impl<R: Read> Tar<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    pub(super) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; `None` at the end. What was not read of the content of the one before is passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut records = Vec::new();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    let bytes = self.meta(&header)?;
                    records = parse_records(&bytes).ok_or_else(|| broken("a PAX header"))?;
                }
                EntryType::XGlobalHeader => drop(self.meta(&header)?),
                EntryType::GNULongName => long_path = Some(cut(self.meta(&header)?)),
                EntryType::GNULongLink => long_link = Some(cut(self.meta(&header)?)),
                _ => {
                    let mut entry = entry(&header)?;
                    entry.path = long_path.unwrap_or(entry.path);
                    entry.link = long_link.unwrap_or(entry.link);
                    for (key, value) in records {
                        entry.apply(&key, value)?;
                    }
                    entry.kind = real_kind(entry.kind, &entry.path)?;
                    if entry.kind != EntryType::Regular {
                        entry.size = 0;
                    }
                    self.content(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut len = 0;
        while len < block.len() {
            match self.input.read(&mut block[len..])? {
                0 if len == 0 => return Ok(None),
                0 => return Err(broken("its end, which is missing")),
                read => len += read,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |signed: bool| -> i64 {
            let value = |byte: u8| if signed { i64::from(byte.cast_signed()) } else { i64::from(byte) };
            (0..512).map(|at| if (148..156).contains(&at) { 32 } else { value(block[at]) }).sum()
        };
        let sums = [sum(false), sum(true)];
        let stated = header.cksum().map_err(|_| broken("a checksum"))?;
        if !sums.contains(&i64::from(stated)) {
            return Err(broken("a checksum"));
        }
        Ok(Some(header))
    }

    /// The content of a header that speaks about the next one.
    fn meta(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = header.entry_size().map_err(|_| broken("a size"))?;
        if size > META_MAX {
            return Err(broken("a name or PAX header, which is too long"));
        }
        self.content(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn content(&mut self, size: u64) {
        self.left = size;
        self.padding = (512 - size % 512) % 512;
    }

    /// Goes to the next header.
    fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        let passed = io::copy(&mut (&mut self.input).take(padding), &mut io::sink())?;
        if passed < padding {
            return Err(broken("its end, which is missing"));
        }
        Ok(())
    }
}

/// The content of the entry that was read last.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(broken("its end, which is missing"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("wrong is {what}"))
}

/// What a header says by itself.
fn entry(header: &Header) -> io::Result<Entry> {
    let id = |id: io::Result<u64>| {
        u32::try_from(id.map_err(|_| broken("an owner"))?).map_err(|_| broken("an owner"))
    };
    let kind = header.entry_type();
    let is_device = matches!(kind, EntryType::Char | EntryType::Block);
    let device = |part: io::Result<Option<u32>>| match part {
        Ok(part) => Ok(part.unwrap_or(0)),
        Err(_) if !is_device => Ok(0),
        Err(_) => Err(broken("the number of a device")),
    };
    let mtime = header.mtime().map_err(|_| broken("a time"))?;
    Ok(Entry {
        path: header.path_bytes().into_owned(),
        link: header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default(),
        kind,
        mode: header.mode().map_err(|_| broken("a mode"))? & 0o7777,
        uid: id(header.uid())?,
        gid: id(header.gid())?,
        size: header.entry_size().map_err(|_| broken("a size"))?,
        // GNU's negative numbers look like ones beyond what there is.
        mtime: (i64::try_from(mtime).unwrap_or(0), 0),
        device: (device(header.device_major())?, device(header.device_minor())?),
        attributes: Vec::new(),
    })
}

impl Entry {
    /// Takes over a PAX record.
    fn apply(&mut self, key: &[u8], value: Vec<u8>) -> io::Result<()> {
        let number = || str::from_utf8(&value).ok().and_then(|value| value.parse::<u64>().ok());
        let id = || number().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| broken("an owner"));
        match key {
            // Says that there is no such record.
            b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" if value.is_empty() => {}
            b"path" => self.path = value,
            b"linkpath" => self.link = value,
            b"size" => self.size = number().ok_or_else(|| broken("a size"))?,
            b"uid" => self.uid = id()?,
            b"gid" => self.gid = id()?,
            b"mtime" => self.mtime = parse_time(&value).ok_or_else(|| broken("a time"))?,
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(broken("a sparse file: that form is not read"));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.to_vec(), value));
                }
            }
        }
        Ok(())
    }
}

/// What an entry is. Old tars mark a folder by the end of its name.
fn real_kind(kind: EntryType, path: &[u8]) -> io::Result<EntryType> {
    Ok(match kind {
        EntryType::Regular if path.ends_with(b"/") => EntryType::Directory,
        EntryType::Regular | EntryType::Continuous => EntryType::Regular,
        EntryType::Link
        | EntryType::Symlink
        | EntryType::Char
        | EntryType::Block
        | EntryType::Directory
        | EntryType::Fifo => kind,
        EntryType::GNUSparse => return Err(broken("a sparse file: that form is not read")),
        _ => return Err(broken("the kind of an entry")),
    })
}

/// Up to the NUL that ends it.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// `LENGTH KEY=VALUE\n`, again and again.
fn parse_records(mut bytes: &[u8]) -> Option<Vec<Attribute>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(8).position(|byte| *byte == b' ')?;
        let len: usize = str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = &bytes[len..];
    }
    Some(records)
}

/// Decimal seconds, maybe negative, maybe with a fraction.
fn parse_time(value: &[u8]) -> Option<(i64, i64)> {
    let value = str::from_utf8(value).ok()?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: i64 = format!("{fraction:0<9.9}").parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}
