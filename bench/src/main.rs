//! Scenarios, load, peers and demo nodes for Tandem.
//!
//! Everything is measured from outside: the binaries under test are started as an operator would
//! start them, and this crate never links the proxy.

#![forbid(unsafe_code)]

mod callgrind;
mod contestant;
mod instructions;
mod load;
mod machine;
mod measure;
mod node;
mod pattern;
mod peer;
mod placement;
mod plugins;
mod probe;
mod process;
mod reload;
mod report;
mod routes;
mod run;
mod scenario;
mod slots;
mod solo;
mod statistics;
mod tandem;
mod topology;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::{
    contestant::Binaries,
    measure::Bench,
    placement::{CpuList, Layout, Placement},
    process::Site,
    report::{About, Report},
    run::{Noise, Run},
    scenario::Extent,
    topology::{Network, Topology},
};

#[derive(Parser)]
#[command(name = "bench", about = "Scenarios, load, peers and demo nodes for Tandem")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures scenarios; the only source of figures.
    Run {
        /// Which, for example `A1 L1`, or one case, `B3/100`; `bench list` has them all.
        #[arg(required = true)]
        ids: Vec<String>,
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Measured part of each load, seconds.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// What separates client, proxy and nodes; beyond loopback it takes root and `ip`.
        #[arg(long, value_enum, default_value_t = Network::Loopback)]
        network: Network,
        /// Where `report.json`, `report.md` and `report.html` go.
        #[arg(long, default_value = "target/bench")]
        out: PathBuf,
        /// Keeps what others disturbed; the report then says that it is not to be quoted.
        #[arg(long)]
        tolerate_noise: bool,
        /// Only this contestant; may be repeated.
        #[arg(long)]
        only: Vec<String>,
        #[command(flatten)]
        setting: Setting,
    },
    /// A0 to A3, C1 and D1 for a first look: three rounds of 1.5 s, never quoted.
    Quick {
        #[command(flatten)]
        setting: Setting,
    },
    /// Runs a little of every scenario, and of each network, to see that the harness works; no
    /// figures.
    Smoke {
        #[command(flatten)]
        setting: Setting,
    },
    /// Writes `report.md` and `report.html` anew from `report.json`.
    Report {
        #[arg(default_value = "target/bench")]
        directory: PathBuf,
    },
    /// Counts the instructions of a request by stage; needs valgrind and a binary with line tables
    /// (`cargo build --profile counted -p proxy`).
    Instructions {
        #[command(flatten)]
        binary: CountedBinary,
    },
    /// Counts the instructions of each plugin, for requests that pass and for those it answers; needs
    /// valgrind.
    Plugins {
        #[command(flatten)]
        binary: CountedBinary,
    },
    /// Counts the instructions of a request with 10 routes and with 10,000; needs valgrind.
    Routes {
        #[command(flatten)]
        binary: CountedBinary,
    },
    /// Measures how long a reload takes that changes one of 10,000 routes.
    Reload {
        #[command(flatten)]
        setting: Setting,
    },
    /// Lists the scenarios.
    List,
    /// A node to stand behind a proxy; prints `listening ADDRESS` and ends with its parent.
    Node {
        #[command(subcommand)]
        kind: node::Kind,
    },
    /// Becomes another program, pinned, in a network namespace, and ended with the parent.
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        cpus: CpuList,
        /// The file of the namespace.
        #[arg(long)]
        namespace: Option<PathBuf>,
        #[arg(last = true)]
        program: Vec<String>,
    },
}

#[derive(Args)]
struct CountedBinary {
    #[arg(long, default_value = "target/counted/tandem")]
    tandem: PathBuf,
}

