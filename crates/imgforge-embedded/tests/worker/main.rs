//! Workers carry real steps out: busybox in a sandbox, on overlay mounts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod confinement;
mod fixture;
mod layers;
mod mounts;
