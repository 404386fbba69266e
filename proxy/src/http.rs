//! HTTP/1.1 as bytes and decisions: no sockets, no clocks, no runtime.
//!
//! Bytes of a connection enter [`gate`], which hands out one owned [`head::RequestHead`] or
//! [`head::ResponseHead`] at a time; [`framing`] says where the body after it ends. [`path`] and
//! [`fields`] turn a head into what is matched and what is forwarded, [`answer`] is every response
//! the proxy makes itself, [`authorization`], [`cookie`] and [`jwt`] read credentials. Whatever two readers could read differently is refused here, so that
//! the engines behind never see it.

pub mod answer;
pub mod authorization;
pub mod cookie;
pub mod fields;
pub mod framing;
pub mod gate;
pub mod head;
pub mod jwt;
pub mod name;
pub mod path;
pub mod query;
pub mod stand_in;
