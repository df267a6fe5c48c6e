//! The Kubernetes API over HTTP: schema-driven kinds on a Store.
//!
//! A request passes through [`server`] (TLS, connections), [`api`] (who, may they, what), and one of the verbs ([`read`],
//! [`watch`], [`write`], [`change`], [`patching`], [`delete`]), which know kinds only as entries of the [`kinds`] table. The
//! rules themselves are pure and stand apart: [`admit`], [`patch`], [`schema`], [`select`], [`table`], [`prepare`].

// What objects are, and the rules about them: no I/O.
pub mod admit;
pub mod kinds;
pub mod patch;
pub mod schema;
pub mod select;
pub mod table;
pub mod wire;

// From bytes to a request and back.
mod body;
mod discovery;
mod negotiate;
mod query;
mod respond;
mod review;
mod route;
mod status;
mod stream;

// The verbs.
mod api;
mod apply;
mod change;
mod delete;
mod kubelet;
mod logs;
mod object;
mod patching;
mod pods;
mod prepare;
mod read;
mod scale;
mod services;
mod watch;
mod write;

// Running it.
pub mod authn;
pub mod authz;
mod bootstrap;
mod config;
mod inherit;
mod kubeconfig;
mod metrics;
mod pki;
mod server;

pub use config::Config;
pub use kubeconfig::write_kubeconfig;
pub use server::run;
pub use status::ApiError;
