//! For tests only: workspaces on disk, real apt and apk repositories, a real container registry with a proxy that
//! fails on demand, and what tests leave in a real Docker Engine.

pub mod apk;
pub mod apt;
pub mod docker;
pub mod engine;
pub mod fault_proxy;
pub mod http;
pub mod machine;
pub mod needs;
pub mod registry;
pub mod socket_proxy;
pub mod token_server;
pub mod workspace;

use std::sync::atomic::{AtomicU32, Ordering};

/// A name that no other test of this or another run uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
