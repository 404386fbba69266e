//! Instructions that a request costs in the proxy's own process, counted by callgrind, by stage.
//!
//! What belongs to which stage is told by the source file of each instruction, inlined ones included,
//! so the binary needs line tables (`--profile counted`).

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    callgrind::Counted,
    contestant::{Auth, KEY, Service},
    placement::Placement,
    probe,
    process::{Program, Site},
    tandem::{self, Kernel, Mode},
    topology::{Network, free_address},
};

/// Requests that are not counted; everything that happens once has happened by then.
const REQUESTS_FIRST: u32 = 300;
const REQUESTS: u32 = 1000;

/// Stages by the files that they are in, the first that fits. `/src/` of a crate is part of the
/// pattern where its name alone is not telling.
const STAGES: [(&str, &[&str]); 10] = [
    (
        "read heads",
        &["/http/gate", "/http/head", "/http/name", "/httparse-", "/inlet.rs", "/gated.rs"],
    ),
    ("decide", &["/pipeline.rs", "/route.rs", "/route/", "/http/path", "/plugin", "/exchange.rs"]),
    ("reach a node", &["/upstream/"]),
    (
        "make heads",
        &["/http/fields", "/express/heads.rs", "/exchange/response_head.rs", "/http/answer.rs"],
    ),
    ("carry", &["/express.rs", "/express/", "/http/framing.rs", "/forward/"]),
    ("record", &["/record.rs", "/metrics", "/access_log", "/prometheus-client"]),
    ("connection", &["/connection.rs", "/deadlines.rs", "/drain.rs", "/worker.rs", "/listener.rs"]),
    ("runtime", &["/tokio-", "/mio-", "/hyper-", "/hyper-util-"]),
    ("allocator", &["/mimalloc", "/libmimalloc"]),
    (LIBRARIES, &["/library/", "/bytes-", "/http-", "/socket2-", "/rustix-", "glibc"]),
];
const LIBRARIES: &str = "libraries";
const OTHER: &str = "other";

/// Instructions by stage.
type Counts = BTreeMap<&'static str, u64>;

/// Measures A1 and A2, and returns a table of them.
pub(crate) fn report(tandem: &Path, placement: &Placement) -> anyhow::Result<String> {
    let plain = per_request(tandem, placement, Auth::Open)?;
    let keyed = per_request(tandem, placement, Auth::Key)?;
    let mut text = String::from("| stage | A1 | A2 (key-auth) |\n|---|---:|---:|\n");
    let stages = STAGES.iter().map(|(stage, _)| *stage).chain([OTHER]);
    for stage in stages {
        let of = |counts: &Counts| counts.get(stage).copied().unwrap_or(0);
        writeln!(text, "| {stage} | {} | {} |", of(&plain), of(&keyed))?;
    }
    let [plain, keyed] = [plain, keyed].map(|counts| counts.values().sum::<u64>());
    writeln!(text, "instructions per request: A1 {plain}, A2 {keyed}")?;
    Ok(text)
}

fn per_request(tandem: &Path, placement: &Placement, auth: Auth) -> anyhow::Result<Counts> {
    let site = Site { cpus: &placement.load, namespace: None };
    let (_node, node) = Program::start_node(&["http", "127.0.0.1:0", "--name", "node"], site)?;
    let service = Service::Http { nodes: vec![node], auth };
    let (address, admin) = (free_address(Ipv4Addr::LOCALHOST)?, free_address(Ipv4Addr::LOCALHOST)?);
    let mode = Mode::http(Kernel::Off);
    let config = tandem::config(mode, Network::Loopback, &service, address, admin);
    let mut proxy = Counted::start(tandem, placement, (&config, address))?;
    let fields: &[(&str, &str)] = match auth {
        Auth::Open => &[],
        Auth::Key => &[("apikey", KEY)],
    };
    let mut client = probe::Client::connect(address)?;
    let mut ask = |requests| {
        for _ in 0..requests {
            let answer = client.get("/", fields)?;
            ensure!(answer.status == 200, "status {}", answer.status);
        }
        anyhow::Ok(())
    };
    ask(REQUESTS_FIRST)?;
    proxy.begin()?;
    ask(REQUESTS)?;
    let mut counts = stages(&proxy.take()?)?;
    let unknown = counts.get(OTHER).copied().unwrap_or(0);
    let total: u64 = counts.values().sum();
    ensure!(
        unknown < total / 2,
        "most instructions have no file: is {} built with line tables?",
        tandem.display()
    );
    counts.values_mut().for_each(|count| *count /= u64::from(REQUESTS));
    Ok(counts)
}

