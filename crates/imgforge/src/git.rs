//! git, asked so that nothing that a repository says is run.
//!
//! What a repository's own configuration names is run by git in many places: `core.fsmonitor` when the index is read,
//! hooks when it is written, filters when files are written, transports when an object of a partial clone is missing. A
//! workspace is often a clone of somebody else's, or an unpacked archive that brings its `.git` along. So:
//!
//! - the repository itself is only asked with plumbing that writes no files, with [`OVERRIDES`] before what it
//!   configures and without any transport;
//! - a commit is checked out with an empty repository's configuration, which borrows the objects: filters run where
//!   the user's own or the system's configuration describes them, and a filter that only the repository describes is
//!   an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};

/// The settings that come before all that a repository configures. A bare repository among a workspace's files counts
/// as files (git-config(1), `safe.bareRepository`).
const OVERRIDES: [&str; 4] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "safe.bareRepository=explicit",
    "maintenance.auto=false",
];

/// Settings of a repository that decide what its files are like and name no program.
const CARRIED: [&str; 3] = ["core.autocrlf", "core.eol", "core.attributesFile"];

/// A repository, by a folder in its work tree.
pub(crate) struct Git<'f> {
    folder: &'f Utf8Path,
}

impl<'f> Git<'f> {
    /// The repository that `folder` lies in, if it lies in one.
    pub(crate) fn of(folder: &'f Utf8Path) -> Self {
        Self { folder }
    }

