//! The netns laboratory: nodes, pods, clients and probes on one machine.
