//! What instructions write into the configuration.

use super::super::Below;
use super::{image, last, program, settings};
use imgforge_oci::{Healthcheck, ImageConfig, Settings};

#[expect(clippy::unnecessary_wraps, reason = "what it is compared with")]
fn list(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn an_empty_image_is_what_buildkit_makes_of_scratch() {
    let config = last("FROM scratch").config;
    let mut expected = ImageConfig::scratch("linux/amd64");
    expected.config.working_dir = "/".into();
    expected.config.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()];
    assert_eq!(config, expected);
}

#[test]
fn commands_take_the_shell_when_they_are_lines() {
    let config = settings("FROM a\nSHELL [\"/s\", \"-x\"]\nCMD run  it\nENTRYPOINT [\"/e\", \"a\"]");
    assert_eq!((config.cmd, config.entrypoint), (list(&["/s", "-x", "run  it"]), list(&["/e", "a"])));
    assert_eq!((config.shell, config.args_escaped), (list(&["/s", "-x"]), Some(true)));
    let config = settings("FROM a\nENTRYPOINT exec x");
    assert_eq!(
        (config.entrypoint, config.cmd, config.args_escaped),
        (list(&["/bin/sh", "-c", "exec x"]), None, None)
    );
    let config = settings("FROM a AS b\nCMD x\nENTRYPOINT [\"y\"]\nFROM b\nCMD []\nENTRYPOINT []");
    assert_eq!((config.cmd, config.entrypoint), (None, None));
    // The last counts.
    assert_eq!(settings("FROM a\nCMD [\"x\"]\nCMD [\"y\"]").cmd, list(&["y"]));
}

#[test]
fn an_entrypoint_takes_the_command_of_the_base_away_but_not_its_own() {
    let cmd = |text: &str| settings(text).cmd;
    assert_eq!(cmd("FROM a AS b\nCMD [\"x\"]\nFROM b\nENTRYPOINT [\"y\"]"), None);
    assert_eq!(cmd("FROM a AS b\nCMD [\"x\"]\nFROM b\nENTRYPOINT [\"y\"]\nCMD [\"z\"]"), list(&["z"]));
    assert_eq!(cmd("FROM a AS b\nCMD [\"x\"]\nFROM b\nCMD [\"z\"]\nENTRYPOINT [\"y\"]"), list(&["z"]));
    assert_eq!(cmd("FROM a AS b\nCMD [\"x\"]\nENTRYPOINT [\"y\"]\nFROM b"), list(&["x"]));
}

#[test]
fn ports_are_spread_and_have_a_protocol() {
    let ports = |line: &str| {
        settings(&format!("FROM a\nENV P=70-71 Q=\"1 2\"\nEXPOSE {line}"))
            .exposed_ports
            .unwrap()
            .into_keys()
            .collect::<Vec<_>>()
    };
    assert_eq!(ports("80"), ["80/tcp"]);
    assert_eq!(ports("80/TCP 53/udp 5/sctp 6/"), ["5/sctp", "53/udp", "6/tcp", "80/tcp"]);
    assert_eq!(ports("8000-8002 8001"), ["8000/tcp", "8001/tcp", "8002/tcp"]);
    assert_eq!(ports("$P/udp ${Q}"), ["1/tcp", "2/tcp", "70/udp", "71/udp"]);
    assert_eq!(ports("8080:80 127.0.0.1:81:82 [::1]::83 0"), ["0/tcp", "80/tcp", "82/tcp", "83/tcp"]);
    let mut base = image();
    base.config = Settings {
        exposed_ports: Some([("1/tcp".to_owned(), imgforge_oci::Empty {})].into()),
        ..base.config
    };
    let config = program("FROM a\nEXPOSE 2").stage(0, Below::Image(&base)).unwrap().config.config;
    assert_eq!(config.exposed_ports.unwrap().len(), 2);
}

#[test]
fn health_checks_have_their_times() {
    let check = |line: &str| settings(&format!("FROM a\nHEALTHCHECK {line}")).healthcheck.unwrap();
    assert_eq!(check("NONE").test, ["NONE"]);
    assert_eq!(check("none").test, ["NONE"]);
    assert_eq!(check("CMD curl -f  x || exit 1").test, ["CMD-SHELL", "curl -f  x || exit 1"]);
    assert_eq!(check("cmd [\"a\", \"b c\"]").test, ["CMD", "a", "b c"]);
    let expected = Healthcheck {
        test: vec!["CMD-SHELL".into(), "x".into()],
        interval: 90_000_000_000,
        timeout: 500_000_000,
        start_period: 3_600_000_000_000,
        start_interval: 1_000_000,
        retries: 4,
    };
    assert_eq!(
        check(
            "--interval=1m30s --timeout=0.5s --start-period=1h \\\n --start-interval=1ms --retries=4 CMD x"
        ),
        expected
    );
    assert_eq!(check("--interval=0s --retries=0 CMD x").interval, 0);
}

#[test]
fn the_rest_is_written_as_it_is_said() {
    let stage = last(
        "FROM a\nMAINTAINER  A <a@b>\nUSER  me:us \nVOLUME /a /b\nVOLUME [\"/c d\", \"$BASE\"]\nSTOPSIGNAL rtmin+3\nLABEL x=1\nLABEL x=2 y=3",
    );
    let config = stage.config.config;
    assert_eq!(stage.config.other["author"], "A <a@b>");
    assert_eq!(config.user, "me:us");
    assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/a", "/b", "/c d", "base"]);
    assert_eq!(config.stop_signal.as_deref(), Some("rtmin+3"));
    let labels: Vec<_> = config.labels.unwrap().into_iter().collect();
    assert_eq!(labels, [("x".to_owned(), "2".to_owned()), ("y".to_owned(), "3".to_owned())]);
    assert_eq!(settings("FROM a AS b\nUSER x\nFROM b\nUSER $NOT").user, "");
    let text = settings("FROM a\nONBUILD  run --mount=type=tmpfs,target=/x \\\n  y\nONBUILD COPY <<-A <<B /\n\ta\n\tA\nb\nB\n").on_build;
    assert_eq!(text, ["run --mount=type=tmpfs,target=/x   y", "COPY <<-A <<B /\n\ta\nA\nb\nB"]);
}
