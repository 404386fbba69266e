//! `cargo xtask run`: the quick start. Builds everything, starts two HTTP nodes, an echo node and
//! `tandem` in front of them, all on loopback, and says what to try. `--check` tries it itself.

mod ports;
mod probe;
mod samples;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    build_ebpf, cargo_build,
    children::{Held, Lines, Output},
    workspace,
};

const CONFIGURATION: &str = "examples/quickstart.yaml";
const WEB: SocketAddr = loopback(9080);
const STREAM: SocketAddr = loopback(9100);
const ADMIN: SocketAddr = loopback(9180);
const HTTP_NODES: [(&str, SocketAddr); 2] = [("a", loopback(3000)), ("b", loopback(3001))];
const ECHO_NODE: SocketAddr = loopback(7000);

/// For a node to listen.
const NODE_WAIT: Duration = Duration::from_secs(5);
/// For `tandem` to be ready: loading programs on a busy machine takes a while.
const READY_WAIT: Duration = Duration::from_secs(20);
/// `drain.timeout` is 30 s; after that everything is closed anyway.
const STOP_WAIT: Duration = Duration::from_secs(40);
/// How often children and signals are looked at.
const POLL: Duration = Duration::from_millis(100);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// What to do once everything runs.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Until Ctrl-C.
    Serve,
    /// Send the samples and stop.
    Check,
}

/// Everything that was started, in the order it is dropped: the proxy first.
struct Demo {
    tandem: Held,
    nodes: Vec<Held>,
}

pub(crate) fn run(purpose: Purpose, arguments: &[OsString]) -> Result<ExitCode> {
    require_own_samples(purpose, arguments)?;
    let signals = signals()?;
    ports::require_free(&addresses(arguments))?;
    if let Err(error) = build_ebpf::run() {
        let why = format!("{error:#}").lines().map(str::trim).collect::<Vec<_>>().join(" ");
        println!("kernel half not built, serving in userspace only: {why}");
    }
    let bench = cargo_build::release("bench", "bench")?;
    let tandem = cargo_build::release("proxy", "tandem")?;
    // Building takes minutes; somebody may have come in the meantime.
    ports::require_free(&addresses(arguments))?;

    let nodes = start_nodes(&bench)?;
    let output = match purpose {
        Purpose::Serve => Output::Terminal,
        Purpose::Check => Output::Lines,
    };
    let mut command = cargo_build::start(tandem.clone());
    command.arg("run");
    if !names_configuration(arguments) {
        command.args(["-c", CONFIGURATION]);
    }
    command.args(arguments);
    let proxy = Held::start("tandem", &command, output)?;
    let mut demo = Demo { tandem: proxy, nodes };
    match purpose {
        Purpose::Serve => {
            if !names_configuration(arguments) {
                print_mode(&demo.wait_until_ready(&signals)?);
                print_invitation();
            }
            demo.serve(&signals)
        }
        Purpose::Check => {
            let access_log = demo.tandem.lines();
            print_mode(&demo.wait_until_ready(&signals)?);
            let outcome = samples::send(&access_log, &tandem);
            let stopped = demo.stop(&signals, Some(access_log));
            outcome?;
            stopped
        }
    }
}

/// The samples are those of one file: on another one they would fail, or ask whoever has its
/// addresses.
fn require_own_samples(purpose: Purpose, arguments: &[OsString]) -> Result<()> {
    match purpose {
        Purpose::Check if names_configuration(arguments) => {
            bail!(
                "`--check` sends the samples of {CONFIGURATION}; leave out `--check` or `-c FILE`"
            )
        }
        Purpose::Check | Purpose::Serve => Ok(()),
    }
}

/// Another configuration is the caller's; its addresses are not known here.
fn names_configuration(arguments: &[OsString]) -> bool {
    arguments.iter().any(|word| {
        let word = word.to_string_lossy();
        word.starts_with("-c") || word.starts_with("--config")
    })
}

fn addresses(arguments: &[OsString]) -> Vec<(&'static str, SocketAddr)> {
    let mut addresses = vec![("demo node", ECHO_NODE)];
    addresses.extend(HTTP_NODES.map(|(_, address)| ("demo node", address)));
    if !names_configuration(arguments) {
        addresses.push(("listener `web`", WEB));
        addresses.push(("listener `tcp-echo`", STREAM));
        addresses.push(("admin", ADMIN));
    }
    addresses
}

