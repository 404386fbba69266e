//! The binary, and a name server of somebody else's: dnsmasq.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use proxy::test_support::eventually;
use rustix::process::{Pid, Signal, kill_process};

use super::{GET, check_becomes, local, nodes, yaml};
use crate::process::Tandem;

/// Whether there is one, or has to be.
#[expect(clippy::print_stdout, reason = "the test runner counts the lines `skipped: …`")]
fn is_there() -> bool {
    if Command::new("dnsmasq").arg("--version").output().is_ok_and(|run| run.status.success()) {
        return true;
    }
    let reason = "needs dnsmasq (sudo apt-get install dnsmasq-base)";
    let asked = std::env::var("KERNEL_TESTS").unwrap_or_default();
    assert_ne!(asked, "require", "KERNEL_TESTS=require, but this test {reason}");
    println!("skipped: {reason}");
    false
}

struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(port: u16, hosts: &Path, service: &str) -> Dnsmasq {
        let child = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"])
            .args(["--user=", "--bind-interfaces", "--listen-address=127.0.0.1", "--local-ttl=0"])
            .args(["--pid-file=", "--local=/internal/", &format!("--port={port}")])
            .arg(format!("--addn-hosts={}", hosts.display()))
            .arg(format!("--srv-host=_http._tcp.app.internal,{service}"))
            .stderr(Stdio::null())
            .spawn();
        Dnsmasq(child.expect("it runs"))
    }

    fn reread(&self) {
        kill_process(Pid::from_child(&self.0), Signal::HUP).expect("it runs");
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn names_follow_dnsmasq_and_outlive_it() {
    if !is_there() {
        return;
    }
    let (_nodes, port) = nodes([1, 2]);
    let directory = tempfile::tempdir().expect("a directory");
    let hosts = directory.path().join("hosts");
    let say = |last: u8| fs::write(&hosts, format!("{} app.internal\n", local(last)));
    say(1).expect("a file");
    let server = proxy::test_support::unused_address().port();
    let start = || Dnsmasq::start(server, &hosts, &format!("app.internal,{port},0,10"));
    let dnsmasq = start();
    let section = format!(
        "resolver: {{ nameservers: [\"127.0.0.1:{server}\"], ttl_min: 50ms, timeout: 500ms }}\nkernel: {{ mode: off }}\n\
         workers: 1\n"
    );
    let by_srv = "discovery_type: dns, service_name: _http._tcp.app.internal";
    let tandem = Tandem::start(&yaml(&section, by_srv));
    let mut client = tandem.client();
    eventually("an answer", || (client.ask(GET).text() == "1").then_some(()));
    say(2).expect("a file");
    dnsmasq.reread();
    check_becomes(&mut client, "2");
    drop(dnsmasq);
    tandem.line(&["WARN", "name not resolved; keeping what it was", "_http._tcp.app.internal"]);
    assert_eq!(client.ask(GET).text(), "2");
    say(1).expect("a file");
    let _dnsmasq = start();
    check_becomes(&mut client, "1");
    tandem.line(&["INFO", "name resolves to other addresses"]);
}
