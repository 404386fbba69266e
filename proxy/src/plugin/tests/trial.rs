//! A route with plugins, a request, and what comes of it: for the tests of plugins.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;

use crate::plugin::{Call, Now, Origin, Reply};
use crate::{
    config::{Config, ConfigErrors, Node},
    exchange::request_head,
    http::{
        fields::{Forwarding, Pseudonym, Scheme},
        gate::RequestGate,
        head::{HeadLimits, RequestHead},
    },
    log_files::LogFiles,
    metrics::Metrics,
    pipeline::{Decision, Pipeline},
};

/// One route for everything, and the time.
pub(crate) struct Trial {
    pipeline: Pipeline,
    peer: IpAddr,
    begun: Instant,
    after: Duration,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The head that the node gets, and what is added to its response, a line each.
    Forwarded {
        head: String,
        response: String,
        /// The id.
        upstream: String,
        consumer: Option<String>,
    },
    Answered {
        status: u16,
        fields: String,
        body: String,
    },
    Called(Call),
}

/// The time at which a trial begins, seconds since the Unix epoch: 2026-01-01.
pub(crate) const BEGIN: u64 = 1_767_225_600;

impl Trial {
    /// `plugins` is a flow mapping, `rest` more of the configuration.
    pub(crate) fn new(plugins: &str, rest: &str) -> Self {
        Self::of(&text(plugins, "", rest))
    }

    /// `more` are upstreams beside `u`.
    pub(crate) fn with_upstreams(plugins: &str, more: &str) -> Self {
        Self::of(&text(plugins, &format!(", {more}"), ""))
    }

    pub(crate) fn of(text: &str) -> Self {
        let config = Config::parse(text, "t.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        let pipeline = Pipeline::new(
            &config,
            &config.upstreams,
            None,
            &Metrics::new(),
            &LogFiles::default(),
            Pseudonym::new("tandem-test"),
        );
        let peer = [192, 0, 2, 1].into();
        Self { pipeline, peer, begun: Instant::now(), after: Duration::ZERO }
    }

    /// Requests come from `peer` from now on.
    pub(crate) fn from(mut self, peer: &str) -> Self {
        self.peer = peer.parse().expect("an address");
        self
    }

    pub(crate) fn now(&self) -> Instant {
        self.begun + self.after
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.after += time;
    }

    /// `line` is `METHOD TARGET`; `fields` end in CRLF each.
    pub(crate) fn ask(&self, line: &str, fields: &str) -> Seen {
        self.ask_with(line, fields, &mut |_| None)
    }

    /// Calls are answered by `reply`, as long as it has one, delays when they are over.
    pub(crate) fn ask_with(
        &self,
        line: &str,
        fields: &str,
        reply: &mut dyn FnMut(&Call) -> Option<Reply>,
    ) -> Seen {
        let head = head(line, fields);
        let now = Now { instant: self.now(), known: (self.begun, Duration::from_secs(BEGIN)) };
        let peer = SocketAddr::new(self.peer, 40000);
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        let origin = Origin { peer, local, now };
        let mut resumed = now.instant;
        let mut decision = self.pipeline.decide(&head, &origin);
        loop {
            match decision {
                Decision::Call(paused) => match reply(&paused.call) {
                    Some(reply) => {
                        if let Call::Delay(time) = paused.call {
                            resumed += time;
                        }
                        decision = paused.resume(reply, resumed);
                    }
                    None => return Seen::Called(paused.call),
                },
                Decision::Answer(refusal) => {
                    let body = String::from_utf8_lossy(&refusal.answer.body).into_owned();
                    let fields = refusal.answer.fields.iter();
                    return Seen::Answered {
                        status: refusal.answer.status.as_u16(),
                        fields: lines(fields.map(|(name, value)| (name, value))),
                        body,
                    };
                }
                Decision::Forward(plan) => {
                    let forwarding = Forwarding::new(
                        self.peer,
                        80,
                        Scheme::Http,
                        self.pipeline.pseudonym().clone(),
                    );
                    let mut out = Vec::new();
                    let node = Node { address: local, host: None, weight: 1, priority: 0 };
                    request_head::write(&mut out, &head, &plan, &forwarding, &node);
                    return Seen::Forwarded {
                        head: String::from_utf8(out).expect("UTF-8"),
                        response: lines(plan.response.made(|_| false)),
                        upstream: plan.upstream.id().to_string(),
                        consumer: plan.request.consumer.map(|one| one.username.to_string()),
                    };
                }
            }
        }
    }
}

