//! Root file systems: what dpkg does when it unpacks is done to them too. The same packages are put into a root and
//! on top of one, where dpkg itself unpacks each of them, and both pass the same tests.

use camino::Utf8Path;
use imgforge_testkit::apt::{Key, Package, Repository};
use imgforge_testkit::http::Server;
use imgforge_testkit::workspace::{Ran, TestWorkspace};

use crate::IMGFORGE;
use crate::packages::{append, essential};

/// A signed repository of Debian's essential packages and a test's own, and a workspace that takes its packages from
/// it.
struct World {
    workspace: TestWorkspace,
    server: Server,
    folder: tempfile::TempDir,
}

impl World {
    fn new(add: impl FnOnce(&mut Repository)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().join("repository");
        let (key, mut apt) = (Key::generate().unwrap(), Repository::new(&root));
        for (file, name) in essential() {
            apt.add_file(file, name).unwrap();
        }
        add(&mut apt);
        apt.publish(&key, &[]).unwrap();
        let server = Server::start(root).unwrap();
        let workspace = TestWorkspace::new();
        let source = format!(
            "apt \"local\" {{\n    suite \"stable\"\n    uri \"{}\"\n    keyring \"keys.gpg\"\n}}\n",
            server.uri()
        );
        append(&workspace, "imgforge.kdl", &source);
        std::fs::write(workspace.root().join("keys.gpg"), key.keyring().unwrap()).unwrap();
        Self { workspace, server, folder }
    }

    /// `whole` has the packages in its root, `onto` on top of one; both have the tests.
    fn images(&self, packages: &[&str], tests: &str) {
        let packages = format!("    packages \"local\" \"{}\"\n", packages.join("\" \""));
        self.workspace.image("os", "    root \"local\"");
        self.workspace.image("whole", &format!("    root \"local\"\n{packages}{tests}"));
        self.workspace.image("onto", &format!("    from \"os\"\n{packages}{tests}"));
    }

    fn run(&self, engine: &str, args: &[&str]) -> Ran {
        let mut command = self.workspace.command(IMGFORGE, args);
        command.env("IMGFORGE_CACHE", self.folder.path().join("cache")).env("IMGFORGE_ENGINE", engine);
        Ran::of(command.output().unwrap())
    }

    fn build_with_both_engines(&self) {
        for engine in ["embedded", "docker"] {
            let built = self.run(engine, &["build"]).ok();
            assert!(built.stderr.contains("3 built"), "{}", built.stderr);
        }
    }
}

/// A test of a manifest: a shell command that has to succeed, and what it has to print.
fn prints(command: &str, output: &str) -> String {
    let output = output.trim_end().replace('\n', "\\n");
    format!("        command \"sh\" \"-c\" #\"{command}\"# stdout=\"{output}\"\n")
}

fn package<'a>(
    name: &'a str,
    fields: &'a [(&'a str, &'a str)],
    files: &'a [(&'a str, &'a str)],
) -> Package<'a> {
    Package { name, version: "1.0", fields, files }
}

