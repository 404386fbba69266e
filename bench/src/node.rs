//! The nodes behind every proxy: one thread, one epoll, as little work per request as HTTP allows,
//! so that a measurement is about what stands in front of them.

mod echo;
mod http;
mod serve;

use std::net::SocketAddr;

use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Kind {
    /// HTTP/1.1. Any path answers with a small body that names the node; a path that ends in
    /// `/bytes/N` with N bytes of the pattern, in `/chunked/N` with the same in chunks, in `/echo`
    /// with the request head as received, in `/status/N` with that status and no body, in `/stall/MS`
    /// with a count of the request body, which is not read for MS milliseconds.
    Http {
        /// Where to listen; port 0 takes a free one.
        address: SocketAddr,
        /// What the body names.
        #[arg(long)]
        name: String,
        /// Fills the small body up to this many bytes.
        #[arg(long, default_value_t = 0)]
        body_size: usize,
    },
    /// Sends back what it receives.
    Echo {
        /// Where to listen; port 0 takes a free one.
        address: SocketAddr,
    },
}

/// Serves until the parent process ends.
pub(crate) fn run(kind: &Kind) -> anyhow::Result<()> {
    match kind {
        Kind::Http { address, name, body_size } => {
            serve::run(*address, &http::Node::new(name, *body_size))
        }
        Kind::Echo { address } => serve::run(*address, &echo::Node),
    }
}
