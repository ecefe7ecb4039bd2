//! End-to-end tests, one module per thing a user does. They need a Docker Engine, busybox-static and, for the example
//! family, Debian's package mirrors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod alpine;
mod badluck;
mod building;
mod confinement;
mod conformance;
mod differential;
mod docs;
mod embedded;
mod export;
mod externals;
mod family;
mod files;
mod fingerprints;
mod foreign;
mod importing;
mod layouts;
mod lint;
mod looking;
mod mistakes;
mod network;
mod packages;
mod promoting;
mod recorded;
mod records;
mod registry;
mod requests;
mod roots;
mod running;
mod secrets;
mod services;
mod testing;
mod updates;
mod vanished;

use imgforge_testkit::workspace::{Ran, TestWorkspace};

/// The command that is tested.
const IMGFORGE: &str = env!("CARGO_BIN_EXE_imgforge");

fn imgforge(workspace: &TestWorkspace, args: &[&str]) -> Ran {
    workspace.run(IMGFORGE, args)
}

/// `base` -> `mid` -> `left`, `right`; and `other`, which stands on `base` and takes a file from `left`.
fn small_family() -> TestWorkspace {
    let workspace = TestWorkspace::new();
    workspace.busybox_base("base");
    workspace.image("mid", "    from \"base\"\n    copy \"mid.conf\" \"/etc/mid.conf\"");
    workspace.write("mid/mid.conf", "one\n");
    for name in ["left", "right"] {
        workspace.image(name, &format!("    from \"mid\"\n    run \"echo {name} > /name\""));
    }
    workspace.image("other", "    from \"base\"\n    copy \"/name\" \"/left-name\" from=\"left\"");
    workspace
}

/// `{"left": "build", ...}` of `plan --format json`.
fn actions(plan: &serde_json::Value) -> std::collections::BTreeMap<String, String> {
    let targets = plan["targets"].as_array().expect("targets");
    let row = |row: &serde_json::Value| {
        let text = |key: &str| row[key].as_str().expect("a text").to_owned();
        (text("name"), text("action"))
    };
    targets.iter().map(row).collect()
}

/// The names of the targets with an action.
fn with_action(plan: &serde_json::Value, action: &str) -> Vec<String> {
    actions(plan).into_iter().filter(|(_, a)| a == action).map(|(name, _)| name).collect()
}
