//! What the daemon and those behind it say, read: BuildKit, its Dockerfile frontend, runc, registries, the libc of what
//! runs in a step.
//!
//! BuildKit has typed errors (its `solver/errdefs`: the vertex, the lines of the source), which go into the details of
//! a gRPC status. The daemon of Docker 20.10 sends none: of every failure there are a code, always `Unknown`, and a
//! text. bollard has no types for them either. So texts are what is read, and this is the place where their words are
//! known.

use bollard::errors::Error as Bollard;
use imgforge_oci::reference::{LATEST, Parts};

use crate::error::with_causes;
use crate::{BuildError, Error, NotStarted, StepFailure};

/// How runc ends what it says of a program that is not there.
const NO_PROGRAM: [&str; 2] = ["no such file or directory", "executable file not found"];

/// What a registry or the daemon says of an image that is not there. Docker Hub says "repository does not exist".
const NO_IMAGE: [&str; 3] = ["not found", "manifest unknown", "does not exist"];

impl From<Bollard> for Error {
    fn from(error: Bollard) -> Self {
        match error {
            Bollard::DockerResponseServerError { status_code, message } => of_status(status_code, message),
            other => Self::Connection { message: with_causes(&other) },
        }
    }
}

/// The error that an HTTP status of the daemon's interface means.
pub(super) fn of_status(status: u16, message: String) -> Error {
    if status == 404 { Error::Absent { message } } else { Error::Refused { message } }
}

/// The same of a request to a container: a conflict says that it does not run.
pub(super) fn of_container(error: Bollard) -> Error {
    match error {
        Bollard::DockerResponseServerError { status_code: 409, message } => Error::NotRunning { message },
        other => of_start(other),
    }
}

/// The same of a request that starts a program.
pub(super) fn of_start(error: Bollard) -> Error {
    match Error::from(error) {
        Error::Refused { message } => match not_started(&message) {
            Some(why) => Error::NotStarted(why),
            None => Error::Refused { message: message.trim().to_owned() },
        },
        other => other,
    }
}

/// What keeps runc from starting a program; `None` when runc has said something else.
pub(super) fn not_started(message: &str) -> Option<NotStarted> {
    let (_, rest) = message.trim().split_once("exec: \"")?;
    let (program, why) = rest.split_once("\": ")?;
    Some(if NO_PROGRAM.iter().any(|end| why.contains(end)) {
        NotStarted::NoProgram(program.to_owned())
    } else {
        NotStarted::Other(format!("{program}: {}", why.trim_end_matches(": unknown")))
    })
}

/// The same of a program that was to run beside what runs in a container: the daemon says it on that program's stdout.
pub(super) fn not_executed(code: i64, stdout: &str) -> Option<NotStarted> {
    if code == 0 || !stdout.starts_with("OCI runtime exec failed") {
        return None;
    }
    Some(not_started(stdout).unwrap_or_else(|| NotStarted::Other(stdout.trim().to_owned())))
}

/// Whether the daemon has found its disk full.
pub(super) fn is_full(message: &str) -> bool {
    message.contains("no space left on device")
}

/// Whether a vertex was stopped because another one failed.
pub(super) fn is_stopped(error: &str) -> bool {
    error.contains("context canceled")
}

/// Why a step failed: what BuildKit says, and the end of the step's log.
///
/// Daemons up to 20.10 say `executor failed running [/bin/sh -c X]: exit code: 7`, later ones
/// `process "/bin/sh -c X" did not complete successfully: exit code: 7`.
pub(super) fn of_step(error: &str, log: &[String]) -> StepFailure {
    let status = error.rsplit_once("exit code: ").and_then(|(_, status)| status.trim().parse::<i64>().ok());
    let Some(status) = status else {
        return missing(error).unwrap_or_else(|| StepFailure::Other(in_the_image(error)));
    };
    if let Some(program) = missing_program(log) {
        return StepFailure::NoProgram(program);
    }
    // Commands say it in the words of the libc.
    if log.iter().any(|line| line.contains("No space left on device")) {
        return StepFailure::NoSpace { status };
    }
    StepFailure::Exit(status)
}

