//! The engine that needs no daemon: it carries Dockerfiles out on overlay file systems in namespaces of its own, and
//! keeps images as an OCI image layout.
//!
//! The way of one build: the Dockerfile becomes a program (`imgforge_dockerfile::program`); each step that
//! changes files is looked up by everything that it depends on ([`store`]); if it is new, a [`worker`] carries it out
//! on an overlay mount and packs what has changed as a layer ([`layer`]); configuration, manifest and name are written
//! last. A worker is a process of its own, which has its own mounts: when it ends, however it ends, they are gone.

pub mod accounts;
mod agent;
mod build;
pub(crate) mod cgroup;
mod containers;
pub mod copy;
mod engine;
mod fetch;
mod key;
pub mod layer;
mod lines;
mod network;
mod node;
mod pull;
pub mod sandbox;
pub mod store;
pub mod worker;

pub use engine::{Embedded, Settings};
pub use worker::called;
