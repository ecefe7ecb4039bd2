//! Namespaces, mounts, devices and capabilities: where a command of an image runs.
