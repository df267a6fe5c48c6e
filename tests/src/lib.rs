//! End-to-end scenarios, one file each in `tests/`. What they share is the laboratory, above all [`thalweg_lab::file`].
