//! The command line: `run`, `check`, `routes match`, `bpf status`, `version`.
//!
//! Exit codes: 0, 1 for everything that went wrong, 2 for wrong usage (clap's).

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use proxy_common::limits;

use crate::{
    app::App,
    config::{self, Config, Kernel, Limits, SameHost},
    kernel::{self, FeatureState, KernelPlane},
    logging,
    reload::File,
    route::explain::{self, Asked},
    sys,
};

/// A reverse proxy and API gateway whose kernel half steers connections and moves bytes.
#[derive(Debug, clap::Parser)]
#[command(name = "tandem", version, disable_help_subcommand = true)]
pub struct Command {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Serves what a configuration file describes, until SIGTERM.
    Run(ConfigFile),
    /// Checks a configuration file and reports everything that is wrong with it.
    Check(ConfigFile),
    /// Asks a configuration file about its routes.
    #[command(subcommand)]
    Routes(Routes),
    /// Asks a running tandem about its kernel half.
    #[command(subcommand)]
    Bpf(Bpf),
    /// Prints version, kernel ABI, and whether this binary has a kernel half.
    Version,
}

#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
pub enum Routes {
    /// Which route a request takes and why, every route that is looked at on a line of its own;
    /// exit 1 if none takes it.
    Match(Match),
}

#[derive(Debug, clap::Args)]
pub struct Match {
    method: String,
    /// `http://HOST[:PORT][/PATH][?QUERY]`
    url: String,
    /// A further field of the request.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    fields: Vec<String>,
    /// The client's address.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    from: IpAddr,
    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Debug, clap::Subcommand)]
pub enum Bpf {
    /// Which parts run in the kernel, how, and why the others do not.
    Status(Status),
    /// Loads what needs no interface (all but XDP), tries delivery on IPv4 loopback, and says what it
    /// found; exit 0 if all of it works.
    Doctor(Doctor),
    /// Switches direct delivery on this host on or off while connections live; prints the status.
    SameHost(Switch),
}

#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Where `kernel.same_host` is tried.
    #[arg(long, value_name = "CGROUP", default_value = "/")]
    cgroup: String,
}

#[derive(Debug, clap::Args)]
pub struct Switch {
    to: OnOff,
    /// The running tandem's admin address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    admin: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnOff {
    On,
    Off,
}

#[derive(Debug, clap::Args)]
pub struct Status {
    /// The running tandem's admin address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    admin: SocketAddr,
}

/// Carries out `action`.
///
/// # Errors
/// What is worth a line on stderr and exit code 1.
pub fn run(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Run(file) => serve(&file.config),
        Action::Check(file) => check(&file.config),
        Action::Routes(Routes::Match(request)) => match_routes(&request),
        Action::Bpf(Bpf::Status(status)) => bpf(status.admin, "GET", "/bpf/status"),
        Action::Bpf(Bpf::SameHost(switch)) => match switch.to {
            OnOff::On => bpf(switch.admin, "PUT", "/bpf/same_host/on"),
            OnOff::Off => bpf(switch.admin, "PUT", "/bpf/same_host/off"),
        },
        Action::Bpf(Bpf::Doctor(doctor)) => examine(doctor.cgroup),
        Action::Version => version(),
    }
}

/// Prints an error and its chain to stderr.
pub fn complain(error: &anyhow::Error) {
    // Nothing can be done about a stderr that is closed.
    drop(writeln!(io::stderr(), "tandem: {error:#}"));
}

