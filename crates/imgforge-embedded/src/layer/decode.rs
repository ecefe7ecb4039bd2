//! A blob becomes the tar that it was, on a thread of its own.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use imgforge_oci::{Digest, Hasher};

/// The size of the pieces that are handed over, and the number that may lie between before the other side must catch
/// up.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// The tar in a blob: plain, or compressed with gzip or zstd, as its first bytes tell.
pub(super) struct Decoded {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    thread: JoinHandle<(Digest, u64)>,
}

/// It is larger than it may be.
#[derive(Debug, thiserror::Error)]
#[error("it is larger than it may be")]
pub(super) struct TooLarge;

impl Decoded {
    /// Begins to read. After `limit` bytes of tar there is an error with [`TooLarge`].
    pub(super) fn open(file: File, limit: u64) -> io::Result<Self> {
        let (sender, chunks) = sync_channel(CHUNKS);
        let work = move || {
            let (mut hash, mut total) = (Hasher::sha256(), 0_u64);
            let mut reader = decoder(file);
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                let read = match &mut reader {
                    Ok(reader) => reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk),
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                };
                total += chunk.len() as u64;
                hash.update(&chunk);
                let message = match read {
                    Ok(0) => break,
                    Ok(_) if total > limit => Err(io::Error::other(TooLarge)),
                    Ok(_) => Ok(chunk),
                    Err(error) => Err(error),
                };
                let is_last = message.is_err();
                // The reader is gone after an error of its own.
                if sender.send(message).is_err() || is_last {
                    break;
                }
            }
            (hash.finish(), total)
        };
        let thread = std::thread::Builder::new().name("read blob".into()).spawn(work)?;
        Ok(Self { chunks, chunk: Vec::new(), at: 0, thread })
    }

    /// Reads to the end. The hash of everything (`diff_id`), and how much it was.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        drop(self.chunks);
        self.thread.join().map_err(|_| io::Error::other("the thread that reads the blob panicked"))
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(_) => return Ok(0),
            }
        }
        let len = buffer.len().min(self.chunk.len() - self.at);
        buffer[..len].copy_from_slice(&self.chunk[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn decoder(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic)?;
    let whole = BufReader::with_capacity(CHUNK, io::Cursor::new(magic.clone()).chain(file));
    Ok(match *magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}
