//! Dockerfiles made by chance, from a seed: the same seed makes the same file.

use fastrand::Rng;

/// A Dockerfile on `BASE` with up to three stages.
pub(super) fn dockerfile(seed: u64) -> String {
    let mut random = Rng::with_seed(seed);
    let mut text = String::new();
    let stages = random.usize(1..=3);
    for stage in 0..stages {
        let base = match random.usize(0..4) {
            0 if stage > 0 => format!("s{}", stage - 1),
            _ => "BASE".to_owned(),
        };
        text.push_str(&format!("FROM {base} AS s{stage}\n"));
        for _ in 0..random.usize(2..=6) {
            let line = match random.usize(0..10) {
                0..=2 => copy(&mut random),
                3 if stage > 0 => copy_from(&mut random, stage - 1),
                3..=6 => run(&mut random),
                7 => format!("WORKDIR {}", target(&mut random)),
                8 => setting(&mut random),
                _ => add(&mut random),
            };
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

fn one<'a>(random: &mut Rng, of: &[&'a str]) -> &'a str {
    of[random.usize(0..of.len())]
}

/// Somewhere that is there or not, is a folder or not, is a link or not.
fn target(random: &mut Rng) -> String {
    let name = one(random, &["t", "u", "real", "full", "ln", "abs", "home/app", "tmp"]);
    let below = one(random, &["", "", "/n", "/one", "/sub", "/dir", "/sub/x"]);
    let before = one(random, &["/", "/", "", "./"]);
    format!("{before}{name}{below}")
}

fn flags(random: &mut Rng) -> String {
    let owner =
        one(random, &["", "", "", "--chown=app ", "--chown=1000:50 ", "--chown=7 ", "--chown=app:staff "]);
    let mode = one(random, &["", "", "", "", "--chmod=0640 ", "--chmod=755 ", "--chmod=0711 "]);
    format!("{owner}{mode}")
}

fn copy(random: &mut Rng) -> String {
    let sources = [
        "a.txt",
        "b.txt",
        "d",
        "d/",
        "d/one",
        "d/sub",
        "d/link",
        "d/dirlink",
        "d/empty",
        "link-to-d",
        "link-to-a",
        "glob/*.c",
        "glob",
        "bin",
        "*.txt",
        ".hidden",
    ];
    let mut line = format!("COPY {}", flags(random));
    for _ in 0..=random.usize(0..2) {
        line.push_str(one(random, &sources));
        line.push(' ');
    }
    // A folder, so that several sources do not cover each other.
    format!("{line}{}/", target(random))
}

fn copy_from(random: &mut Rng, stage: usize) -> String {
    let sources =
        ["/real", "/full", "/etc/passwd", "/real/file", "/full/sub", "/ln", "/home", "/full/*", "/tmp"];
    let source = one(random, &sources);
    format!("COPY --from=s{stage} {}{source} {}/", flags(random), target(random))
}

fn add(random: &mut Rng) -> String {
    let source = one(random, &["plain.tar", "packed.tar.gz", "text.tar", "a.txt", "archives", "text.gz"]);
    let owner = one(random, &["", "", "--chown=app:staff "]);
    // 20.10 leaves the owners in an archive as they are whatever --chown says; BuildKit sets them since.
    let owner = if matches!(source, "plain.tar" | "packed.tar.gz") { "" } else { owner };
    format!("ADD {owner}{source} {}/", target(random))
}

/// A command that may fail inside, but does not as a whole.
fn run(random: &mut Rng) -> String {
    let mut line = "RUN cd / ".to_owned();
    for _ in 0..=random.usize(0..3) {
        let (first, second) = (target(random), target(random));
        let command = match random.usize(0..15) {
            0 => format!("rm -rf {first}"),
            1 => format!("mkdir -p {first}"),
            2 => format!("mkdir -p {first}; echo {} > {first}/made", random.u8(..)),
            3 => format!("echo {} >> {first}", random.u8(..)),
            4 => format!("mv {first} {second}"),
            5 => format!("cp -a {first} {second}"),
            6 => format!("ln {first} {second}"),
            7 => format!("ln -s {first} {second}"),
            8 => format!("ln -sfn {} {first}", one(random, &["nowhere", "/full", "../etc", "."])),
            9 => format!("chmod {} {first}", one(random, &["700", "644", "4755", "1777", "0"])),
            10 => format!("chown {} {first}", one(random, &["app", "5:6", ":staff"])),
            11 => format!("touch -d '{}-01-02 03:04:05' {first}", random.usize(1980..1999)),
            12 => format!("rm -rf {first}; mkdir {first}"),
            13 => format!("find {first} -type f -exec rm {{}} +"),
            _ => format!("rm -rf {first}; touch {first}"),
        };
        line.push_str("; ");
        line.push_str(&command);
    }
    line.push_str("; true");
    line
}

fn setting(random: &mut Rng) -> String {
    let number = random.u8(..);
    match random.usize(0..8) {
        0 => format!("ENV V={number} W=\"$V ${{X:-x}}\""),
        1 => format!("ARG X={number}"),
        2 => format!("LABEL l{number}=\"$V\""),
        3 => format!("CMD [\"c{number}\"]"),
        4 => format!("ENTRYPOINT e{number} $V"),
        5 => format!("EXPOSE {}", u16::from(number) + 1),
        6 => "RUN echo \"$V $W $X\" > /variables".to_owned(),
        _ => format!("VOLUME /v{number}"),
    }
}
