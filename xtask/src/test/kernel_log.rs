//! What the kernel logs while its half is tested: nothing.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
};

use rustix::fs::OFlags;

use super::{Rung, Verdict, not_here};

/// A record of the log and its fields; longer ones are cut by the kernel.
const RECORD_SIZE_MAX: usize = 8192;
/// A log that grows faster than it is read has to end somewhere.
const RECORDS_MAX: usize = 1000;

/// Said by a virtual machine about its host, whatever runs in it.
const OF_THE_HOST: [&str; 3] = ["hrtimer: interrupt took", "clocksource: ", "workqueue: "];

/// The kernel log beside all rungs: programs are loaded by more than one of them.
pub(super) struct Watch {
    /// `None`: it cannot be read.
    log: Option<KernelLog>,
    /// Each record with the rung it was written during.
    records: Vec<String>,
}

impl Watch {
    pub(super) fn start() -> Watch {
        Watch { log: KernelLog::open(), records: Vec::new() }
    }

    pub(super) fn look(&mut self, rung: &str) {
        let new = self.log.iter_mut().flat_map(KernelLog::take);
        self.records.extend(new.map(|record| format!("during `{rung}`: {record}")));
    }

    pub(super) fn finish(mut self) -> Rung {
        if take_known(&mut self.records) {
            println!("kernel log: {KNOWN}");
        }
        Rung::of_one(
            "kernel log",
            match self.log {
                None => not_here("the kernel log cannot be read; it takes root".to_owned()),
                Some(_) if self.records.is_empty() => Verdict::Passed,
                Some(_) => {
                    Verdict::Failed(format!("the kernel logged {}", self.records.join(" | ")))
                }
            },
        )
    }
}

/// A socket of a socket map whose memory accounts do not add up when it is gone, at most once a boot
/// (`WARN_ON_ONCE`). What a verdict passes while earlier buffers wait is charged by the kernel's
/// worker without the socket's lock (`sk_psock_skb_ingress`), while packets charge the same socket on
/// another processor. Nothing is lost but less than a page of the accounts; no program can prevent it.
const KNOWN: &str = "the kernel's own race in charging sockets of a socket map was hit (a WARNING in \
                     inet_sock_destruct, from sk_psock_destroy); see ARCHITECTURE";

/// Takes that report out, if it is there whole.
fn take_known(records: &mut Vec<String>) -> bool {
    let begins =
        |record: &String| record.contains("WARNING: ") && record.contains(" inet_sock_destruct+");
    let Some(start) = records.iter().position(begins) else { return false };
    let Some(length) = records[start..].iter().position(|record| record.contains("---[ end trace"))
    else {
        return false;
    };
    let report = start..=start + length;
    if !records[report.clone()].iter().any(|record| record.contains(" sk_psock_destroy+")) {
        return false;
    }
    records.drain(report);
    if start > 0 && records[start - 1].contains("[ cut here ]") {
        records.remove(start - 1);
    }
    true
}

/// The log from a point in time on.
struct KernelLog {
    records: File,
}

impl KernelLog {
    /// From now on. `None` where the log cannot be read; that takes root or an open `dmesg`.
    fn open() -> Option<KernelLog> {
        let mut options = OpenOptions::new();
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut records = options.read(true).custom_flags(flags).open("/dev/kmsg").ok()?;
        records.seek(SeekFrom::End(0)).ok()?;
        Some(KernelLog { records })
    }

    /// What was logged since the last time, apart from what a host is the cause of.
    fn take(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut record = vec![0; RECORD_SIZE_MAX];
        for _ in 0..RECORDS_MAX {
            match self.records.read(&mut record) {
                Ok(0) => break,
                Ok(length) => found.extend(message(&String::from_utf8_lossy(&record[..length]))),
                // Records were overwritten before they were read; the next read goes on after them.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    found.push("records were lost".to_owned());
                }
                Err(_) => break,
            }
        }
        found
    }
}

/// The text of `6,339,5140900,-;text`, continuation fields left out.
fn message(record: &str) -> Option<String> {
    let (_, text) = record.split_once(';')?;
    let text = text.lines().next()?;
    let is_of_the_host = OF_THE_HOST.iter().any(|start| text.starts_with(start));
    (!is_of_the_host).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::{fd::OwnedFd, unix::net::UnixDatagram};

    use super::*;

    /// A log that is written to by hand: datagrams are read one at a time, as records are.
    fn by_hand() -> (UnixDatagram, KernelLog) {
        let (kernel, reader) = UnixDatagram::pair().expect("sockets");
        reader.set_nonblocking(true).expect("a socket");
        (kernel, KernelLog { records: File::from(OwnedFd::from(reader)) })
    }

    #[test]
    fn a_record_fails_and_names_the_rung_that_it_was_written_during() {
        let (kernel, log) = by_hand();
        let mut watch = Watch { log: Some(log), records: Vec::new() };
        watch.look("unit");
        for record in ["4,1,2,-;first", "4,2,3,-;clocksource: slow", "4,3,4,-;second"] {
            kernel.send(record.as_bytes()).expect("sent");
        }
        watch.look("same host");
        kernel.send(b"4,4,5,-;third").expect("sent");
        watch.look("kernel");
        watch.look("bench");
        let rung = watch.finish();
        let notes = "failed: the kernel logged during `same host`: first | \
                     during `same host`: second | during `kernel`: third";
        assert_eq!((rung.counts.failed, rung.notes), (1, vec![notes.to_owned()]));
    }

    #[test]
    fn the_one_report_that_is_known_is_taken_out_and_nothing_else() {
        let known = [
            "------------[ cut here ]------------",
            "WARNING: CPU: 0 PID: 1 at net/ipv4/af_inet.c:157 inet_sock_destruct+0x169/0x190",
            " __sk_destruct+0x2b/0x1d0",
            " sk_psock_destroy+0x316/0x380",
            "---[ end trace 0000000000000000 ]---",
        ];
        let check = |records: &[&str], expected: &[&str]| {
            let mut left: Vec<String> = records.iter().map(|&record| record.to_owned()).collect();
            take_known(&mut left);
            assert_eq!(left, expected, "{records:?}");
        };
        check(&known, &[]);
        check(&[&["before"], &known[..], &["behind"]].concat(), &["before", "behind"]);
        check(&[&known[..3], &known[4..]].concat(), &[&known[..3], &known[4..]].concat());
        check(&known[..4], &known[..4]);
        check(&known[2..], &known[2..]);
    }

    #[test]
    fn a_silent_kernel_passes() {
        let (_kernel, log) = by_hand();
        let mut watch = Watch { log: Some(log), records: Vec::new() };
        watch.look("kernel");
        assert_eq!(watch.finish().counts.passed, 1);
    }

    #[test]
    fn reads_the_text_of_a_record() {
        let check = |record: &str, expected: Option<&str>| {
            assert_eq!(message(record).as_deref(), expected, "{record}");
        };
        check("4,339,5140900,-;BUG: x; y\n SUBSYSTEM=net\n", Some("BUG: x; y"));
        check("6,1,2,-;hrtimer: interrupt took 33995177 ns\n", None);
        check("garbage", None);
    }
}
