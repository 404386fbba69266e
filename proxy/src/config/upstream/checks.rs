//! `checks` and `outlier_detection` of an upstream: how its nodes are judged.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, uri::PathAndQuery};

use super::{
    super::{
        bounds,
        planned::Kind,
        plugins,
        reader::{Section, Value},
        resource::each_once,
    },
    passing,
};
use crate::client::Trust;

/// `checks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    pub active: ActiveCheck,
    pub passive: Option<PassiveCheck>,
}

/// `checks.active`: nodes are probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveCheck {
    pub kind: CheckKind,
    /// One probe, from the first packet to the end of the response head.
    pub timeout: Duration,
    /// Probes of the upstream's nodes at a time.
    pub concurrency: usize,
    /// In place of what follows from `pass_host`.
    pub host: Option<HeaderValue>,
    /// In place of the node's own.
    pub port: Option<u16>,
    pub method: Method,
    pub path: PathAndQuery,
    pub body: Bytes,
    /// `https_verify_certificate`.
    pub trust: Trust,
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Between two probes of a node that is up.
    pub healthy_interval: Duration,
    /// The same of one that is down.
    pub unhealthy_interval: Duration,
    pub judgement: Judgement,
}

/// `checks.passive`: what requests and connections meet is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassiveCheck {
    /// `Tcp`: statuses do not count, and whoever can be connected to is well. `Https` is `Http`.
    pub kind: CheckKind,
    pub judgement: Judgement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    Http,
    Https,
    Tcp,
}

/// What counts for or against a node, and how often in a row until it matters; 0 is never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub healthy_statuses: Vec<u16>,
    pub successes: u8,
    pub unhealthy_statuses: Vec<u16>,
    pub http_failures: u8,
    pub tcp_failures: u8,
    pub timeouts: u8,
}

/// `outlier_detection`, which APISIX has not; Envoy's names and defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row, 5xx or no answer, that eject a node; 0: none do.
    pub consecutive_5xx: u8,
    /// The same of 502, 503, 504 or no answer.
    pub consecutive_gateway_failure: u8,
    /// Percent of the requests of an interval whose failure ejects a node; 0: none do.
    pub failure_percentage_threshold: u8,
    /// Nodes with as many requests as matter, below which no percentage does.
    pub failure_percentage_minimum_hosts: usize,
    /// Requests of an interval below which a node's percentage does not matter.
    pub failure_percentage_request_volume: u32,
    /// How often percentages are taken and ejected nodes looked at, and what it takes for one ejection to be forgotten.
    pub interval: Duration,
    /// Times the ejections that are not forgotten.
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    /// Of the nodes, at a time; one may always be.
    pub max_ejection_percent: u8,
}

const ACTIVE_UNHEALTHY: [u16; 8] = [429, 404, 500, 501, 502, 503, 504, 505];
const PASSIVE_HEALTHY: [u16; 19] =
    [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];

pub(super) fn checks(section: &mut Section<'_>) -> Option<Arc<Checks>> {
    let mut checks = section.section("checks")?;
    let active = checks.require("active").and_then(|value| active(value.section()?));
    let passive = checks.section("passive").map(passive);
    checks.finish(Kind::Checks);
    Some(Arc::new(Checks { active: active?, passive }))
}

fn active(mut section: Section<'_>) -> Option<ActiveCheck> {
    let kind = kind(&mut section);
    let trust = trust(&mut section, kind);
    let timeout = seconds_or(section.take("timeout"), &bounds::SECONDS, 1.0);
    let concurrency = section.within_or("concurrency", bounds::PROBES, 10);
    let host = section.take("host").and_then(|value| passing::host(&value));
    let port = section.take("port").and_then(|value| value.within(&(1..=u16::MAX)));
    let method = section.take("http_method").map_or(Some("GET"), |it| it.one_of(&METHODS, &[]));
    let path = section.take("http_path").map_or(Some("/".to_owned()), |value| path(&value));
    let body = section.take("http_req_body").and_then(|value| body(&value));
    let fields = section.take("req_headers").and_then(|value| each_once(&value, field));
    let counts = 1..=bounds::CHECK_COUNT_MAX;
    let mut healthy = Half::of(&mut section, "healthy");
    let healthy_interval = healthy.interval();
    let healthy_statuses = healthy.statuses(&[200, 302]);
    let successes = healthy.count("successes", &counts, 2);
    healthy.finish();
    let mut unhealthy = Half::of(&mut section, "unhealthy");
    let unhealthy_interval = unhealthy.interval();
    let judgement = Judgement {
        healthy_statuses,
        successes,
        unhealthy_statuses: unhealthy.statuses(&ACTIVE_UNHEALTHY),
        http_failures: unhealthy.count("http_failures", &counts, 5),
        tcp_failures: unhealthy.count("tcp_failures", &counts, 2),
        timeouts: unhealthy.count("timeouts", &counts, 3),
    };
    unhealthy.finish();
    section.finish(Kind::ActiveCheck);
    Some(ActiveCheck {
        kind,
        timeout,
        concurrency,
        host,
        port,
        method: Method::from_bytes(method?.as_bytes()).ok()?,
        path: PathAndQuery::try_from(path?).ok()?,
        body: body.unwrap_or_default().into(),
        trust,
        fields: fields.unwrap_or_default(),
        healthy_interval,
        unhealthy_interval,
        judgement,
    })
}