fn text(plugins: &str, upstreams: &str, rest: &str) -> String {
    format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:80\" }}]\n\
         routes: [{{ id: r, uri: /*, upstream_id: u, plugins: {plugins} }}]\n\
         upstreams: [{{ id: u, nodes: {{ \"127.0.0.1:8080\": 1 }} }}{upstreams}]\n{rest}\n"
    )
}

fn config(plugins: &str, rest: &str) -> Result<Config, ConfigErrors> {
    Config::parse(&text(plugins, "", rest), "t.yaml")
}

/// Every error, or else every warning, of a configuration as [`Trial::new`] takes it, with its path.
pub(crate) fn findings(plugins: &str, rest: &str) -> Vec<String> {
    let list = match config(plugins, rest) {
        Ok(config) => config.warnings.list,
        Err(ConfigErrors(errors)) => errors.list,
    };
    list.iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect()
}

/// `plugin` is not taken with `settings`; among what is said of it is `message`, with its place.
#[track_caller]
pub(crate) fn refused(plugin: &str, settings: &str, message: &str) {
    let plugins = format!("{{ {plugin}: {{ {settings} }} }}");
    let errors = config(&plugins, "").expect_err(settings).to_string();
    let is_told = errors.lines().any(|line| {
        line.contains(message) && line.contains(&format!("routes[0].plugins.{plugin}"))
    });
    assert!(is_told, "{settings}: {errors}");
}

fn lines<'f>(
    fields: impl Iterator<Item = (&'f http::HeaderName, &'f http::HeaderValue)>,
) -> String {
    fields
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect()
}

/// What our gate makes of a request.
pub(crate) fn head(line: &str, fields: &str) -> RequestHead {
    let text = format!("{line} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    let limits = HeadLimits { size_max: 65536, fields_max: 100, target_size_max: 8192 };
    let parsed = RequestGate::new(limits).head(&mut BytesMut::from(&*text));
    parsed.expect("a valid head").expect("a whole head")
}

impl Seen {
    /// The value that the node sees under `name`, or that an answer has.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let (Seen::Forwarded { head: text, .. } | Seen::Answered { fields: text, .. }) = self
        else {
            return None;
        };
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The request line that the node sees.
    pub(crate) fn line(&self) -> Option<&str> {
        match self {
            Seen::Forwarded { head, .. } => head.lines().next(),
            Seen::Answered { .. } | Seen::Called(_) => None,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Seen::Answered { status, .. } => Some(*status),
            Seen::Forwarded { .. } | Seen::Called(_) => None,
        }
    }
}

/// The node is told that the request is `consumer`'s.
#[track_caller]
pub(crate) fn check_attached(trial: &Trial, line: &str, fields: &str, consumer: &str) -> Seen {
    let seen = trial.ask(line, fields);
    assert_eq!(seen.field("x-consumer-username"), Some(consumer), "{line} {fields}: {seen:?}");
    let Seen::Forwarded { consumer: attached, .. } = &seen else { panic!("{seen:?}") };
    assert_eq!(attached.as_deref(), Some(consumer), "{line} {fields}");
    seen
}

/// The request is answered 401 with this challenge and this message.
#[track_caller]
pub(crate) fn check_challenged(
    trial: &Trial,
    (line, fields): (&str, &str),
    challenge: &str,
    message: &str,
) {
    let expected = Seen::Answered {
        status: 401,
        fields: format!("www-authenticate: {challenge}\n"),
        body: format!("{{\"message\":\"{message}\"}}\n"),
    };
    assert_eq!(trial.ask(line, fields), expected, "{line} {fields}");
}
