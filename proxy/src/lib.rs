//! The service proxy: plan (pure), delta, apply.