fn passive(mut section: Section<'_>) -> PassiveCheck {
    let kind = kind(&mut section);
    let counts = 0..=bounds::CHECK_COUNT_MAX;
    let mut healthy = Half::of(&mut section, "healthy");
    let healthy_statuses = healthy.statuses(&PASSIVE_HEALTHY);
    let successes = healthy.count("successes", &counts, 5);
    healthy.finish();
    let mut unhealthy = Half::of(&mut section, "unhealthy");
    let judgement = Judgement {
        healthy_statuses,
        successes,
        unhealthy_statuses: unhealthy.statuses(&[429, 500, 503]),
        http_failures: unhealthy.count("http_failures", &counts, 5),
        tcp_failures: unhealthy.count("tcp_failures", &counts, 2),
        timeouts: unhealthy.count("timeouts", &counts, 7),
    };
    unhealthy.finish();
    section.finish(Kind::PassiveCheck);
    PassiveCheck { kind, judgement }
}

pub(super) fn outlier_detection(section: &mut Section<'_>) -> Option<OutlierDetection> {
    let mut section = section.section("outlier_detection")?;
    let counts = 0..=bounds::CHECK_COUNT_MAX;
    let consecutive_5xx = section.within_or("consecutive_5xx", counts.clone(), 5);
    let consecutive_gateway_failure = section.within_or("consecutive_gateway_failure", counts, 0);
    let failure_percentage_threshold =
        section.within_or("failure_percentage_threshold", 0..=100, 0);
    if consecutive_5xx == 0 && consecutive_gateway_failure == 0 && failure_percentage_threshold == 0
    {
        section.error("every threshold is 0, so that nothing is ever ejected; remove it");
    }
    let seconds = bounds::SECONDS;
    let outliers = OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_failure,
        failure_percentage_threshold,
        failure_percentage_minimum_hosts: section.within_or(
            "failure_percentage_minimum_hosts",
            bounds::OUTLIER_HOSTS,
            5,
        ),
        failure_percentage_request_volume: section.within_or(
            "failure_percentage_request_volume",
            bounds::OUTLIER_REQUESTS,
            50,
        ),
        interval: seconds_or(section.take("interval"), &bounds::CHECK_INTERVAL, 10.0),
        base_ejection_time: seconds_or(section.take("base_ejection_time"), &seconds, 30.0),
        max_ejection_time: seconds_or(section.take("max_ejection_time"), &seconds, 300.0),
        max_ejection_percent: section.within_or("max_ejection_percent", 0..=100, 10),
    };
    section.finish(Kind::OutlierDetection);
    Some(outliers)
}

/// `healthy` or `unhealthy`, which may be missing.
struct Half<'t>(Option<Section<'t>>);

impl<'t> Half<'t> {
    fn of(section: &mut Section<'t>, key: &'static str) -> Self {
        Self(section.section(key))
    }

    fn take(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.0.as_mut()?.take(key)
    }

    fn interval(&mut self) -> Duration {
        seconds_or(self.take("interval"), &bounds::CHECK_INTERVAL, 1.0)
    }

    fn statuses(&mut self, default: &[u16]) -> Vec<u16> {
        let listed = self.take("http_statuses");
        let read = listed.and_then(|value| each_once(&value, |item| item.within(&(200..=599))));
        read.unwrap_or_else(|| default.to_vec())
    }

    fn count(&mut self, key: &'static str, range: &RangeInclusive<u8>, default: u8) -> u8 {
        self.take(key).and_then(|value| value.within(range)).unwrap_or(default)
    }

    fn finish(self) {
        if let Some(section) = self.0 {
            section.finish(Kind::CheckHalf);
        }
    }
}

fn kind(section: &mut Section<'_>) -> CheckKind {
    let words = [("http", CheckKind::Http), ("https", CheckKind::Https), ("tcp", CheckKind::Tcp)];
    let kind = section.take("type").and_then(|value| value.one_of(&words, &[]));
    kind.unwrap_or(CheckKind::Http)
}

fn trust(section: &mut Section<'_>, kind: CheckKind) -> Trust {
    let Some(value) = section.take("https_verify_certificate") else { return Trust::System };
    if kind != CheckKind::Https {
        value.place.warning("has no effect without `type: https`");
    }
    if value.leaf() == Some(false) { Trust::Anybody } else { Trust::System }
}

fn seconds_or(value: Option<Value<'_>>, range: &RangeInclusive<f64>, default: f64) -> Duration {
    let seconds = value.and_then(|value| value.within(range)).unwrap_or(default);
    Duration::from_secs_f64(seconds)
}

const METHODS: [(&str, &str); 8] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("PATCH", "PATCH"),
    ("DELETE", "DELETE"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
];

fn path(value: &Value<'_>) -> Option<String> {
    let problem = "is no path of a request; it starts with `/`, and what is not ASCII, a blank or a \
                   `#` is percent-encoded";
    value.text(problem, |text| {
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        text.starts_with('/')
            && text.len() <= bounds::PROBE_PATH_MAX
            && text.bytes().all(is_allowed)
            && PathAndQuery::try_from(text).is_ok()
    })
}

fn body(value: &Value<'_>) -> Option<String> {
    let problem = format!("is longer than {} bytes", bounds::PROBE_BODY_MAX);
    value.text(&problem, |text| text.len() <= bounds::PROBE_BODY_MAX)
}

/// `name: value`.
fn field(value: &Value<'_>) -> Option<(HeaderName, HeaderValue)> {
    let text: String = value.leaf()?;
    let Some((name, content)) = text.split_once(':') else {
        value.error("is no field; write `name: value`");
        return None;
    };
    let name = plugins::field_key(&value.place, name)?;
    let content = HeaderValue::try_from(content.trim_matches([' ', '\t'])).ok();
    if content.is_none() {
        value.error("is no value of a field");
    }
    content.map(|content| (name, content))
}
