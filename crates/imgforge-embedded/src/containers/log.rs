//! What a container prints, on the disk: pieces as they came, each after a byte that says whether it is of its stderr
//! and four that say how long it is (the lowest first).

use std::fs::File;
use std::io::{self, Read, Write};

use camino::Utf8Path;

/// Writes a piece.
pub(super) fn write(mut file: &File, is_error: bool, piece: &[u8]) -> io::Result<()> {
    let len = u32::try_from(piece.len()).map_err(io::Error::other)?;
    let mut frame = vec![u8::from(is_error)];
    frame.extend(len.to_le_bytes());
    frame.extend(piece);
    // In one call, so that who reads at the same time finds whole pieces.
    file.write_all(&frame)
}

/// Reads pieces, from the first on.
pub(super) struct Reader {
    file: File,
    held: Vec<u8>,
}

impl Reader {
    pub(super) fn open(path: &Utf8Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, held: Vec::new() })
    }

    /// Gives `sink` the pieces that have come since.
    pub(super) fn read(&mut self, sink: &dyn Fn(bool, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.held.extend_from_slice(&buffer[..read]);
            let mut at = 0;
            while let Some((head, rest)) = self.held[at..].split_at_checked(5) {
                let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let Some(piece) = rest.get(..len) else { break };
                sink(head[0] != 0, piece);
                at += 5 + len;
            }
            self.held.drain(..at);
        }
    }
}
