//! Instances of one network namespace bind one after the other.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use rustix::fs::{FlockOperation, flock};

use crate::{skip_without_privileges, topology::Namespace};

/// Any process of the namespace can hold what instances lock.
#[test]
fn who_keeps_the_lock_keeps_nobody_from_starting() {
    if skip_without_privileges() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tandem.yaml");
    let listener = "listeners: [{ name: web, address: \"127.0.0.1:0\" }]";
    std::fs::write(&path, format!("kernel: {{ mode: off }}\nworkers: 1\n{listener}\nroutes: []\n"))
        .unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        let mut child =
            command.args(["run", "-c"]).arg(&path).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut log = Vec::new();
        for line in lines {
            log.push(line);
            if log.last().is_some_and(|line| line.contains("serving")) {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        log.join("\n")
    };
    Namespace::new().run(|| {
        let lock = File::open("/proc/thread-self/ns/net").unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let log = start();
        assert!(log.contains("binding without a lock") && log.contains("serving"), "{log}");
        drop(lock);
        let log = start();
        assert!(!log.contains("binding without a lock") && log.contains("serving"), "{log}");
    });
}
