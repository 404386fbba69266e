//! Integration tests that need no privileges: real sockets on loopback, the kernel half off.

mod aborts;
mod balancing;
mod bodies;
mod calls;
mod config;
mod heads;
mod health;
mod lanes;
mod limits;
mod names;
mod object;
mod plugins;
mod policy;
mod process;
mod recogniser;
mod reload;
mod retries;
mod routing;
mod seeded;
mod shared_limits;
mod smuggling;
mod system_calls;
mod traffic;
mod upstreams;
mod wire;
