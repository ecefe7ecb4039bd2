//! Fetching and verifying, against a small signed repository on loopback that can fail.

#![expect(clippy::unwrap_used, reason = "these are tests, helpers and all")]

use std::fs;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::lock::LockedPackage;
use imgforge_http::Retry;
use imgforge_packages::{
    Cache, Error, Index, Network, Progress, Repository, RepositorySuite, Request, Seen, Silent, fetch,
    fetch_index,
};
use imgforge_testkit::apt::{self, Key, Package};
use imgforge_testkit::http::{Fault, Server};
use tokio::runtime::Runtime;

/// The threads of connections; tests fetch in their own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Few and short waits.
static NETWORK: LazyLock<Network> = LazyLock::new(|| {
    let retry = Retry { tries: 3, delay: Duration::from_millis(20), ..Retry::default() };
    Network::with(RUNTIME.handle(), retry).unwrap()
});

/// A served repository with two packages, and an empty cache.
struct World {
    folder: tempfile::TempDir,
    key: Key,
    apt: apt::Repository,
    server: Server,
}

/// Large enough that it does not come in one piece.
fn payload() -> String {
    (0..40_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect()
}

impl World {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = Utf8Path::from_path(folder.path()).unwrap().join("repository");
        let (key, mut apt) = (Key::generate()?, apt::Repository::new(&root));
        let payload = payload();
        let app = Package {
            name: "app",
            version: "1:1.0-1",
            fields: &[("Depends", "lib (>= 2)")],
            files: &[("/usr/share/app/data", &payload)],
        };
        apt.add(&app)?;
        apt.add(&Package { name: "lib", version: "2.0", fields: &[], files: &[("/usr/lib/lib", "lib")] })?;
        let server = Server::start(root)?;
        let world = Self { folder, key, apt, server };
        world.publish(&world.key, &[])?;
        Ok(world)
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join(name)
    }

    fn publish(&self, key: &Key, fields: &[(&str, &str)]) -> Result<()> {
        self.apt.publish(key, fields)
    }

    fn cache(&self) -> Cache {
        Cache::new(self.path("cache"))
    }

    fn repository(&self) -> Repository {
        let keyring = self.path("keyring.gpg");
        fs::write(&keyring, self.key.keyring().unwrap()).unwrap();
        Repository {
            scheme: imgforge_packages::Scheme::Debian,
            source: "test".into(),
            architecture: "amd64".into(),
            suites: vec![RepositorySuite {
                name: "stable".into(),
                uri: self.server.uri(),
                login: None,
                keyring,
            }],
            components: vec!["main".into()],
            snapshots: Vec::new(),
            logins: Vec::new(),
        }
    }

    fn index(&self) -> Result<Index, Error> {
        fetch_index(&self.repository(), &Seen::default(), &self.cache(), &NETWORK, &Silent)
    }

    fn locked(&self) -> Result<Vec<LockedPackage>, Error> {
        self.index()?.resolve(&Request { include: None, wanted: vec!["app".into()], installed: &[] })
    }

    fn fetch(&self, packages: &[LockedPackage]) -> Result<imgforge_packages::Fetched, Error> {
        fetch(packages, &[self.repository()], &self.cache(), &NETWORK, &Silent)
    }

    fn asked_for(&self, end: &str) -> usize {
        self.server.requests().iter().filter(|path| path.ends_with(end)).count()
    }

    fn app(packages: &[LockedPackage]) -> &LockedPackage {
        packages.iter().find(|package| package.name == "app").unwrap()
    }
}

#[test]
fn a_good_repository_is_read_and_its_packages_are_fetched_once() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    let names: Vec<_> = locked.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
    assert_eq!(names, ["app 1:1.0-1", "lib 2.0"]);
    let fetched = world.fetch(&locked)?;
    assert_eq!(fetched.files, 2);
    assert_eq!(fetched.bytes, locked.iter().map(|p| p.size).sum::<u64>());
    for package in &locked {
        assert_eq!(fs::metadata(world.cache().file(&package.sha256))?.len(), package.size);
    }
    assert_eq!(world.fetch(&locked)?, imgforge_packages::Fetched::default());
    assert_eq!(world.asked_for(".deb"), 2);
    assert!(fs::read_dir(world.path("cache/partial"))?.next().is_none(), "nothing half is left");
    Ok(())
}

