//! What each plugin costs: the instructions of a request on a route with it, over those of the same
//! request on the same route without it, or, if the plugin answers, over those of a request that no
//! route takes. All routes are in one configuration and one process.

mod cases;

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, ensure};

use self::cases::{Answer, Before, CASES, CREDENTIALS, Case, HELLO};
use crate::{
    callgrind::{self, Counted},
    placement::Placement,
    probe,
    process::{LISTEN_MAX, Program, Site},
    solo::{self, Solo},
    topology::free_address,
};

/// Requests of each kind that are not counted; what happens once has happened by then.
const REQUESTS_FIRST: u32 = 30;
const REQUESTS: u32 = 300;
/// Of each kind, where only the answers matter.
const REQUESTS_CHECKED: u32 = 3;

/// From so many instructions on, a plugin is worth a look.
const MANY: i64 = 5000;
/// Unless it is there to compute that much, or to ask somebody.
const LABORIOUS: [&str; 9] = [
    "basic-auth",
    "brotli",
    "csrf",
    "forward-auth",
    "gzip",
    "hmac-auth",
    "jwt-auth",
    "proxy-mirror",
    "zstd",
];

/// Which of the paths of a case is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The route with the plugin.
    With,
    /// The route without it.
    Without,
    /// Nobody's.
    Lost,
}

impl Side {
    const fn label(self) -> &'static str {
        match self {
            Self::With => "with",
            Self::Without => "none",
            Self::Lost => "lost",
        }
    }

    /// What a request is compared with.
    const fn base_of(case: &Case) -> Self {
        match case.answer {
            Answer::Passed(_) | Answer::Encoded(_) => Self::Without,
            Answer::Own(_) => Self::Lost,
        }
    }
}

/// Counts every case and returns a table of them.
pub(crate) fn report(tandem: &Path, placement: &Placement) -> anyhow::Result<String> {
    let (_node, config, address) = configured(placement)?;
    let mut proxy = Counted::start(tandem, placement, (&config, address))?;
    let mut asker = Asker::prepare(address)?;
    for case in CASES {
        asker.ask(case, Side::With, REQUESTS_FIRST)?;
        asker.ask(case, Side::base_of(case), REQUESTS_FIRST)?;
    }
    proxy.begin()?;
    let mut text = String::from(
        "| plugin | request | answer | instructions | of the plugin | |\n|---|---|---:|---:|---:|---|\n",
    );
    for case in CASES {
        let mut counted = |side| {
            let status = asker.ask(case, side, REQUESTS)?;
            let total = callgrind::total(&proxy.take()?)? / u64::from(REQUESTS);
            anyhow::Ok((status, i64::try_from(total)?))
        };
        let ((status, all), (_, base)) = (counted(Side::With)?, counted(Side::base_of(case))?);
        let Case { plugin, name, .. } = case;
        let is_much = all - base >= MANY && !LABORIOUS.contains(plugin);
        let mark = if is_much { "many" } else { "" };
        writeln!(text, "| {plugin} | {name} | {status} | {all} | {} | {mark} |", all - base)?;
    }
    Ok(text)
}

/// Whether every case is answered as it has to be; counts nothing.
pub(crate) fn check(tandem: &Path, placement: &Placement) -> anyhow::Result<()> {
    let (_node, config, address) = configured(placement)?;
    let _proxy = Solo::start(solo::bare, tandem, placement, (&config, address), LISTEN_MAX)?;
    let mut asker = Asker::prepare(address)?;
    for case in CASES {
        for side in [Side::With, Side::Without, Side::Lost] {
            asker.ask(case, side, REQUESTS_CHECKED)?;
        }
    }
    Ok(())
}

/// A node, and a configuration that has all cases in front of it.
fn configured(placement: &Placement) -> anyhow::Result<(Program, String, SocketAddr)> {
    let site = Site { cpus: &placement.load, namespace: None };
    let (program, node) = Program::start_node(&["http", "127.0.0.1:0", "--name", "node"], site)?;
    let address = free_address(Ipv4Addr::LOCALHOST)?;
    Ok((program, config(address, node)?, address))
}

