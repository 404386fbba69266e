//! What names resolve to: asked again and again, and the last good answer kept.
//!
//! `book` knows what every name resolves to and when it is to be asked about next; it is pure, and
//! time comes in as an argument. `client` asks, and `follow` is the task on the control runtime that
//! has it ask. What comes of it is published as changed rules are (`reload`), so no request ever waits
//! for a name.

mod book;
mod client;
mod follow;

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde::Serialize;

pub(crate) use self::{
    book::{Book, News},
    follow::follow,
};

/// What is asked about one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// In lower case. With a dot at its end, no search list applies.
    pub name: Arc<str>,
    pub records: Records,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Records {
    /// A and AAAA.
    Addresses,
    /// SRV (RFC 2782), and the addresses of what that names.
    Services,
    /// Addresses if there are no SRV records.
    ServicesOrAddresses,
}

/// One address that a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub address: IpAddr,
    /// `None`: the address is that of the name itself.
    pub service: Option<Service>,
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub target: Arc<str>,
    pub port: u16,
    pub weight: u16,
    /// The lowest comes first.
    pub priority: u16,
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// At least one; sorted, and each address with its port once.
    pub(crate) found: Vec<Found>,
    /// Of the record that ends first.
    pub(crate) ttl: Duration,
    /// A part of it could not be had.
    pub(crate) is_partial: bool,
    /// There were more addresses than [`FOUND_MAX`].
    pub(crate) is_cut: bool,
}

/// Why there is no good answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// There is no such name, or it has no such records, or no address of them is one.
    NoRecords,
    /// The server does not answer the question (SERVFAIL, REFUSED), or not in DNS.
    Refused,
    TimedOut,
}

impl Failure {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Failure::NoRecords => "no such name or records",
            Failure::Refused => "the name server does not answer it",
            Failure::TimedOut => "no answer in time",
        }
    }
}

pub(crate) type Outcome = Result<Answer, Failure>;

/// Addresses that are taken of one answer; the rest is left out, and counted.
pub(crate) const FOUND_MAX: usize = 256;

/// A name as `/dns` shows it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    name: String,
    /// Addresses, of services with their ports.
    found: Vec<String>,
    /// Why the last lookup gave none of this.
    failure: Option<&'static str>,
}
