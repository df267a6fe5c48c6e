//! The only crate that calls bpf(2): object, attach, pin, tables, batch update, test-run.
