//! Tandem's userspace half. Modules in the order in which a connection meets them.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod logging;

pub mod app;
pub mod kernel;
pub mod worker;

pub mod dns;
pub mod drain;
pub mod guard;
pub mod listener;
pub mod reload;

mod connection;
mod deadlines;
pub mod http;
mod inlet;
mod lead;
pub mod memory;

mod exchange;
mod express;
pub mod expression;
pub mod pipeline;
pub mod plugin;
mod redis;
mod regexes;
pub mod route;
mod snapshot;
pub mod template;
pub mod upstream;
pub mod variable;

pub mod client;
pub mod forward;
pub mod key_source;
pub mod mirror;
mod stream;
pub mod sys;

pub mod access_log;
pub mod admin;
pub mod error;
pub mod log_files;
pub mod log_queue;
pub mod metrics;
mod record;
mod seldom;

#[cfg(feature = "test-support")]
pub mod test_support;
