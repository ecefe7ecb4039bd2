//! Layers: a folder in overlayfs's form to a tar and back, and compression.
