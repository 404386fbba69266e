//! What an operator is told: `/ready`, `/metrics`, `tandem bpf status`.

use serde::Serialize;

use super::same_host::Legs;
use crate::config::KernelMode;

/// The kernel half as asked for and as it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    pub asked: Asked,
    pub running: Running,
    /// Why nothing runs, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How XDP is attached: `native`, `generic`, or `mixed` over several interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdp_mode: Option<&'static str>,
    /// Connections whose both ends are on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_host: Option<Legs>,
    pub abi: u32,
    pub features: Vec<Feature>,
    pub programs: Vec<ProgramStatus>,
    pub maps: Vec<MapStatus>,
}

/// `kernel.mode` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    Off,
    Auto,
    Require,
}

impl From<KernelMode> for Asked {
    fn from(mode: KernelMode) -> Self {
        match mode {
            KernelMode::Off => Self::Off,
            KernelMode::Auto => Self::Auto,
            KernelMode::Require => Self::Require,
        }
    }
}

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Running {
    /// Every feature that was asked for runs in the kernel.
    Kernel,
    /// Some do.
    Mixed,
    /// None does.
    Userspace,
}

impl Running {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Mixed => "mixed",
            Self::Userspace => "userspace",
        }
    }
}

/// One feature, named as its program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feature {
    pub name: &'static str,
    pub state: FeatureState,
    /// Where it runs, or why it does not.
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureState {
    Running,
    /// Asked for, not to be had: userspace does it.
    Fallback,
    /// Not asked for.
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramStatus {
    pub name: String,
    pub id: u32,
    /// As the verifier counted them (v5.16).
    pub verified_instructions: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapStatus {
    pub name: String,
    pub id: u32,
    pub entries_max: u32,
}

/// [`Running`] of several features: those not asked for do not count.
pub(super) fn running(features: &[Feature]) -> Running {
    let count = |state| features.iter().filter(|feature| feature.state == state).count();
    match (count(FeatureState::Running), count(FeatureState::Fallback)) {
        (0, _) => Running::Userspace,
        (_, 0) => Running::Kernel,
        _ => Running::Mixed,
    }
}
