//! What this host is called.

use std::sync::OnceLock;

/// As it was called when somebody asked first.
pub fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
