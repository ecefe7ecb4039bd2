//! Which devices can be opened, whatever nodes somebody makes: the controller `devices` of version 1.
//!
//! Version 2 has no such controller, but a program for the kernel (eBPF) in its place.

use std::io;

use camino::Utf8Path;

/// The rules of Docker (moby's `oci/defaults.go`, runc's `libcontainer/specconv`): all nodes can be made; null, zero,
/// full, random, urandom, tty, console, ptmx, tun and terminals can be used.
const ALLOWED: [&str; 12] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 136:* rwm",
];

/// Restricts a new group to these.
///
/// # Errors
/// Returns an error when this process may not, or when there is no such controller.
pub(super) fn restrict(group: &Utf8Path) -> io::Result<()> {
    std::fs::write(group.join("devices.deny"), "a")?;
    for rule in ALLOWED {
        match std::fs::write(group.join("devices.allow"), rule) {
            // This process may not itself.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}
