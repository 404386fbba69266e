//! What becomes of the process: signals that are not to end it, and an end that waits for nothing.

use std::io;

/// Has a write beyond the limit of a file's size (`RLIMIT_FSIZE`) fail with `EFBIG`, where it would
/// kill the process (setrlimit(2)).
///
/// # Errors
/// None that Linux has for this signal.
#[expect(unsafe_code, reason = "not in rustix")]
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: no handler is installed.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Ends the process whatever its threads do: no destructor runs, no buffer is flushed.
#[expect(unsafe_code, reason = "not in rustix")]
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: it takes any number, and nothing of this process runs afterwards.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use std::{env, fs::File, io::Write as _, process::Command};

    use rustix::process::{Resource, Rlimit, setrlimit};

    use super::*;

    /// In a process of its own, as both calls are about the whole of it.
    #[test]
    fn a_file_that_may_not_grow_is_an_error_and_an_end_is_one_at_once() {
        const NAME: &str =
            "sys::process::tests::a_file_that_may_not_grow_is_an_error_and_an_end_is_one_at_once";
        const CHILD: &str = "TANDEM_TEST_FILE_SIZE";
        const ENDED: i32 = 7;
        if env::var_os(CHILD).is_some() {
            ignore_file_size_signal().unwrap();
            setrlimit(Resource::Fsize, Rlimit { current: Some(1), maximum: Some(1) }).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            let grown = |file: &mut File| file.write(b"22").map_err(|error| error.kind());
            assert_eq!(grown(&mut file), Ok(1));
            assert_eq!(grown(&mut file), Err(io::ErrorKind::FileTooLarge));
            exit_at_once(ENDED);
        }
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", NAME, "--nocapture"]).env(CHILD, "1");
        assert_eq!(child.output().unwrap().status.code(), Some(ENDED));
    }
}