fn config(address: SocketAddr, node: SocketAddr) -> anyhow::Result<String> {
    let mut text = format!(
        "workers: 1\n\
         listeners: [{{ name: bench, address: {address} }}]\n\
         kernel: {{ mode: \"off\" }}\n\
         log: {{ level: warn }}\n\
         timeouts: {{ body: 10m, idle: 10m }}\n\
         upstreams:\n\
         \x20 - {{ id: app, nodes: {{ \"{node}\": 1 }} }}\n\
         \x20 - {{ id: other, nodes: {{ \"{node}\": 1 }} }}\n\
         consumers:\n\
         \x20 - {{ username: bench, plugins: {{ {CREDENTIALS} }} }}\n\
         routes:\n"
    );
    for (index, case) in CASES.iter().enumerate() {
        let Case { plugin, settings, beside, .. } = case;
        let comma = if beside.is_empty() { "" } else { ", " };
        let settings = settings.replace("{node}", &node.to_string());
        let with = format!("{beside}{comma}{plugin}: {settings}");
        for (side, plugins) in [(Side::With, with.as_str()), (Side::Without, beside)] {
            let (side, uri) = (side.label(), case.path(side.label()));
            writeln!(
                text,
                "  - {{ id: {side}-{index}, uri: {uri}, upstream_id: app, plugins: {{ {plugins} }} }}"
            )?;
        }
    }
    Ok(text)
}

/// Asks as a client does, one request after the other on one connection.
struct Asker {
    client: probe::Client,
    date: String,
    /// Of `csrf`.
    token: String,
    /// Connections in the middle of a request.
    _held: Vec<probe::Client>,
}

impl Asker {
    /// Brings about what some answers take for granted.
    fn prepare(address: SocketAddr) -> anyhow::Result<Self> {
        let mut asker = Self {
            client: probe::Client::connect(address)?,
            date: httpdate::fmt_http_date(SystemTime::now()),
            token: String::new(),
            _held: Vec::new(),
        };
        let csrf = CASES.iter().find(|case| case.plugin == "csrf").context("csrf is counted")?;
        let answer = asker.client.exchange(&asker.request(csrf, Side::With))?;
        asker.token = token(&answer.head).context("csrf sets no cookie")?;
        let mut held = Vec::new();
        for case in CASES {
            match case.before {
                Before::Nothing => {}
                Before::One => {
                    let answer = asker.client.exchange(&asker.request(case, Side::With))?;
                    ensure!(answer.status == 200, "{case:?}: {} at first", answer.status);
                }
                Before::Half => {
                    let mut client = probe::Client::connect(address)?;
                    let path = case.path(Side::With.label());
                    client.send(&probe::head("POST", &path, &[("content-length", "1")]))?;
                    held.push(client);
                }
            }
        }
        Ok(Self { _held: held, ..asker })
    }

    /// The same request over and over; returns the status that all had.
    fn ask(&mut self, case: &Case, side: Side, requests: u32) -> anyhow::Result<u16> {
        let (status, body) = match (side, case.answer) {
            (Side::With, Answer::Passed(body)) => (200, Some(body)),
            (Side::With, Answer::Own(status)) => (status, None),
            (Side::With, Answer::Encoded(_)) => (200, None),
            (Side::Without, _) if case.path("").contains("/status/") => (503, None),
            (Side::Without, _) => (200, Some(HELLO)),
            (Side::Lost, _) => (404, None),
        };
        let request = self.request(case, side);
        for _ in 0..requests {
            let answer = self.client.exchange(&request).with_context(|| format!("{case:?}"))?;
            let is_right = answer.status == status
                && body.is_none_or(|body| answer.body == body.as_bytes())
                && (side != Side::With || is_encoded(case, &answer));
            let said = String::from_utf8_lossy(&answer.body);
            ensure!(is_right, "{side:?} of {case:?}: {} `{said}`", answer.status);
        }
        Ok(status)
    }

    fn request(&self, case: &Case, side: Side) -> Vec<u8> {
        let Case { method, fields, body, .. } = case;
        let filled =
            |value: &str| value.replace("{date}", &self.date).replace("{token}", &self.token);
        let mut fields: Vec<(&str, String)> =
            fields.iter().map(|(name, value)| (*name, filled(value))).collect();
        if *method == "POST" {
            fields.push(("content-length", body.len().to_string()));
        }
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut request = probe::head(method, &case.path(side.label()), &fields);
        request.extend_from_slice(body.as_bytes());
        request
    }
}

/// Whether it is, if it is to be.
fn is_encoded(case: &Case, answer: &probe::Answer) -> bool {
    let Answer::Encoded(coding) = case.answer else { return true };
    let field = format!("\r\ncontent-encoding: {coding}\r\n");
    String::from_utf8_lossy(&answer.head).contains(&field)
}

/// What the cookie of `csrf` says.
fn token(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "))?;
    let (_, value) = cookie.split(';').next()?.split_once('=')?;
    Some(value.to_owned())
}
