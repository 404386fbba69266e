//! Starting and ending the programs of a scenario.
//!
//! Each is started through `bench launch`, which pins itself, enters its network namespace, takes the
//! open-files limit the machine gives, asks to be ended with its parent, and then becomes the program.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process, pidfd_open,
        set_parent_process_death_signal, setrlimit,
    },
};

use crate::{
    placement::{CpuList, pin_thread},
    topology,
};

/// How long a program may take until it listens, unless it is slowed down on purpose.
pub(crate) const LISTEN_MAX: Duration = Duration::from_secs(10);

/// How long a program may take to end after SIGTERM; beyond it SIGKILL.
const END_MAX: Duration = Duration::from_secs(5);

/// Between two looks at whether a program listens; also the error of its start-up time.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Where a program runs.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) cpus: &'a CpuList,
    /// The file of its network namespace; without one, that of the thread that starts it.
    pub(crate) namespace: Option<&'a Path>,
}

/// Becomes `program`. Returns only if that fails.
pub(crate) fn launch(site: Site<'_>, program: &[String]) -> anyhow::Result<()> {
    let [name, arguments @ ..] = program else { bail!("launch: no program") };
    pin_thread(site.cpus).with_context(|| format!("pin to CPU {}", site.cpus))?;
    site.namespace.map_or(Ok(()), topology::enter)?;
    raise_open_files()?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Err(Command::new(name).args(arguments).exec()).with_context(|| format!("start {name}"))
}

/// A program of a scenario; ended when dropped.
pub(crate) struct Program {
    name: String,
    child: Child,
}

impl Program {
    /// Starts `command` at `site`; what it prints goes to `log`.
    pub(crate) fn start(command: &[String], site: Site<'_>, log: &Path) -> anyhow::Result<Self> {
        let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let (stdout, stderr) = (Stdio::from(log.try_clone()?), Stdio::from(log));
        Self::spawn(command, site, stdout, stderr)
    }

    fn spawn(
        command: &[String],
        site: Site<'_>,
        stdout: Stdio,
        stderr: Stdio,
    ) -> anyhow::Result<Self> {
        let bench = std::env::current_exe().context("own executable")?;
        let mut launch = Command::new(bench);
        launch.args(["launch", "--cpus", &site.cpus.to_string()]);
        if let Some(namespace) = site.namespace {
            launch.arg("--namespace").arg(namespace);
        }
        let child = launch
            .arg("--")
            .args(command)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        Ok(Self { name: command.first().cloned().unwrap_or_default(), child })
    }

    /// Starts a node of our own and reads the address that it prints.
    pub(crate) fn start_node(
        arguments: &[&str],
        site: Site<'_>,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let bench = std::env::current_exe().context("own executable")?;
        let mut command = vec![bench.display().to_string(), "node".to_owned()];
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut program = Self::spawn(&command, site, Stdio::piped(), Stdio::inherit())?;
        let stdout = program.child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening ").context("a node did not start")?;
        Ok((program, address.parse()?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `address` accepts a connection, at most until `longest` after `since`.
    pub(crate) fn wait_until_listening(
        &mut self,
        address: SocketAddr,
        since: Instant,
        longest: Duration,
    ) -> anyhow::Result<()> {
        loop {
            if TcpStream::connect_timeout(&address, longest).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended before it listened: {status}", self.name);
            }
            if since.elapsed() > longest {
                bail!("{} does not listen on {address}", self.name);
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Ends it with SIGKILL, whatever it is doing.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_child(&self.child);
        let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
        kill_process(pid, Signal::TERM)?;
        let limit =
            Timespec { tv_sec: i64::try_from(END_MAX.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&limit))?;
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nothing is left to do about a program that cannot be ended; it still has our death
        // signal.
        let _ = self.end();
    }
}

/// How many files a program started from here may have open.
pub(crate) fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Gives this process, which holds the load's sockets, the open-files limit the machine gives.
pub(crate) fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