impl CountedBinary {
    /// Makes a report by counting.
    fn report(
        &self,
        count: fn(&Path, &Placement) -> anyhow::Result<String>,
    ) -> anyhow::Result<ExitCode> {
        if let Some(reason) = callgrind::absence(&self.tandem) {
            bail!("{reason}");
        }
        let placement = Placement::new(Layout::Shared, &CpuList::allowed()?)?;
        say(&count(&self.tandem, &placement)?);
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
struct Setting {
    /// The binary of Tandem.
    #[arg(long, default_value = "target/release/tandem")]
    tandem: PathBuf,
    #[arg(long, value_enum, default_value_t = Layout::Split)]
    placement: Layout,
}

impl Setting {
    fn bench(&self, window: Duration, network: Network) -> anyhow::Result<Bench> {
        process::raise_open_files()?;
        Ok(Bench {
            binaries: Binaries {
                tandem: self.tandem.clone(),
                tandem_version: tandem::version(&self.tandem),
                peers: peer::Found::look(),
            },
            placement: Placement::new(self.placement, &CpuList::allowed()?)?,
            topology: Topology::build(network)?,
            window,
            processors: machine::processors()?,
        })
    }
}

fn main() -> ExitCode {
    match dispatch(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place that reports an error")]
fn say_error(text: &str) {
    eprintln!("bench: {text}");
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn say(text: &str) {
    println!("{text}");
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { ids, rounds, seconds, network, out, tolerate_noise, only, setting } => {
            let noise = if tolerate_noise { Noise::Tolerate } else { Noise::Refuse };
            let bench = setting.bench(Duration::from_secs_f64(seconds), network)?;
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            measure(bench, &ids, Extent::Full, rounds, noise, only, &out)
        }
        Command::Quick { setting } => {
            let bench = setting.bench(Duration::from_millis(1500), Network::Loopback)?;
            let ids = ["A0", "A1", "A2", "A3", "C1", "D1/100"];
            let out = Path::new("target/bench/quick");
            measure(bench, &ids, Extent::Full, 3, Noise::Tolerate, Vec::new(), out)
        }
        Command::Smoke { setting } => smoke(&setting),
        Command::Report { directory } => {
            let raw = directory.join("report.json");
            let text =
                fs::read_to_string(&raw).with_context(|| format!("read {}", raw.display()))?;
            let report: Report = serde_json::from_str(&text)?;
            write_report(&report, &directory)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Instructions { binary } => binary.report(instructions::report),
        Command::Plugins { binary } => binary.report(plugins::report),
        Command::Routes { binary } => binary.report(routes::report),
        Command::Reload { setting } => {
            let placement = Placement::new(setting.placement, &CpuList::allowed()?)?;
            say(&reload::report(&setting.tandem, &placement)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::List => {
            for (id, title) in scenario::SCENARIOS {
                say(&format!("{id}  {title}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Node { kind } => node::run(&kind).map(|()| ExitCode::SUCCESS),
        Command::Launch { cpus, namespace, program } => {
            let site = Site { cpus: &cpus, namespace: namespace.as_deref() };
            process::launch(site, &program).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// What a smoke run has of each network, with the measured part of each load in ms: where legs are
/// delivered it must not be all over with their first requests, which go by TCP.
const SMOKE: [(Network, u64, &[&str]); 3] = [
    (
        Network::Loopback,
        200,
        &[
            "A1", "A2", "A5", "B2", "B3", "B4", "B6", "C1", "C4", "D1", "D3", "E1", "E3", "L1",
            "M1", "S1", "W1",
        ],
    ),
    (Network::Client, 1000, &["same-host/A2", "X1/keep-alive"]),
    (Network::Three, 1000, &["same-host/A2", "L1/connect"]),
];

/// Skips what cannot be had here, in lines that the test runner counts. Under `KERNEL_TESTS=require`
/// that is an error.
fn smoke(setting: &Setting) -> anyhow::Result<ExitCode> {
    let is_required = env::var_os("KERNEL_TESTS").is_some_and(|asked| asked == "require");
    let placement = Placement::new(setting.placement, &CpuList::allowed()?)?;
    plugins::check(&setting.tandem, &placement).context("bench plugins")?;
    for (network, window_ms, ids) in SMOKE {
        let absence = (network != Network::Loopback).then(topology::absence).flatten();
        if let Some(reason) = absence.filter(|_| !is_required) {
            say(&format!("skipped: network `{}`: {reason}", network.label()));
            continue;
        }
        let bench = setting.bench(Duration::from_millis(window_ms), network)?;
        let out = Path::new("target/bench/smoke").join(network.label());
        measure(bench, ids, Extent::Smoke, 1, Noise::Tolerate, Vec::new(), &out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the matrix and writes the report; a failed row is a failed run.
fn measure(
    bench: Bench,
    ids: &[&str],
    extent: Extent,
    rounds: u32,
    noise: Noise,
    only: Vec<String>,
    out: &Path,
) -> anyhow::Result<ExitCode> {
    if rounds == 0 || bench.window.is_zero() {
        bail!("nothing to measure in no time");
    }
    let mut cases = Vec::new();
    for id in ids {
        cases.extend(scenario::cases(id, extent)?);
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let about = About::collect(&bench, rounds, noise)?;
    let run = Run { bench, cases, rounds, noise, only, raw: Some(out.join("report.json")) };
    let report = run.execute(about)?;
    write_report(&report, out)?;
    match report.failures() {
        0 => Ok(ExitCode::SUCCESS),
        failures => bail!("{failures} measurements failed"),
    }
}

/// Writes the report for people, beside the raw data it is made from.
fn write_report(report: &Report, directory: &Path) -> anyhow::Result<()> {
    let text = report::render_markdown(report);
    for (name, content) in
        [("report.md", text.as_str()), ("report.html", &report::render_html(report))]
    {
        let file = directory.join(name);
        fs::write(&file, content).with_context(|| format!("write {}", file.display()))?;
    }
    say(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], expected: Option<Network>) {
        let words = ["bench", "run"].iter().chain(words);
        let network = match Arguments::try_parse_from(words).map(|arguments| arguments.command) {
            Ok(Command::Run { network, .. }) => Some(network),
            Ok(_) | Err(_) => None,
        };
        assert_eq!(network, expected);
    }

    #[test]
    fn a_run_is_on_loopback_unless_it_says_which_network() {
        check(&["A2"], Some(Network::Loopback));
        check(&["--network", "client", "A2"], Some(Network::Client));
        check(&["A2", "same-host", "--network", "three"], Some(Network::Three));
        check(&["A2", "--network", "four"], None);
        for network in [Network::Loopback, Network::Client, Network::Three] {
            check(&["A2", "--network", network.label()], Some(network));
        }
    }
}
