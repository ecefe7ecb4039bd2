//! How much memory and processor time a group may use.

use std::io;

use camino::Utf8Path;

/// The period in which a group may use its part of the processors, in microseconds; Docker's.
const PERIOD: u64 = 100_000;

/// The limits of a container; `None` stands for all that there is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Thousandths of a processor.
    pub(crate) cpus: Option<u32>,
}

/// Limits a group's memory.
pub(super) fn set_memory(group: &Utf8Path, bytes: u64) -> io::Result<()> {
    // Docker lets a container have as much swap as memory.
    if group.join("memory.max").exists() {
        std::fs::write(group.join("memory.max"), bytes.to_string())?;
        return optional(std::fs::write(group.join("memory.swap.max"), bytes.to_string()));
    }
    std::fs::write(group.join("memory.limit_in_bytes"), bytes.to_string())?;
    let both = bytes.saturating_mul(2).to_string();
    optional(std::fs::write(group.join("memory.memsw.limit_in_bytes"), both))
}

/// Kernels without swap accounting have no such file.
fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(())
        }
        other => other,
    }
}

/// Limits a group's processor time.
pub(super) fn set_cpus(group: &Utf8Path, thousandths: u32) -> io::Result<()> {
    let quota = u64::from(thousandths) * PERIOD / 1000;
    if group.join("cpu.max").exists() {
        return std::fs::write(group.join("cpu.max"), format!("{quota} {PERIOD}"));
    }
    std::fs::write(group.join("cpu.cfs_period_us"), PERIOD.to_string())?;
    std::fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())
}

/// Returns whether a process of a group was killed because there was not enough memory.
pub(super) fn out_of_memory(group: &Utf8Path) -> bool {
    ["memory.events", "memory.oom_control"].iter().any(|file| {
        let text = std::fs::read_to_string(group.join(file)).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.any(|(key, value)| key == "oom_kill" && value != "0")
    })
}
