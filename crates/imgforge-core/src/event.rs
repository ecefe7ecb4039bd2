//! What happens while targets are built: the one interface between what works and what reports.
//!
//! Engines and package sources send events; the terminal, plain lines and the run's report only read them. No text
//! in an event has been cleaned of control codes: readers do that where they show it.

use std::time::Duration;

use crate::name::{ImageName, Tag};
use crate::testing::TestResult;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run begins.
    Started {
        /// How many targets there is work on: those that will be built, or only tested.
        to_build: usize,
        /// How many are fresh.
        fresh: usize,
        /// How many may be built at once.
        slots: usize,
    },
    /// An engine is used that is not the usual one.
    Engine {
        /// Which, and why.
        notice: String,
    },
    /// Files are being fetched (package indexes, packages).
    Fetching {
        /// What, in a few words: `packages`, `package indexes`.
        what: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes in all; 0 while that is not known.
        total: u64,
    },
    /// All of `what` is there.
    Fetched {
        /// The `what` of [`Fetching`](Event::Fetching).
        what: String,
        /// Bytes that were fetched (not found in the cache).
        bytes: u64,
        /// How many files were fetched.
        files: usize,
        /// How long it took.
        took: Duration,
    },
    /// Work on a target begins.
    TargetStarted {
        /// Which.
        target: ImageName,
        /// What is done for it first.
        activity: Activity,
    },
    /// A target's build has come to a step.
    Step {
        /// Which target.
        target: ImageName,
        /// The step's number, from 1.
        number: usize,
        /// How many steps there are.
        total: usize,
        /// What the step says, as in the Dockerfile.
        text: String,
        /// Whether its result was taken from the engine's cache.
        cached: bool,
    },
    /// A step has printed a line, or a part of a very long one.
    Log {
        /// Which target.
        target: ImageName,
        /// The line, without its end.
        line: String,
    },
    /// A test of a target begins; its image is there.
    TestStarted {
        /// Which target.
        target: ImageName,
        /// The test.
        test: String,
        /// Its number, from 1.
        number: usize,
        /// How many tests the target has.
        total: usize,
    },
    /// A test of a target has ended.
    TestFinished {
        /// Which target.
        target: ImageName,
        /// What came of it.
        result: TestResult,
    },
    /// A target is done with.
    TargetFinished {
        /// Which.
        target: ImageName,
        /// How it ended.
        outcome: Outcome,
        /// How long it took.
        took: Duration,
    },
    /// An image is being pushed to the registry.
    Pushing {
        /// Which.
        target: ImageName,
        /// Bytes of its layers that are there.
        done: u64,
        /// Bytes of all its layers.
        total: u64,
    },
    /// An image is in the registry, whole, under its content tag.
    Pushed {
        /// Which.
        target: ImageName,
        /// Bytes of layers that were sent; the others were there.
        sent: u64,
        /// How long it took.
        took: Duration,
    },
    /// Release tags of an image were moved in the registry.
    Promoted {
        /// Which.
        target: ImageName,
        /// The tags.
        tags: Vec<Tag>,
    },
    /// Something that people should know, but that stops nothing.
    Warning {
        /// In one line.
        message: String,
    },
    /// The user has asked to stop; what runs is being cancelled.
    Interrupted,
    /// The run is over.
    Finished {
        /// How long it took.
        took: Duration,
    },
}

/// What is done for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It is built, and then tested if it has tests.
    Build,
    /// It is in the registry: it is pulled, and then tested if its tests have not passed.
    Pull,
    /// It is there, and only tested.
    Test,
}

/// How a target ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was built.
    Built {
        /// Size of the image in bytes, its parents' layers included.
        size: u64,
        /// What it adds to its parent, in bytes.
        added: u64,
    },
    /// It was there, in the registry, and was pulled for something that needs it.
    Pulled {
        /// Size of the image in bytes, its parents' layers included.
        size: u64,
    },
    /// What it is made from has changed, and what came out is what it was before: no step had to be carried out.
    Same {
        /// Size of the image in bytes, its parents' layers included.
        size: u64,
    },
    /// It was there already, and its tests passed.
    Tested,
    /// Its build failed, or a test of it.
    Failed {
        /// Why, in one line.
        message: String,
    },
    /// Not begun, since something that it stands on failed.
    Skipped {
        /// What failed.
        blocked_by: ImageName,
    },
    /// Stopped or not begun, because the run was.
    Cancelled,
}

/// Reads events: a terminal, a log, a recorder.
pub trait Reporter: Send {
    /// Takes notice of one event. Called for all events of a run, in order, from one thread at a time.
    fn event(&mut self, event: &Event);
}
