//! What keys, servers, neighbours and leftovers can do wrong, against a small signed repository on loopback.

#![expect(clippy::unwrap_used, reason = "these are tests, helpers and all")]

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use imgforge_core::lock::LockedPackage;
use imgforge_core::manifest::AptSource;
use imgforge_http::Retry;
use imgforge_packages::{
    Cache, Error, Fetched, Index, Machine, Network, Repository, RepositorySuite, Request, Seen, Silent,
    fetch, fetch_index,
};
use imgforge_syntax::{Located, Span};
use imgforge_testkit::apt::{self, Compression, Key, Package, sha256};
use imgforge_testkit::http::{Fault, Server};
use tokio::runtime::Runtime;

/// The threads of connections; tests fetch in their own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Few and short waits.
static NETWORK: LazyLock<Network> = LazyLock::new(|| {
    let retry = Retry { tries: 3, delay: Duration::from_millis(20), ..Retry::default() };
    Network::with(RUNTIME.handle(), retry).unwrap()
});

/// A served repository that holds `lib` 2.0, and an empty cache.
struct World {
    folder: tempfile::TempDir,
    key: Key,
    apt: apt::Repository,
    server: Server,
}

fn package<'a>(name: &'a str, version: &'a str, files: &'a [(&'a str, &'a str)]) -> Package<'a> {
    Package { name, version, fields: &[], files }
}

impl World {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = Utf8Path::from_path(folder.path()).unwrap().join("repository");
        let (key, mut apt) = (Key::generate()?, apt::Repository::new(&root));
        apt.add(&package("lib", "2.0", &[("/usr/lib/lib", "lib")]))?;
        let server = Server::start(root)?;
        let world = Self { folder, key, apt, server };
        world.publish()?;
        world.trust(&world.key.keyring()?)?;
        Ok(world)
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.folder.path()).unwrap().join(name)
    }

    fn inrelease(&self) -> Utf8PathBuf {
        self.path("repository/dists/stable/InRelease")
    }

    fn publish(&self) -> Result<()> {
        self.apt.publish(&self.key, &[])
    }

    fn trust(&self, keyring: &[u8]) -> Result<()> {
        Ok(fs::write(self.path("keyring.gpg"), keyring)?)
    }

    fn cache(&self) -> Cache {
        Cache::new(self.path("cache"))
    }

    fn repository(&self) -> Repository {
        let keyring = self.path("keyring.gpg");
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

    fn lock(&self, wanted: &[&str]) -> Result<Vec<LockedPackage>, Error> {
        let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
        self.index()?.resolve(&Request { include: None, wanted, installed: &[] })
    }

    fn fetch(&self, packages: &[LockedPackage]) -> Result<Fetched, Error> {
        fetch(packages, &[self.repository()], &self.cache(), &NETWORK, &Silent)
    }

    fn asked_for(&self, end: &str) -> usize {
        self.server.requests().iter().filter(|path| path.ends_with(end)).count()
    }

    /// A package whose file has more than 100 KB.
    fn add_large(&mut self) -> Result<LockedPackage> {
        let numbers = (0..40_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string());
        let content: String = numbers.collect();
        self.apt.add(&package("large", "1.0", &[("/usr/share/large", &content)]))?;
        self.publish()?;
        let package = self.lock(&["large"])?.remove(0);
        assert!(package.size > 100_000, "{}", package.size);
        Ok(package)
    }
}

#[test]
fn each_compression_of_an_index_is_read() -> Result<()> {
    for compression in [Compression::Gz, Compression::Xz, Compression::None] {
        let mut world = World::new()?;
        world.apt.compression = compression;
        world.publish()?;
        assert_eq!(world.lock(&["lib"])?[0].version, "2.0", "{compression:?}");
    }
    Ok(())
}

#[test]
fn one_key_of_several_is_enough_and_an_empty_keyring_is_an_error() -> Result<()> {
    let world = World::new()?;
    world.trust(&[Key::generate()?.keyring()?, world.key.keyring()?].concat())?;
    world.index()?;
    for none in ["", "no key at all\n"] {
        world.trust(none.as_bytes())?;
        let error = world.index().unwrap_err();
        assert!(matches!(error, Error::Keyring { .. } | Error::Signature { .. }), "{error:?}");
    }
    Ok(())
}

