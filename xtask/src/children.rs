//! Processes that are started here and never outlive us, however we end.
//!
//! A child asks the kernel to be killed when its parent goes (`PR_SET_PDEATHSIG`). That has to be
//! said in the child, between fork and exec, where only unsafe code can run; so the child is this
//! program again, called by another name, which says it and then becomes what was asked for.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};

/// `argv[0]` of a child before it becomes what was asked for.
const HOLD: &str = "tandem-xtask-hold";
/// How often a child that is being stopped is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A running program, stopped when dropped.
pub(crate) struct Held {
    name: String,
    child: Child,
}

/// Where a child's output goes.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    Terminal,
    /// To be taken with [`Held::lines`].
    Lines,
}

/// In a process that was started by [`Held::start`]: becomes the program. Anywhere else: `None`.
pub(crate) fn become_if_held() -> Option<io::Error> {
    let mut arguments = env::args_os();
    if arguments.next()? != HOLD {
        return None;
    }
    Some(become_held(arguments).unwrap_or_else(|error| error))
}

fn become_held(mut arguments: env::ArgsOs) -> io::Result<io::Error> {
    let missing = || io::Error::from(io::ErrorKind::InvalidInput);
    let parent = arguments.next().and_then(|word| word.into_string().ok()).ok_or_else(missing)?;
    let program = arguments.next().ok_or_else(missing)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have gone before the kernel was asked.
    if getppid().map(Pid::as_raw_nonzero).map(|pid| pid.to_string()) != Some(parent) {
        return Ok(io::Error::other("the process that started this is gone"));
    }
    Ok(Command::new(program).args(arguments).exec())
}

impl Held {
    /// Starts `command` in a process group of its own, so that a Ctrl-C reaches only us and the
    /// order of stopping is ours. Call it from the main thread: the kernel watches the thread.
    pub(crate) fn start(name: &str, command: &Command, output: Output) -> Result<Held> {
        let own = env::current_exe().context("find this program")?;
        let mut held = Command::new(own);
        held.arg0(HOLD).arg(getpid().as_raw_nonzero().to_string());
        held.arg(command.get_program()).args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            held.current_dir(directory);
        }
        held.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        held.stdin(Stdio::null()).process_group(0);
        if let Output::Lines = output {
            held.stdout(Stdio::piped());
        }
        let child = held.spawn().with_context(|| format!("start {name}"))?;
        Ok(Held { name: name.to_owned(), child })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it prints from now on; only for [`Output::Lines`], and once.
    pub(crate) fn lines(&mut self) -> Lines {
        Lines::of(self.child.stdout.take())
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look at {}", self.name))
    }

    /// Asks it to end and waits; after `patience`, or when `is_urgent` says so, it is killed, and
    /// that is an error.
    pub(crate) fn stop(
        mut self,
        patience: Duration,
        mut is_urgent: impl FnMut(Duration) -> bool,
    ) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::TERM).with_context(|| format!("stop {}", self.name))?;
        }
        while Instant::now() < deadline {
            if is_urgent(POLL) {
                bail!("{} was killed while it drained", self.name);
            }
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
        }
        bail!("{} did not end within {} s of SIGTERM", self.name, patience.as_secs())
    }

    /// Unless it has been waited for: then the number may be somebody else's.
    fn pid(&mut self) -> Option<Pid> {
        match self.child.try_wait() {
            Ok(None) => Pid::from_raw(self.child.id().cast_signed()),
            Ok(Some(_)) | Err(_) => None,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nothing can be done about a child that cannot be killed; the kernel does it when we end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The lines of a stream, read on a thread of its own so that waiting for one can end.
pub(crate) struct Lines {
    receiver: Receiver<String>,
}

impl Lines {
    fn of(stream: Option<impl Read + Send + 'static>) -> Lines {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let Some(stream) = stream else { return };
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                // Read on when nobody listens: a program whose output is closed may end.
                drop(sender.send(line));
            }
        });
        Lines { receiver }
    }

    /// The first line from here on for which `found` has an answer.
    pub(crate) fn wait_for<T>(
        &self,
        wait: Duration,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + wait;
        loop {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = found(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("nothing within {} s", wait.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("its output ended"),
            }
        }
    }
}
