//! The worker: a process of its own that mounts, runs, copies, packs and unpacks. It is this program again, called
//! with a folder; it reads `request.json` there and writes `reply.json`. What a command prints goes to its stdout.

pub mod message;
