//! Names of the constants of a run, written into the object before it is loaded.
//!
//! The verifier knows their values and drops the code they switch off.

/// `u32`: [`crate::ABI_VERSION`] as the object was built. Never overridden, only compared.
pub const ABI_VERSION: &str = "ABI_VERSION";
/// Section that holds `ABI_VERSION` alone, so that userspace can read it as a map of one value.
pub const ABI_SECTION: &str = ".rodata.abi";
