//! Where the world comes from: manifests in, our own objects out.
