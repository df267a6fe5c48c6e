//! The Kubernetes API over HTTP: schema-driven kinds on a Store.
