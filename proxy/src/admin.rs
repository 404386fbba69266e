use std::{net::SocketAddr, sync::Arc};
use tokio::runtime::Runtime;
pub struct Admin(SocketAddr);
pub struct Sources {
    pub metrics: Arc<crate::metrics::Metrics>,
    pub kernel: Arc<crate::kernel::KernelPlane>,
    pub access_log: Option<crate::access_log::AccessLog>,
    pub shutdown: crate::drain::Shutdown,
}
pub fn bind(a: SocketAddr, _: &Runtime) -> anyhow::Result<Admin> {
    Ok(Admin(a))
}
impl Admin {
    pub fn address(&self) -> SocketAddr {
        self.0
    }
    pub async fn serve(self, _s: Sources) {}
}
