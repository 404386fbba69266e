//! The raw data of a run, and the tables made from it. Nothing is computed that the rows do not
//! hold.

mod about;
mod chart;
mod crossover;
mod html;
mod markdown;
#[cfg(test)]
mod sample;
mod table;
mod target;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    about::About, html::render as render_html, markdown::render as render_markdown,
};
use crate::measure::Figures;

/// The peers that ratios are taken to: nginx, and HAProxy in the one or two ways it is run.
pub(crate) const REFERENCE_PEERS: [&str; 3] = ["nginx", "haproxy", "haproxy splice"];

/// Everything a run leaves behind.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) about: About,
    pub(crate) rows: Vec<Row>,
}

/// One measurement.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scenario: String,
    pub(crate) case: String,
    pub(crate) table: Table,
    pub(crate) contestant: String,
    pub(crate) round: u32,
    pub(crate) outcome: Outcome,
}

/// Which columns a case has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Table {
    Load,
    SlowTransfer,
    #[serde(alias = "idle_connections")]
    OpenConnections,
    StartUp,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Measured {
        figures: Figures,
        /// Attempts that were thrown away, and why; or, where noise is tolerated, what disturbed
        /// this one.
        disturbances: Vec<String>,
    },
    /// A wrong answer, or a claim without proof: never a number.
    Failed {
        reason: String,
    },
    Absent {
        reason: String,
    },
}

impl Report {
    pub(crate) fn failures(&self) -> usize {
        self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed { .. })).count()
    }

    /// A figure of one contestant in one case, by round.
    fn series(&self, scenario: &str, case: &str, contestant: &str, figure: &str) -> Series {
        let rounds = self.rows.iter().map(|row| row.round).max().unwrap_or(0);
        let mut series = vec![None; rounds as usize];
        let rows = self.rows.iter().filter(|row| {
            row.scenario == scenario && row.case == case && row.contestant == contestant
        });
        for row in rows {
            if let (Outcome::Measured { figures, .. }, Some(value)) =
                (&row.outcome, series.get_mut(row.round.saturating_sub(1) as usize))
            {
                *value = figures.get(figure).copied();
            }
        }
        series
    }

    fn peers(&self, scenario: &str, case: &str, figure: &str) -> Vec<Series> {
        REFERENCE_PEERS.map(|peer| self.series(scenario, case, peer, figure)).to_vec()
    }
}

/// One value for each round that has one.
type Series = Vec<Option<f64>>;