#[test]
fn a_message_whose_signature_is_cut_off_or_replaced_is_refused() -> Result<()> {
    let world = World::new()?;
    let signed = fs::read_to_string(world.inrelease())?;
    let (text, _) = signed.split_once("-----BEGIN PGP SIGNATURE").unwrap();
    let other = world.key.sign("another text\n")?;
    let (_, signature) = other.split_once("-----BEGIN PGP SIGNATURE").unwrap();
    for changed in [text.to_owned(), format!("{text}-----BEGIN PGP SIGNATURE{signature}")] {
        fs::write(world.inrelease(), changed)?;
        let error = world.index().unwrap_err();
        assert!(matches!(error, Error::Signature { .. }), "{error:?}");
    }
    Ok(())
}

#[test]
fn text_around_what_is_signed_is_never_read() -> Result<()> {
    let world = World::new()?;
    let signed = fs::read_to_string(world.inrelease())?;
    let packages = "Package: evil\nVersion: 1\nArchitecture: all\nFilename: pool/evil\nSize: 1\n";
    let hash = sha256(packages.as_bytes());
    fs::write(world.path("repository/dists/stable/main/binary-amd64/Packages"), packages)?;
    let false_release =
        format!("Suite: stable\nSHA256:\n {hash} {} main/binary-amd64/Packages\n\n", packages.len());
    for changed in [format!("{false_release}{signed}"), format!("{signed}\n{false_release}")] {
        fs::write(world.inrelease(), changed)?;
        match world.lock(&["lib"]) {
            Ok(locked) => assert_eq!(locked[0].version, "2.0"),
            Err(error) => assert!(matches!(error, Error::Signature { .. }), "{error:?}"),
        }
    }
    assert_eq!(world.asked_for("/Packages"), 0);
    Ok(())
}

#[test]
fn a_component_that_is_not_there_is_named() -> Result<()> {
    let world = World::new()?;
    let mut repository = world.repository();
    repository.components = vec!["contrib".into()];
    let error = fetch_index(&repository, &Seen::default(), &world.cache(), &NETWORK, &Silent).unwrap_err();
    assert!(error.to_string().contains("no packages of component \"contrib\""), "{error}");
    Ok(())
}

#[test]
fn a_refusal_is_final_and_trouble_is_not() -> Result<()> {
    let world = World::new()?;
    world.server.fail("InRelease", Fault::Status(403), 1);
    let error = world.index().unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("403"), "{error}");
    assert_eq!(world.asked_for("InRelease"), 1);

    world.server.fail("InRelease", Fault::Status(503), 2);
    world.index()?;
    assert_eq!(world.asked_for("InRelease"), 4);
    Ok(())
}

#[test]
fn a_server_that_keeps_failing_is_named_with_the_number_of_tries() -> Result<()> {
    let world = World::new()?;
    let locked = world.lock(&["lib"])?;
    world.server.fail("", Fault::Status(500), usize::MAX);
    let inrelease = format!("{}/dists/stable/InRelease", world.server.uri());
    let of_package = format!("{}/{}", world.server.uri(), locked[0].path);
    // The index was asked for once before.
    for (error, expected, asked) in
        [(world.index().unwrap_err(), inrelease, 4), (world.fetch(&locked).unwrap_err(), of_package, 3)]
    {
        let Error::Unreachable { url, reason } = &error else { panic!("{error:?}") };
        assert_eq!(*url, expected);
        assert!(reason.contains("500") && reason.contains("(3 tries)"), "{reason}");
        assert_eq!(world.asked_for(expected.strip_prefix(&world.server.uri()).unwrap()), asked);
    }
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_named() -> Result<()> {
    let world = World::new()?;
    let mut repository = world.repository();
    // Nobody listens there any more.
    let gone = Server::start("/nonexistent")?.uri();
    repository.suites[0].uri.clone_from(&gone);
    let error = fetch_index(&repository, &Seen::default(), &world.cache(), &NETWORK, &Silent).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { url, .. } if url.starts_with(&gone)), "{error:?}");
    Ok(())
}

