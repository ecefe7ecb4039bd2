//! Who gets in, with credentials from where, and what is said of those who do not.

use std::process::Command;
use std::time::Duration;

use camino::Utf8Path;
use imgforge_oci::{Descriptor, Digest, MediaType, TagOrDigest};
use imgforge_registry::{Credentials, Error, Kind, Options, ProgressSink, Registry};
use imgforge_testkit::fault_proxy::FaultProxy;
use imgforge_testkit::registry::{self as real, PASSWORD, Setup, USER};
use imgforge_testkit::token_server::{IDENTITY_TOKEN, TokenServer};

use crate::common::{Folder, answering, image, options, response, start};

/// `tester:secret`.
const AUTH: &str = "dGVzdGVyOnNlY3JldA==";

fn with_login() -> real::Registry {
    real::Registry::start(Setup { login: true, ..Setup::default() }).unwrap()
}

fn client(host: &str, credentials: Credentials) -> Registry {
    Registry::new(Options { credentials, ..options(host) }).unwrap()
}

fn config(folder: &Folder, json: &str) -> Credentials {
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    Credentials::docker_in(folder.path())
}

async fn push(registry: &Registry, folder: &Folder) -> Result<(), Error> {
    let wanted = image(&[folder.layer(1000)]);
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await?;
    registry.put_manifest("acme/web", &TagOrDigest::tag("latest")?, &pushed.manifest).await?;
    registry.verify("acme/web", &pushed.digest).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_shown_only_to_who_asks_for_it() {
    let server = with_login();
    let folder = Folder::new();
    let registry = client(server.host(), Credentials::login(USER, PASSWORD));
    push(&registry, &folder).await.unwrap();
    let requests = registry.sent().requests;
    registry.tags("acme/web").await.unwrap();
    assert_eq!(registry.sent().requests, requests + 1, "the login is known now");

    let open = start();
    push(&client(open.host(), Credentials::login(USER, PASSWORD)), &folder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_is_told_with_its_source_and_without_its_password() {
    let server = with_login();
    let folder = Folder::new();
    let host = server.host();
    let wrong =
        config(&folder, &format!(r#"{{"auths":{{"{host}":{{"auth":"dGVzdGVyOnVuYmVsaWV2YWJsZQ=="}}}}}}"#));
    for (credentials, source) in [
        (Credentials::anonymous(), "no credentials"),
        (Credentials::login(USER, "unbelievable"), "the given login"),
        (wrong, "auths in "),
    ] {
        let debug = format!("{credentials:?}");
        let registry = client(host, credentials);
        let error = registry.tags("acme/web").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Authentication);
        let text = format!("{error} {error:?} {debug} {registry:?}");
        assert!(text.contains(source) && text.contains(host) && text.contains("acme/web"), "{text}");
        assert!(!text.contains("unbelievable") && !text.contains("dGVzdGVy"), "{text}");
        assert!(registry.sent().requests <= 2, "a wrong password is not tried again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_the_configuration_of_docker() {
    let server = with_login();
    let folder = Folder::new();
    let host = server.host();
    for entry in [
        format!(r#""{host}":{{"auth":"{AUTH}"}}"#),
        format!(r#""https://{host}/v1/":{{"auth":"{AUTH}"}}"#),
        format!(r#""{host}":{{"username":"{USER}","password":"{PASSWORD}"}}"#),
        format!(r#""example.com":{{"auth":"eDp5"}},"{host}":{{"auth":"{AUTH}","identitytoken":""}}"#),
    ] {
        let credentials = config(&folder, &format!(r#"{{"auths":{{{entry}}},"HttpHeaders":{{"a":"b"}}}}"#));
        push(&client(host, credentials), &folder).await.unwrap_or_else(|error| panic!("{entry}: {error}"));
    }
    for (json, said) in [
        ("{\n\"auths\": 3}", "line 2"),
        (&*format!(r#"{{"auths":{{"{host}":{{"auth":"!"}}}}}}"#), "docker login"),
        (&*format!(r#"{{"auths":{{"{host}":{{"auth":"eA=="}}}}}}"#), "docker login"),
        (r#"{"credsStore":"that-nobody-has"}"#, "docker-credential-that-nobody-has"),
        (r#"{"credsStore":"../x"}"#, "slash"),
    ] {
        let error = client(host, config(&folder, json)).tags("acme/web").await.unwrap_err();
        assert!(matches!(error, Error::Credentials { .. }), "{json}: {error}");
        assert!(error.to_string().contains(said), "{json}: {error}");
    }
    let error = client(host, config(&folder, "{}")).tags("acme/web").await.unwrap_err();
    assert!(error.to_string().contains("config.json has none"), "{error}");
    let error =
        client(host, Credentials::docker_in(Utf8Path::new("/nowhere"))).tags("a/b").await.unwrap_err();
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
}

/// Names the registry to the child processes of the next test.
const REGISTRY: &str = "IMGFORGE_TEST_REGISTRY";

/// Reads tags with what is found in the environment, and says how that went.
async fn read_tags(host: &str) {
    let credentials = match std::env::var("TEST_CREDENTIALS").as_deref() {
        Ok("docker") => Credentials::docker(),
        _ => Credentials::workspace(),
    };
    match client(host, credentials).tags("acme/web").await {
        Ok(_) => println!("child: all well"),
        Err(error) => println!("child: {error}"),
    }
}

/// The next test once more, as a process of this environment; what it says.
fn child(server: &real::Registry, environment: &[(&str, &str)]) -> String {
    let next = "login::credentials_come_from_the_environment_and_from_a_helper_on_the_path";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", next, "--nocapture"]);
    command.env_remove("DOCKER_CONFIG").env("HOME", "/nowhere").env(REGISTRY, server.host());
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("child: "), "{text}");
    text
}

#[tokio::test]
async fn credentials_come_from_the_environment_and_from_a_helper_on_the_path() {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(host) = std::env::var(REGISTRY) {
        return read_tags(&host).await;
    }
    let server = with_login();
    let folder = Folder::new();
    let host = server.host();
    let login = [
        ("IMGFORGE_REGISTRY_USER", USER),
        ("IMGFORGE_REGISTRY_PASSWORD", PASSWORD),
        ("IMGFORGE_REGISTRY_HOST", host),
    ];
    assert!(child(&server, &login).contains("all well"));
    let unsaid = child(&server, &login[..2]);
    assert!(unsaid.contains(&format!("set IMGFORGE_REGISTRY_HOST={host}")), "{unsaid}");
    assert!(!unsaid.contains(PASSWORD), "{unsaid}");
    let elsewhere = child(&server, &[login[0], login[1], ("IMGFORGE_REGISTRY_HOST", "registry.example.com")]);
    assert!(
        elsewhere.contains("no credentials"),
        "a workspace that names another host gets nothing: {elsewhere}"
    );
    let others = [("TEST_CREDENTIALS", "docker"), login[0], login[1], login[2]];
    assert!(child(&server, &others).contains("no credentials"), "only the workspace's registry gets them");

    // A helper that knows one registry, as the program interface of Docker's helpers has it.
    let script = format!(
        "#!/bin/sh\nread server\nif [ \"$1 $server\" = \"get {host}\" ]; then\n  \
         echo '{{\"ServerURL\":\"{host}\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\nelse\n  \
         echo 'credentials not found in native keychain'; exit 1\nfi\n"
    );
    let helper = folder.path().join("docker-credential-test");
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path(), std::env::var("PATH").unwrap());
    let environment = [("PATH", path.as_str()), ("DOCKER_CONFIG", folder.path().as_str())];
    let with_config = |json: &str| {
        std::fs::write(folder.path().join("config.json"), json).unwrap();
        child(&server, &environment)
    };
    assert!(with_config(r#"{"credsStore":"test"}"#).contains("all well"));
    assert!(with_config(&format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#)).contains("all well"));
    let other = with_config(r#"{"credHelpers":{"example.com":"test"}}"#);
    assert!(other.contains("no credentials"), "{other}");

    // One that does not know this registry, and then one that fails.
    let wrong = std::fs::read_to_string(&helper).unwrap().replace(&format!("get {host}"), "get nobody");
    std::fs::write(&helper, wrong).unwrap();
    let other = with_config(r#"{"credsStore":"test"}"#);
    assert!(other.contains("neither docker-credential-test"), "{other}");
    assert!(
        with_config(&format!(r#"{{"credsStore":"test","auths":{{"{host}":{{"auth":"{AUTH}"}}}}}}"#))
            .contains("all well")
    );
    // Whose helper is empty has neither that nor the store; and `null` is nothing, as in Docker.
    for helpers in [format!(r#"{{"{host}":""}}"#), format!(r#"{{"{host}":null}}"#)] {
        let json = format!(
            r#"{{"credsStore":"nobody-has-it","credHelpers":{helpers},"auths":{{"example.com":null,"{host}":{{"auth":"{AUTH}","username":null}}}}}}"#
        );
        let said = with_config(&json);
        assert!(said.contains("all well"), "{json}: {said}");
    }
    let json =
        format!(r#"{{"credsStore":null,"credHelpers":null,"auths":{{"{host}":{{"auth":"{AUTH}"}}}}}}"#);
    assert!(with_config(&json).contains("all well"));
    assert!(with_config(r#"{"credsStore":null,"credHelpers":null,"auths":null}"#).contains("no credentials"));

    std::fs::write(&helper, "#!/bin/sh\necho 'the keyring is locked'; exit 1\n").unwrap();
    let other = with_config(r#"{"credsStore":"test"}"#);
    assert!(other.contains("the keyring is locked") && other.contains("credsStore in"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_for_each_scope() {
    let server = start();
    let tokens = TokenServer::new(Duration::from_secs(300));
    let proxy = FaultProxy::start_with_tokens(server.host(), tokens).unwrap();
    let folder = Folder::new();
    let registry = client(&proxy.host(), Credentials::login(USER, PASSWORD));
    push(&registry, &folder).await.unwrap();
    push(&registry, &folder).await.unwrap();
    let mut asked = proxy.tokens().asked();
    asked.sort();
    assert_eq!(asked, ["repository:acme/web:pull", "repository:acme/web:pull,push"]);

    // A mount needs to read where it mounts from.
    let layer = folder.layer(1000);
    registry
        .push_image("acme/base", &image(std::slice::from_ref(&layer)), ProgressSink::silent())
        .await
        .unwrap();
    let mut child = image(&[layer]);
    child.layers[0].mount_from = vec!["acme/base".to_owned()];
    let pushed = registry.push_image("acme/child", &child, ProgressSink::silent()).await.unwrap();
    assert_eq!(pushed.mounted, 1);
    let asked = proxy.tokens().asked();
    assert!(
        asked.contains(&"repository:acme/child:pull,push repository:acme/base:pull".to_owned()),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_is_fetched_again() {
    let server = start();
    let tokens = TokenServer::new(Duration::from_secs(300));
    let proxy = FaultProxy::start_with_tokens(server.host(), tokens).unwrap();
    let folder = Folder::new();
    let registry = client(&proxy.host(), Credentials::login(USER, PASSWORD));
    push(&registry, &folder).await.unwrap();
    proxy.tokens().revoke_all();
    push(&registry, &folder).await.unwrap();
    assert_eq!(proxy.tokens().asked().len(), 4, "both scopes, twice");

    // One that says that it has ended is not shown any more.
    let tokens = TokenServer::new(Duration::ZERO);
    let proxy = FaultProxy::start_with_tokens(server.host(), tokens).unwrap();
    let registry = client(&proxy.host(), Credentials::login(USER, PASSWORD));
    let error = registry.tags("acme/web").await.unwrap_err();
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged() {
    let server = start();
    let tokens = TokenServer::new(Duration::from_secs(300));
    let proxy = FaultProxy::start_with_tokens(server.host(), tokens).unwrap();
    let folder = Folder::new();
    let host = proxy.host();
    let entry =
        |token: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"{AUTH}","identitytoken":"{token}"}}}}}}"#);
    push(&client(&host, config(&folder, &entry(IDENTITY_TOKEN))), &folder).await.unwrap();

    let error = client(&host, config(&folder, &entry("unbelievable"))).tags("acme/web").await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("its token server answers 401") && text.contains("auths in"), "{text}");
    assert!(!text.contains("unbelievable"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_forbidden_is_named() {
    let server = start();
    let tokens = TokenServer::new(Duration::from_secs(300)).forbidding("acme/secret");
    let proxy = FaultProxy::start_with_tokens(server.host(), tokens).unwrap();
    let folder = Folder::new();
    let registry = client(&proxy.host(), Credentials::login(USER, PASSWORD));
    let error = registry.tags("acme/secret").await.unwrap_err();
    assert!(
        matches!(error, Error::Authentication { .. }) && error.to_string().contains("acme/secret"),
        "{error}"
    );
    // What cannot be mounted from there is sent.
    let mut wanted = image(&[folder.layer(1000)]);
    wanted.layers[0].mount_from = vec!["acme/secret".to_owned()];
    let pushed = registry.push_image("acme/web", &wanted, ProgressSink::silent()).await.unwrap();
    assert_eq!(pushed.mounted, 0);

    proxy.fail("GET", "", imgforge_testkit::fault_proxy::Fault::Status(403), 1);
    let error = registry.tags("acme/web").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Authentication, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_on_to_another_host_shows_it_no_login_and_not_where_it_comes_from() {
    let (storage, at_storage) = answering(|_| response("200 OK", "", "blob"));
    let (host, at_registry) = answering(move |head| {
        if head.to_ascii_lowercase().contains("authorization:") {
            response("307 -", &format!("Location: http://{storage}/of/the/blob?signed\r\n"), "")
        } else {
            response("401 -", "WWW-Authenticate: Basic realm=\"x\"\r\n", "")
        }
    });
    let registry = client(&host, Credentials::login(USER, PASSWORD));
    let blob = Descriptor::new(MediaType::ImageLayerGzip, Digest::sha256(b"blob"), 4);
    assert_eq!(registry.blob("acme/web", &blob, 10).await.unwrap(), b"blob");
    let (at_storage, at_registry) =
        (at_storage.lock().unwrap().concat(), at_registry.lock().unwrap().concat());
    assert!(at_registry.contains("authorization: basic"), "{at_registry}");
    assert!(at_storage.contains("get /of/the/blob?signed"), "{at_storage}");
    assert!(!at_storage.contains("authorization") && !at_storage.contains("referer"), "{at_storage}");
    assert!(!at_storage.contains(&host), "{at_storage}");
}
