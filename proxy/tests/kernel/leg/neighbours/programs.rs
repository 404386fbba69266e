//! Programs of others: what they are started with, and that they end.

use std::{
    cell::OnceCell,
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use proxy::test_support::{eventually, unused_address};

use super::{super::peer::Pattern, plan::conversation};
use crate::skip;

/// Not in everybody's `PATH`, and where servers are.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];
/// More than the largest answer.
const FILE_SIZE: usize = 5 << 20;
/// More than a client in another process has for one step.
const PATIENCE: Duration = Duration::from_secs(40);
const LISTENS: &str = "listens on ";

const PYTHON: &str = include_str!("neighbour.py");
const NODE: &str = include_str!("neighbour.js");
const GO: &str = include_str!("neighbour.go");

/// A language, and how its programs wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    BlockingPython,
    Node,
    Go,
}

impl Language {
    pub(super) const ALL: [Language; 4] =
        [Language::Python, Language::BlockingPython, Language::Node, Language::Go];

    pub(super) fn name(self) -> &'static str {
        match self {
            Language::Python => "Python",
            Language::BlockingPython => "Python that blocks",
            Language::Node => "Node.js",
            Language::Go => "Go",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Language::Python | Language::BlockingPython => "python3",
            Language::Node => "node",
            Language::Go => "go",
        }
    }

    /// Whether it cannot be had here.
    #[must_use]
    pub(super) fn is_missing(self) -> bool {
        is_missing(self.program())
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(SYSTEM_DIRECTORIES.map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|program| program.is_file())
}

/// Whether a program cannot be had here: says so as [`skip`] does.
#[must_use]
pub(super) fn is_missing(program: &str) -> bool {
    find(program).is_none() && skip(&format!("needs `{program}` (`cargo xtask test` fetches it)"))
}

/// A program that runs, killed when dropped.
pub(super) struct Program(Child);

