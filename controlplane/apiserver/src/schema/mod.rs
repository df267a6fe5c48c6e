//! OpenAPI documents and unknown-field checks, derived from the schemas of the served kinds.
