//! A blob while it is written: the tar's hash, compression, and the blob's hash in one pass.
//!
//! The tar is cut into blocks of a fixed size, which are compressed independently of one another, on as many threads
//! as there are processors; so the bytes do not depend on how many those are. gzip: one member of many deflate blocks,
//! each with the last 32 KiB before it as its dictionary, the way `pigz` does it. zstd: one frame a block, which the
//! format allows (RFC 8878, section 3). What fits into one block is compressed without threads.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Crc, FlushCompress, Status};
use imgforge_oci::{Digest, Hasher, MediaType};

use crate::worker::message::{Compression, Layer};

/// zlib's usual level.
const GZIP_LEVEL: u32 = 6;
/// zstd's usual level.
const ZSTD_LEVEL: i32 = 3;
/// The distance that deflate can look back.
const WINDOW: usize = 32 << 10;

fn block_size(compression: Compression) -> usize {
    match compression {
        Compression::Gzip => 256 << 10,
        Compression::Zstd => 4 << 20,
    }
}

/// Takes a tar, writes a blob.
pub(super) struct BlobWriter {
    compression: Compression,
    threads: usize,
    tar: Hasher,
    unpacked: u64,
    /// The block that is being filled.
    block: Vec<u8>,
    /// The end of the block before.
    before: Vec<u8>,
    way: Way,
}

/// The way in which blocks are compressed.
enum Way {
    Here(Box<(Compressor, Output)>),
    Threads(Threads),
    /// Only while one becomes the other, or after an error.
    None,
}

impl BlobWriter {
    /// Writes to a file that is empty. With one thread, no other is started.
    pub(super) fn new(file: File, compression: Compression, threads: usize) -> io::Result<Self> {
        Ok(Self {
            compression,
            threads,
            tar: Hasher::sha256(),
            unpacked: 0,
            block: Vec::new(),
            before: Vec::new(),
            way: Way::Here(Box::new((Compressor::new(compression)?, Output::new(file, compression)?))),
        })
    }

    fn end_block(&mut self, is_last: bool) -> io::Result<()> {
        let next = if is_last { Vec::new() } else { Vec::with_capacity(block_size(self.compression)) };
        let block = std::mem::replace(&mut self.block, next);
        let tail = block[block.len().saturating_sub(WINDOW)..].to_vec();
        let before = std::mem::replace(&mut self.before, tail);
        if !is_last && self.threads > 1 {
            self.way = match std::mem::replace(&mut self.way, Way::None) {
                Way::Here(here) => Way::Threads(Threads::start(self.compression, self.threads, here.1)?),
                other => other,
            };
        }
        match &mut self.way {
            Way::Here(here) => {
                let packed = here.0.compress(&before, &block)?;
                here.1.append(&packed)
            }
            Way::Threads(threads) => threads.give(before, block),
            Way::None => Err(io::Error::other("the blob could not be written before")),
        }
    }

    /// Ends the blob. The layer's hashes and sizes.
    pub(super) fn finish(mut self) -> io::Result<Layer> {
        if !self.block.is_empty() {
            self.end_block(true)?;
        }
        let output = match self.way {
            Way::Here(here) => here.1,
            Way::Threads(threads) => threads.finish()?,
            Way::None => return Err(io::Error::other("the blob could not be written before")),
        };
        let (digest, size) = output.finish()?;
        let media_type = match self.compression {
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
        };
        Ok(Layer { diff_id: self.tar.finish(), digest, size, media_type, unpacked_size: self.unpacked })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = block_size(self.compression);
        if self.block.len() == size {
            self.end_block(false)?;
        }
        let len = bytes.len().min(size - self.block.len());
        self.tar.update(&bytes[..len]);
        self.unpacked += len as u64;
        self.block.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A compressed block.
struct Packed {
    bytes: Vec<u8>,
    /// Of what it was before; gzip only.
    crc: Crc,
}

/// Compresses blocks.
enum Compressor {
    Gzip,
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip => Self::Gzip,
            Compression::Zstd => Self::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        })
    }

    fn compress(&mut self, before: &[u8], block: &[u8]) -> io::Result<Packed> {
        let mut crc = Crc::new();
        let bytes = match self {
            Self::Gzip => {
                crc.update(block);
                // A new one each time: after `reset`, zlib-rs hashes what an earlier block has left behind the
                // dictionary.
                let mut deflate = Compress::new(flate2::Compression::new(GZIP_LEVEL), false);
                if !before.is_empty() {
                    deflate.set_dictionary(before)?;
                }
                let mut bytes = Vec::with_capacity(block.len() / 2 + 1024);
                let mut rest = block;
                loop {
                    let taken = deflate.total_in();
                    // A sync flush ends on a whole byte; it is done when it leaves room.
                    let status = deflate.compress_vec(rest, &mut bytes, FlushCompress::Sync)?;
                    let taken = usize::try_from(deflate.total_in() - taken).unwrap_or(rest.len());
                    rest = &rest[taken..];
                    if rest.is_empty() && bytes.len() < bytes.capacity() {
                        break bytes;
                    }
                    if status == Status::StreamEnd {
                        return Err(io::Error::other("deflate ended before its input"));
                    }
                    bytes.reserve(block.len() / 4 + 1024);
                }
            }
            Self::Zstd(zstd) => zstd.compress(block)?,
        };
        Ok(Packed { bytes, crc })
    }
}

