//! The family that is built for each supervisor, and the programs in it.

use std::ffi::OsString;

use imgforge_testkit::needs;
use imgforge_testkit::workspace::TestWorkspace;

use super::{behaviours, variables};

/// What containers of a supervisor need of Docker; docs/supervisors.md says why.
pub(super) fn docker_options(supervisor: &str) -> &'static [&'static str] {
    match supervisor {
        "systemd" => &[
            "--cgroupns=host",
            "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
            "--tmpfs=/run",
            "--tmpfs=/run/lock",
        ],
        _ => &[],
    }
}

/// A tar of what s6-overlay adds to a root file system; no Debian package holds it.
fn s6_overlay() -> OsString {
    std::env::var_os(needs::S6_OVERLAY)
        .expect("set IMGFORGE_TEST_S6_OVERLAY to a tar of what s6-overlay adds to a root file system")
}

/// `say NAME EVENT`.
const SAY: &str = "#!/bin/sh\necho \"$1 $2 $(date +%s%N)\"\n";

/// `svc NAME`: says when it starts, and when it is stopped.
const SVC: &str = r#"#!/bin/sh
trap 'say "$1" stop; exit 0' TERM
say "$1" start
while :; do
    sleep 60 &
    wait $!
done
"#;

/// `slow NAME`: makes the file `/tmp/NAME` and says that it is ready one second after its start, then is `svc NAME`.
const SLOW: &str = r#"#!/bin/sh
sleep 1
say "$1" ready
: > "/tmp/$1"
exec svc "$1"
"#;

/// `serve PORT`: a server that listens one second after its start, and answers 200 on `/ok` and 503 elsewhere.
const SERVE: &str = r#"#!/usr/bin/perl
use IO::Socket::INET;
$SIG{TERM} = sub { exit 0 };
sleep 1;
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 9, ReuseAddr => 1) or die;
system "say", "server", "ready";
while (1) {
    my $client = $server->accept or next;
    $client->autoflush(1);
    my $line = <$client>;
    next unless defined $line;
    my $status = $line =~ m{^GET /ok } ? "200 OK" : "503 No";
    print $client "HTTP/1.0 $status\r\nContent-Length: 0\r\n\r\n";
    close $client;
}
"#;

/// `hex WORD...`: writes the bytes of its words, then of the values of the environment whose names begin with `HEX_`.
const HEX: &str = r#"#!/usr/bin/perl
$| = 1;
my @env = map { "$_=$ENV{$_}" } sort grep { /^HEX_/ } keys %ENV;
print "hex ", join(",", map { unpack "H*", $_ } @ARGV, @env), ".\n";
$SIG{TERM} = sub { exit 0 };
sleep 1 while 1;
"#;

/// `environ NAME`: writes the environment that it was given into the file `/tmp/environ.NAME`; as `main` it stays, as
/// `shown` it shows it.
pub(crate) const ENVIRON: &str = r#"#!/bin/sh
/usr/bin/od -An -v -tx1 "/proc/$$/environ" > "/tmp/environ.$1.part"
/bin/mv "/tmp/environ.$1.part" "/tmp/environ.$1"
[ "$1" != shown ] || exec /bin/cat /tmp/environ.shown
[ "$1" != main ] || exec /bin/sleep 600
"#;

const PROGRAMS: [(&str, &str); 6] =
    [("say", SAY), ("svc", SVC), ("slow", SLOW), ("serve", SERVE), ("hex", HEX), ("environ", ENVIRON)];

const APT: &str = "apt \"debian\" {\n    suite \"bookworm\" \"bookworm-updates\" \"bookworm-security\"\n}\n";

const OS: &str = r#"    root "debian"
    user "app" uid=1000 home="/srv/app""#;

/// `os` <- `mid`, which has the service `main`, and on it the images of each behaviour.
pub(super) fn family(supervisor: &str) -> TestWorkspace {
    let workspace = TestWorkspace::new();
    let described = std::fs::read_to_string(workspace.root().join("imgforge.kdl")).unwrap();
    workspace.write("imgforge.kdl", &(described + APT));
    workspace.image("os", OS);
    for (name, text) in PROGRAMS {
        workspace.write(&format!("mid/{name}"), text);
    }
    let (base, install) = match supervisor {
        "s6-overlay" => {
            workspace.image("overlay", "    from \"os\"\n    dockerfile \"Dockerfile\"");
            workspace.write("overlay/Dockerfile", "FROM os\nADD overlay.tar /\n");
            std::fs::copy(s6_overlay(), workspace.root().join("overlay/overlay.tar")).unwrap();
            ("overlay", " install=#false")
        }
        _ => ("os", ""),
    };
    let names: String = PROGRAMS.iter().map(|(name, _)| format!(" \"{name}\"")).collect();
    workspace.image(
        "mid",
        &format!(
            "    from \"{base}\"\n    supervisor \"{supervisor}\"{install}\n    copy{names} \"/usr/local/bin/\" mode=\"0755\"\n    service \"main\" {{\n        command \"svc\" \"main\"\n    }}"
        ),
    );
    for behaviour in behaviours::all() {
        let mut from = "mid".to_owned();
        for (depth, services) in behaviour.images.iter().enumerate() {
            let is_last = depth + 1 == behaviour.images.len();
            let name = if is_last { behaviour.image() } else { format!("{}-{depth}", behaviour.image()) };
            let services = services.replace("{variables}", &variables::nodes("service"));
            workspace.image(&name, &format!("    from \"{from}\"\n{services}"));
            from = name;
        }
    }
    workspace
}
