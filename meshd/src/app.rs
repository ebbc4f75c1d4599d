//! The only wiring: builds shells and channels, starts and stops them in order.

use crate::config::{ControllerConfig, NodeConfig};

pub(crate) fn run_node(config: NodeConfig) -> anyhow::Result<()> {
    anyhow::bail!("node {} cannot be run yet", config.node)
}

pub(crate) fn run_controller(config: ControllerConfig) -> anyhow::Result<()> {
    anyhow::bail!("the controller of {} cannot be run yet", config.trust_domain)
}
