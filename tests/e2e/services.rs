//! Services in containers of the embedded engine; what they mean under each supervisor is shown in those of Docker, by
//! the conformance suite.

use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::conformance::images::ENVIRON;
use crate::conformance::variables::{environ, variables};
use crate::imgforge;

const APT: &str = "apt \"debian\" {\n    suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\"\n}\n";

const SUPERVISORS: [&str; 3] = ["s6", "runit", "supervisord"];

/// An image `web-SUPERVISOR` for each, with these services.
fn family(services: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write("imgforge.kdl", &(described + APT));
    workspace.image("os", "    root \"debian\"\n    user \"app\" uid=1000 home=\"/srv/app\"");
    for supervisor in SUPERVISORS {
        let name = format!("web-{supervisor}");
        workspace.write(&format!("{name}/environ"), ENVIRON);
        workspace.image(
            &name,
            &format!("    from \"os\"\n    supervisor \"{supervisor}\"\n    copy \"environ\" \"/usr/local/bin/\" mode=\"0755\"\n{services}"),
        );
    }
    workspace
}

/// Runs it in a container of the embedded engine until it ends.
fn run(workspace: &TestWorkspace, supervisor: &str, options: &[&str]) -> Ran {
    let image = format!("web-{supervisor}");
    let words = [&["run", &image, "-q", "--engine", "embedded"], options].concat();
    imgforge(workspace, &words).ok()
}

/// Daemons that take 0 to 250 ms to get a session of their own after the oneshot has ended.
#[test]
fn a_oneshot_loses_no_daemon_however_long_that_takes_to_get_a_session() {
    let daemon = |delay: u32| {
        format!(
            "    service \"daemon-{delay}\" {{\n        type \"oneshot\"\n        script \"(sleep 0.{delay:03}; exec setsid sleep 1{delay:03}) &\"\n    }}\n"
        )
    };
    let delays = [0, 1, 5, 20, 50, 250];
    let needs: String = delays.map(|delay| format!(" \"daemon-{delay}\"")).concat();
    let look = format!(
        "    service \"look\" {{\n        script \"sleep 1; cat /proc/[0-9]*/cmdline | tr '\\\\0' ' '\"\n        needs{needs}\n        essential #true\n        log \"stdout\" prefix=#false\n    }}\n"
    );
    let workspace = family(&(delays.map(daemon).concat() + &look));
    for supervisor in SUPERVISORS {
        for _ in 0..3 {
            let ran = run(&workspace, supervisor, &[]);
            for delay in delays {
                let words = format!("sleep 1{delay:03} ");
                assert!(ran.stdout.contains(&words), "{words} under {supervisor}: {}", ran.stdout);
            }
        }
    }
}

#[test]
fn a_service_gets_the_variables_of_its_container_whatever_their_names() {
    let workspace = family(
        "    service \"main\" {\n        command \"environ\" \"shown\"\n        user \"app\"\n        essential #true\n        log \"stdout\" prefix=#false\n    }\n",
    );
    let mut given = variables("container");
    let given_as: Vec<String> = given.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let options: Vec<&str> = given_as.iter().flat_map(|pair| ["-e", pair]).collect();
    given.insert("HOME".into(), "/srv/app".into());
    for supervisor in SUPERVISORS {
        let mut found = environ(&run(&workspace, supervisor, &options).stdout);
        // The container's name.
        found.remove("HOSTNAME");
        assert_eq!(found, given, "under {supervisor}");
    }
}
