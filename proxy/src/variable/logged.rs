//! Variables of an exchange that is over; some of them are known before.

use std::{borrow::Cow, time::Duration};

use super::{Facts, Moment};
use crate::access_log::DateTime;

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
    pub(super) const fn known_from(&self) -> Moment {
        match self {
            Logged::Msec | Logged::TimeIso8601 | Logged::TimeLocal => Moment::Request,
            Logged::NodeAddress | Logged::NodePort | Logged::Node => Moment::Response,
            Logged::BodyBytesSent
            | Logged::RequestBody
            | Logged::ResponseBody
            | Logged::RequestLength
            | Logged::RequestTime
            | Logged::SentField(_)
            | Logged::ConnectTime
            | Logged::HeaderTime
            | Logged::ResponseTime => Moment::Log,
        }
    }

    /// What is known before the exchange is over is the node that has answered and the time of day at which
    /// the request was decided about; behind it the last node tried, and the end.
    pub(super) fn value<'a>(&self, facts: &Facts<'a>) -> Option<Cow<'a, [u8]>> {
        let exchange = facts.finished;
        let node = exchange.map_or(facts.node, |exchange| exchange.node);
        let now = || match exchange {
            Some(exchange) => Some(exchange.begun + exchange.total),
            None => Some(facts.now?.unix()),
        };
        let asked = || exchange?.detail?.asked();
        match self {
            Logged::NodeAddress => printed(node?.ip().to_string()),
            Logged::NodePort => printed(node?.port().to_string()),
            Logged::Node => printed(node?.to_string()),
            Logged::Msec => printed(seconds(now()?)),
            Logged::TimeIso8601 => printed(iso8601(now()?)),
            Logged::TimeLocal => printed(local(now()?)),
            Logged::RequestBody => exchange?.bodies.request.map(|body| Cow::Borrowed(body.bytes)),
            Logged::ResponseBody => exchange?.bodies.response.map(|body| Cow::Borrowed(body.bytes)),
            Logged::BodyBytesSent => printed(exchange?.sent_bytes.to_string()),
            Logged::RequestLength => printed(exchange?.request_length().to_string()),
            Logged::RequestTime => printed(seconds(exchange?.total)),
            Logged::SentField(name) => {
                let mut fields = exchange?.detail?.fields();
                let is_meant = |field: &[u8]| crate::plugin::is_alike(field, name.as_bytes());
                fields.find(|(field, _)| is_meant(field)).map(|(_, value)| Cow::Borrowed(value))
            }
            Logged::ConnectTime => printed(seconds(exchange?.connect?)),
            Logged::HeaderTime => printed(seconds(exchange?.first_byte?.checked_sub(asked()?)?)),
            Logged::ResponseTime => printed(seconds(exchange?.total.checked_sub(asked()?)?)),
        }
    }
}

fn printed<'a>(text: String) -> Option<Cow<'a, [u8]>> {
    Some(Cow::Owned(text.into_bytes()))
}

fn iso8601(now: Duration) -> String {
    let DateTime { year, month, day, hour, minute, second } = DateTime::at(now);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
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
