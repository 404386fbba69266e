//! The README's sample requests, through every listener, and what became of each.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{
    ADMIN, STREAM, WEB,
    probe::{self, Http},
};
use crate::{children::Lines, command};

/// For the access log to be written after the answer has been read.
const LOG_WAIT: Duration = Duration::from_secs(5);
/// The consumer's key in the configuration.
pub(super) const KEY: &str = "alice-secret";

/// One line of the table.
struct Row {
    request: &'static str,
    /// What was seen, or what went wrong.
    outcome: Result<Seen>,
}

struct Seen {
    status: String,
    via: String,
}

/// Sends every sample and prints the table; an error if one of them is wrong. `tandem` is the binary.
pub(super) fn send(access_log: &Lines, tandem: &Path) -> Result<()> {
    let mut rows = vec![plain(access_log), refused(access_log)];
    rows.extend(same_connection(access_log));
    rows.push(echo(access_log));
    rows.push(admin("GET /live (admin)", "/live", "true"));
    rows.push(admin("GET /ready (admin)", "/ready", "\"kernel\""));
    rows.push(admin("GET /metrics (admin)", "/metrics", "tandem_"));
    rows.push(status(tandem));
    println!("{:<52} {:<8} via", "request", "status");
    let mut wrong = 0;
    for Row { request, outcome } in &rows {
        match outcome {
            Ok(Seen { status, via }) => println!("{request:<52} {status:<8} {via}"),
            Err(error) => {
                wrong += 1;
                println!("{request:<52} WRONG    {error:#}");
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} of {} samples are wrong", rows.len());
    }
    println!("all {} samples are right", rows.len());
    Ok(())
}

fn plain(access_log: &Lines) -> Row {
    let outcome =
        Http::connect(WEB).and_then(|mut http| request(&mut http, "/", None, 200, access_log));
    Row { request: "GET / (web)", outcome }
}

fn refused(access_log: &Lines) -> Row {
    let outcome =
        Http::connect(WEB).and_then(|mut http| request(&mut http, "/api/x", None, 401, access_log));
    Row { request: "GET /api/x without a key (web)", outcome }
}

/// A refusal has to leave the connection usable.
fn same_connection(access_log: &Lines) -> Vec<Row> {
    let (first, second) =
        ("GET /api/x with a wrong key (web)", "GET /api/x with the key, same connection (web)");
    let mut http = match Http::connect(WEB) {
        Ok(http) => http,
        Err(error) => return vec![Row { request: first, outcome: Err(error) }],
    };
    [(first, "wrong", 401), (second, KEY, 200)]
        .into_iter()
        .map(|(request_name, key, status)| Row {
            request: request_name,
            outcome: request(&mut http, "/api/x", Some(key), status, access_log),
        })
        .collect()
}

fn request(
    http: &mut Http,
    path: &str,
    key: Option<&str>,
    expected: u16,
    access_log: &Lines,
) -> Result<Seen> {
    let answer = http.get(path, key)?;
    ensure!(answer.status == expected, "{} instead of {expected}", answer.status);
    let via = via(access_log, http.local_address()?)?;
    Ok(Seen { status: answer.status.to_string(), via })
}

fn echo(access_log: &Lines) -> Row {
    let sent = b"hello\n";
    let outcome = probe::echo(STREAM, sent).and_then(|(local, received)| {
        ensure!(received == sent, "{} bytes came back that differ", received.len());
        Ok(Seen { status: "echoed".to_owned(), via: via(access_log, local)? })
    });
    Row { request: "hello by TCP and back (tcp-echo)", outcome }
}

fn admin(request: &'static str, path: &str, part: &str) -> Row {
    let outcome = Http::connect(ADMIN).and_then(|mut http| {
        let answer = http.get(path, None)?;
        ensure!(answer.status == 200, "{} instead of 200", answer.status);
        ensure!(answer.body.contains(part), "`{part}` is not in the body");
        Ok(Seen { status: answer.status.to_string(), via: "-".to_owned() })
    });
    Row { request, outcome }
}

fn status(tandem: &Path) -> Row {
    let outcome = command::read(Command::new(tandem).args(["bpf", "status"])).and_then(|said| {
        ensure!(said.contains("\"running\""), "`running` is not in {said}");
        Ok(Seen { status: "exit 0".to_owned(), via: "-".to_owned() })
    });
    Row { request: "tandem bpf status", outcome }
}

/// The path that the access log names for the next request of `downstream`.
fn via(access_log: &Lines, downstream: SocketAddr) -> Result<String> {
    let downstream = downstream.to_string();
    access_log
        .wait_for(LOG_WAIT, |line| via_of(line, &downstream).map(str::to_owned))
        .with_context(|| format!("no line of the access log for {downstream}"))
}

/// Second word: downstream; last but one: via.
fn via_of<'a>(line: &'a str, downstream: &str) -> Option<&'a str> {
    let mut words = line.split(' ');
    if words.nth(1)? != downstream {
        return None;
    }
    words.rev().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_via_from_the_access_log() {
        let line = "2026-11-21T00:00:00.000Z 127.0.0.1:50000 web hello app 127.0.0.1:3000 GET \
                    127.0.0.1:9080 / 200 12 0 0.412 0.100 0.300 reused express user --";
        assert_eq!(via_of(line, "127.0.0.1:50000"), Some("user"));
        assert_eq!(via_of(line, "127.0.0.1:50001"), None);
        assert_eq!(via_of("listening", "127.0.0.1:50000"), None);
    }
}
