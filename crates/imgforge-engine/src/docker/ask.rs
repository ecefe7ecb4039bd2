//! What the daemon says of containers and images, read only as far as it is needed.
//!
//! bollard knows every member of an answer and every word that may stand in it. An engine that has another word for
//! one state of a container (Podman: `stopped`) would have no containers for it. Here a member that nobody asks for
//! may be anything, and a word is a text until somebody compares it.

use std::collections::{BTreeMap, HashMap};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use imgforge_oci::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::{Docker, causes, wire};
use crate::Error;

/// `GET /containers/ID/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Container {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) name: String,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) state: State,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) network_settings: NetworkSettings,
}

/// The state of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) running: bool,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) exit_code: i64,
    #[serde(rename = "OOMKilled", deserialize_with = "null_is_nothing")]
    pub(super) oom_killed: bool,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) health: HealthState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HealthState {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkSettings {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) networks: HashMap<String, Network>,
    /// By `PORT/PROTOCOL`.
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) ports: BTreeMap<String, Option<Vec<Binding>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Network {
    #[serde(rename = "IPAddress", deserialize_with = "null_is_nothing")]
    pub(super) ip_address: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Binding {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) host_ip: String,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) host_port: String,
}

/// One of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedContainer {
    pub(super) id: String,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) names: Vec<String>,
    #[serde(default, rename = "ImageID", deserialize_with = "image_id_or_none")]
    pub(super) image_id: Option<Digest>,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) labels: HashMap<String, String>,
}

/// `GET /images/NAME/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Image {
    #[serde(deserialize_with = "image_id")]
    pub(super) id: Digest,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) size: i64,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) config: Config,
    #[serde(default, rename = "RootFS", deserialize_with = "null_is_nothing")]
    pub(super) root: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) healthcheck: Healthcheck,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Healthcheck {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) test: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RootFs {
    #[serde(deserialize_with = "null_is_nothing")]
    pub(super) layers: Vec<Digest>,
}

/// One of `GET /images/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedImage {
    #[serde(deserialize_with = "image_id")]
    pub(super) id: Digest,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) created: i64,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_nothing")]
    pub(super) labels: HashMap<String, String>,
}

fn null_is_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An image's id: Docker writes `sha256:` in front, Podman's lists have the digits alone.
fn image_id_of(text: &str) -> Option<Digest> {
    text.parse().or_else(|_| Digest::from_sha256_hex(text)).ok()
}

fn image_id<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(from)?;
    image_id_of(&text).ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no image's id")))
}

fn image_id_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.as_deref().and_then(image_id_of))
}

impl Docker {
    /// Asks for a container.
    pub(super) async fn container(&self, id: &str) -> Result<Container, Error> {
        self.get(&format!("containers/{id}/json")).await
    }

    /// The containers that fit a filter; those that have ended too when `all`.
    pub(super) async fn containers(
        &self,
        all: bool,
        filter: Option<(&str, &str)>,
    ) -> Result<Vec<ListedContainer>, Error> {
        self.get(&format!("containers/json?all={all}{}", filters(filter))).await
    }

    /// Asks for an image.
    pub(super) async fn image(&self, name: &str) -> Result<Image, Error> {
        self.get(&format!("images/{name}/json")).await
    }

    /// The images that fit a filter.
    pub(super) async fn images(&self, filter: (&str, &str)) -> Result<Vec<ListedImage>, Error> {
        self.get(&format!("images/json?all=false{}", filters(Some(filter)))).await
    }

