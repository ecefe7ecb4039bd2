//! A Dockerfile that fails: both engines give the same cause, by value, for the same instruction.

use std::sync::Arc;

use imgforge::CancellationToken;
use imgforge::engine::containers::RunRequest;
use imgforge::engine::{BuildError, BuildRequest, Engine, Error, Host, NotStarted, Place, StepFailure};
use imgforge_testkit::registry::{Registry, Setup};

use super::{Engines, block_on};

/// What of a failure has to be the same.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Step { stage: usize, instruction: usize, why: StepFailure },
    Source { line: usize },
    MissingImage { reference: String },
    Other(String),
}

fn step(stage: usize, instruction: usize, why: StepFailure) -> Told {
    Told::Step { stage, instruction, why }
}

async fn told(engine: &dyn Engine, request: BuildRequest) -> Told {
    match engine.build(request, Arc::new(|_| ()), CancellationToken::new()).await {
        Ok(_) => Told::Other("built".into()),
        Err(BuildError::Step { place: Some(Place { stage, instruction }), why, .. }) => {
            step(stage, instruction, why)
        }
        Err(BuildError::Source { line, .. }) => Told::Source { line },
        Err(BuildError::MissingImage { reference, .. }) => Told::MissingImage { reference },
        Err(other) => Told::Other(format!("{other:?}")),
    }
}

#[test]
fn both_engines_give_the_same_cause_for_a_dockerfile_that_fails() {
    let registry = Registry::start(Setup::default()).unwrap();
    let no_tag = format!("{}/none:1", registry.host());
    let no_digest = format!("{}/none@sha256:{}", registry.host(), "12".repeat(32));
    let no_program = |name: &str| StepFailure::NoProgram(name.into());
    let cases = [
        ("RUN true\nENV A=1\nRUN exit 7", step(0, 3, StepFailure::Exit(7))),
        ("RUN sh -c 'kill -9 $$'; exit $?", step(0, 1, StepFailure::Exit(137))),
        ("WORKDIR /\nARG A\nRUN false\nRUN false # again", step(0, 3, StepFailure::Exit(1))),
        (
            "FROM BASE AS Tools\nRUN true\nFROM tools\nRUN true\nRUN exit 3\nFROM scratch\nCOPY --from=1 / /",
            step(1, 4, StepFailure::Exit(3)),
        ),
        ("RUN [\"nosuch\"]", step(0, 1, no_program("nosuch"))),
        ("RUN [\"/no/such\", \"word\"]", step(0, 1, no_program("/no/such"))),
        ("FROM scratch\nCOPY a.txt /\nRUN true", step(0, 2, no_program("/bin/sh"))),
        (
            "RUN --mount=type=secret,id=absent,required true",
            step(0, 1, StepFailure::NoSecret("absent".into())),
        ),
        ("RUN --mount=type=ssh,required true", step(0, 1, StepFailure::NoAgent("default".into()))),
        ("RUN true\n\n# nobody knows it\nNONSENSE here", Told::Source { line: 5 }),
        ("FROM BASE\nEXPOSE 80\nHEALTHCHECK NEVER x", Told::Source { line: 3 }),
        (&format!("FROM {no_tag}\nRUN true"), Told::MissingImage { reference: no_tag.clone() }),
        (&format!("COPY --from={no_digest} /a /b"), Told::MissingImage { reference: no_digest.clone() }),
    ];
    let wrong = block_on(async {
        let engines = Engines::new().await;
        let mut wrong = Vec::new();
        for (dockerfile, expected) in &cases {
            for (engine, name) in engines.both().into_iter().zip(["Docker", "ours"]) {
                let found = told(engine, engines.request(dockerfile)).await;
                if found != *expected {
                    wrong.push(format!("--- {dockerfile}\n    {name}: {found:?}, expected {expected:?}"));
                }
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What each request for a container that cannot be fulfilled comes to.
async fn refusals(engine: &dyn Host, image: &str) -> Vec<Error> {
    let request = |image: &str, argv: &[&str]| {
        let entrypoint = argv.iter().map(|word| (*word).to_owned()).collect();
        RunRequest { image: image.into(), entrypoint: Some(entrypoint), ..RunRequest::default() }
    };
    let mut found = vec![
        engine.start(request(&format!("{image}-not"), &["true"])).await.unwrap_err(),
        engine.start(request(image, &["nosuch"])).await.unwrap_err(),
        engine.start(request(image, &["/no/such"])).await.unwrap_err(),
    ];
    let started = engine.start(request(image, &["sleep", "1000"])).await.unwrap();
    found.push(engine.exec(&started.id, &["nosuch"]).await.unwrap_err());
    engine.remove(&started.id).await.unwrap();
    found.push(engine.exec(&started.id, &["true"]).await.unwrap_err());
    let ended = engine.start(request(image, &["true"])).await.unwrap();
    engine.follow(&ended.id, Arc::new(|_, _| ())).await.unwrap();
    found.push(engine.exec(&ended.id, &["true"]).await.unwrap_err());
    engine.remove(&ended.id).await.unwrap();
    found
}

#[test]
fn both_engines_give_the_same_cause_for_a_container_that_cannot_be_had() {
    block_on(async {
        let engines = Engines::new().await;
        for engine in [&engines.docker as &dyn Host, &engines.embedded] {
            let found = refusals(engine, &engines.base).await;
            let lacks = |error: &Error, name: &str| matches!(error, Error::NotStarted(NotStarted::NoProgram(program)) if program == name);
            assert!(matches!(&found[0], Error::Absent { .. }), "{found:?}");
            assert!(lacks(&found[1], "nosuch") && lacks(&found[2], "/no/such"), "{found:?}");
            assert!(lacks(&found[3], "nosuch"), "{found:?}");
            assert!(matches!(&found[4], Error::Absent { .. }), "{found:?}");
            assert!(matches!(&found[5], Error::NotRunning { .. }), "{found:?}");
        }
    });
}