#[test]
fn an_index_that_is_cut_is_asked_for_again() -> Result<()> {
    let world = World::new()?;
    world.server.fail("InRelease", Fault::Cut(100), 1);
    let hash = sha256(&fs::read(world.path("repository/dists/stable/main/binary-amd64/Packages.gz"))?);
    world.server.fail(&hash, Fault::Cut(20), 1);
    world.index()?;
    assert_eq!((world.asked_for("InRelease"), world.asked_for(&hash)), (2, 2));
    Ok(())
}

#[test]
fn a_lock_of_yesterday_is_still_served_where_only_part_was_superseded() -> Result<()> {
    let mut world = World::new()?;
    world.apt.add(&package("stays", "1", &[]))?;
    world.publish()?;
    let locked = world.lock(&["lib", "stays"])?;
    world.apt.supersede(&package("lib", "2.1", &[]))?;
    world.publish()?;
    let error = world.fetch(&locked).unwrap_err();
    let Error::Vanished { packages: gone, .. } = &error else { panic!("{error:?}") };
    assert_eq!(gone.iter().map(LockedPackage::entry).collect::<Vec<_>>(), ["lib=2.0"]);
    assert!(error.to_string().contains("lib 2.0") && error.to_string().contains("`imgforge update`"));
    let stays = locked.iter().find(|package| package.name == "stays").unwrap();
    assert!(world.cache().file(&stays.sha256).exists(), "what is still served is there");
    assert_eq!(world.lock(&["lib"])?[0].version, "2.1");
    Ok(())
}

#[test]
fn leftovers_of_any_length_do_no_harm() -> Result<()> {
    let mut world = World::new()?;
    let package = world.add_large()?;
    let size = usize::try_from(package.size)?;
    let partial = world.path("cache/partial").join(&package.sha256);
    fs::create_dir_all(partial.parent().unwrap())?;
    for length in [0, 1, size - 1, size, size + 1] {
        fs::write(&partial, vec![b'x'; length])?;
        world.fetch(std::slice::from_ref(&package))?;
        let kept = world.cache().file(&package.sha256);
        assert_eq!(sha256(&fs::read(&kept)?), package.sha256, "after {length} wrong bytes");
        fs::remove_file(kept)?;
    }
    Ok(())
}

#[test]
fn wrong_bytes_are_refused_with_both_hashes_and_leave_nothing_to_go_on_with() -> Result<()> {
    let world = World::new()?;
    let locked = world.lock(&["lib"])?;
    let mut wrong = fs::read(world.path("repository").join(&locked[0].path))?;
    *wrong.last_mut().unwrap() ^= 1;
    world.server.fail(".deb", Fault::Body(wrong.clone()), 1);
    let error = world.fetch(&locked).unwrap_err();
    let Error::Hash { what, expected, found } = &error else { panic!("{error:?}") };
    assert_eq!(*what, format!("{}/{}", world.server.uri(), locked[0].path));
    assert_eq!((expected, found), (&locked[0].sha256, &sha256(&wrong)));
    assert!(!world.cache().file(&locked[0].sha256).exists());
    world.fetch(&locked)?;
    assert_eq!(world.asked_for(".deb"), 2, "the second time begins at the start");
    Ok(())
}

#[test]
fn who_comes_second_waits_for_a_long_download_of_the_first() -> Result<()> {
    let mut world = World::new()?;
    let packages = [world.add_large()?];
    // Longer than all pauses between tries together.
    world.server.fail(&packages[0].path, Fault::Pause(Duration::from_secs(3)), 1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| world.fetch(&packages))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap().map(drop))
    })?;
    assert_eq!(world.asked_for(".deb"), 1);
    Ok(())
}

#[test]
fn many_fetches_at_once_share_one_cache() -> Result<()> {
    let mut world = World::new()?;
    let names: Vec<String> = (0..24).map(|n| format!("p{n}")).collect();
    for name in &names {
        world.apt.add(&package(name, "1", &[]))?;
    }
    world.publish()?;
    let packages = world.lock(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let fetched = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| world.fetch(&packages))).collect();
        let fetched = threads.into_iter().map(|thread| thread.join().unwrap());
        fetched.map(|fetched| fetched.map(|fetched| fetched.files)).sum::<Result<usize, _>>()
    })?;
    assert_eq!(fetched, packages.len(), "each file is fetched by one of them");
    assert_eq!(world.asked_for(".deb"), packages.len());
    for package in &packages {
        assert_eq!(sha256(&fs::read(world.cache().file(&package.sha256))?), package.sha256);
    }
    assert!(fs::read_dir(world.path("cache/partial"))?.next().is_none(), "nothing half is left");
    Ok(())
}

