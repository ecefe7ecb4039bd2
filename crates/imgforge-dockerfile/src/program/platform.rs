//! Names of platforms.

/// A platform as system, architecture and variant, as containerd's `platforms` normalises them; what is left out is
/// that of `default`.
pub(super) fn normal_platform(text: &str, default: &str) -> Option<(String, String, String)> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let lower = text.to_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    if !parts.iter().all(|part| is_part(part)) {
        return None;
    }
    let default_arch = default.split('/').nth(1).unwrap_or("amd64");
    let default_variant = default.split('/').nth(2).unwrap_or("");
    let systems = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "macos"];
    let (system, arch, variant) = match parts.as_slice() {
        [system] if systems.contains(system) => (*system, default_arch, default_variant),
        [arch] if normal_arch(arch, "").is_some() => ("linux", *arch, ""),
        [system, arch] => (*system, *arch, ""),
        [system, arch, variant] => (*system, *arch, *variant),
        _ => return None,
    };
    let system = if system == "macos" { "darwin" } else { system };
    let (arch, variant) = normal_arch(arch, variant).unwrap_or((arch.to_owned(), variant.to_owned()));
    Some((system.to_owned(), arch, variant))
}

/// The usual name of a known architecture, and its variant where that is not the common one.
fn normal_arch(arch: &str, variant: &str) -> Option<(String, String)> {
    let (arch, variant) = match (arch, variant) {
        ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
        ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
        ("arm64" | "aarch64", "8" | "v8") => ("arm64", ""),
        ("arm64" | "aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7" | "v7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6" | "v6") => ("arm", "v6"),
        ("arm", variant) => ("arm", variant),
        ("386" | "i386", _) => ("386", ""),
        ("riscv64" | "ppc64le" | "s390x" | "mips64le" | "mips64" | "loong64" | "ppc64", variant) => {
            (arch, variant)
        }
        _ => return None,
    };
    Some((arch.to_owned(), variant.to_owned()))
}
