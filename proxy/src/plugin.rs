//! Configured steps that may answer or amend a request or a response.

/// One configured plugin, parsed and checked.
#[derive(Debug, Clone)]
pub enum PluginConfig {
    KeyAuth(KeyAuthConfig),
}

/// `key-auth` as a route configures it (APISIX's names and defaults).
#[derive(Debug, Clone)]
pub struct KeyAuthConfig {
    /// Request field that carries the key; `apikey` by default, lower-case.
    pub header: String,
    /// Query argument that carries it; `apikey` by default.
    pub query: String,
    /// In `WWW-Authenticate`; `key` by default.
    pub realm: String,
    /// Whether the key is taken out of what the node sees.
    pub hide_credentials: bool,
    /// Attached when the key is missing or wrong.
    pub anonymous_consumer: Option<String>,
}