fn start_nodes(bench: &Path) -> Result<Vec<Held>> {
    let mut nodes = Vec::new();
    for (name, address) in HTTP_NODES {
        let mut command = cargo_build::start(bench.to_owned());
        command.args(["node", "http", &address.to_string(), "--name", name]);
        nodes.push(start_node(&format!("node {name}"), &command)?);
    }
    let mut command = cargo_build::start(bench.to_owned());
    command.args(["node", "echo", &ECHO_NODE.to_string()]);
    nodes.push(start_node("node echo", &command)?);
    Ok(nodes)
}

fn start_node(name: &str, command: &std::process::Command) -> Result<Held> {
    let mut node = Held::start(name, command, Output::Lines)?;
    node.lines()
        .wait_for(NODE_WAIT, |line| line.starts_with("listening ").then_some(()))
        .with_context(|| format!("{name} does not listen"))?;
    Ok(node)
}

impl Demo {
    /// The body of `/ready`.
    fn wait_until_ready(&mut self, signals: &Receiver<i32>) -> Result<Value> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            self.require_running()?;
            let answer = probe::Http::connect(ADMIN).and_then(|mut http| http.get("/ready", None));
            match answer {
                Ok(answer) if answer.status == 200 => {
                    return serde_json::from_str(&answer.body).context("read /ready");
                }
                Ok(_) | Err(_) if Instant::now() < deadline => {}
                Ok(answer) => bail!("tandem is not ready: /ready answers {}", answer.status),
                Err(error) => return Err(error.context("tandem is not ready")),
            }
            if signals.recv_timeout(POLL).is_ok() {
                bail!("interrupted");
            }
        }
    }

    fn require_running(&mut self) -> Result<()> {
        for child in std::iter::once(&mut self.tandem).chain(&mut self.nodes) {
            if let Some(status) = child.ended()? {
                bail!("{} ended: {status}", child.name());
            }
        }
        Ok(())
    }

    /// Until a signal comes or something ends by itself.
    fn serve(mut self, signals: &Receiver<i32>) -> Result<ExitCode> {
        loop {
            self.require_running()?;
            if signals.recv_timeout(POLL).is_ok() {
                println!("draining; Ctrl-C again to stop at once");
                return self.stop(signals, None);
            }
        }
    }

    /// Stops the proxy, then the nodes. Its output is read to the end, so that it never waits for
    /// us to read.
    fn stop(self, signals: &Receiver<i32>, output: Option<Lines>) -> Result<ExitCode> {
        let status = self.tandem.stop(STOP_WAIT, |wait| signals.recv_timeout(wait).is_ok())?;
        drop(output);
        drop(self.nodes);
        if !status.success() {
            bail!("tandem ended with {status}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Signals that ask us to stop, from now on.
fn signals() -> Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watch signals")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn print_mode(ready: &Value) {
    // A refusal by the verifier brings its whole log; `tandem bpf status` shows that.
    let text = |value: &Value, name: &str| {
        let text = value.get(name).and_then(Value::as_str).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let kernel = &ready["kernel"];
    let why = text(kernel, "detail");
    println!(
        "kernel half: asked for {}, running {} {why}",
        text(kernel, "asked"),
        text(kernel, "running")
    );
    for feature in kernel["features"].as_array().into_iter().flatten() {
        let (name, state) = (text(feature, "name"), text(feature, "state"));
        println!("  {name:<10} {state:<10} {}", text(feature, "detail"));
    }
}

fn print_invitation() {
    println!(
        "\ntry, in another terminal ({} is what runs):\n  \
         curl -i http://{WEB}/\n  \
         curl -i http://{WEB}/api/x                          # 401\n  \
         curl -i -H 'apikey: {key}' http://{WEB}/api/x\n  \
         (printf 'hello\\n'; sleep 0.1) | nc -q1 {} {}     # echo\n  \
         curl http://{ADMIN}/ready\n  \
         curl http://{ADMIN}/metrics\nCtrl-C stops everything.\n",
        workspace::shown(&workspace::root().join(CONFIGURATION)),
        STREAM.ip(),
        STREAM.port(),
        key = samples::KEY,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(purpose: Purpose, arguments: &[&str], is_refused: bool) {
        let words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let outcome = require_own_samples(purpose, &words);
        assert_eq!(outcome.is_err(), is_refused, "{arguments:?}: {outcome:?}");
    }

    #[test]
    fn samples_are_sent_to_the_quick_start_only() {
        for words in [&["-c", "other.yaml"][..], &["-cother.yaml"], &["--config=other.yaml"]] {
            check(Purpose::Check, words, true);
            check(Purpose::Serve, words, false);
        }
        check(Purpose::Check, &[], false);
    }
}
