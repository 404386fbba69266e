//! Variables of an exchange that is over: only logs have them, everywhere else they are absent.

use std::{borrow::Cow, time::Duration};

use crate::{access_log::DateTime, plugin::Finished};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// `balancer_ip`: of the last node tried.
    NodeAddress,
    /// `balancer_port`
    NodePort,
    /// `body_bytes_sent`: to the downstream.
    BodyBytesSent,
    /// `msec`: the time of day, seconds since 1970 with milliseconds.
    Msec,
    /// `request_body`: its beginning, as a logger keeps it.
    RequestBody,
    /// `resp_body`: the same of the response.
    ResponseBody,
    /// `request_length`: the head as received and the body, bytes.
    RequestLength,
    /// `request_time`: from the first byte to the last, seconds with milliseconds.
    RequestTime,
    /// `sent_http_NAME`: the first such field of the response; `_` stands for `-` too.
    SentField(Box<str>),
    /// `time_iso8601`
    TimeIso8601,
    /// `time_local`, in UTC
    TimeLocal,
    /// `upstream_addr`: the last node tried.
    Node,
    /// `upstream_connect_time`: dialling, seconds with milliseconds; absent if nothing was dialled.
    ConnectTime,
    /// `upstream_header_time`: from when the first node was asked to the response head.
    HeaderTime,
    /// `upstream_response_time`: from when the first node was asked to the last byte.
    ResponseTime,
}

impl Logged {
    pub(super) fn value<'a>(&self, exchange: &Finished<'a>) -> Option<Cow<'a, [u8]>> {
        let now = exchange.begun + exchange.total;
        let asked = exchange.detail.and_then(|detail| detail.asked());
        let printed = |text: String| Some(Cow::Owned(text.into_bytes()));
        match self {
            Logged::NodeAddress => printed(exchange.node?.ip().to_string()),
            Logged::NodePort => printed(exchange.node?.port().to_string()),
            Logged::RequestBody => exchange.bodies.request.map(|body| Cow::Borrowed(body.bytes)),
            Logged::ResponseBody => exchange.bodies.response.map(|body| Cow::Borrowed(body.bytes)),
            Logged::BodyBytesSent => printed(exchange.sent_bytes.to_string()),
            Logged::Msec => printed(seconds(now)),
            Logged::RequestLength => printed(exchange.request_length().to_string()),
            Logged::RequestTime => printed(seconds(exchange.total)),
            Logged::SentField(name) => {
                let mut fields = exchange.detail?.fields();
                let is_meant = |field: &[u8]| crate::plugin::is_alike(field, name.as_bytes());
                fields.find(|(field, _)| is_meant(field)).map(|(_, value)| Cow::Borrowed(value))
            }
            Logged::TimeIso8601 => {
                let DateTime { year, month, day, hour, minute, second } = DateTime::at(now);
                let date = format!("{year:04}-{month:02}-{day:02}");
                printed(format!("{date}T{hour:02}:{minute:02}:{second:02}+00:00"))
            }
            Logged::TimeLocal => printed(local(now)),
            Logged::Node => printed(exchange.node?.to_string()),
            Logged::ConnectTime => printed(seconds(exchange.connect?)),
            Logged::HeaderTime => printed(seconds(exchange.first_byte?.checked_sub(asked?)?)),
            Logged::ResponseTime => printed(seconds(exchange.total.checked_sub(asked?)?)),
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}

/// As NGINX's common log format has it.
fn local(now: Duration) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let DateTime { year, month, day, hour, minute, second } = DateTime::at(now);
    let month = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    format!("{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
}
