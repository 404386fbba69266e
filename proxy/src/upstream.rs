//! Where requests go: which node is next, how it is dialled, which idle connections are kept.
//!
//! [`balance`] and [`health`] are shared by all workers and pure; connections and [`pool`]s belong to one
//! worker. `probe` belongs to the control runtime.

pub mod balance;
pub mod connect;
pub mod connection;
pub mod group;
pub mod hash_key;
pub mod health;
pub(crate) mod plain;
pub mod pool;
pub(crate) mod probe;
pub mod retry;
pub mod sticky;