    /// Returns what git prints in one line; `None` when it does not know, or is not there.
    pub(crate) fn line(&self, arguments: &[&str]) -> Option<String> {
        let text = String::from_utf8(self.ask(arguments).ok()?).ok()?;
        let line = text.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// Returns whether the index has `path`, or anything below it; `None` when there is no git, no repository, or an
    /// index that git cannot read.
    pub(crate) fn tracks(&self, path: &Utf8Path) -> Option<bool> {
        let listed = self.ask(&["ls-files", "-z", "--cached", "--", path.as_str()]).ok()?;
        Some(!listed.is_empty())
    }

    /// The commits that a revision or a range means.
    ///
    /// # Errors
    /// Returns git's own message, in one line.
    pub(crate) fn commits(&self, revision: &str) -> Result<Vec<String>, String> {
        let listed = self.ask(&["rev-list", "--no-walk", "--end-of-options", revision, "--"])?;
        Ok(String::from_utf8_lossy(&listed).lines().map(str::to_owned).collect())
    }

    /// The path of the folder below the top of the work tree; empty for the top.
    ///
    /// # Errors
    /// Returns git's own message, in one line.
    pub(crate) fn prefix(&self) -> Result<String, String> {
        Ok(line(self.ask(&["rev-parse", "--show-prefix"])?))
    }

    /// Writes the files of a commit into the folder `to`, which is made, as git checks them out. The work tree and
    /// the index of the repository are not touched.
    ///
    /// # Errors
    /// Returns git's own message, in one line; or names a file whose filter only the repository's own configuration
    /// describes.
    pub(crate) fn check_out(&self, commit: &str, to: &Utf8Path) -> Result<(), String> {
        let empty = tempfile::tempdir().map_err(|error| error.to_string())?;
        let folder =
            Utf8Path::from_path(empty.path()).ok_or("the folder for temporary files is not UTF-8")?;
        let clean = self.borrowed(folder, to)?;
        clean.ask(&["read-tree", commit])?;
        self.refuse_own_filters(&clean)?;
        clean.ask(&["checkout-index", "--all"]).map(drop)
    }

    /// An empty repository in `folder`, with the objects of this one and with `tree` as its work tree.
    fn borrowed<'t>(&self, folder: &Utf8Path, tree: &'t Utf8Path) -> Result<Borrowed<'t>, String> {
        let io = |error: std::io::Error| error.to_string();
        let path = |name: &str| -> Result<Utf8PathBuf, String> {
            Ok(self.folder.join(line(self.ask(&["rev-parse", "--git-path", name])?)))
        };
        let format = self.line(&["rev-parse", "--show-object-format"]).unwrap_or_else(|| "sha1".to_owned());
        let extension = match format.as_str() {
            "sha1" => String::new(),
            format => format!("[extensions]\n\tobjectFormat = {format}\n"),
        };
        let version = i32::from(format != "sha1");
        let config = format!("[core]\n\trepositoryFormatVersion = {version}\n\tbare = false\n{extension}");
        for made in ["objects", "refs", "info"] {
            fs::create_dir(folder.join(made)).map_err(io)?;
        }
        fs::create_dir_all(tree).map_err(io)?;
        fs::write(folder.join("HEAD"), "ref: refs/heads/none\n").map_err(io)?;
        fs::write(folder.join("config"), config).map_err(io)?;
        let attributes = path("info/attributes")?;
        if attributes.is_file() {
            fs::copy(attributes, folder.join("info/attributes")).map_err(io)?;
        }
        let mut settings = Vec::new();
        for key in CARRIED {
            settings.extend(self.line(&["config", "--get", key]).map(|value| format!("{key}={value}")));
        }
        // Where git-lfs has what was fetched already.
        settings.push(format!("lfs.storage={}", path("lfs")?));
        Ok(Borrowed { folder: folder.to_owned(), tree, objects: path("objects")?, settings })
    }

    /// A file whose filter is known to nobody but the repository is not what git would check out here, and the filter
    /// is not run.
    fn refuse_own_filters(&self, clean: &Borrowed<'_>) -> Result<(), String> {
        let own = filters(self.ask(&FILTERS).unwrap_or_default());
        let users = filters(clean.ask(&FILTERS).unwrap_or_default());
        let own: BTreeSet<&String> = own.difference(&users).collect();
        if own.is_empty() {
            return Ok(());
        }
        for (file, filter) in clean.filtered()? {
            if own.contains(&filter) {
                return Err(format!(
                    "{file} goes through the filter \"{filter}\", which only the repository's own configuration describes, \
                     and nothing that a repository names is run; describe it in your own: \
                     git config --global filter.{filter}.smudge COMMAND"
                ));
            }
        }
        Ok(())
    }

    /// Returns what git prints.
    fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let mut command = quiet();
        command.arg("-C").arg(self.folder).args(arguments);
        printed(command, &[])
    }
}

/// Prints the settings of all filters.
const FILTERS: [&str; 5] = ["config", "--name-only", "-z", "--get-regexp", r"^filter\."];

/// The names of filters in what [`FILTERS`] prints: `filter.NAME.KEY`, each with a NUL at its end.
fn filters(printed: Vec<u8>) -> BTreeSet<String> {
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let keys = printed.split('\0').filter_map(|key| key.strip_prefix("filter."));
    keys.filter_map(|key| Some(key.rsplit_once('.')?.0.to_owned())).collect()
}

/// A repository of its own that holds nothing: another one's objects are written out with it.
struct Borrowed<'t> {
    folder: Utf8PathBuf,
    tree: &'t Utf8Path,
    objects: Utf8PathBuf,
    settings: Vec<String>,
}

impl Borrowed<'_> {
    fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>, String> {
        printed(self.command(arguments), &[])
    }

    /// The files of the index that have a filter, with its name.
    fn filtered(&self) -> Result<BTreeMap<String, String>, String> {
        let files = self.ask(&["ls-files", "-z"])?;
        let said = printed(self.command(&["check-attr", "--cached", "-z", "--stdin", "filter"]), &files)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let words: Vec<&str> = said.split('\0').collect();
        let rows = words.chunks_exact(3).map(|row| (row[0].to_owned(), row[2].to_owned()));
        Ok(rows.filter(|(_, filter)| !matches!(&**filter, "unspecified" | "unset" | "set")).collect())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = quiet();
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        command.arg("-C").arg(self.tree).args(arguments);
        command
            .env("GIT_DIR", &self.folder)
            .env("GIT_WORK_TREE", self.tree)
            .env("GIT_INDEX_FILE", self.folder.join("index"))
            .env("GIT_OBJECT_DIRECTORY", &self.objects);
        command
    }
}

