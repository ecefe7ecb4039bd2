//! The configuration of an image: what the OCI image specification says ("OCI Image Configuration"), and what Docker
//! has beside it ("Docker Image Specification v1.3": `Healthcheck`, `OnBuild`, `Shell`).

#![allow(clippy::zero_sized_map_values, reason = "Go's sets are JSON objects with empty values")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

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
    /// The digest of each uncompressed layer, lowest first.
    #[serde(default, deserialize_with = "null")]
    pub diff_ids: Vec<Digest>,
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
    /// Makes the configuration of `scratch` for a platform (`linux/amd64`, `linux/arm/v7`).
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

/// Returns the digests of the uncompressed layers that a configuration names, the lowest first, whatever else it says.
///
/// # Errors
/// Returns an error for what is no JSON, or has no `rootfs`.
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Layers {
        rootfs: Ids,
    }
    #[derive(Deserialize)]
    struct Ids {
        #[serde(default)]
        diff_ids: Vec<Digest>,
    }
    Ok(serde_json::from_slice::<Layers>(config)?.rootfs.diff_ids)
}

/// Returns the chain id of a layer on top of others: what names all of them together (image specification, "Layer
/// ChainID").
pub fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => diff_id.clone(),
        Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_same_bytes_as_ever() {
        let mut config = ImageConfig::scratch("linux/arm64/v8");
        config.created = Some("2000-01-01T00:00:00Z".to_owned());
        config.config.env = vec!["PATH=/bin".to_owned()];
        config.config.cmd = Some(vec!["sh".to_owned()]);
        config.config.exposed_ports = Some(BTreeMap::from([("80/tcp".to_owned(), Empty {})]));
        config.config.labels = Some(BTreeMap::from([("k".to_owned(), "v".to_owned())]));
        config.config.healthcheck =
            Some(Healthcheck { test: vec!["NONE".to_owned()], retries: 3, ..Healthcheck::default() });
        config
            .rootfs
            .diff_ids
            .push("sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b".parse().unwrap());
        let made = History { created_by: Some("RUN".to_owned()), empty_layer: true, ..History::default() };
        config.history.push(made);
        config.other.insert("author".to_owned(), "someone".into());
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            text,
            r#"{"created":"2000-01-01T00:00:00Z","architecture":"arm64","variant":"v8","os":"linux","config":{"ExposedPorts":{"80/tcp":{}},"Env":["PATH=/bin"],"Cmd":["sh"],"Labels":{"k":"v"},"Healthcheck":{"Test":["NONE"],"Retries":3}},"rootfs":{"type":"layers","diff_ids":["sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b"]},"history":[{"created_by":"RUN","empty_layer":true}],"author":"someone"}"#
        );
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
        oci_spec::image::ImageConfiguration::from_reader(text.as_bytes()).unwrap();
        let docker = text.replace("[\"PATH=/bin\"]", "null");
        assert!(serde_json::from_str::<ImageConfig>(&docker).unwrap().config.env.is_empty());
    }
}
