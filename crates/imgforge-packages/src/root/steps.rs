//! What a root's build carries out, in order, before it configures all that is left.
//!
//! Most packages are unpacked into the root's archive, which needs no program of the root. dpkg runs a package's
//! preinst script *before* it unpacks the package, and such a script may change where files go (`dpkg-divert`,
//! `dpkg-statoverride`), or look at what is there; so may the scripts of what a package pre-depends on. So a package
//! with a preinst or such a dependency is unpacked by dpkg itself, in the build, once what it pre-depends on is
//! configured (Debian policy 6.5, 7.2). Only what dpkg itself stands on cannot wait for dpkg: of these packages the
//! files are in the archive, their configuration files too, and the scripts run first, as debootstrap and mmdebstrap
//! have it. Configuration files of all others wait under another name for dpkg to configure their package, as it
//! leaves them itself when it unpacks: a hook in `/etc` must not run before what it calls is set up.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use imgforge_core::lock::LockedPackage;

use crate::deb::Deb;
use crate::stage::{Relations, file_name};

/// The steps of one root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// Positions of the packages that dpkg unpacks in the build.
    pub(crate) by_dpkg: BTreeSet<usize>,
    /// Positions of the packages that dpkg itself stands on.
    pub(crate) foundation: BTreeSet<usize>,
    /// One step a line: `preinst NAME ARCHITECTURE INFO-PREFIX`, `configure NAME…`, `unpack FILE…`.
    pub(crate) text: String,
}

impl Steps {
    /// The steps for packages, each with its control files.
    pub(crate) fn of(packages: &[LockedPackage], debs: &[Deb]) -> Self {
        let relations = Relations::of(debs);
        let foundation = foundation(packages, debs, &relations);
        let has_preinst = |at: &usize| debs[*at].info("preinst").is_some();
        let waits = |at: usize| relations.pre_depends[at].iter().any(|other| !foundation.contains(other));
        let mut first: Vec<usize> = foundation.iter().copied().filter(has_preinst).collect();
        let is_later = |at: &usize| !foundation.contains(at) && (has_preinst(at) || waits(*at));
        // base-passwd makes `/etc/passwd` in its preinst, which others look into.
        let depth = relations.depths();
        first.sort_by_key(|at| (packages[*at].name != "base-passwd", depth[*at], packages[*at].name.clone()));
        let by_dpkg = (0..debs.len()).filter(is_later).collect();
        let mut steps = Self { by_dpkg, foundation: foundation.clone(), text: String::new() };
        for at in first {
            steps.run_preinst(&packages[at], &debs[at]);
        }
        // Scripts of all others take for granted that these are set up: PAM, for one, which is not essential itself.
        steps.configure(packages, foundation.iter().copied());
        steps.unpack_in_batches(packages, &relations);
        steps
    }

    fn run_preinst(&mut self, package: &LockedPackage, deb: &Deb) {
        let (name, architecture) = (&package.name, &package.architecture);
        let _ = writeln!(self.text, "preinst {name} {architecture} {}", deb.info_prefix());
    }

    /// Each batch after what it pre-depends on is configured: that, and all that it depends on.
    fn unpack_in_batches(&mut self, packages: &[LockedPackage], relations: &Relations) {
        let mut configured = self.foundation.clone();
        let mut unpacked: BTreeSet<usize> =
            (0..packages.len()).filter(|at| !self.by_dpkg.contains(at)).collect();
        for mut batch in relations.batches() {
            batch.retain(|at| self.by_dpkg.contains(at));
            if batch.is_empty() {
                continue;
            }
            let before = batch.iter().flat_map(|at| relations.pre_depends[*at].iter().copied());
            let needed = relations.closure(before).into_iter().filter(|at| unpacked.contains(at));
            let needed: Vec<usize> = needed.filter(|at| configured.insert(*at)).collect();
            self.configure(packages, needed.into_iter());
            let files: Vec<String> = batch.iter().map(|at| file_name(&packages[*at])).collect();
            let _ = writeln!(self.text, "unpack {}", files.join(" "));
            unpacked.extend(batch);
        }
    }

    /// dpkg itself finds the order in which it configures packages.
    fn configure(&mut self, packages: &[LockedPackage], which: impl Iterator<Item = usize>) {
        let mut names: Vec<String> = which.map(|at| qualified_name(&packages[at])).collect();
        names.sort();
        if !names.is_empty() {
            let _ = writeln!(self.text, "configure {}", names.join(" "));
        }
    }
}

/// The packages without which dpkg does not run in the root: it and a shell, what is essential (others use that without
/// a word), and all that these depend on.
fn foundation(packages: &[LockedPackage], debs: &[Deb], relations: &Relations) -> BTreeSet<usize> {
    let is_first = |at: &usize| {
        matches!(packages[*at].name.as_str(), "dpkg" | "dash") || debs[*at].field("Essential") == Some("yes")
    };
    relations.closure((0..debs.len()).filter(is_first))
}

