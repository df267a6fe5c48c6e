//! Assigns pods to nodes: filters, scores, binding.
