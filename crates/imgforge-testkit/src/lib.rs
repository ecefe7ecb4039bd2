//! For tests only: workspaces on disk, real engines, a real apt repository.
