//! Locked Debian packages: repository metadata, signatures, resolver, cache, roots.