/// Self cost by stage, of a file in callgrind's format
/// (<https://valgrind.org/docs/manual/cl-format.html>), with one kind of event.
fn stages(text: &str) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    let mut files: HashMap<&str, &str> = HashMap::new();
    let (mut caller, mut stage) = (OTHER, OTHER);
    let mut is_call = false;
    for line in text.lines() {
        if let Some((key, file)) = line.split_once('=').filter(|(key, _)| is_file(key)) {
            // `(12) name` the first time, `(12)` from then on.
            let (id, name) = file.split_once(' ').unwrap_or((file, ""));
            if !name.is_empty() {
                files.insert(id, name);
            }
            let own = stage_of(files.get(id).copied().unwrap_or(id));
            match key {
                "fl" => (caller, stage) = (own, own),
                // A library's code inlined into ours is part of what ours does.
                "fi" | "fe" => stage = if own == LIBRARIES { caller } else { own },
                // The file of a called function.
                _ => {}
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // The line behind `calls=` is the cost of the called, which has lines of its own.
            if !std::mem::take(&mut is_call) {
                let cost = line.split(' ').nth(1).with_context(|| format!("no cost: `{line}`"))?;
                *counts.entry(stage).or_default() += cost.parse::<u64>()?;
            }
        }
    }
    if counts.is_empty() {
        bail!("callgrind counted nothing");
    }
    Ok(counts)
}

/// Whether `key` names a file; the first such line of each file has its name.
fn is_file(key: &str) -> bool {
    matches!(key, "fl" | "fi" | "fe" | "cfi" | "cfl")
}

fn stage_of(file: &str) -> &'static str {
    let is_in = |(_, patterns): &&(&str, &[&str])| patterns.iter().any(|part| file.contains(part));
    STAGES.iter().find(is_in).map_or(OTHER, |(stage, _)| stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn self_cost_is_told_by_file_and_calls_are_not_counted_twice() {
        let text = "version: 1\npositions: line\nevents: Ir\n\n\
            fl=(1) /x/proxy/src/http/gate.rs\nfn=(1) gate\n12 30\n+1 5\n\
            fi=(2) /rustc/1/library/core/src/slice.rs\n7 4\n\
            fe=(1)\n14 1\ncfi=(4) /x/proxy/src/record.rs\ncfn=(2)\ncalls=2 9\n15 900\n* 2\n\
            fl=(3) ???\nfn=(9)\n0 6\n\
            fl=(4)\n11 3\n\
            fl=(2)\n-3 10\n\ntotals: 61\n";
        let counts = stages(text).unwrap();
        assert_eq!(
            counts,
            Counts::from([("read heads", 42), ("record", 3), (LIBRARIES, 10), (OTHER, 6)])
        );
        assert!(stages("version: 1\n").is_err());
    }

    #[test]
    fn every_stage_has_its_files() {
        for (file, stage) in [
            ("/w/proxy/src/express/relay.rs", "carry"),
            ("/w/proxy/src/express/heads.rs", "make heads"),
            ("/w/proxy/src/connection/gated.rs", "read heads"),
            ("/w/proxy/src/connection.rs", "connection"),
            ("/w/proxy/src/plugin/key_auth.rs", "decide"),
            ("/r/registry/src/i/tokio-1.54.1/src/net/tcp/stream.rs", "runtime"),
            ("/r/registry/src/i/http-1.5.0/src/status.rs", "libraries"),
            ("./malloc/malloc.c", OTHER),
        ] {
            assert_eq!(stage_of(file), stage, "{file}");
        }
    }
}
