//! One connection to a Redis: how it is opened, and what a script that goes over it comes to.

use std::{fmt, io, rc::Rc};

use ::redis::{Cmd, ErrorKind, RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    net::TcpStream,
    task::{self, AbortHandle},
};

use tokio_util::either::Either;

use super::{bounded::Bounded, refusal};
use crate::{
    client::tls,
    plugin::{Failure, Server, Step},
};

/// Open until it is closed, or nobody has it any more; clones are the same connection.
#[derive(Clone)]
pub(super) struct Connection {
    redis: MultiplexedConnection,
    driver: Rc<Driver>,
}

/// Writes and reads. It would wait for answers to whatever was asked, whoever has gone.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NotOpened {
    Io(io::Error),
    /// By this error.
    Refused(String),
    TimedOut,
}

/// What kept a script from answering.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) why: Option<String>,
}

impl Connection {
    /// Connects, and waits for the answer to a first question: a process that hangs accepts too.
    pub(super) async fn open(server: &Server) -> Result<Connection, NotOpened> {
        let stream = TcpStream::connect((&*server.host, server.port)).await;
        let stream = stream.map_err(NotOpened::Io)?;
        stream.set_nodelay(true).map_err(NotOpened::Io)?;
        let stream = match server.tls {
            Some(trust) => {
                let secured = tls::connect(stream, &server.host, trust, None).await;
                Either::Right(Box::new(secured.map_err(NotOpened::Io)?))
            }
            None => Either::Left(stream),
        };
        let login = RedisConnectionInfo {
            db: server.database.into(),
            username: server.username.as_deref().map(str::to_owned),
            password: server.password.as_deref().map(str::to_owned),
            ..RedisConnectionInfo::default()
        };
        let opened = MultiplexedConnection::new(&login, Bounded::new(stream));
        let (mut redis, driver) = opened.await.map_err(NotOpened::from)?;
        let driver = Rc::new(Driver(task::spawn_local(driver).abort_handle()));
        let connection = Connection { redis: redis.clone(), driver };
        match ::redis::cmd("PING").query_async::<Value>(&mut redis).await {
            Ok(Value::SimpleString(pong)) if pong == "PONG" => Ok(connection),
            Ok(_) => Err(NotOpened::Refused("no pong".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.driver.0.is_finished()
    }

    pub(super) fn is_same(&self, other: &Connection) -> bool {
        Rc::ptr_eq(&self.driver, &other.driver)
    }

    /// Ends what is under way, too.
    pub(super) fn close(&self) {
        self.driver.0.abort();
    }

    /// Runs a script that the server knows by its hash, unless it has forgotten.
    pub(super) async fn run(&self, step: &Step) -> Result<Vec<i64>, Failed> {
        let mut redis = self.redis.clone();
        let known = command("EVALSHA", step.script.hash(), step);
        let value = match known.query_async::<Value>(&mut redis).await {
            Err(error) if error.kind() == ErrorKind::NoScriptError => {
                command("EVAL", step.script.text, step).query_async(&mut redis).await
            }
            result => result,
        };
        let value = value.map_err(|error| Failed {
            failure: refusal::failure(&error),
            why: Some(refusal::summary(&error)),
        })?;
        numbers(value, step).ok_or(Failed { failure: Failure::Unexpected, why: None })
    }
}

fn command(name: &str, script: &str, step: &Step) -> Cmd {
    let mut command = ::redis::cmd(name);
    command.arg(script).arg(step.keys.len());
    step.keys.iter().chain(&step.arguments).for_each(|bytes| {
        command.arg(&bytes[..]);
    });
    command
}

fn numbers(value: Value, step: &Step) -> Option<Vec<i64>> {
    let Value::Array(values) = value else { return None };
    let number = |value| if let Value::Int(number) = value { Some(number) } else { None };
    let numbers: Vec<i64> = values.into_iter().map(number).collect::<Option<_>>()?;
    (step.script.is_answer)(step.keys.len(), &numbers).then_some(numbers)
}

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotOpened::Io(error) => error.fmt(f),
            NotOpened::Refused(error) => f.write_str(error),
            NotOpened::TimedOut => f.write_str("timed out"),
        }
    }
}

impl From<RedisError> for NotOpened {
    fn from(error: RedisError) -> NotOpened {
        NotOpened::Refused(refusal::summary(&error))
    }
}
