//! The kind table: what the server knows of each resource is one entry here.
