//! The `imgforge` command: arguments, one file per verb, exit code.

mod console;
mod failure;
mod interrupt;
mod panics;
mod verbs;

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  imgforge build                    build what changed, in parallel
  imgforge build guestbook          one image, and the parents it needs
  imgforge build webapp-base+       an image and all that stands on it
  imgforge plan                     what would be built, and why
  imgforge test guestbook           run the tests of an image that is built
  imgforge graph --format mermaid   the family as a picture
  imgforge import                   make a workspace of a repository of Dockerfiles
  imgforge run guestbook            start it here, its ports on loopback
  imgforge services                 what the services of running containers do
  imgforge export guestbook --to compose
  imgforge lint                     what is allowed and still goes wrong one day
  imgforge build --push             build, test, push, and move the tags in the registry
  imgforge rollback                 bring those tags back to the promotion before
  imgforge outdated                 which locked packages have newer versions
  imgforge update --security        lock security updates; without an option, the newest of everything

Selectors: NAME, a glob (web*), +NAME with ancestors, NAME+ with descendants, NAME+1 with children,
group:NAME, path:FOLDER.

Exit codes: 0 done; 1 something failed to build or a test failed, or lint found an error; 2 the command line, a manifest or the lock is wrong;
3 an engine, registry or repository cannot be reached; 10 `plan --exit-code` or `outdated` found work; 70 a bug in imgforge; 130 interrupted.";

/// Builds families of container images: rebuilds exactly what changed, and can say why.
#[derive(Parser)]
#[command(name = "imgforge", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Args)]
struct Global {
    /// The workspace, or a folder in it [default: the current folder]
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    workspace: Option<Utf8PathBuf>,
    /// Colours: auto, always or never (NO_COLOR and CLICOLOR_FORCE are obeyed)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    color: ColorChoice,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more; with `build`, the log of every step
    #[arg(short, long, global = true)]
    verbose: bool,
    /// What builds and runs images: docker, embedded (no daemon), or auto: Docker where it answers
    #[arg(
        long,
        global = true,
        value_name = "ENGINE",
        env = "IMGFORGE_ENGINE",
        default_value = "auto",
        hide_possible_values = true,
        hide_env = true
    )]
    engine: EngineName,
    /// Read every file again instead of trusting its size and times
    #[arg(long, global = true)]
    no_stat_cache: bool,
}

/// What builds and runs images.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum EngineName {
    /// Docker where it answers, else the embedded engine.
    Auto,
    /// Docker.
    Docker,
    /// The embedded engine.
    Embedded,
}

impl From<EngineName> for imgforge::EngineChoice {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Auto => Self::Auto,
            EngineName::Docker => Self::Docker,
            EngineName::Embedded => Self::Embedded,
        }
    }
}

#[derive(Subcommand)]
enum Verb {
    Build(verbs::build::Build),
    Plan(verbs::plan::PlanVerb),
    Graph(verbs::graph::Graph),
    Import(verbs::import::ImportVerb),
    List(verbs::list::List),
    Show(verbs::show::Show),
    Render(verbs::render::Render),
    Run(verbs::run::Run),
    Services(verbs::services::ServicesVerb),
    Export(verbs::export::Export),
    Load(verbs::load::Load),
    Lint(verbs::lint::Lint),
    Test(verbs::test::TestVerb),
    Push(verbs::push::Push),
    Promote(verbs::promote::Promote),
    Rollback(verbs::rollback::Rollback),
    Prune(verbs::prune::Prune),
    Outdated(verbs::outdated::OutdatedVerb),
    Update(verbs::update::Update),
    Schema(verbs::schema::SchemaVerb),
}

fn main() -> ExitCode {
    // The embedded engine's steps are processes of their own: this program again.
    if let Some(code) = imgforge::embedded::called() {
        return code;
    }
    panics::end_the_program();
    let cli = Cli::parse();
    console::set_colors(cli.global.color);
    let outcome = match &cli.verb {
        Verb::Build(verb) => verb.run(&cli.global),
        Verb::Plan(verb) => verb.run(&cli.global),
        Verb::Graph(verb) => verb.run(&cli.global),
        Verb::Import(verb) => verb.run(&cli.global),
        Verb::List(verb) => verb.run(&cli.global),
        Verb::Show(verb) => verb.run(&cli.global),
        Verb::Render(verb) => verb.run(&cli.global),
        Verb::Run(verb) => verb.run(&cli.global),
        Verb::Services(verb) => verb.run(&cli.global),
        Verb::Export(verb) => verb.run(&cli.global),
        Verb::Load(verb) => verb.run(&cli.global),
        Verb::Lint(verb) => verb.run(&cli.global),
        Verb::Test(verb) => verb.run(&cli.global),
        Verb::Push(verb) => verb.run(&cli.global),
        Verb::Promote(verb) => verb.run(&cli.global),
        Verb::Rollback(verb) => verb.run(&cli.global),
        Verb::Prune(verb) => verb.run(&cli.global),
        Verb::Outdated(verb) => verb.run(&cli.global),
        Verb::Update(verb) => verb.run(&cli.global),
        Verb::Schema(verb) => Ok(verb.run()),
    };
    outcome.unwrap_or_else(failure::Failure::report)
}