/// The name by which dpkg knows exactly one package.
fn qualified_name(package: &LockedPackage) -> String {
    match package.architecture.as_str() {
        "all" => package.name.clone(),
        architecture => format!("{}:{architecture}", package.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::InfoFile;

    fn world(controls: &[&str]) -> (Vec<LockedPackage>, Vec<Deb>) {
        controls.iter().map(|text| package_of(text)).unzip()
    }

    /// `name; Field: value; preinst`.
    fn package_of(text: &str) -> (LockedPackage, Deb) {
        let has_preinst = text.ends_with("preinst");
        let name = text.split(';').next().unwrap_or("").to_owned();
        let control = format!("Package: {}", text.trim_end_matches("; preinst").replace("; ", "\n"));
        let script = InfoFile { name: "preinst".into(), mode: 0o755, bytes: b"#!/bin/sh\n".to_vec() };
        let info = if has_preinst { vec![script] } else { Vec::new() };
        let package = LockedPackage {
            name,
            version: "1".into(),
            architecture: if text.contains("Architecture: amd64") { "amd64".into() } else { "all".into() },
            ..LockedPackage::default()
        };
        (package, Deb { control, info, data: Vec::new() })
    }

    fn steps(controls: &[&str]) -> String {
        let (packages, debs) = world(controls);
        Steps::of(&packages, &debs).text
    }

    #[test]
    fn what_dpkg_stands_on_runs_its_scripts_first_and_base_passwd_before_all_others() {
        let text = steps(&[
            "dash; Pre-Depends: libc6; preinst",
            "dpkg; Pre-Depends: libc6",
            "libc6; Architecture: amd64; Multi-Arch: same; preinst",
            "base-passwd; Essential: yes; preinst",
        ]);
        assert_eq!(
            text,
            "preinst base-passwd all base-passwd\npreinst libc6 amd64 libc6:amd64\npreinst dash all dash\n\
             configure base-passwd dash dpkg libc6:amd64\n"
        );
    }

    #[test]
    fn a_package_with_a_preinst_is_unpacked_by_dpkg_and_others_are_in_the_archive() {
        let (packages, debs) = world(&["dpkg", "divides; preinst", "plain"]);
        let steps = Steps::of(&packages, &debs);
        assert_eq!(steps.by_dpkg, BTreeSet::from([1]));
        assert_eq!(steps.text, "configure dpkg\nunpack divides_1_all.deb\n");
    }

    #[test]
    fn what_is_pre_depended_on_is_configured_with_all_that_it_needs_and_only_once() {
        let text = steps(&[
            "dpkg",
            "app; Pre-Depends: tool; preinst",
            "tool; Depends: lib",
            "lib; Architecture: amd64; Depends: data",
            "data; preinst",
            "late; Pre-Depends: app, tool; preinst",
            "free; Depends: late",
            "waits; Pre-Depends: late",
        ]);
        assert_eq!(
            text,
            "configure dpkg\nunpack data_1_all.deb\nconfigure data lib:amd64 tool\nunpack app_1_all.deb\nconfigure app\n\
             unpack late_1_all.deb\nconfigure late\nunpack waits_1_all.deb\n"
        );
    }

    #[test]
    fn what_a_package_depends_on_is_unpacked_before_it() {
        // The preinst of jabber-muc calls adduser, which calls the programs of passwd.
        let text = steps(&[
            "dpkg",
            "adduser; Depends: passwd; preinst",
            "jabber-muc; Depends: adduser; preinst",
            "passwd; preinst",
        ]);
        assert_eq!(text, "configure dpkg\nunpack passwd_1_all.deb adduser_1_all.deb jabber-muc_1_all.deb\n");
    }

    proptest::proptest! {
        /// Whatever the relations are, no step names what is not unpacked yet, and all is unpacked once.
        #[test]
        fn no_step_needs_what_comes_later(
            kinds in proptest::collection::vec((proptest::bool::ANY, 0_usize..12, 0_usize..12), 1..12),
        ) {
            let mut controls = vec!["dpkg".to_owned()];
            // Only what has a smaller number is pre-depended on: circles of that are forbidden (policy 7.2).
            for (at, (has_preinst, pre, depends)) in kinds.iter().enumerate() {
                let mut text = format!("p{at}; Depends: p{depends}");
                if *pre < at { text.push_str(&format!("; Pre-Depends: p{pre}")); }
                if *has_preinst { text.push_str("; preinst"); }
                controls.push(text);
            }
            let texts: Vec<&str> = controls.iter().map(String::as_str).collect();
            let (packages, debs) = world(&texts);
            let steps = Steps::of(&packages, &debs);
            let mut unpacked: BTreeSet<String> = packages
                .iter()
                .enumerate()
                .filter(|(at, _)| !steps.by_dpkg.contains(at))
                .map(|(_, package)| package.name.clone())
                .collect();
            for line in steps.text.lines() {
                let (verb, words) = line.split_once(' ').unwrap();
                for word in words.split(' ') {
                    let name = word.split('_').next().unwrap().to_owned();
                    match verb {
                        "unpack" => proptest::prop_assert!(unpacked.insert(name)),
                        _ => proptest::prop_assert!(unpacked.contains(&name), "{line} in\n{}", steps.text),
                    }
                }
            }
            proptest::prop_assert_eq!(unpacked.len(), packages.len());
        }
    }
}