#[test]
fn an_index_that_has_not_changed_is_not_fetched_again() -> Result<()> {
    let world = World::new()?;
    world.index()?;
    let again = world.locked()?;
    assert_eq!(again.len(), 2);
    let indexes = world.server.requests().iter().filter(|path| path.contains("by-hash")).count();
    assert_eq!(indexes, 1);
    assert_eq!(world.asked_for("InRelease"), 2);
    Ok(())
}

#[test]
fn a_signature_by_another_key_is_refused() -> Result<()> {
    let world = World::new()?;
    world.publish(&Key::generate()?, &[])?;
    let error = world.index().unwrap_err();
    assert!(matches!(error, Error::Signature { .. }), "{error}");
    assert!(world.server.requests().iter().all(|path| path.ends_with("InRelease")), "nothing else is read");
    Ok(())
}

#[test]
fn a_text_that_was_changed_after_it_was_signed_is_refused() -> Result<()> {
    let world = World::new()?;
    let path = world.path("repository/dists/stable/InRelease");
    fs::write(&path, fs::read_to_string(&path)?.replace("Codename: test", "Codename: best"))?;
    assert!(matches!(world.index(), Err(Error::Signature { .. })));
    fs::write(&path, "Suite: stable\n")?;
    assert!(matches!(world.index(), Err(Error::Signature { .. })));
    Ok(())
}

#[test]
fn an_index_that_is_not_the_signed_one_is_never_parsed() -> Result<()> {
    let world = World::new()?;
    let folder = world.path("repository/dists/stable/main/binary-amd64");
    fs::write(folder.join("Packages.gz"), "tampered")?;
    assert!(world.index().is_ok(), "by its hash it still is the right one");
    fs::remove_dir_all(world.path("cache"))?;
    fs::remove_dir_all(folder.join("by-hash"))?;
    let error = world.index().unwrap_err();
    assert!(matches!(&error, Error::Hash { expected, found, .. } if expected != found), "{error}");
    Ok(())
}

#[test]
fn metadata_that_has_expired_is_refused() -> Result<()> {
    let world = World::new()?;
    world.publish(&world.key, &[("Valid-Until", "Sat, 17 May 2025 08:48:41 UTC")])?;
    let error = world.index().unwrap_err();
    assert!(matches!(error, Error::Expired { .. }), "{error}");
    assert!(error.to_string().contains("days ago"), "{error}");
    world.publish(&world.key, &[("Valid-Until", "Thu, 17 May 2125 08:48:41 UTC")])?;
    world.index()?;
    Ok(())
}

#[test]
fn a_suite_under_another_name_is_refused() -> Result<()> {
    let world = World::new()?;
    let dists = world.path("repository/dists");
    fs::rename(dists.join("stable"), dists.join("other"))?;
    let mut repository = world.repository();
    repository.suites[0].name = "other".into();
    let error = fetch_index(&repository, &Seen::default(), &world.cache(), &NETWORK, &Silent).unwrap_err();
    assert!(matches!(error, Error::Metadata { .. }), "{error}");
    Ok(())
}

#[test]
fn packages_that_nobody_serves_any_more_are_all_named() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    fs::remove_dir_all(world.path("repository/pool"))?;
    let Err(Error::Vanished { packages: gone, .. }) = world.fetch(&locked) else {
        panic!("they have vanished")
    };
    assert_eq!(gone, locked);
    assert_eq!(world.asked_for(".deb"), 2, "an absent file is not asked for again");
    Ok(())
}

#[test]
fn a_package_that_moved_to_another_suite_s_server_is_found_there() -> Result<()> {
    let (old, new) = (World::new()?, World::new()?);
    let locked = old.locked()?;
    fs::rename(old.path("repository/pool"), old.path("gone"))?;
    fs::remove_dir_all(new.path("repository/pool"))?;
    fs::rename(old.path("gone"), new.path("repository/pool"))?;
    let mut repository = old.repository();
    repository.suites.push(RepositorySuite { name: "archive".into(), ..new.repository().suites.remove(0) });
    assert_eq!(fetch(&locked, &[repository], &old.cache(), &NETWORK, &Silent)?.files, 2);
    Ok(())
}

/// A world whose packages were locked at a time of which an archive has them, and are gone from its server.
struct Past {
    world: World,
    locked: Vec<LockedPackage>,
    repository: Repository,
    archive: Server,
}

const INDEXED: &str = "20261126T210005Z";
const A_DAY_LATER: &str = "20261127T210005Z";