impl Program {
    pub(super) fn start(command: &mut Command) -> Program {
        Program(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// One that says where it listens, and ends with its standard input.
    pub(super) fn start_listening(command: &mut Command) -> (Program, SocketAddr) {
        let mut program = Program::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let lines = BufReader::new(program.0.stdout.take().expect("a pipe")).lines();
        let mut said = lines.map_while(Result::ok).filter_map(|line| {
            let (_, address) = line.split_once(LISTENS)?;
            Some(address.parse().expect("an address"))
        });
        let address = said.next().unwrap_or_else(|| panic!("{command:?} ended early"));
        (program, address)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if it is dead already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A client in another process, that does what it is told a line at a time.
pub(super) struct Talker {
    to: ChildStdin,
    said: Receiver<String>,
    _program: Program,
}

impl Talker {
    fn start(command: &mut Command) -> Talker {
        let mut program = Program::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let to = program.0.stdin.take().expect("a pipe");
        let lines = BufReader::new(program.0.stdout.take().expect("a pipe")).lines();
        let (say, said) = mpsc::channel();
        // Until nobody hears it, or it ends.
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        Talker { to, said, _program: program }
    }

    /// Has it do the conversations of these seeds; what went wrong. Each has to be answered for.
    pub(super) fn converse(&mut self, to: SocketAddr, seeds: RangeInclusive<u64>) -> Vec<String> {
        for seed in seeds.clone() {
            writeln!(self.to, "{}", conversation(to, seed)).expect("it reads");
        }
        let mut due: BTreeSet<u64> = seeds.collect();
        let mut failures = Vec::new();
        while !due.is_empty() {
            let Ok(line) = self.said.recv_timeout(PATIENCE) else {
                failures.push(format!("nothing was heard of {due:?}"));
                break;
            };
            let mut words = line.split(' ');
            let (verdict, seed) = (words.next(), words.next().and_then(|seed| seed.parse().ok()));
            let Some(seed) = seed.filter(|seed| due.remove(seed)) else {
                failures.push(format!("`{line}`, while {due:?} are due"));
                break;
            };
            if verdict != Some("done") {
                failures.push(format!("seed {seed}: `{line}` in `{}`", conversation(to, seed)));
            }
        }
        failures
    }
}

/// Says where a process of ours listens.
pub(super) fn say_listening(address: SocketAddr) {
    println!("{LISTENS}{address}");
}

/// A directory with what the programs need.
pub(super) struct Workshop {
    directory: tempfile::TempDir,
    go: OnceCell<PathBuf>,
}

impl Workshop {
    pub(super) fn new() -> Workshop {
        let workshop =
            Workshop { directory: tempfile::tempdir().expect("a directory"), go: OnceCell::new() };
        // Servers read it as another user.
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(workshop.directory.path(), readable).expect("permissions");
        for (name, text) in [("neighbour.py", PYTHON), ("neighbour.js", NODE), ("neighbour.go", GO)]
        {
            workshop.write(name, text.as_bytes());
        }
        workshop.write("pattern", &Pattern::new().at(0, FILE_SIZE));
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    fn command(&self, language: Language, mode: &str) -> Command {
        let mut command = match language {
            Language::Go => Command::new(self.go.get_or_init(|| self.build_go())),
            Language::Python | Language::BlockingPython | Language::Node => {
                Command::new(find(language.program()).expect("not missing"))
            }
        };
        match language {
            Language::Python => command.arg(self.path("neighbour.py")).arg(mode),
            Language::BlockingPython => {
                command.arg(self.path("neighbour.py")).arg(format!("blocking-{mode}"))
            }
            Language::Node => command.arg(self.path("neighbour.js")).arg(mode),
            Language::Go => command.arg(mode),
        };
        command.arg(self.path("pattern"));
        command
    }

    fn build_go(&self) -> PathBuf {
        let program = self.path("neighbour");
        let mut build = Command::new(find("go").expect("not missing"));
        build.args(["build", "-o"]).arg(&program).arg(self.path("neighbour.go"));
        build.env("GO111MODULE", "off").env("GOCACHE", self.path("go-cache"));
        assert!(build.status().expect("go runs").success());
        program
    }

    pub(super) fn node(&self, language: Language) -> (Program, SocketAddr) {
        Program::start_listening(&mut self.command(language, "node"))
    }

    pub(super) fn client(&self, language: Language) -> Talker {
        Talker::start(&mut self.command(language, "client"))
    }

    /// `listen` is what follows the address there.
    pub(super) fn nginx(
        &self,
        application: SocketAddr,
        listen: &str,
        sendfile: &str,
    ) -> (Program, SocketAddr) {
        let address = unused_address();
        let config = fill_in(
            include_str!("nginx.conf"),
            &[
                ("listen", &format!("{address} {listen}")),
                ("sendfile", sendfile),
                ("application", &application.to_string()),
            ],
        );
        let config = self.write("nginx.conf", config.as_bytes());
        let mut command = held(&find("nginx").expect("not missing"));
        command.args(["-e", "stderr", "-p"]).arg(self.directory.path()).arg("-c").arg(config);
        let program = Program::start(&mut command);
        until_it_listens(address);
        (program, address)
    }

    /// With its event MPM.
    pub(super) fn apache(&self, application: SocketAddr) -> (Program, SocketAddr) {
        let program = find("apache2").expect("not missing");
        let address = unused_address();
        let config = fill_in(
            include_str!("apache.conf"),
            &[
                ("directory", &self.directory.path().display().to_string()),
                ("modules", &apache_modules(&program).display().to_string()),
                ("address", &address.to_string()),
                ("application", &application.to_string()),
            ],
        );
        let config = self.write("apache.conf", config.as_bytes());
        // One process in the foreground.
        let program = Program::start(held(&program).arg("-X").arg("-f").arg(config));
        until_it_listens(address);
        (program, address)
    }
}

/// A server, which does not look at its standard input: killed with the thread that starts it, also
/// where nothing is dropped any more.
fn held(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Beside the program, wherever it was installed or unpacked.
fn apache_modules(program: &Path) -> PathBuf {
    let directory = program.parent().expect("a directory");
    let places = ["../usr/lib/apache2/modules", "../lib/apache2/modules"];
    let mut found = places.iter().map(|place| directory.join(place)).filter(|path| path.is_dir());
    found.next().expect("modules of apache2")
}

/// Replaces each `@name@`.
fn fill_in(template: &str, values: &[(&str, &str)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

fn until_it_listens(address: SocketAddr) {
    eventually("a server that listens", || TcpStream::connect(address).ok());
}

/// Until whoever started this process is gone.
pub(super) fn until_stdin_ends() {
    let mut rest = Vec::new();
    // Whatever ends it.
    drop(std::io::stdin().read_to_end(&mut rest));
}
