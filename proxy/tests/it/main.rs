//! Integration tests that need no privileges.

mod config;