    /// Asks for a path of the interface.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let (status, body) = self.answer(&self.path(path)).await?;
        if status >= 400 {
            #[derive(Deserialize)]
            struct Said {
                message: String,
            }
            let said = serde_json::from_slice::<Said>(&body).map(|said| said.message);
            let message = said.unwrap_or_else(|_| String::from_utf8_lossy(&body).trim().to_owned());
            return Err(causes::of_status(status, message));
        }
        let strange =
            |error| Error::Connection { message: format!("a strange answer to GET {path}: {error}") };
        serde_json::from_slice(&body).map_err(strange)
    }

    /// A connection for one question: to a socket of this machine it costs next to nothing.
    async fn answer(&self, target: &str) -> Result<(u16, Vec<u8>), Error> {
        let failed = |message: String| Error::Connection { message };
        let wire = wire::open(&self.endpoint).await.map_err(|error| failed(error.to_string()))?;
        let broken = |error: hyper::Error| failed(crate::error::with_causes(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(wire)).await.map_err(broken)?;
        let request = Request::get(target).header("host", "docker").body(Empty::<bytes::Bytes>::new());
        let request = request.map_err(|error| failed(error.to_string()))?;
        let asking = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            Ok((status, answer.into_body().collect().await?.to_bytes().to_vec()))
        };
        let mut connection = std::pin::pin!(connection);
        let mut asking = std::pin::pin!(asking);
        let answered = tokio::select! {
            answered = &mut asking => answered,
            // Its end is told to whoever waits for the answer.
            _ = &mut connection => asking.await,
        };
        answered.map_err(broken)
    }
}

/// `&filters=` and JSON, in the letters of a URL.
fn filters(filter: Option<(&str, &str)>) -> String {
    let Some((key, value)) = filter else { return String::new() };
    let json = serde_json::json!({ key: [value] }).to_string();
    let encoded = json.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    format!("&filters={}", encoded.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_nobody_knows_and_members_that_are_null_are_read_over() {
        let text = r#"{"Id":"1","Name":null,"State":{"Status":"stopped","Running":false,"ExitCode":3,"Health":
            {"Status":"bored"}},"HostConfig":{"CgroupnsMode":"odd"},"NetworkSettings":{"Networks":null,"Ports":{"80/tcp":null}}}"#;
        let container: Container = serde_json::from_str(text).unwrap();
        assert_eq!((container.state.exit_code, container.state.health.status.as_str()), (3, "bored"));
        let text = r#"{"Id":"1","State":"stopped","Names":null,"Labels":null,"Ports":[{"Type":"odd"}],"Mounts":[{"Type":"odd"}]}"#;
        assert_eq!(serde_json::from_str::<ListedContainer>(text).unwrap().id, "1");
        let id = Digest::sha256(b"image");
        let text = format!(r#"{{"Id":"{id}","RepoTags":null,"Labels":null,"Created":"2026"}}"#);
        assert!(serde_json::from_str::<ListedImage>(&text).is_err(), "what is needed is still asked for");
        let text = format!(r#"{{"Id":"{id}","RepoTags":null,"Labels":null,"Manifests":[{{"Kind":"odd"}}]}}"#);
        assert!(serde_json::from_str::<ListedImage>(&text).unwrap().repo_tags.is_empty());
    }

    #[test]
    fn the_id_of_an_image_may_lack_its_algorithm() {
        let id = Digest::sha256(b"image");
        for written in [id.to_string(), id.hex().to_owned()] {
            let container: ListedContainer =
                serde_json::from_str(&format!(r#"{{"Id":"1","ImageID":"{written}"}}"#)).unwrap();
            assert_eq!(container.image_id.as_ref(), Some(&id));
            let image: ListedImage = serde_json::from_str(&format!(r#"{{"Id":"{written}"}}"#)).unwrap();
            assert_eq!(image.id, id);
        }
        for written in [r#""""#, "null", r#""busybox""#] {
            let text = format!(r#"{{"Id":"1","ImageID":{written}}}"#);
            assert_eq!(serde_json::from_str::<ListedContainer>(&text).unwrap().image_id, None);
        }
        assert!(serde_json::from_str::<Image>(r#"{"Id":"busybox"}"#).is_err());
    }

    #[test]
    fn filters_are_json_in_the_letters_of_a_url() {
        assert_eq!(filters(Some(("label", "a=b"))), "&filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D");
        assert_eq!(filters(None), "");
    }
}
