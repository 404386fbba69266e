//! Tandem's userspace half. Modules in the order in which a connection meets them.

#![deny(unsafe_code)]

pub mod access_log;
pub mod config;
pub mod error;
pub mod forward;
pub mod guard;
pub mod http;
pub mod kernel;
pub mod logging;
pub mod metrics;
pub mod plugin;
pub mod route;
pub mod sys;