/// The program that a step could not be started with, as runc says it on its own behalf.
fn missing_program(log: &[String]) -> Option<String> {
    let line = log.iter().find(|line| line.contains("unable to start container process"))?;
    match not_started(line)? {
        NotStarted::NoProgram(program) => Some(program),
        NotStarted::Other(_) => None,
    }
}

/// A secret or an agent that a step needs and that is not given. The daemon says of a secret that it is not found, in
/// words of its own, and of an agent what it was told by us.
fn missing(error: &str) -> Option<StepFailure> {
    if let Some((_, id)) = error.strip_suffix(": not found").and_then(|error| error.rsplit_once("secret ")) {
        // Daemons up to 20.10 say it twice.
        return Some(StepFailure::NoSecret(id.strip_suffix(" not found").unwrap_or(id).to_owned()));
    }
    let (_, told) = error.split_once("desc = it needs the ssh agent \"")?;
    told.split_once('"').map(|(id, _)| StepFailure::NoAgent(id.to_owned()))
}

/// A message with the daemon's mount points taken off its paths: `/var/lib/docker/overlay2/HASH/merged/etc` is `/etc`.
fn in_the_image(message: &str) -> String {
    let words = message.split(' ').map(|word| match word.split_once("/merged/") {
        Some((mount, rest)) if mount.starts_with('/') => format!("/{rest}"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Why a build was given up before or beside its steps. `images` are those that the Dockerfile names.
pub(super) fn refused(message: String, images: &[String]) -> BuildError {
    if let Some((line, why)) = wrong_line(&message) {
        return BuildError::Source { line, why: why.to_owned() };
    }
    match missing_image(&message, images) {
        Some(reference) => BuildError::MissingImage { reference, message },
        None => BuildError::Refused { message },
    }
}

/// The image of a Dockerfile of which a message says that nobody has it.
pub(super) fn missing_image(message: &str, images: &[String]) -> Option<String> {
    if !NO_IMAGE.iter().any(|words| message.contains(words)) {
        return None;
    }
    images.iter().find(|image| names(message, image)).cloned()
}

/// Whether a message names an image, which it does with the host of its registry and with its tag or digest.
fn names(message: &str, image: &str) -> bool {
    let Parts { name, tag, digest } = Parts::of(image);
    match digest {
        Some(digest) => message.contains(digest),
        None => message.contains(&format!("{name}:{}", tag.unwrap_or(LATEST))),
    }
}

/// `... dockerfile parse error line 2: unknown flag: network`, as BuildKit says it: the line from 1, and what is wrong
/// with it. Later ones say `on line 2`.
fn wrong_line(message: &str) -> Option<(usize, &str)> {
    let (_, rest) = message.split_once("parse error ")?;
    let (line, why) = rest.strip_prefix("on ").unwrap_or(rest).strip_prefix("line ")?.split_once(": ")?;
    line.parse().ok().filter(|line| *line > 0).map(|line| (line, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_SHELL: &str = "runc run failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory";

    fn of_silent_step(error: &str) -> StepFailure {
        of_step(error, &[])
    }

    #[test]
    fn exit_codes_are_read_from_old_and_new_daemons() {
        let new = "process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7";
        let old = "executor failed running [/bin/sh -c exit 7]: exit code: 7";
        assert_eq!(of_silent_step(new), StepFailure::Exit(7));
        assert_eq!(of_silent_step(old), StepFailure::Exit(7));
        let other = "\"/x\" not found: not found";
        assert_eq!(of_silent_step(other), StepFailure::Other(other.into()));
    }

    #[test]
    fn only_runc_speaks_of_a_program_that_is_missing() {
        let of = |line: &str| of_step("executor failed running [/bin/sh -c x]: exit code: 1", &[line.into()]);
        assert_eq!(of(NO_SHELL), StepFailure::NoProgram("/bin/sh".into()));
        assert_eq!(of("exec: \"x\": no such file or directory"), StepFailure::Exit(1));
        let denied = NO_SHELL.replace("no such file or directory", "permission denied");
        assert_eq!(of(&denied), StepFailure::Exit(1));
    }

    #[test]
    fn a_command_that_finds_the_disk_full_is_told_from_others() {
        let log = ["cat: write error: No space left on device".to_owned()];
        let error = "executor failed running [/bin/sh -c cat /blob > /copy]: exit code: 1";
        assert_eq!(of_step(error, &log), StepFailure::NoSpace { status: 1 });
    }

    #[test]
    fn secrets_and_agents_that_are_missing_are_known_by_their_ids() {
        assert_eq!(of_silent_step("secret no not found: not found"), StepFailure::NoSecret("no".into()));
        assert_eq!(of_silent_step("secret no: not found"), StepFailure::NoSecret("no".into()));
        let told = crate::secrets::missing_agent("default");
        let error = format!("rpc error: code = NotFound desc = {told}");
        assert_eq!(of_silent_step(&error), StepFailure::NoAgent("default".into()));
    }

    #[test]
    fn paths_of_the_daemon_become_paths_of_the_image() {
        let told = "lstat /var/lib/docker/overlay2/0a1b/merged/no/such: no such file or directory";
        assert_eq!(in_the_image(told), "lstat /no/such: no such file or directory");
        assert_eq!(in_the_image("a/merged/b is kept"), "a/merged/b is kept");
    }

    #[test]
    fn the_line_that_is_wrong_is_read_from_old_and_new_daemons() {
        let old = "failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 7: unknown instruction: NONSENSE";
        let new = "dockerfile parse error on line 7: unknown instruction: NONSENSE";
        for message in [old, new] {
            let found = refused(message.into(), &[]);
            let BuildError::Source { line: 7, why } = &found else { panic!("{found:?}") };
            assert_eq!(why, "unknown instruction: NONSENSE");
        }
        let other = "failed to create LLB definition: Invalid containerPort: many";
        assert!(matches!(refused(other.into(), &[]), BuildError::Refused { message } if message == other));
    }

    #[test]
    fn an_image_that_is_missing_is_one_of_those_that_the_dockerfile_names() {
        let digest = format!("sha256:{}", "12".repeat(32));
        let by_digest = format!("127.0.0.1:5000/tools/base:1@{digest}");
        let images = ["alpine".to_owned(), by_digest.clone(), "ws/parent:f-1".to_owned()];
        let missing = |message: &str| match refused(message.into(), &images) {
            BuildError::MissingImage { reference, message: told } if told == message => Some(reference),
            BuildError::Refused { .. } => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            missing(&format!("127.0.0.1:5000/tools/base@{digest}: not found")),
            Some(by_digest.clone())
        );
        let from = format!("FROM 127.0.0.1:5000/tools/base:1@{digest}: manifest unknown");
        assert_eq!(missing_image(&from, &images), Some(by_digest));
        let hub = "docker.io/library/alpine:latest: pull access denied, repository does not exist or may require authorization";
        assert_eq!(missing(hub), Some("alpine".into()));
        assert_eq!(missing("docker.io/ws/parent:f-1: not found"), Some("ws/parent:f-1".into()));
        assert_eq!(missing("docker.io/ws/other:f-1: not found"), None);
        assert_eq!(missing("docker.io/ws/parent:f-1: connection refused"), None);
    }

    #[test]
    fn what_keeps_a_program_from_being_started_is_told_without_the_runtime() {
        let told = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nosuch\": \
                    executable file not found in $PATH: unknown";
        assert_eq!(not_executed(126, told), Some(NotStarted::NoProgram("nosuch".into())));
        assert_eq!(not_executed(0, told), None, "a program has printed it");
        let denied = "OCI runtime create failed: unable to start container process: exec: \"/etc\": \
                      permission denied: unknown";
        assert_eq!(not_started(denied), Some(NotStarted::Other("/etc: permission denied".into())));
        assert_eq!(not_started("something else\n"), None);
    }
}
