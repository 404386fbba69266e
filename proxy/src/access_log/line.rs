//! How one entry is spelled.
//!
//! Text: values in the order of [`Entry`], one blank between them, `-` for what is not known. JSON:
//! the same values under their names, `null` for what is not known. Both are printable ASCII in one
//! line whatever the entry holds.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Entry;
use crate::connection::Lane;

/// Bytes of a value from the network that are written; the rest is replaced by `...`.
// A target may be 8 KiB and, escaped, four to six times that; nobody reads it and the queue is
// counted in lines.
pub(super) const VALUE_SIZE_MAX: usize = 1024;

/// Appends the entry as one line of text.
pub(super) fn text(line: &mut String, entry: &Entry<'_>) {
    let Entry { sent_bytes, recv_bytes, is_reused, .. } = *entry;
    push_time(line, entry.at);
    push(line, format_args!(" {} ", entry.downstream));
    push_text(line, Some(entry.listener));
    for value in [entry.route, entry.upstream] {
        line.push(' ');
        push_text(line, value);
    }
    push_text_or_dash(line, entry.node);
    for value in [entry.method, entry.host, entry.path] {
        line.push(' ');
        push_text(line, value);
    }
    push_text_or_dash(line, entry.status);
    push(line, format_args!(" {sent_bytes} {recv_bytes}"));
    for time in [Some(entry.total), entry.connect, entry.first_byte] {
        push_text_or_dash(line, time.map(Milliseconds));
    }
    let reused = if is_reused { "reused" } else { "-" };
    let lane = entry.lane.map_or("-", Lane::label);
    push(line, format_args!(" {reused} {lane} {} ", entry.via.label()));
    push_text(line, Some(entry.end));
    line.push('\n');
}

/// Appends the entry as one line of JSON.
pub(super) fn json(line: &mut String, entry: &Entry<'_>) {
    let Entry { downstream, sent_bytes, recv_bytes, is_reused, .. } = *entry;
    line.push_str("{\"time\":\"");
    push_time(line, entry.at);
    push(line, format_args!("\",\"downstream\":\"{downstream}\",\"listener\":"));
    push_json(line, Some(entry.listener));
    line.push_str(",\"route\":");
    push_json(line, entry.route);
    line.push_str(",\"upstream\":");
    push_json(line, entry.upstream);
    line.push_str(",\"node\":");
    push_json_address(line, entry.node);
    line.push_str(",\"method\":");
    push_json(line, entry.method);
    line.push_str(",\"host\":");
    push_json(line, entry.host);
    line.push_str(",\"path\":");
    push_json(line, entry.path);
    push_json_or_null(line, "status", entry.status);
    push(line, format_args!(",\"sent_bytes\":{sent_bytes},\"recv_bytes\":{recv_bytes}"));
    push_json_or_null(line, "total_ms", Some(Milliseconds(entry.total)));
    push_json_or_null(line, "connect_ms", entry.connect.map(Milliseconds));
    push_json_or_null(line, "first_byte_ms", entry.first_byte.map(Milliseconds));
    push(line, format_args!(",\"reused\":{is_reused},\"lane\":"));
    push_json(line, entry.lane.map(Lane::label));
    push(line, format_args!(",\"via\":\"{}\",\"end\":", entry.via.label()));
    push_json(line, Some(entry.end));
    line.push_str("}\n");
}

fn push(line: &mut String, arguments: std::fmt::Arguments<'_>) {
    line.write_fmt(arguments).expect("writing to a String cannot fail");
}

fn push_text_or_dash(line: &mut String, value: Option<impl std::fmt::Display>) {
    match value {
        Some(value) => push(line, format_args!(" {value}")),
        None => line.push_str(" -"),
    }
}

fn push_json_or_null(line: &mut String, name: &str, value: Option<impl std::fmt::Display>) {
    match value {
        Some(value) => push(line, format_args!(",\"{name}\":{value}")),
        None => push(line, format_args!(",\"{name}\":null")),
    }
}

fn push_json_address(line: &mut String, address: Option<SocketAddr>) {
    match address {
        Some(address) => push(line, format_args!("\"{address}\"")),
        None => line.push_str("null"),
    }
}

/// A value of one word: `-` for none, `\xNN` for each byte that is not a printable ASCII character
/// or that would read as a separator.
fn push_text(line: &mut String, value: Option<&str>) {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        line.push('-');
        return;
    };
    if value == "-" {
        // A real value that would read as none.
        line.push_str("\\x2d");
        return;
    }
    let (value, rest) = cut(value);
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' | 0..=0x20 | 0x7f.. => push(line, format_args!("\\x{byte:02x}")),
            _ => line.push(char::from(byte)),
        }
    }
    line.push_str(rest);
}

fn push_json(line: &mut String, value: Option<&str>) {
    let Some(value) = value else {
        line.push_str("null");
        return;
    };
    let (value, rest) = cut(value);
    line.push('"');
    for unit in value.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte @ (b'"' | b'\\')) => {
                line.push('\\');
                line.push(char::from(byte));
            }
            Ok(byte @ 0x20..=0x7e) => line.push(char::from(byte)),
            Ok(_) | Err(_) => push(line, format_args!("\\u{unit:04x}")),
        }
    }
    line.push_str(rest);
    line.push('"');
}

/// The part of a value that is written, and what stands for the rest.
fn cut(value: &str) -> (&str, &'static str) {
    if value.len() <= VALUE_SIZE_MAX {
        return (value, "");
    }
    (&value[..value.floor_char_boundary(VALUE_SIZE_MAX)], "...")
}

/// Milliseconds with three decimals.
struct Milliseconds(Duration);

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let microseconds = self.0.as_micros();
        write!(f, "{}.{:03}", microseconds / 1000, microseconds % 1000)
    }
}

/// RFC 3339, UTC, milliseconds. A clock before 1970 is written as 1970.
fn push_time(line: &mut String, at: SystemTime) {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let DateTime { year, month, day, hour, minute, second } = DateTime::at(since_epoch);
    let milliseconds = since_epoch.subsec_millis();
    push(
        line,
        format_args!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
        ),
    );
}

const SECONDS_PER_DAY: u64 = 86_400;

/// A second of the proleptic Gregorian calendar, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DateTime {
    pub(crate) year: u64,
    pub(crate) month: u64,
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl DateTime {
    pub(crate) fn at(since_epoch: Duration) -> DateTime {
        let seconds = since_epoch.as_secs();
        let (year, month, day) = civil(seconds / SECONDS_PER_DAY);
        let second = seconds % SECONDS_PER_DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        DateTime { year, month, day, hour, minute, second }
    }
}

/// Year, month and day of a day counted from 1970-01-01, proleptic Gregorian.
// Years begin in March here, so that the leap day is the last of its year and the months before it
// follow one linear rule (153 days in each five months).
fn civil(day: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    const MARCH_0000_TO_1970: u64 = 719_468;
    let day = day + MARCH_0000_TO_1970;
    let (era, of_era) = (day / DAYS_PER_ERA, day % DAYS_PER_ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
