//! The client against Debian's docker-registry, straight and through a proxy that fails.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;
mod docker;
mod faults;
mod images;
mod login;
mod uploads;