#[test]
fn an_older_index_that_is_signed_as_well_is_refused_until_it_is_accepted() -> Result<()> {
    let mut world = World::new()?;
    let publish = |world: &World, date: &str| world.apt.publish(&world.key, &[("Date", date)]);
    publish(&world, "Thu, 26 Nov 2020 21:00:05 UTC")?;
    let old = fs::read(world.inrelease())?;
    world.apt.supersede(&package("lib", "2.1", &[("/usr/lib/lib", "mended")]))?;
    publish(&world, "Fri, 27 Nov 2020 09:00:00 UTC")?;
    let index = world.index()?;
    assert_eq!(index.dates().values().collect::<Vec<_>>(), ["20201127T090000Z"]);

    let mut seen = Seen { dates: index.dates().clone(), is_any_taken: false };
    let fetched = |seen: &Seen| fetch_index(&world.repository(), seen, &world.cache(), &NETWORK, &Silent);
    fetched(&seen)?;
    fs::write(world.inrelease(), old)?;
    let error = fetched(&seen).unwrap_err();
    assert!(matches!(error, Error::Replayed { .. }), "{error:?}");
    seen.is_any_taken = true;
    assert_eq!(fetched(&seen)?.newest("lib").unwrap().version, "2.0");

    publish(&world, "Wed, 27 Nov 2999 09:00:00 UTC")?;
    let error = fetched(&Seen::default()).unwrap_err();
    assert!(matches!(error, Error::Future { .. }), "{error:?}");
    fetched(&seen)?;
    Ok(())
}

#[test]
fn a_password_in_an_address_is_sent_and_never_shown() -> Result<()> {
    let world = World::new()?;
    let address = world.server.uri().replace("http://", "http://user:hunter2@");
    let machine =
        Machine::from_parts(&format!("{address} other=user:hunter2@nonsense"), Utf8Path::new("/nowhere"))?;
    let located = |text: &str| Located::new(text.to_owned(), Span::default());
    let source = |suite: &str| AptSource {
        name: located("test"),
        suites: vec![located(suite)],
        components: Vec::new(),
        uri: None,
        keyring: Some(Located::new(world.path("keyring.gpg"), Span::default())),
        snapshots: vec![located(&address)],
    };
    let repository = machine.repository(&source("stable"), Utf8Path::new("/"), "amd64")?;
    let index = fetch_index(&repository, &Seen::default(), &world.cache(), &NETWORK, &Silent)?;
    assert!(
        world.server.logins().iter().all(|login| login == "Basic dXNlcjpodW50ZXIy"),
        "{:?}",
        world.server.logins()
    );
    assert_eq!(world.server.logins().len(), world.server.requests().len(), "each request has it");

    let mut shown = format!("{machine:?} {repository:?} {index:?}");
    for fault in [Fault::Status(404), Fault::Status(403), Fault::Body(b"no release".to_vec()), Fault::Cut(3)]
    {
        world.server.fail("InRelease", fault, 3);
        shown += &format!(
            "{0} {0:?}",
            fetch_index(&repository, &Seen::default(), &world.cache(), &NETWORK, &Silent).unwrap_err()
        );
    }
    world.server.fail("Packages.gz", Fault::Body(b"wrong".to_vec()), 6);
    let elsewhere = Cache::new(world.path("other-cache"));
    shown += &format!(
        "{0} {0:?}",
        fetch_index(&repository, &Seen::default(), &elsewhere, &NETWORK, &Silent).unwrap_err()
    );
    let nonsense = machine.repository(&source("other"), Utf8Path::new("/"), "amd64")?;
    shown += &format!(
        "{0} {0:?}",
        fetch_index(&nonsense, &Seen::default(), &elsewhere, &NETWORK, &Silent).unwrap_err()
    );
    assert!(!shown.contains("hunter2") && !shown.contains("dXNlcjpodW50ZXIy"), "{shown}");
    Ok(())
}