impl Past {
    /// The archive has them at the time `state`.
    fn new(state: &str) -> Result<Self> {
        let world = World::new()?;
        world.publish(&world.key, &[("Date", "Thu, 26 Nov 2026 21:00:05 UTC")])?;
        let archive = Server::start(world.path("archive"))?;
        let repository = Repository { snapshots: vec![archive.uri()], ..world.repository() };
        let index = fetch_index(&repository, &Seen::default(), &world.cache(), &NETWORK, &Silent)?;
        let locked = index.resolve(&Request { include: None, wanted: vec!["app".into()], installed: &[] })?;
        let place = world.path("archive").join(state);
        fs::create_dir_all(&place)?;
        fs::rename(world.path("repository/pool"), place.join("pool"))?;
        Ok(Self { world, locked, repository, archive })
    }

    fn fetch(&self) -> Result<imgforge_packages::Fetched, Error> {
        fetch(&self.locked, std::slice::from_ref(&self.repository), &self.world.cache(), &NETWORK, &Silent)
    }

    fn app_in(&self, state: &str) -> String {
        format!("/{state}/{}", World::app(&self.locked).path)
    }
}

#[test]
fn what_a_mirror_has_deleted_comes_from_the_archive_of_the_index_that_it_was_locked_from() -> Result<()> {
    let past = Past::new(INDEXED)?;
    assert!(past.locked.iter().all(|package| package.indexed.as_deref() == Some(INDEXED)));
    assert_eq!(past.fetch()?.files, 2);
    assert_eq!(past.archive.requests().len(), 2, "{:?}", past.archive.requests());
    assert_eq!(past.fetch()?.files, 0);

    // An archive whose state of that time is from before the index.
    let past = Past::new(A_DAY_LATER)?;
    past.fetch()?;
    let asked = past.archive.requests();
    for state in [INDEXED, A_DAY_LATER] {
        assert!(asked.contains(&past.app_in(state)), "{asked:?}");
    }
    Ok(())
}

#[test]
fn an_archive_is_asked_only_for_what_a_repository_does_not_give() -> Result<()> {
    let past = Past::new(INDEXED)?;
    let pool = past.world.path("repository/pool");
    fs::create_dir(&pool)?;
    let lib = past.locked.iter().find(|package| package.name == "lib").unwrap();
    let kept = past.world.path("archive").join(INDEXED).join(&lib.path);
    fs::copy(kept, past.world.path("repository").join(&lib.path))?;
    past.fetch()?;
    assert_eq!(past.archive.requests(), [past.app_in(INDEXED)]);

    // A repository that does not answer gives nothing.
    let past = Past::new(INDEXED)?;
    past.world.server.fail(".deb", Fault::Status(500), usize::MAX);
    assert_eq!(past.fetch()?.files, 2);
    Ok(())
}

#[test]
fn a_package_without_the_date_of_its_index_has_no_place_in_an_archive() -> Result<()> {
    let mut past = Past::new(INDEXED)?;
    past.locked.iter_mut().for_each(|package| package.indexed = None);
    let error = past.fetch().unwrap_err();
    assert!(matches!(&error, Error::Vanished { packages, archive: None } if packages.len() == 2), "{error}");
    assert_eq!(past.archive.requests(), [""; 0]);
    Ok(())
}

#[test]
fn what_an_archive_has_wrongly_is_refused_and_the_message_says_so() -> Result<()> {
    let past = Past::new(INDEXED)?;
    let app = World::app(&past.locked);
    past.archive.fail(&app.path, Fault::Body(vec![7; usize::try_from(app.size)?]), usize::MAX);
    let error = past.fetch().unwrap_err();
    let Error::Vanished { packages, archive: Some(reason) } = &error else { panic!("{error:?}") };
    assert_eq!(packages.as_slice(), std::slice::from_ref(app));
    assert!(matches!(&**reason, Error::Hash { expected, .. } if *expected == app.sha256), "{reason}");
    assert!(!past.world.cache().file(&app.sha256).exists());
    for part in ["app 1:1.0-1", "from the snapshot archive: ", "`imgforge update`"] {
        assert!(error.to_string().contains(part), "{part} is missing in {error}");
    }
    Ok(())
}

#[test]
fn an_archive_that_does_not_answer_is_given_up_after_one_package() -> Result<()> {
    let past = Past::new(INDEXED)?;
    let uri = past.archive.uri();
    drop(past.archive);
    let error = fetch(&past.locked, &[past.repository], &past.world.cache(), &NETWORK, &Silent).unwrap_err();
    let Error::Vanished { packages, archive: Some(reason) } = &error else { panic!("{error:?}") };
    assert_eq!(packages.len(), 2);
    assert!(matches!(&**reason, Error::Unreachable { url, .. } if url.starts_with(&uri)), "{reason}");
    Ok(())
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_was() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    world.server.fail(&World::app(&locked).path, Fault::Cut(50_000), 1);
    world.fetch(&locked)?;
    assert_eq!(world.asked_for(" from 50000"), 1);
    Ok(())
}

