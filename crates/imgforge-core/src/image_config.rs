//! The configuration of an image: what the OCI image specification says ("OCI Image Configuration"), and what Docker
//! has beside it ("Docker Image Specification v1.3": `Healthcheck`, `OnBuild`, `Shell`).

#![allow(clippy::zero_sized_map_values, reason = "Go's sets are JSON objects with empty values")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole configuration blob. What is not known here is kept as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// As RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// `amd64`.
    pub architecture: String,
    /// `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `linux`.
    pub os: String,
    /// What containers begin with.
    #[serde(default)]
    pub config: Settings,
    /// The layers.
    pub rootfs: RootFs,
    /// How each came to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// What containers begin with. Docker writes the names with capitals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Settings {
    /// USER.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `8080/tcp` → `{}`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// `NAME=VALUE`, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null")]
    pub env: Vec<String>,
    /// ENTRYPOINT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// CMD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// VOLUME.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// WORKDIR.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// LABEL.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "null")]
    pub labels: Option<BTreeMap<String, String>>,
    /// STOPSIGNAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Whether the command is one string for Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// HEALTHCHECK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// ONBUILD.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null")]
    pub on_build: Vec<String>,
    /// SHELL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// `{}`, as Go writes a set's values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// HEALTHCHECK. Times are in nanoseconds; 0 is the default of whoever runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", COMMAND]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two tries.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Of one try.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two tries in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// How many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `sha256:` of each uncompressed layer, lowest first.
    #[serde(default, deserialize_with = "null")]
    pub diff_ids: Vec<String>,
}

/// How a layer came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// As RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether no layer belongs to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Everything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

impl ImageConfig {
    /// The configuration of `scratch` for a platform (`linux/amd64`, `linux/arm/v7`).
    pub fn scratch(platform: &str) -> Self {
        let mut parts = platform.split('/');
        let os = parts.next().unwrap_or("linux").to_owned();
        let architecture = parts.next().unwrap_or("amd64").to_owned();
        Self {
            created: None,
            architecture,
            variant: parts.next().map(str::to_owned),
            os,
            config: Settings::default(),
            rootfs: RootFs::default(),
            history: Vec::new(),
            other: BTreeMap::new(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Docker writes `null` for what is empty.
fn null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
