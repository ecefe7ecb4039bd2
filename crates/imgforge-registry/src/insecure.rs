//! Which registries this machine's user calls insecure: those that a login may reach without encryption.
//!
//! A workspace can say that its registry speaks plain HTTP, and a workspace may be somebody else's: what it says is no
//! reason to send a stored password over the network for everybody to read.

use std::net::IpAddr;

use camino::Utf8PathBuf;
use imgforge_state::file;
use serde::Deserialize;

/// A variable with hosts, with commas or spaces between them.
pub(crate) const VARIABLE: &str = "IMGFORGE_INSECURE_REGISTRIES";
/// Docker's configuration has a few lines.
const LIMIT: u64 = 1 << 20;

/// What is used of Docker's `daemon.json` (dockerd(8), "Insecure registries").
#[derive(Default, Deserialize)]
#[serde(default)]
struct Daemon {
    #[serde(rename = "insecure-registries")]
    insecure_registries: Vec<String>,
}

/// Whether the user's own configuration names a registry as one without TLS: in [`VARIABLE`], or in the configuration
/// of this machine's Docker daemon.
pub(crate) fn says_so(host: &str) -> bool {
    let variable = std::env::var(VARIABLE).unwrap_or_default();
    let words = variable.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned);
    words.chain(files().into_iter().flat_map(listed)).any(|entry| covers(&entry, host))
}

/// The configuration of the daemon, and that of a daemon without root.
fn files() -> Vec<Utf8PathBuf> {
    let home = || std::env::var("HOME").ok().map(|home| Utf8PathBuf::from(home).join(".config"));
    let own = std::env::var("XDG_CONFIG_HOME").ok().filter(|path| !path.is_empty()).map(Utf8PathBuf::from);
    let own = own.or_else(home).map(|folder| folder.join("docker/daemon.json"));
    std::iter::once("/etc/docker/daemon.json".into()).chain(own).collect()
}

fn listed(path: Utf8PathBuf) -> Vec<String> {
    let bytes = file::read(&path, LIMIT).unwrap_or_default();
    // One that cannot be read says nothing of any registry.
    serde_json::from_slice::<Daemon>(&bytes).unwrap_or_default().insecure_registries
}

/// Whether an entry means this host: the same host and port, or a range of addresses that it lies in.
fn covers(entry: &str, host: &str) -> bool {
    if entry.eq_ignore_ascii_case(host) {
        return true;
    }
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    let Some((network, bits)) = entry.split_once('/') else { return false };
    let (Ok(network), Ok(bits), Ok(address)) =
        (network.parse::<IpAddr>(), bits.parse(), name.parse::<IpAddr>())
    else {
        return false;
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same_bits(u128::from(network.to_bits()) << 96, u128::from(address.to_bits()) << 96, bits)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => same_bits(network.to_bits(), address.to_bits(), bits),
        _ => false,
    }
}

/// Whether the first `bits` of both are the same.
fn same_bits(one: u128, other: u128, bits: u32) -> bool {
    bits == 0 || (bits <= 128 && (one ^ other) >> (128 - bits) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ranges_are_compared_as_docker_does() {
        for (entry, host, expected) in [
            ("registry.lan:5000", "registry.lan:5000", true),
            ("Registry.LAN:5000", "registry.lan:5000", true),
            ("registry.lan", "registry.lan:5000", false),
            ("registry.lan:5000", "evil-registry.lan:5000", false),
            ("10.0.0.0/8", "10.1.2.3:5000", true),
            ("10.0.0.0/8", "11.1.2.3:5000", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("10.0.0.0/8", "registry.lan:5000", false),
            ("10.0.0.0/99", "10.1.2.3", false),
            ("fd00::/8", "[fd12::1]:5000", true),
            ("fd00::/8", "[fe80::1]:5000", false),
        ] {
            assert_eq!(covers(entry, host), expected, "{entry} {host}");
        }
    }
}
