//! What is kept on disk: an OCI image layout, unpacked layers, remembered steps, names.
