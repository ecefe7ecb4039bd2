//! Layers: stacked, made without a command, looked at and removed.

use imgforge_embedded::worker::message::{
    Action, Content, ContextEntry, ContextKind, Copy, CopySource, EntryKind, Look, Reply, Request, Step, Tree,
};

use crate::fixture::{Fixture, run};

#[tokio::test]
async fn hundreds_of_layers_are_one_file_system() {
    let fixture = Fixture::new();
    let mut stack = vec![fixture.base()];
    for number in 0..400 {
        let layer = fixture.path().join(format!("a-layer-with-a-rather-long-name-{number:0>64}"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(format!("file-{number}")), "").unwrap();
        stack.push(layer);
    }
    let (Request::Step(step), _) =
        fixture.step(Action::Run(run("ls / | wc -l; test -f /file-0 && test -f /file-399")))
    else {
        panic!()
    };
    for name in ["wc", "test"] {
        std::os::unix::fs::symlink("busybox", fixture.base().join("bin").join(name)).unwrap();
    }
    let (reply, printed) = fixture.ask(&Request::Step(Step { stack, ..step })).await;
    assert!(matches!(reply, Ok(Reply::Step(None))), "{reply:?} {printed}");
    // With bin, etc, proc, sys, dev.
    assert_eq!(printed, "405\n");
}

#[tokio::test]
async fn folders_are_made_on_nothing_with_their_owner() {
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new();
    let (Request::Step(step), layer) =
        fixture.step(Action::Folder { path: "/srv/app".into(), owner: "12:34".into() })
    else {
        panic!()
    };
    let (reply, _) = fixture.ask(&Request::Step(Step { stack: Vec::new(), ..step })).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    for path in ["srv", "srv/app"] {
        let found = std::fs::metadata(layer.join(path)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12, 34, 0o755));
    }
}

#[tokio::test]
async fn copies_come_from_a_context_and_from_other_layers() {
    let fixture = Fixture::new();
    let copy = |tree, source: &str| {
        Action::Copy(Copy {
            tree,
            sources: vec![CopySource::Path(source.into())],
            target: "/to/".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            unpack: false,
        })
    };
    let content = ContextKind::File { mode: 0o755, content: Content::Bytes(b"text".into()) };
    let context = vec![ContextEntry { path: "file".into(), kind: content }];
    let (request, layer) = fixture.step(copy(Tree::Context(context), "file"));
    let (reply, _) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    let (request, second) = fixture.step(copy(Tree::Stack(vec![fixture.base(), layer]), "/to/file"));
    let (reply, _) = fixture.ask(&request).await;
    assert!(matches!(reply, Ok(Reply::Step(Some(_)))), "{reply:?}");
    assert_eq!(std::fs::read_to_string(second.join("to/file")).unwrap(), "text");
}

#[tokio::test]
async fn layers_are_looked_at_and_removed() {
    let fixture = Fixture::new();
    let paths = ["/bin/sh", "/bin", "/nowhere", "/bin/busybox/x"].map(str::to_owned).to_vec();
    let look = Look { stack: vec![fixture.base()], paths, follow: false };
    let (reply, _) = fixture.ask(&Request::Look(look)).await;
    let Ok(Reply::Look(found)) = reply else { panic!("{reply:?}") };
    let kinds: Vec<_> = found.iter().map(|entry| entry.as_ref().map(|entry| &entry.kind)).collect();
    assert!(
        matches!(kinds[..], [Some(EntryKind::Link(target)), Some(EntryKind::Folder), None, None] if target == "busybox")
    );
    let (reply, _) = fixture.ask(&Request::Walk(vec![fixture.base()])).await;
    let Ok(Reply::Walk(found)) = reply else { panic!("{reply:?}") };
    let names: Vec<_> = found.iter().map(|(path, _)| path.as_str()).take(3).collect();
    assert_eq!(names, ["/bin", "/bin/busybox", "/bin/cat"]);
    let gone = fixture.path().join("gone");
    std::fs::create_dir_all(gone.join("in/it")).unwrap();
    let (reply, _) = fixture.ask(&Request::Remove(vec![gone.clone(), fixture.path().join("nowhere")])).await;
    assert!(matches!(reply, Ok(Reply::Remove)), "{reply:?}");
    assert!(!gone.exists());
}
