//! The pod network, the agent's side: links, addresses, routes, IPAM and its journal.
