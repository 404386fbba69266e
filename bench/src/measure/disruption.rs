//! What happens to a service while it is under load: one of its nodes dies and comes back, or its
//! rules change. Requests must not notice.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Figures, Nodes};
use crate::{
    contestant::Started, placement::Placement, scenario::Disruption, tandem::Metrics,
    topology::Topology,
};

/// How long a node is dead, and how long it then lives.
const DEAD_FOR: Duration = Duration::from_millis(150);
const ALIVE_FOR: Duration = Duration::from_millis(250);

/// Between two changes of the file: longer than the proxy waits for more of them.
const RELOAD_EVERY: Duration = Duration::from_millis(100);

/// Which of the nodes dies.
const MORTAL: usize = 0;

/// What was done to a service.
pub(super) struct Disrupted {
    disruption: Disruption,
    times: u32,
}

impl Disrupted {
    /// Lets the window pass, and disrupts the service as often as it takes, once at least.
    pub(super) fn during(
        disruption: Disruption,
        window: Duration,
        nodes: &mut Nodes,
        started: &Started,
        (placement, topology): (&Placement, &Topology),
    ) -> anyhow::Result<Self> {
        let (began, mut times) = (Instant::now(), 0);
        while times == 0 || began.elapsed() < window {
            times += 1;
            match disruption {
                Disruption::NodeDies => {
                    nodes.kill(MORTAL)?;
                    std::thread::park_timeout(DEAD_FOR);
                    nodes.revive(MORTAL, placement, topology)?;
                    std::thread::park_timeout(ALIVE_FOR);
                }
                Disruption::Reloads => {
                    started.change_rules(times)?;
                    std::thread::park_timeout(RELOAD_EVERY);
                }
            }
        }
        Ok(Self { disruption, times })
    }

    pub(super) fn note(&self, figures: &mut Figures) {
        let name = match self.disruption {
            Disruption::NodeDies => "node_deaths",
            Disruption::Reloads => "reloads",
        };
        figures.insert(name.into(), self.times.into());
    }

    /// Why the proxy may not claim to have stood it.
    pub(super) fn objection(
        &self,
        started: &Started,
        before: Option<&Metrics>,
    ) -> anyhow::Result<Option<String>> {
        let (Some(admin), Some(before)) = (started.admin, before) else { return Ok(None) };
        let after = Metrics::read(admin)?;
        let moved = |name: &str, labels: &[(&str, &str)]| {
            after.sum(name, labels) - before.sum(name, labels)
        };
        let reloads = |result| moved("tandem_config_reloads_total", &[("result", result)]);
        let times = f64::from(self.times);
        Ok(match self.disruption {
            Disruption::NodeDies => {
                let retries = moved("tandem_upstream_retries_total", &[]);
                (retries < times).then(|| format!("{retries} retries for {times} deaths"))
            }
            Disruption::Reloads => {
                let (applied, others) =
                    (reloads("applied"), reloads("invalid") + reloads("refused"));
                // Two changes may be seen as one where the machine is busy.
                let is_enough = applied >= (times / 2.0).floor().max(1.0) && others == 0.0;
                (!is_enough)
                    .then(|| format!("{applied} reloads of {times} changes, {others} failed"))
            }
        })
    }
}

/// What went wrong by the proxy's own account, for a row that failed.
pub(super) fn faults(started: &Started, before: Option<&Metrics>) -> anyhow::Result<String> {
    let (Some(admin), Some(before)) = (started.admin, before) else { return Ok(String::new()) };
    let after = Metrics::read(admin)?;
    let moved =
        after.by_label("tandem_faults_total", "fault").into_iter().filter_map(|(fault, n)| {
            let more = n - before.sum("tandem_faults_total", &[("fault", &fault)]);
            (more > 0.0).then(|| format!("{more} × {fault}"))
        });
    let moved: Vec<String> = moved.collect();
    Ok(format!("; faults: {}", moved.join(", ")))
}

impl Nodes {
    fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        self.programs.get_mut(index).context("no such node")?.kill()
    }

    /// Starts it again, where it was.
    fn revive(
        &mut self,
        index: usize,
        placement: &Placement,
        topology: &Topology,
    ) -> anyhow::Result<()> {
        let address = self.addresses.get(index).context("no such node")?.to_string();
        let (program, _) = Self::start_http(index, &address, placement, topology)?;
        self.programs[index] = program;
        Ok(())
    }
}
