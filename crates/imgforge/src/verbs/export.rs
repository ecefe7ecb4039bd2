//! `imgforge export IMAGE`: the files that run an image somewhere else (`--to`), or the image itself as files.

use std::process::ExitCode;

use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, ValueEnum};
use imgforge::core::export::{ExportedFile, Scheduler};
use imgforge::core::name::Tag;
use imgforge::{ArchiveTarget, Error, Reference, Session};
use imgforge_oci::Digest;

use crate::Global;
use crate::console::{DIM, GOOD, count, print_file, say};
use crate::failure::Failure;
use crate::verbs::open;

/// Write the files that run an image under a scheduler, or images as files
///
/// With --to: ports, volumes, environment, user, resources, probes and the time to stop come from the manifests of
/// the image's chain; nothing is built and no engine is asked. What the format cannot say is said on stderr.
/// Templates of the same names in templates/export/ of the workspace come before the built-in ones.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  imgforge export guestbook --to compose > compose.yaml\n  imgforge export guestbook --to kubernetes --content-tag | kubectl apply -f -\n  imgforge export guestbook --to quadlet -o ~/.config/containers/systemd\n  imgforge export guestbook --oci out/            skopeo copy oci:out docker://...\n  imgforge export web+ --docker-archive web.tar   docker load -i web.tar"
)]
pub(crate) struct Export {
    /// The image; with --oci and --docker-archive also a selector
    #[arg(value_name = "IMAGE")]
    image: String,
    /// For what
    #[arg(long, value_enum, value_name = "SCHEDULER", required_unless_present_any = ["oci", "docker_archive"])]
    to: Option<To>,
    /// Write the image itself into this folder, an OCI image layout, which is added to when it is there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "docker_archive", "output"])]
    oci: Option<Utf8PathBuf>,
    /// Write the image itself as a file that `docker load` takes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "output"])]
    docker_archive: Option<Utf8PathBuf>,
    /// Write files into this folder instead of printing them; existing ones are replaced
    #[arg(short, long, value_name = "DIR")]
    output: Option<Utf8PathBuf>,
    #[command(flatten)]
    reference: WhichReference,
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// A Compose file, for docker-compose 1.29 and what follows the Compose specification
    Compose,
    /// A Deployment, a Service and a PersistentVolumeClaim for each volume
    Kubernetes,
    /// An app in JSON
    Marathon,
    /// A job for the docker driver
    Nomad,
    /// A line for each service
    Procfile,
    /// .container and .volume units for Podman 5
    Quadlet,
}

/// How the files name the image.
#[derive(Args)]
#[group(multiple = false)]
struct WhichReference {
    /// Name the image by this tag [default: its first release tag]
    #[arg(long, value_name = "TAG", value_parser = |text: &str| Tag::new(text))]
    tag: Option<Tag>,
    /// Name it by the tag of its content, which is never moved
    #[arg(long)]
    content_tag: bool,
    /// Name it by the digest of its manifest
    #[arg(long, value_name = "sha256:...", value_parser = |text: &str| text.parse::<Digest>())]
    digest: Option<Digest>,
    /// Name it so
    #[arg(long, value_name = "REFERENCE", value_parser = whole)]
    image_reference: Option<String>,
}

impl WhichReference {
    fn get(&self) -> Reference {
        match (&self.tag, &self.digest, &self.image_reference) {
            (Some(tag), ..) => Reference::Tag(tag.clone()),
            (_, Some(digest), _) => Reference::Digest(digest.clone()),
            (.., Some(reference)) => Reference::Whole(reference.clone()),
            _ if self.content_tag => Reference::Content,
            _ => Reference::Release,
        }
    }
}

/// Checks a reference, which is written as it is: a scheduler has short forms of its own.
fn whole(text: &str) -> Result<String, String> {
    let checked = text.parse::<imgforge_oci::Reference>();
    checked.map(|_| text.to_owned()).map_err(|error| error.reason().to_owned())
}

impl Export {
    pub(crate) fn run(&self, global: &Global) -> Result<ExitCode, Failure> {
        let session = open(global)?;
        let target = match (&self.oci, &self.docker_archive) {
            (Some(folder), _) => Some((folder, ArchiveTarget::OciLayout(folder.clone()))),
            (None, Some(file)) => Some((file, ArchiveTarget::DockerArchive(file.clone()))),
            (None, None) => None,
        };
        if let Some((path, target)) = target {
            let selected = session.select(std::slice::from_ref(&self.image), &[])?;
            let written = session.export_images(&selected, &target)?;
            if !global.quiet {
                say(GOOD, "Wrote", format_args!("{} to {path}", count(written, "image")));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let name = session.image(&self.image)?;
        let Some(to) = self.to else { return Ok(ExitCode::SUCCESS) };
        let exported = session.export(&name, to.into(), &self.reference.get())?;
        if !global.quiet {
            exported.notes.iter().for_each(|note| say(DIM, "Note", note));
        }
        match &self.output {
            None => print_file(&joined(&exported.files)),
            Some(folder) => write(&session, folder, &exported.files, global.quiet)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl From<To> for Scheduler {
    fn from(to: To) -> Self {
        match to {
            To::Compose => Self::Compose,
            To::Kubernetes => Self::Kubernetes,
            To::Marathon => Self::Marathon,
            To::Nomad => Self::Nomad,
            To::Procfile => Self::Procfile,
            To::Quadlet => Self::Quadlet,
        }
    }
}

/// One file as it is; of several, each after a line with its name.
fn joined(files: &[ExportedFile]) -> String {
    match files {
        [file] => file.text.clone(),
        files => {
            files.iter().map(|file| format!("# {}\n{}", file.name, file.text)).collect::<Vec<_>>().join("\n")
        }
    }
}

/// Each file is whole or not there; all are rendered before the first is written.
fn write(session: &Session, folder: &Utf8Path, files: &[ExportedFile], quiet: bool) -> Result<(), Error> {
    for file in files {
        let path = folder.join(&file.name);
        imgforge_state::cache_file::replace(&path, file.text.as_bytes())
            .map_err(|error| Error::Io { path: path.clone(), error })?;
        if !quiet {
            let shown = path.strip_prefix(session.root()).unwrap_or(&path);
            say(GOOD, "Wrote", shown);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_checked() {
        let pinned = format!("registry.example.com:5000/a/b@{}", Digest::sha256(b""));
        assert_eq!(whole(&pinned).as_ref(), Ok(&pinned));
        for wrong in ["", "a b", "a\nb", "a$b", "a@sha256:00"] {
            assert!(whole(wrong).is_err(), "{wrong}");
        }
    }
}
