//! How long a reload takes: one changed route among ten thousand, from the change of the file to the
//! first request by the new rules, and what of that the proxy says it was busy with.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    placement::Placement,
    probe,
    process::LISTEN_MAX,
    routes,
    solo::{self, Solo},
    statistics::Spread,
};

/// Reloads that are measured, after one that is not.
const RELOADS: usize = 15;
/// Between two looks at which rules hold.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// How long one may take.
const RELOAD_MAX: Duration = Duration::from_secs(20);

/// From the parsed tree to the new rules.
const PUBLISHED_MAX: Duration = Duration::from_millis(20);

/// What the log line of a reload says, microseconds each.
const STAGES: [(&str, &str); 3] = [
    ("read_us", "text to tree"),
    ("check_us", "tree to configuration"),
    ("publish_us", "configuration to rules in force"),
];

/// One reload, seconds.
struct Seen {
    whole: f64,
    /// By [`STAGES`].
    stages: [f64; STAGES.len()],
}

/// Measures, and returns a table.
pub(crate) fn report(tandem: &Path, placement: &Placement) -> anyhow::Result<String> {
    let (_node, address, node) = routes::ends(placement)?;
    let proxy = Solo::start(
        solo::bare,
        tandem,
        placement,
        (&config(address, node, 0)?, address),
        LISTEN_MAX,
    )?;
    let mut client = probe::Client::connect(address)?;
    let mut seen = Vec::with_capacity(RELOADS);
    for round in 0..=RELOADS {
        let reload = reload(&proxy, &mut client, &config(address, node, round + 1)?, round + 1)?;
        if round > 0 {
            seen.push(reload);
        }
    }
    let mut text = String::from("| stage | ms, median | least | most |\n|---|---:|---:|---:|\n");
    let mut row = |what: &str, of: &dyn Fn(&Seen) -> f64| {
        let Spread { median, least, greatest } =
            Spread::of(seen.iter().map(|one| 1e3 * of(one))).context("nothing was measured")?;
        writeln!(text, "| {what} | {median:.1} | {least:.1} | {greatest:.1} |")?;
        anyhow::Ok(median)
    };
    for (at, (_, what)) in STAGES.iter().enumerate() {
        row(what, &|one| one.stages[at])?;
    }
    row("file changed to first request by new rules", &|one| one.whole)?;
    let published = row("tree to rules in force", &|one| one.stages[1..].iter().sum())?;
    let most = 1e3 * PUBLISHED_MAX.as_secs_f64();
    let verdict = if published < most { "met" } else { "MISSED" };
    writeln!(
        text,
        "one of {} routes changed: tree to rules in force {published:.1} ms; target < {most:.0} ms: \
         {verdict}",
        routes::MANY
    )?;
    Ok(text)
}

/// All routes, and one that moves with every version.
fn config(address: SocketAddr, node: SocketAddr, version: usize) -> anyhow::Result<String> {
    let moving = format!("  - {{ id: moving, uri: /version/{version}, upstream_id: u0 }}");
    routes::config((address, node), 0..routes::MANY - 1, &moving)
}

/// Changes the file and waits until the new version, and no older one, is there.
fn reload(
    proxy: &Solo,
    client: &mut probe::Client,
    config: &str,
    version: usize,
) -> anyhow::Result<Seen> {
    let said = proxy.log()?.len();
    let path = format!("/version/{version}");
    ensure!(client.get(&path, &[])?.status == 404, "{path} is there already");
    let changed = Instant::now();
    proxy.reconfigure(config)?;
    while client.get(&path, &[])?.status != 200 {
        ensure!(changed.elapsed() < RELOAD_MAX, "no reload: {}", proxy.log()?);
        std::thread::park_timeout(LOOK_EVERY);
    }
    let whole = changed.elapsed().as_secs_f64();
    // The line comes behind the rules.
    while changed.elapsed() < RELOAD_MAX {
        let log = proxy.log()?;
        let line = log[said..].lines().find(|line| line.contains("configuration reloaded"));
        if let Some(line) = line {
            return Ok(Seen { whole, stages: stages(line)? });
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    bail!("a reload that is not in the log: {}", proxy.log()?)
}

fn stages(line: &str) -> anyhow::Result<[f64; STAGES.len()]> {
    let mut stages = [0.0; STAGES.len()];
    for (stage, (key, _)) in stages.iter_mut().zip(STAGES) {
        let mut words = line.split_whitespace();
        let value = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let value: u64 = value.with_context(|| format!("no `{key}`: {line}"))?.parse()?;
        *stage = value as f64 / 1e6;
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_are_those_of_the_log_line() {
        let line = "INFO proxy::reload: configuration reloaded cause=File milliseconds=9 \
                    read_us=5000 check_us=3000 publish_us=1000";
        assert_eq!(stages(line).unwrap(), [0.005, 0.003, 0.001]);
        assert!(stages("configuration reloaded read_us=5000").is_err());
    }
}
