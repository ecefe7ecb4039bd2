//! The headers of a tar: POSIX ustar, and what does not fit in it as PAX records, as Go's `archive/tar` writes them,
//! which is what BuildKit and containerd use. Records are sorted; there is no name of an owner, and no part of a
//! second.

use std::io::{self, Write};

use tar::EntryType;

use crate::node::Attribute;

/// An entry of a tar without its content.
pub(super) struct Entry<'a> {
    /// Relative, with `/` at the end of a folder's.
    pub(super) path: &'a [u8],
    pub(super) kind: EntryType,
    /// The target of a link.
    pub(super) link: &'a [u8],
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In bytes.
    pub(super) size: u64,
    /// In seconds since 1970.
    pub(super) mtime: i64,
    /// Major and minor number.
    pub(super) device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub(super) attributes: &'a [Attribute],
}

/// The largest number of a field with 7 octal digits.
const SEVEN: u64 = 0o777_7777;
/// The same for 11 digits.
const ELEVEN: u64 = 0o777_7777_7777;

impl Entry<'_> {
    /// Writes the header, after a header with PAX records when something needs them.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut records = Vec::new();
        let mut header = tar::Header::new_ustar();
        let ustar = header.as_ustar_mut().ok_or_else(|| io::Error::other("a new ustar header is one"))?; // It is: for the type alone.
        text(&mut ustar.name, self.path, "path", &mut records);
        text(&mut ustar.linkname, self.link, "linkpath", &mut records);
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(number(self.uid.into(), SEVEN, "uid", &mut records));
        header.set_gid(number(self.gid.into(), SEVEN, "gid", &mut records));
        header.set_size(number(self.size, ELEVEN, "size", &mut records));
        header.set_mtime(match u64::try_from(self.mtime) {
            Ok(mtime) => number(mtime, ELEVEN, "mtime", &mut records),
            Err(_) => {
                records.push((b"mtime".to_vec(), self.mtime.to_string().into_bytes()));
                0
            }
        });
        if matches!(self.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(self.device.0)?;
            header.set_device_minor(self.device.1)?;
        }
        for (name, value) in self.attributes {
            records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
        header.set_cksum();
        if !records.is_empty() {
            records.sort();
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            let mut pax = tar::Header::new_ustar();
            let base = self.path.strip_suffix(b"/").unwrap_or(self.path);
            let base = base.rsplit(|byte| *byte == b'/').next().unwrap_or(base);
            let name: Vec<u8> =
                b"PaxHeaders.0/".iter().chain(base).copied().filter(u8::is_ascii).take(99).collect();
            if let Some(ustar) = pax.as_ustar_mut() {
                ustar.name[..name.len()].copy_from_slice(&name);
            }
            pax.set_entry_type(EntryType::XHeader);
            pax.set_mode(0);
            pax.set_uid(0);
            pax.set_gid(0);
            pax.set_mtime(0);
            pax.set_size(body.len() as u64);
            pax.set_cksum();
            out.write_all(pax.as_bytes())?;
            out.write_all(&body)?;
            pad(out, body.len() as u64)?;
        }
        out.write_all(header.as_bytes())
    }
}

/// Fills a content up to whole blocks.
pub(super) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
    out.write_all(&[0; 512][..rest])
}

/// Puts a text into a field; into a record when it is too long or not ASCII.
fn text(field: &mut [u8; 100], value: &[u8], key: &str, records: &mut Vec<Attribute>) {
    if value.len() > field.len() || !value.is_ascii() {
        records.push((key.as_bytes().to_vec(), value.to_vec()));
    }
    // What PAX is unknown to sees the beginning.
    for (to, from) in field.iter_mut().zip(value.iter().filter(|byte| byte.is_ascii())) {
        *to = *from;
    }
}

/// The number for a field; 0, and a record, when it is too large.
fn number(value: u64, max: u64, key: &str, records: &mut Vec<Attribute>) -> u64 {
    if value <= max {
        return value;
    }
    records.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
    0
}

/// `LENGTH KEY=VALUE\n`, where the length is that of the whole, itself included.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + rest.to_string().len();
    if len.to_string().len() != rest.to_string().len() {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}
