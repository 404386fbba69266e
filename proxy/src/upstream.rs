//! Where requests go: which node is next, how it is dialled, which idle connections are kept.
//!
//! [`balance`] is shared by all workers and pure; connections and [`pool`]s belong to one worker.

pub mod balance;
pub mod connect;
pub mod connection;
pub mod group;
pub mod hash_key;
pub(crate) mod plain;
pub mod pool;
pub mod retry;
