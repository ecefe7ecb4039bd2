//! The pure half of imgforge: from manifest text to a plan and a schedule.
//!
//! Data goes one way, each arrow one function:
//!
//! ```text
//! KDL text      -> Manifest        manifest::read        what one file says, with spans
//! Manifests     -> Workspace       workspace::load       names resolved, defaults applied
//! Workspace     -> ImageGraph      graph::ImageGraph     edges; cycles refused
//! ImageGraph    -> Selection       select::select        which images the user means
//! image         -> RenderedImage   render::render        Dockerfile + context entries
//! RenderedImage -> InputManifest   inputs::Inputs        every input, named and hashed
//! Fingerprints  -> Plan            plan::plan            compared with the inventory
//! Plan          -> Schedule        schedule::Schedule    "what may start now?"
//! ```
//!
//! Nothing here touches the disk, the network, the clock, the environment or a daemon: files come from a
//! [`source::Source`].

pub mod cause;
pub mod container;
pub mod context;
pub mod diagnostic;
pub mod dockerignore;
pub mod event;
pub mod export;
pub mod fingerprint;
pub mod glob;
pub mod graph;
pub mod inputs;
mod kdl_text;
pub mod links;
pub mod lint;
pub mod lock;
pub mod manifest;
pub mod modes;
pub mod name;
pub mod plan;
pub mod private_key;
pub mod promotion;
pub mod render;
pub mod schedule;
pub mod select;
pub mod services;
pub mod source;
pub mod tag;
mod template;
pub mod testing;
pub mod text;
pub mod workspace;
