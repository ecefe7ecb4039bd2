//! `cargo xtask images`: builds the example family through the library, as another monorepo's xtask would.

use anyhow::{Result, bail};
use camino::Utf8Path;
use imgforge::{BuildOptions, OpenOptions, Session, report};

/// Builds what `selectors` mean; everything when there are none.
pub(crate) fn run(selectors: &[String]) -> Result<()> {
    let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let session = Session::open(root, &OpenOptions::default())?;
    let selected = session.select(selectors, &[])?;
    let mut reporter = report::for_stderr(report::Options {
        color: report::color_on_stderr(),
        ..report::Options::default()
    });
    let report = session.build(&selected, &BuildOptions::default(), &mut *reporter)?;
    drop(reporter);
    for failure in &report.failures {
        eprintln!("{}: {}", failure.target, failure.problem);
    }
    if !report.succeeded() {
        bail!("the family is not built");
    }
    println!("{} images are there", report.plan.targets.len());
    Ok(())
}
