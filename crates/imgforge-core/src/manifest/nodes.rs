//! The nodes that manifests know, as one table of the lists that their readers refuse other words with.

use super::{around, base, image, run, service, test, workspace};

/// For each file, and for each node with a block, the nodes that may stand in it.
pub const NODES: [(&str, &[&str]); 11] = [
    ("imgforge.kdl", workspace::TOP),
    ("workspace", workspace::IN_WORKSPACE),
    ("apt", workspace::IN_APT),
    ("apk", workspace::IN_APK),
    ("image.kdl", image::TOP),
    ("image", image::IN_IMAGE),
    ("root", base::IN_ROOT),
    ("run", run::IN_RUN),
    ("lint", around::IN_LINT),
    ("service", service::IN_SERVICE),
    ("test", test::IN_TEST),
];