/// git with [`OVERRIDES`], without transports, locks and questions.
fn quiet() -> Command {
    let mut command = Command::new("git");
    command.arg("--no-pager");
    for setting in OVERRIDES {
        command.args(["-c", setting]);
    }
    command
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        // An empty list would be no list to older versions.
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("GIT_TERMINAL_PROMPT", "0");
    command
}

/// Returns what a command prints, given `input`.
///
/// # Errors
/// The first line of what it says, without git's own word for it.
fn printed(mut command: Command, input: &[u8]) -> Result<Vec<u8>, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cannot = |error: std::io::Error| format!("git cannot be run: {error}");
    let mut child = command.spawn().map_err(cannot)?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // One that ends without reading all of it says why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = output.map_err(cannot)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("git fails");
    Err(first.trim_start_matches("fatal: ").trim_start_matches("error: ").to_owned())
}

/// Returns what git printed, without the end of its line.
fn line(output: Vec<u8>) -> String {
    let mut text = String::from_utf8_lossy(&output).into_owned();
    text.truncate(text.trim_end_matches('\n').len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one commit that brings along what runs programs; each of them would write into `ran`.
    struct Planted {
        _guard: tempfile::TempDir,
        root: Utf8PathBuf,
        ran: Utf8PathBuf,
    }

    fn git(folder: &Utf8Path, arguments: &[&str]) {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"];
        let done = Command::new("git").arg("-C").arg(folder).args(identity).args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn planted(attributes: &str) -> Planted {
        let guard = tempfile::tempdir().unwrap();
        let base = Utf8PathBuf::from_path_buf(guard.path().canonicalize().unwrap()).unwrap();
        let (root, ran) = (base.join("repository"), base.join("ran"));
        fs::create_dir_all(root.join("sub")).unwrap();
        git(&root, &["init", "--quiet"]);
        for (file, text) in [(".gitattributes", attributes), ("plain", "plain\n"), ("sub/file", "text\n")] {
            fs::write(root.join(file), text).unwrap();
        }
        git(&root, &["add", "--all"]);
        git(&root, &["commit", "--quiet", "--message", "one"]);
        let program = base.join("program");
        fs::write(&program, format!("#!/bin/sh\necho \"$0 $*\" >> {ran}\ncat\n")).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let hooks = root.join(".git/hooks");
        for hook in ["post-checkout", "post-index-change", "reference-transaction", "pre-commit"] {
            fs::copy(&program, hooks.join(hook)).unwrap();
        }
        for key in [
            "core.fsmonitor",
            "core.sshCommand",
            "core.pager",
            "core.editor",
            "core.askPass",
            "core.gitProxy",
            "core.alternateRefsCommand",
            "diff.external",
            "diff.planted.textconv",
            "diff.planted.command",
            "filter.planted.smudge",
            "filter.planted.clean",
            "filter.planted.process",
            "merge.planted.driver",
            "gpg.program",
            "credential.helper",
            "uploadpack.packObjectsHook",
            "pager.rev-list",
            "alias.rev-list",
        ] {
            let value = if key.starts_with("alias") { format!("!{program}") } else { program.to_string() };
            git(&root, &["config", key, &value]);
        }
        Planted { _guard: guard, root, ran }
    }

    impl Planted {
        fn what_ran(&self) -> String {
            fs::read_to_string(&self.ran).unwrap_or_default()
        }
    }

    #[test]
    fn nothing_that_a_repository_names_is_run_when_it_is_asked() {
        let planted = planted("* diff=planted merge=planted\n");
        fs::write(planted.root.join("sub/file"), "changed\n").unwrap();
        let sub = planted.root.join("sub");
        let asked = Git::of(&sub);
        assert_eq!(asked.line(&["symbolic-ref", "--quiet", "--short", "HEAD"]).as_deref(), Some("main"));
        let commit = asked.line(&["rev-parse", "--verify", "HEAD"]).unwrap();
        assert_eq!(asked.commits("HEAD").unwrap(), [commit.as_str()]);
        assert_eq!(asked.prefix().unwrap(), "sub/");
        assert_eq!(asked.tracks("file".into()), Some(true));
        assert_eq!(asked.tracks(".imgforge".into()), Some(false));
        let tree = planted.root.join("../tree");
        asked.check_out(&commit, &tree).unwrap();
        assert_eq!(fs::read_to_string(tree.join("sub/file")).unwrap(), "text\n");
        assert!(!tree.join(".git").exists());
        assert_eq!(planted.what_ran(), "");
    }

    #[test]
    fn a_filter_that_only_the_repository_describes_is_an_error_and_not_run() {
        let planted = planted("plain filter=planted\n");
        let asked = Git::of(&planted.root);
        let refused = asked.check_out("HEAD^{commit}", &planted.root.join("../tree"));
        assert!(refused.is_err(), "a revision is resolved before: the empty repository has no HEAD");
        let commit = asked.line(&["rev-parse", "--verify", "HEAD"]).unwrap();
        let refused = asked.check_out(&commit, &planted.root.join("../tree")).unwrap_err();
        assert!(refused.contains("plain goes through the filter \"planted\""), "{refused}");
        assert_eq!(planted.what_ran(), "");
    }

    #[test]
    fn line_ends_are_those_that_the_repository_configures() {
        let planted = planted("* text\n");
        git(&planted.root, &["config", "core.autocrlf", "true"]);
        let asked = Git::of(&planted.root);
        let commit = asked.line(&["rev-parse", "--verify", "HEAD"]).unwrap();
        let tree = planted.root.join("../tree");
        asked.check_out(&commit, &tree).unwrap();
        assert_eq!(fs::read_to_string(tree.join("plain")).unwrap(), "plain\r\n");
    }

    #[test]
    fn a_missing_object_is_not_fetched() {
        let planted = planted("");
        let asked = Git::of(&planted.root);
        let commit = asked.line(&["rev-parse", "--verify", "HEAD"]).unwrap();
        let (url, tree) = (format!("ext::{}/../program %S", planted.root), planted.root.join("../tree"));
        for (key, value) in [
            ("extensions.partialClone", "origin"),
            ("remote.origin.promisor", "true"),
            ("remote.origin.url", url.as_str()),
            ("protocol.ext.allow", "always"),
        ] {
            git(&planted.root, &["config", key, value]);
        }
        for object in fs::read_dir(planted.root.join(".git/objects")).unwrap() {
            let name = object.unwrap().file_name().into_string().unwrap();
            if name.len() == 2 && !commit.starts_with(&name) {
                fs::remove_dir_all(planted.root.join(".git/objects").join(name)).unwrap();
            }
        }
        assert!(asked.check_out(&commit, &tree).is_err());
        assert!(asked.commits("HEAD:plain").is_err());
        assert_eq!(planted.what_ran(), "");
    }

    #[test]
    fn a_bare_repository_among_the_files_is_no_repository() {
        let planted = planted("");
        let bare = planted.root.join("vendor");
        fs::create_dir(&bare).unwrap();
        git(&bare, &["init", "--quiet", "--bare"]);
        assert_eq!(Git::of(&bare).tracks("x".into()), None, "it is not asked at all");
        assert_eq!(Git::of(&bare.join("hooks")).line(&["rev-parse", "--git-dir"]), None);
        assert_eq!(planted.what_ran(), "");
    }
}