/// The blob's file.
struct Output {
    file: File,
    hash: Hasher,
    size: u64,
    compression: Compression,
    crc: Crc,
}

impl Output {
    fn new(file: File, compression: Compression) -> io::Result<Self> {
        let mut output = Self { file, hash: Hasher::sha256(), size: 0, compression, crc: Crc::new() };
        if compression == Compression::Gzip {
            // RFC 1952: deflate, no name, no time, unknown system.
            output.write(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        }
        Ok(output)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn append(&mut self, packed: &Packed) -> io::Result<()> {
        self.crc.combine(&packed.crc);
        self.write(&packed.bytes)
    }

    fn finish(mut self) -> io::Result<(Digest, u64)> {
        if self.compression == Compression::Gzip {
            self.write(&[3, 0])?; // An empty last block.
            let (sum, amount) = (self.crc.sum(), self.crc.amount());
            self.write(&sum.to_le_bytes())?;
            self.write(&amount.to_le_bytes())?;
        }
        Ok((self.hash.finish(), self.size))
    }
}

/// A block on its way.
struct Job {
    before: Vec<u8>,
    block: Vec<u8>,
    done: SyncSender<io::Result<Packed>>,
}

/// Threads that compress, and one that writes what they make in its order.
struct Threads {
    jobs: Option<SyncSender<Job>>,
    order: Option<SyncSender<Receiver<io::Result<Packed>>>>,
    compressors: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<io::Result<Output>>>,
}

impl Threads {
    fn start(compression: Compression, threads: usize, mut output: Output) -> io::Result<Self> {
        // As many blocks wait as are worked on: that bounds the memory.
        let (jobs, queue) = sync_channel::<Job>(threads);
        let (order, ordered) = sync_channel::<Receiver<io::Result<Packed>>>(2 * threads);
        let queue = Arc::new(Mutex::new(queue));
        let mut compressors = Vec::new();
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let mut compressor = Compressor::new(compression)?;
            let work = move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { before, block, done }) = job else { return };
                    // Nobody waits after an error.
                    let _ = done.send(compressor.compress(&before, &block));
                }
            };
            compressors.push(std::thread::Builder::new().name("compress".into()).spawn(work)?);
        }
        let write = move || {
            for packed in ordered {
                let packed =
                    packed.recv().map_err(|_| io::Error::other("a thread that compresses is gone"))??;
                output.append(&packed)?;
            }
            Ok(output)
        };
        let writer = std::thread::Builder::new().name("write blob".into()).spawn(write)?;
        Ok(Self { jobs: Some(jobs), order: Some(order), compressors, writer: Some(writer) })
    }

    fn give(&mut self, before: Vec<u8>, block: Vec<u8>) -> io::Result<()> {
        let (done, packed) = sync_channel(1);
        let given = match (&self.order, &self.jobs) {
            (Some(order), Some(jobs)) => {
                order.send(packed).is_ok() && jobs.send(Job { before, block, done }).is_ok()
            }
            _ => false,
        };
        if given {
            return Ok(());
        }
        // The writer has stopped: it knows why.
        self.end()?;
        Err(io::Error::other("the threads that write the blob are gone"))
    }

    fn finish(mut self) -> io::Result<Output> {
        self.end()?.ok_or_else(|| io::Error::other("the blob was ended twice"))
    }

    /// Waits for all threads.
    fn end(&mut self) -> io::Result<Option<Output>> {
        (self.jobs, self.order) = (None, None);
        for thread in self.compressors.drain(..) {
            thread.join().map_err(|_| io::Error::other("a thread that compresses panicked"))?;
        }
        let Some(writer) = self.writer.take() else { return Ok(None) };
        writer.join().map_err(|_| io::Error::other("the thread that writes the blob panicked"))?.map(Some)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // After an error elsewhere: the file must not be written to any more when the caller removes it.
        let _ = self.end();
    }
}
