"""Data in an object store: what lies below a prefix, read as the same files on disk would be."""