fn serve(path: &Path) -> anyhow::Result<ExitCode> {
    let small_pages = sys::limits::use_small_pages();
    let read = Config::read_file(path);
    let source = path.display().to_string();
    let loaded = read.and_then(|bytes| Ok((Config::parse_bytes(&bytes, &source)?, bytes)));
    let (config, bytes) = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => return complain_about(&errors),
    };
    sys::process::ignore_file_size_signal().context("SIGXFSZ")?;
    let log = logging::init(&config.log)?;
    if let Err(error) = small_pages {
        tracing::warn!(%error, "memory may come in huge pages, of which idle connections keep more");
    }
    match serve_as(&config, File { path: path.to_owned(), bytes: Some(bytes) }) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            log.complain(&error);
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Serves what `config` says, until a signal has drained it.
fn serve_as(config: &Config, file: File) -> anyhow::Result<()> {
    for warning in config.warnings.lines() {
        tracing::warn!("{warning}");
    }
    let mut app = App::start(config)?;
    for (name, address) in &app.listeners {
        tracing::info!(listener = &**name, %address, "listening");
    }
    if let Some(address) = app.admin {
        tracing::info!(%address, "admin listening");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = app.kernel.status().running.label(),
        workers = app.worker_count(),
        "serving"
    );
    app.follow(file);
    app.wait()?;
    tracing::info!("drained");
    Ok(())
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let report = config::check(path);
    if report.is_valid() {
        writeln!(io::stdout(), "{report}")?;
        Ok(ExitCode::SUCCESS)
    } else {
        complain_about(&report)
    }
}

fn match_routes(request: &Match) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&request.file.config) {
        Ok(config) => config,
        Err(errors) => return complain_about(&errors),
    };
    let asked = Asked {
        method: &request.method,
        url: &request.url,
        fields: &request.fields,
        client: request.from,
    };
    let (text, is_matched) = explain::report(&config, &asked).map_err(anyhow::Error::msg)?;
    write!(io::stdout(), "{text}")?;
    Ok(if is_matched { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn complain_about(errors: &dyn std::fmt::Display) -> anyhow::Result<ExitCode> {
    writeln!(io::stderr(), "{errors}")?;
    Ok(ExitCode::FAILURE)
}

/// How long a running tandem may take to answer on its admin address.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// More than any status page is long.
const ADMIN_ANSWER_MAX: u64 = 1 << 20;

fn bpf(admin: SocketAddr, method: &str, path: &str) -> anyhow::Result<ExitCode> {
    let mut stream = TcpStream::connect_timeout(&admin, ADMIN_TIMEOUT).with_context(|| {
        format!("admin address {admin}; is tandem running with `admin.address`?")
    })?;
    stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ADMIN_ANSWER_MAX).read_to_string(&mut answer).context("admin answer")?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => {
            writeln!(io::stdout(), "{}", body.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Some((head, _)) if head.starts_with("HTTP/1.1 409 ") => {
            bail!("`kernel.same_host` is not enabled, or could not be had; see `tandem bpf status`")
        }
        _ => bail!("admin address {admin}: not the answer of a tandem"),
    }
}

fn examine(cgroup: String) -> anyhow::Result<ExitCode> {
    let same_host = SameHost {
        cgroup,
        uid: None,
        is_cross_namespace: false,
        is_bypassed: true,
        window: limits::LOCAL_WINDOW_DEFAULT,
        egress_max: limits::EGRESS_MAX_DEFAULT,
    };
    let config = Kernel { same_host: Some(same_host), ..Kernel::default() };
    let status = KernelPlane::load(&config, &Limits::default(), &[], 1)?.status();
    if let Some(reason) = status.detail {
        bail!("nothing can be loaded: {reason}");
    }
    let mut works = true;
    for feature in status.features.iter().filter(|one| one.state != FeatureState::Off) {
        let is_running = feature.state == FeatureState::Running;
        works &= is_running;
        let verdict = if is_running { "works" } else { "does not work" };
        writeln!(io::stdout(), "{:8} {verdict}: {}", feature.name, feature.detail)?;
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn version() -> anyhow::Result<ExitCode> {
    writeln!(
        io::stdout(),
        "tandem {} (kernel ABI {}, {})",
        env!("CARGO_PKG_VERSION"),
        proxy_common::ABI_VERSION,
        if kernel::is_built_in() {
            "with kernel half"
        } else {
            "userspace only, built without a BPF object"
        },
    )?;
    Ok(ExitCode::SUCCESS)
}
