//! What an error of Redis comes to, by the word that it begins with.

use ::redis::{ErrorKind, RedisError};

use crate::plugin::Failure;

/// Bytes of such a word.
const CODE_SIZE_MAX: usize = 32;
/// What is over when the server has room, or is done with somebody's long script, or knows again who
/// we are.
const PASSING: [&str; 10] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
];

/// What has become of a script by this error.
pub(super) fn failure(error: &RedisError) -> Failure {
    match (error.kind(), code(error)) {
        (ErrorKind::IoError | ErrorKind::ParseError, _) => Failure::Broken,
        (_, Some(code)) if PASSING.contains(&code) => Failure::NotReady,
        (_, Some(_)) => Failure::Refused,
        (_, None) => Failure::Unexpected,
    }
}

/// What of it may be logged: the rest may repeat a password, or what a client has sent.
pub(super) fn summary(error: &RedisError) -> String {
    match code(error).filter(|code| is_code(code)) {
        Some(code) => code.to_owned(),
        None => format!("{:?}", error.kind()),
    }
}

/// The word, if the error is an answer.
#[expect(clippy::wildcard_enum_match_arm, reason = "the crate may add kinds")]
fn code(error: &RedisError) -> Option<&str> {
    let code = match error.kind() {
        ErrorKind::ClusterDown => "CLUSTERDOWN",
        ErrorKind::MasterDown => "MASTERDOWN",
        _ => error.code()?,
    };
    Some(if code == "ERR" { error.detail().and_then(wrapped).unwrap_or(code) } else { code })
}

/// The word of what a command in a script was refused with, as servers before 7 tell it: `Error running
/// script (call to f_HASH): @user_script:12: @user_script: 12: -OOM command not allowed`.
fn wrapped(detail: &str) -> Option<&str> {
    let (_, mut said) =
        detail.strip_prefix("Error running script (call to f_")?.split_once("): ")?;
    while let Some(behind) = behind_line(said) {
        said = behind;
    }
    let code = said.strip_prefix('-').unwrap_or(said).split(' ').next()?;
    is_code(code).then_some(code)
}

/// What stands behind the number of a line of the script.
fn behind_line(said: &str) -> Option<&str> {
    let (line, behind) = said.strip_prefix("@user_script:")?.split_once(": ")?;
    line.trim_start().parse::<u32>().is_ok().then_some(behind)
}

fn is_code(word: &str) -> bool {
    (1..=CODE_SIZE_MAX).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use ::redis::parse_redis_value;

    use super::*;

    fn error(line: &str) -> RedisError {
        let value = parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an answer");
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn errors_are_told_apart_whatever_version_tells_them() {
        const CALL: &str = "ERR Error running script (call to f_0123456789abcdef): ";
        for (line, expected, code) in [
            ("ERR unknown command", Failure::Refused, "ERR"),
            ("NOSCRIPT No matching script. Please use EVAL.", Failure::Refused, "NOSCRIPT"),
            ("NOPERM no permissions to run", Failure::Refused, "NOPERM"),
            ("MOVED 3999 127.0.0.1:6381", Failure::Refused, "MOVED"),
            ("CROSSSLOT Keys in request", Failure::Refused, "CROSSSLOT"),
            ("NOAUTH Authentication required.", Failure::NotReady, "NOAUTH"),
            ("BUSY Redis is busy running a script.", Failure::NotReady, "BUSY"),
            ("LOADING Redis is loading", Failure::NotReady, "LOADING"),
            ("READONLY You can't write", Failure::NotReady, "READONLY"),
            ("MASTERDOWN Link with MASTER is down", Failure::NotReady, "MASTERDOWN"),
            ("CLUSTERDOWN The cluster is down", Failure::NotReady, "CLUSTERDOWN"),
            ("TRYAGAIN Multiple keys", Failure::NotReady, "TRYAGAIN"),
            ("NOREPLICAS Not enough good replicas", Failure::NotReady, "NOREPLICAS"),
            ("MISCONF Redis is configured", Failure::NotReady, "MISCONF"),
            ("OOM command not allowed", Failure::NotReady, "OOM"),
            // 7, of a command in a script.
            ("WRONGTYPE Operation script: f_01, on @user_script:3.", Failure::Refused, "WRONGTYPE"),
            ("OOM command not allowed script: f_01, on @user_script:3.", Failure::NotReady, "OOM"),
            ("ERR user_script:3: Script attempted", Failure::Refused, "ERR"),
            // 5 and 6.
            (&format!("{CALL}@user_script:3: WRONGTYPE Operation"), Failure::Refused, "WRONGTYPE"),
            (
                &format!("{CALL}@user_script:3: @user_script: 3: -OOM command not allowed"),
                Failure::NotReady,
                "OOM",
            ),
            (
                &format!("{CALL}@user_script:3: @user_script: 3: -READONLY You can't write"),
                Failure::NotReady,
                "READONLY",
            ),
            (&format!("{CALL}@user_script: 3: -MISCONF Errors"), Failure::NotReady, "MISCONF"),
            (&format!("{CALL}@user_script:3: attempt to add"), Failure::Refused, "ERR"),
            (&format!("{CALL}@user_script:3: "), Failure::Refused, "ERR"),
            (&format!("{CALL}@user_script:x: OOM"), Failure::Refused, "ERR"),
            // What a client has chosen is no word of the server's.
            ("ERR tandem:limit-count:OOM holds no window", Failure::Refused, "ERR"),
            ("ERR @user_script:3: OOM", Failure::Refused, "ERR"),
            ("opensesame", Failure::Refused, "ExtensionError"),
        ] {
            let error = error(line);
            assert_eq!((failure(&error), &*summary(&error)), (expected, code), "{line}");
        }
    }

    #[test]
    fn what_is_no_answer_is_no_refusal() {
        let broken = RedisError::from(std::io::Error::other("gone"));
        assert_eq!((failure(&broken), &*summary(&broken)), (Failure::Broken, "IoError"));
        let malformed = parse_redis_value(b"?\r\n").expect_err("no value");
        assert_eq!(failure(&malformed), Failure::Broken);
        let other = RedisError::from((ErrorKind::TypeError, "of ours"));
        assert_eq!(failure(&other), Failure::Unexpected);
    }
}
