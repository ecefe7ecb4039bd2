//! How commands run and end, and what they leave.

use imgforge_embedded::worker::WorkerError;
use imgforge_embedded::worker::message::{Action, NotStarted, Reply, Run};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, file, list, run, runs, seconds};

#[tokio::test]
async fn a_command_changes_files_and_they_become_a_layer() {
    let fixture = Fixture::new();
    let (reply, printed, layer) =
        fixture.sh("echo hello; echo world >&2; echo new > /file; id; ls -la /proc/self/fd").await;
    assert!(matches!(reply, Reply::Step(Some(_))), "{reply:?}");
    assert!(printed.starts_with("hello\nworld\nuid=0 gid=0\n"), "{printed}");
    assert_eq!(std::fs::read_to_string(layer.join("file")).unwrap(), "new\n");
    assert_eq!(list(&layer), ["file"], "nothing tells of the mounts");
}

#[tokio::test]
async fn a_command_that_touches_nothing_gives_no_layer() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.base().join("etc")).unwrap();
    std::fs::create_dir_all(fixture.base().join("usr/share")).unwrap();
    let mut run = run("cat /etc/hosts /usr/share/deep/er; cat /proc/self/mounts > /dev/null");
    run.mounts.push(file("/usr/share/deep/er", "seen\n"));
    let (request, layer) = fixture.step(Action::Run(run));
    let (reply, printed) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(None))), "{reply:?} {printed}");
    assert!(printed.ends_with("seen\n") && printed.contains("127.0.0.1\tlocalhost"), "{printed}");
    assert!(!layer.exists());
    // What a command does in a folder that was copied up for a mount point is in the layer.
    let (_, _, layer) = fixture.sh("touch /etc/new").await;
    assert_eq!(list(&layer.join("etc")), ["new"]);
}

#[tokio::test]
async fn how_a_command_ends_is_told_as_a_shell_tells_it() {
    let fixture = Fixture::new();
    let code = async |script: &str| match fixture.sh(script).await.0 {
        Reply::Failed { code, is_full: false } => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code("exit 7").await, 7);
    assert_eq!(code("nowhere").await, 127);
    // Process 1 is not killed by signals of its own namespace that it does not handle, as in Docker.
    assert_eq!(code("sh -c 'kill -9 $$'; exit $?").await, 137);
    let exec = async |program: &str| {
        let argv = vec![program.to_owned()];
        let (request, _) = fixture.step(Action::Run(Run { argv, ..run("") }));
        let (reply, printed) = fixture.ask(&request).await;
        match reply {
            Ok(Reply::Failed { code, is_full: false }) => (code, printed),
            other => panic!("{other:?} {printed}"),
        }
    };
    let argv = vec!["nowhere".to_owned()];
    let (request, _) = fixture.step(Action::Run(Run { argv, ..run("") }));
    let (reply, printed) = fixture.ask(&request).await;
    let absent = NotStarted::NoProgram("nowhere".into());
    assert!(matches!(&reply, Ok(Reply::NotStarted(found)) if *found == absent), "{reply:?}");
    assert_eq!(printed, "");
    std::fs::write(fixture.base().join("bin/text"), "#!/nowhere\n").unwrap();
    assert_eq!(exec("/bin/text").await.0, 126);
    rustix::fs::chmod(fixture.base().join("bin/text").as_std_path(), 0o755.into()).unwrap();
    let (code, printed) = exec("text").await;
    assert_eq!(code, 127);
    assert!(printed.contains("interpreter"), "{printed}");
}

#[tokio::test]
async fn after_its_time_a_command_and_all_that_it_started_is_killed() {
    let fixture = Fixture::new();
    let long = seconds();
    let run = Run { timeout: Some(1), ..run(&format!("sleep {long} & echo begun; sleep {long}")) };
    let (request, layer) = fixture.step(Action::Run(run));
    let begun = std::time::Instant::now();
    let (reply, printed) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::TimedOut)), "{reply:?}");
    assert_eq!(printed, "begun\n");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!runs(&long), "a process is left");
    assert!(!layer.exists());
}

#[tokio::test]
async fn a_process_in_the_background_ends_with_the_command() {
    let fixture = Fixture::new();
    let long = seconds();
    let (reply, ..) = fixture.sh(&format!("sleep {long} & touch /done")).await;
    assert!(matches!(reply, Reply::Step(Some(_))), "{reply:?}");
    assert!(!runs(&long), "a process is left");
}

#[tokio::test]
async fn a_cancelled_worker_leaves_nothing() {
    let fixture = Fixture::new();
    for how in ["cancelled", "dropped"] {
        let long = seconds();
        let (request, layer) = fixture.step(Action::Run(run(&format!("sleep {long} & sleep {long}"))));
        let cancel = CancellationToken::new();
        let asked = fixture.ask_until(&request, &cancel);
        let stop = async {
            while !runs(&long) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            if how == "cancelled" {
                cancel.cancel();
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            (reply, _) = asked => assert!(matches!(reply, Err(WorkerError::Cancelled)), "{reply:?}"),
            () = stop => assert_eq!(how, "dropped"),
        }
        // The kernel needs a moment for what was killed.
        for _ in 0..200 {
            if !runs(&long) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(!runs(&long), "{how}: a process is left");
        assert!(!layer.exists());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(fixture.path().as_str()), "{mounts}");
}