#[test]
fn packages_in_a_root_are_unpacked_as_dpkg_unpacks_them() {
    let world = World::new(|apt| {
        let mut add = |package: &Package<'_>, control: &[(&str, &str)]| {
            apt.add_with(package, control).unwrap();
        };
        // A diversion by a preinst; the package whose file it moves comes before it in the alphabet.
        add(
            &package(
                "a-tool",
                &[],
                &[("/usr/bin/tool", "#!/bin/sh\necho tool\n"), ("/usr/share/a-tool", "\n")],
            ),
            &[],
        );
        let divert = "#!/bin/sh\nset -e\ndpkg-divert --package wrapper --add --rename \
                      --divert /usr/bin/tool.real /usr/bin/tool\n";
        add(
            &package("wrapper", &[], &[("/usr/bin/tool", "#!/bin/sh\necho \"wrapped $(tool.real)\"\n")]),
            &[("preinst", divert)],
        );
        // A preinst that needs what it pre-depends on to be configured, and that its dependency.
        add(&package("z-base", &[], &[("/usr/share/z-base/word", "ready\n")]), &[]);
        let ready = "#!/bin/sh\nset -e\ncp /usr/share/z-base/word /etc/z-helper\n";
        add(
            &package(
                "z-helper",
                &[("Depends", "z-base")],
                &[("/usr/bin/z-helper", "#!/bin/sh\ncat /etc/z-helper\n")],
            ),
            &[("postinst", ready)],
        );
        let needs =
            "#!/bin/sh\nset -e\n[ \"$(z-helper)\" = ready ]\n[ \"$1\" = install ]\npwd > /etc/careful.cwd\n";
        add(
            &package("careful", &[("Pre-Depends", "z-helper")], &[("/usr/share/careful/f", "f\n")]),
            &[("preinst", needs)],
        );
        // An override of a mode that what a package pre-depends on makes for a file of it.
        let over = "#!/bin/sh\nset -e\ndpkg-statoverride --add root root 4750 /usr/lib/over/run\n";
        add(&package("over-rule", &[], &[("/usr/share/over", "\n")]), &[("postinst", over)]);
        add(&package("over", &[("Pre-Depends", "over-rule")], &[("/usr/lib/over/run", "x\n")]), &[]);
        // Configuration files outside of /etc, and no md5sums, of which dpkg makes its own.
        add(
            &package("conf", &[], &[("/opt/conf/conf", "c\n"), ("/opt/conf/f", "f\n")]),
            &[("conffiles", "/opt/conf/conf\n")],
        );
        // A preinst that takes for granted what every Debian system has: PAM, set up by a script of its own.
        let adds = "#!/bin/sh\nset -e\ntest -s /etc/pam.d/common-auth\n";
        add(&package("pam-user", &[], &[("/usr/share/pam-user", "\n")]), &[("preinst", adds)]);
        // A configuration file is there once its package is configured: a hook is not run before what it calls is set
        // up.
        let hooks = "#!/bin/sh\nset -e\n[ ! -e /etc/run.d/hook ] || . /etc/run.d/hook\n";
        add(&package("runner", &[], &[("/usr/share/runner", "\n")]), &[("postinst", hooks)]);
        add(
            &package("hook", &[("Depends", "runner")], &[("/etc/run.d/hook", "cat /etc/hook.ready\n")]),
            &[("conffiles", "/etc/run.d/hook\n"), ("postinst", "#!/bin/sh\n: > /etc/hook.ready\n")],
        );
        // Only older versions may be taken over, so that nothing is lost here.
        add(
            &package("new-owner", &[("Replaces", "old-owner (<< 2)")], &[("/usr/share/owned", "new\n")]),
            &[],
        );
        add(&package("old-owner", &[], &[("/usr/share/owned", "old\n"), ("/usr/share/kept", "old\n")]), &[]);
        // A trigger that is noticed when files are unpacked.
        let note = "#!/bin/sh\nset -e\nls /usr/share/noted > /etc/noted\n";
        add(
            &package("watcher", &[], &[("/usr/share/watcher", "\n")]),
            &[("triggers", "interest-noawait /usr/share/noted\n"), ("postinst", note)],
        );
        add(&package("noted", &[], &[("/usr/share/noted/one", "1\n")]), &[]);
    });
    let all = [
        "a-tool",
        "wrapper",
        "careful",
        "over",
        "conf",
        "hook",
        "new-owner",
        "old-owner",
        "watcher",
        "noted",
    ];
    let tests = [
        prints("tool", "wrapped tool\n"),
        prints(
            "dpkg-divert --list '*tool*'",
            "diversion of /usr/bin/tool to /usr/bin/tool.real by wrapper\n",
        ),
        prints("cat /etc/careful.cwd /etc/z-helper /etc/noted", "/\nready\none\n"),
        prints(
            "stat -c %a /usr/lib/over/run; dpkg-statoverride --list",
            "4750\nroot root 4750 /usr/lib/over/run\n",
        ),
        prints(
            "cat /var/lib/dpkg/info/conf.md5sums | cut -d' ' -f3; dpkg-query -W -f '${Conffiles}' conf",
            "opt/conf/conf\nopt/conf/f\n /opt/conf/conf 2cd6ee2c70b0bde53fbe6cac3c8b8bb1",
        ),
        prints("ls /etc/run.d /etc/hook.ready", "/etc/hook.ready\n\n/etc/run.d:\nhook\n"),
        prints(
            "cat /usr/share/owned; dpkg -S /usr/share/owned /usr/share/kept",
            "new\nnew-owner: /usr/share/owned\nold-owner: /usr/share/kept\n",
        ),
        prints(
            "dpkg --audit; dpkg --verify a-tool wrapper careful over conf hook new-owner watcher noted",
            "",
        ),
    ];
    world.images(&all, &format!("    test {{\n{}    }}", tests.concat()));
    world.build_with_both_engines();
}

#[test]
fn a_file_whose_name_in_the_index_has_a_percent_sign_is_asked_for_by_that_name() {
    let world = World::new(|apt| {
        let package =
            Package { name: "epoch", version: "1:1.0", fields: &[], files: &[("/usr/share/epoch", "1\n")] };
        apt.add_as(&package, &[], "epoch_1%3a1.0_all.deb").unwrap();
    });
    world.images(&["epoch"], "");
    world.run("embedded", &["build", "onto"]).ok();
    let asked = world.server.requests();
    assert!(asked.iter().any(|path| path == "/pool/epoch_1%253a1.0_all.deb"), "{asked:?}");
}
