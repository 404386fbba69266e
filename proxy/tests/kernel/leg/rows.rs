//! README's table of what neighbours find that do not only read and write.

use std::process::Command;

use super::*;
use crate::skip;

const SCRIPT: &str = include_str!("rows.py");

#[test]
fn calls_of_a_less_usual_kind_find_what_is_written() {
    if skip_without_privileges() {
        return;
    }
    let is_without_python = Command::new("python3").arg("--version").output().is_err();
    if is_without_python && skip("needs python3 (Debian package `python3`)") {
        return;
    }
    let node = Node::start("127.0.0.1:0");
    let proxy = proxy(LEGS, node.address);
    let delivered = Counted::delivered(&proxy);
    let not_eligible = Counted::start(&proxy, "local", "not_eligible");
    let not_plain = Counted::start(&proxy, "establish", "not_plain");
    let web = proxy.address("web");
    let (ip, port) = (web.ip().to_string(), web.port().to_string());
    let output = Command::new("python3").args(["-c", SCRIPT, &ip, &port]).output().expect("runs");
    let rows = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{rows}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        rows.lines().collect::<Vec<_>>(),
        [
            "splice EAGAIN 1000",
            "trunc -1 EFAULT 1000",
            "lowat True True",
            "ancillary 0 True",
            "oob 3",
            "zerocopy-later 1000 0",
            "zerocopy 1000",
        ]
    );
    assert!(delivered.since() > 20 && not_eligible.since() > 0, "{}", delivered.since());
    assert_eq!(not_plain.since(), 1);
}
