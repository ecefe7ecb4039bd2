//! Reads a tar that anyone may have made, as Go's `archive/tar` does, which is what Docker and containerd read with:
//! ustar and what was before it, GNU's long names, large numbers and sparse files, PAX.
//!
//! The crate `tar` would hold a name of any length in memory, takes a PAX value with a line break for two, and a field
//! without a number for an error; so this only has it find the fields of a header.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::sparse::{Map, Records};
use crate::node::Attribute;

/// Largest PAX header or GNU long name, the limit of Go's `archive/tar`.
const META_MAX: u64 = 1 << 20;

/// An entry's header.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryType,
    /// With setuid, setgid and sticky bit.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of its content; 0 for what has none.
    pub(crate) size: u64,
    /// Whether the content has more bytes than the tar stores for it.
    pub(crate) is_sparse: bool,
    /// Seconds since 1970, nanoseconds.
    pub(crate) mtime: (i64, i64),
    pub(crate) device: (u32, u32),
    pub(crate) attributes: Vec<Attribute>,
}

/// A tar that is read.
pub(crate) struct Tar<R> {
    input: R,
    /// The number of bytes that the tar still has of the entry that was read last.
    left: u64,
    /// The number of bytes that fill up the entry's last block.
    padding: u64,
    /// The places of the stored bytes in the content, when they are not all of it.
    map: Option<Map>,
}

/// Returns whether a tar begins here: as moby has it, a header that can be read.
pub(crate) fn begins(input: impl Read) -> bool {
    matches!(Tar::new(input).header(), Ok(Some(header)) if entry(&header).is_ok())
}

impl<R: Read> Tar<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, map: None }
    }

    pub(super) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; `None` at the end. What was not read of the content of the one before is passed over.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
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
                    let mut sparse = Records::default();
                    for (key, value) in records {
                        entry.apply(&key, value, &mut sparse)?;
                    }
                    entry.path = sparse.take_name().unwrap_or(entry.path);
                    entry.kind = real_kind(entry.kind, &entry.path)?;
                    if entry.kind != EntryType::Regular {
                        entry.size = 0;
                    }
                    self.begin(&mut entry, &header, sparse)?;
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
        match number(&header.as_old().cksum) {
            Some(stated) if sums.contains(&stated) => Ok(Some(header)),
            _ => Err(broken("a checksum")),
        }
    }

    /// Goes to the content of an entry.
    fn begin(&mut self, entry: &mut Entry, header: &Header, sparse: Records) -> io::Result<()> {
        let map = match header.entry_type() {
            EntryType::GNUSparse => Some(Map::of_header(header.as_bytes(), &mut self.input)?),
            _ => None,
        };
        self.content(entry.size);
        let map = match map {
            None if entry.kind == EntryType::Regular => sparse.map(&mut *self)?,
            map => map,
        };
        if let Some(mut map) = map {
            map.check(self.left)?;
            // Parts of no length may stand in front.
            map.pass(0);
            entry.size = map.size();
            entry.is_sparse = true;
            self.map = Some(map);
        }
        Ok(())
    }

    /// The content of a header that speaks about the next one.
    fn meta(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = size(header)?;
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

    /// Goes to the next header. The last content may lack what fills its block.
    fn skip(&mut self) -> io::Result<()> {
        self.map = None;
        io::copy(self, &mut io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        io::copy(&mut (&mut self.input).take(padding), &mut io::sink())?;
        Ok(())
    }

    /// Reads bytes that the tar stores.
    fn stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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

/// The content of the entry that was read last.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(map) = &self.map else { return self.stored(buffer) };
        let (len, is_stored) = map.next(buffer.len());
        let part = &mut buffer[..len];
        let read = if is_stored {
            self.stored(part)?
        } else {
            part.fill(0);
            len
        };
        if let Some(map) = &mut self.map {
            map.pass(read as u64);
        }
        Ok(read)
    }
}

/// A number in a field of a header, as Go reads it: octal digits among spaces and NULs, none for 0, or, with the first
/// bit, two's complement (GNU).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
        let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
        let digits = field[start..].split(|byte| *byte == 0).next()?.trim_ascii_end();
        return digits.iter().try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        });
    }
    // The bit beside it is the sign.
    let sign = if first & 0x40 != 0 { u8::MAX } else { 0 };
    let bytes = field.iter().enumerate().map(|(at, byte)| (byte ^ sign) & if at == 0 { 0x7f } else { 0xff });
    let value =
        bytes.into_iter().try_fold(0_i64, |value, byte| value.checked_mul(256)?.checked_add(byte.into()))?;
    Some(if sign == 0 { value } else { !value })
}

fn size(header: &Header) -> io::Result<u64> {
    let size = number(&header.as_old().size).and_then(|size| u64::try_from(size).ok());
    size.ok_or_else(|| broken("a size"))
}

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("wrong is {what}"))
}

/// Returns the entry that a header describes by itself.
fn entry(header: &Header) -> io::Result<Entry> {
    let old = header.as_old();
    let id =
        |field: &[u8]| number(field).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| broken("an owner"));
    Ok(Entry {
        path: header.path_bytes().into_owned(),
        link: header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default(),
        kind: header.entry_type(),
        mode: u32::try_from(number(&old.mode).ok_or_else(|| broken("a mode"))? & 0o7777).unwrap_or(0),
        uid: id(&old.uid)?,
        gid: id(&old.gid)?,
        size: size(header)?,
        is_sparse: false,
        mtime: (number(&old.mtime).ok_or_else(|| broken("a time"))?, 0),
        device: device(header)?,
        attributes: Vec::new(),
    })
}

/// Major and minor number. What is no device may have anything there.
fn device(header: &Header) -> io::Result<(u32, u32)> {
    let is_device = matches!(header.entry_type(), EntryType::Char | EntryType::Block);
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Ok((0, 0)),
    };
    let part = |field: &[u8]| match number(field).and_then(|part| u32::try_from(part).ok()) {
        None if is_device => Err(broken("the number of a device")),
        part => Ok(part.unwrap_or(0)),
    };
    Ok((part(major)?, part(minor)?))
}

impl Entry {
    /// Takes over a PAX record.
    fn apply(&mut self, key: &[u8], value: Vec<u8>, sparse: &mut Records) -> io::Result<()> {
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
            _ if key.starts_with(b"GNU.sparse.") => sparse.add(key, &value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.to_vec(), value));
                }
            }
        }
        Ok(())
    }
}

/// Returns the kind of an entry. Old tars mark a folder by the end of its name.
fn real_kind(kind: EntryType, path: &[u8]) -> io::Result<EntryType> {
    Ok(match kind {
        EntryType::Regular if path.ends_with(b"/") => EntryType::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryType::Regular,
        EntryType::Link
        | EntryType::Symlink
        | EntryType::Char
        | EntryType::Block
        | EntryType::Directory
        | EntryType::Fifo => kind,
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
