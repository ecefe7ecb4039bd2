//! Archives of anyone, unpacked by ADD: nothing outside the root is touched.

#![no_main]

use std::sync::LazyLock;

use imgforge_embedded::copy::copy;
use imgforge_embedded::worker::message::{Content, ContextEntry, ContextKind, Copy, CopySource, Tree};
use imgforge_fuzz::{Place, tar_of};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::mount);

fuzz_target!(
    init: LazyLock::force(&PLACE),
    |input: &[u8]| {
        let root = PLACE.path("inside");
        std::fs::create_dir(&root).expect("the root is made");
        let content = Content::Bytes(tar_of(input));
        let file = ContextEntry { path: "a".into(), kind: ContextKind::File { mode: 0o644, content } };
        let add = Copy {
            tree: Tree::Context(vec![file]),
            sources: vec![CopySource::Path("a".into())],
            target: "/to/".into(),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            unpack: true,
        };
        // What is no tar is copied, what is a broken one is an error.
        let _ = copy(&root, None, &add, 0);
        PLACE.clean();
    }
);