#[test]
fn a_server_that_cannot_go_on_sends_all_again() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    let path = &World::app(&locked).path;
    world.server.fail(path, Fault::Cut(50_000), 1);
    world.server.fail(path, Fault::NoRange, 1);
    world.fetch(&locked)?;
    Ok(())
}

#[test]
fn what_a_killed_process_has_left_is_gone_on_with_unless_it_is_wrong() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    let app = World::app(&locked);
    let whole = fs::read(world.path("repository").join(&app.path))?;
    let partial = world.path("cache/partial").join(&app.sha256);
    for (start, is_right) in [(whole[..1000].to_vec(), true), (vec![0; 1000], false)] {
        fs::create_dir_all(partial.parent().unwrap())?;
        fs::write(&partial, start)?;
        world.fetch(&locked)?;
        assert!(
            fs::read(world.cache().file(&app.sha256))? == whole,
            "resumed from a right start: {is_right}"
        );
        fs::remove_file(world.cache().file(&app.sha256))?;
    }
    assert_eq!(world.asked_for(" from 1000"), 2);
    Ok(())
}

#[test]
fn a_busy_server_is_asked_again_and_a_broken_one_is_given_up() -> Result<()> {
    let world = World::new()?;
    world.server.fail("InRelease", Fault::Status(503), 1);
    let locked = world.locked()?;
    world.server.fail(".deb", Fault::Status(429), 2);
    world.fetch(&locked)?;
    fs::remove_dir_all(world.path("cache"))?;
    world.server.fail(&World::app(&locked).path, Fault::Status(500), 3);
    let error = world.fetch(&locked).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("500"), "{error}");
    world.fetch(&locked)?;
    Ok(())
}

#[test]
fn a_package_whose_lock_has_the_wrong_length_is_not_told_as_having_the_wrong_hash() -> Result<()> {
    let world = World::new()?;
    let mut locked = world.locked()?;
    let app = locked.iter_mut().find(|package| package.name == "app").unwrap();
    app.size -= 1;
    let error = world.fetch(&locked).unwrap_err();
    assert!(matches!(&error, Error::Size { .. }), "{error}");
    assert!(error.to_string().contains("the right SHA-256"), "{error}");
    Ok(())
}

#[test]
fn a_package_with_the_wrong_content_is_refused_with_both_hashes() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    let app = World::app(&locked);
    for wrong in [vec![7; usize::try_from(app.size)?], vec![7; usize::try_from(app.size)? + 10]] {
        world.server.fail(&app.path, Fault::Body(wrong), 1);
        let error = world.fetch(&locked).unwrap_err();
        assert!(matches!(&error, Error::Hash { expected, .. } if *expected == app.sha256), "{error}");
        assert!(!world.cache().file(&app.sha256).exists());
    }
    world.fetch(&locked)?;
    Ok(())
}

#[test]
fn two_that_fetch_the_same_at_once_both_succeed() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| world.fetch(&locked))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let files: usize = results.into_iter().map(|result| result.map(|f| f.files)).sum::<Result<_, _>>()?;
    assert_eq!(files, 2, "each file is fetched by one of them");
    Ok(())
}

#[derive(Default)]
struct Heard(Mutex<Vec<(String, u64, u64)>>);

impl Progress for Heard {
    fn fetching(&self, what: &str, done: u64, total: u64) {
        self.0.lock().unwrap().push((what.to_owned(), done, total));
    }
    fn fetched(&self, what: &str, bytes: u64, files: usize, _: Duration) {
        self.0.lock().unwrap().push((format!("{what}: {files} files"), bytes, bytes));
    }
}

#[test]
fn progress_begins_with_nothing_and_ends_with_everything() -> Result<()> {
    let world = World::new()?;
    let locked = world.locked()?;
    let total = locked.iter().map(|package| package.size).sum();
    let heard = Heard::default();
    fetch(&locked, &[world.repository()], &world.cache(), &NETWORK, &heard)?;
    let heard = heard.0.into_inner().unwrap();
    assert_eq!(heard.first(), Some(&("packages".to_owned(), 0, total)));
    assert_eq!(heard.last(), Some(&("packages: 2 files".to_owned(), total, total)));
    Ok(())
}
