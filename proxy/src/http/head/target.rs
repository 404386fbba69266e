//! What a request is aimed at: the forms of a target (RFC 9112 section 3.2) and `host[:port]`.

use std::net::Ipv6Addr;

use super::{Flaw, HOST_NAME_SIZE_MAX};

/// A target taken apart. `path` is empty if an absolute-form target has none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) authority: Option<Authority<'a>>,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

/// A valid `host[:port]` as it was written, and the host of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    pub(super) whole: &'a [u8],
    pub(super) name: &'a [u8],
}

impl<'a> Target<'a> {
    /// Refuses what `http::Uri` would refuse, so that hyper has nothing left to say, and fragments,
    /// which it would drop. Authority-form belongs to `CONNECT` alone, which does not come here.
    pub(super) fn parse(method: &str, target: &'a str) -> Result<Target<'a>, Flaw> {
        if target == "*" {
            return match method {
                "OPTIONS" => Ok(Target { authority: None, path: target, query: None }),
                _ => Err(Flaw::Target),
            };
        }
        let (authority, path_and_query) = if target.starts_with('/') {
            (None, target)
        } else {
            let (authority, rest) = absolute_form(target)?;
            (Some(authority), rest)
        };
        let bytes = path_and_query.as_bytes();
        let end = bytes.iter().position(|byte| !PATH[*byte as usize]).unwrap_or(bytes.len());
        let (path, rest) = path_and_query.split_at_checked(end).ok_or(Flaw::Target)?;
        let query = match rest.strip_prefix('?') {
            Some(query) if query.bytes().all(|byte| QUERY[byte as usize]) => Some(query),
            None if rest.is_empty() => None,
            Some(_) | None => return Err(Flaw::Target),
        };
        Ok(Target { authority, path, query })
    }
}

/// `http://authority` and what follows it. Other schemes are not ours to forward, nor is https on a
/// connection that is not secured (RFC 9110 section 7.4).
fn absolute_form(target: &str) -> Result<(Authority<'_>, &str), Flaw> {
    let (scheme, rest) = target.split_once("://").ok_or(Flaw::Target)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Flaw::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    Ok((Authority::parse(authority.as_bytes()).ok_or(Flaw::Target)?, rest))
}

impl<'a> Authority<'a> {
    /// Narrower than RFC 3986: no user information, no percent-encoding and no `sub-delims` in a
    /// name, as each is a second spelling or a second element to somebody, and no empty label but the
    /// last. An empty host is refused (RFC 9110 section 4.2.1), an empty port is not (RFC 3986
    /// section 3.2.3).
    pub(super) fn parse(whole: &'a [u8]) -> Option<Authority<'a>> {
        let name_size = if let Some(bracketed) = whole.strip_prefix(b"[") {
            let end = bracketed.iter().position(|byte| *byte == b']')?;
            str::from_utf8(&bracketed[..end]).ok()?.parse::<Ipv6Addr>().ok()?;
            end + "[]".len()
        } else {
            let mut before = b'.';
            let is_outside = |byte: &u8| {
                let is_empty_label = *byte == b'.' && before == b'.';
                before = *byte;
                is_empty_label || !REG_NAME[*byte as usize]
            };
            whole.iter().position(is_outside).unwrap_or(whole.len())
        };
        let (name, port) = whole.split_at_checked(name_size)?;
        let is_valid = !name.is_empty() && name.len() <= HOST_NAME_SIZE_MAX && is_port_suffix(port);
        is_valid.then_some(Authority { whole, name })
    }
}

/// Nothing, or a colon and at most a number up to 65535.
fn is_port_suffix(suffix: &[u8]) -> bool {
    let Some(port) = suffix.strip_prefix(b":") else { return suffix.is_empty() };
    let number = |port: &[u8]| {
        port.iter().fold(0, |number, digit| 10 * number + u32::from(digit.wrapping_sub(b'0')))
    };
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && number(port) <= u32::from(u16::MAX)
}

/// Whether a byte is in a set, by the byte: a load where a match takes ten instructions.
macro_rules! byte_set {
    ($is_in:expr) => {{
        let mut set = [false; 256];
        let mut byte = 0;
        while byte < set.len() {
            set[byte] = $is_in(byte as u8);
            byte += 1;
        }
        set
    }};
}

static REG_NAME: [bool; 256] = byte_set!(is_reg_name_byte);
static PATH: [bool; 256] = byte_set!(is_path_byte);
static QUERY: [bool; 256] = byte_set!(is_query_byte);

/// RFC 3986 section 2.3: `unreserved`.
const fn is_reg_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986's path, and of what clients send although they should not, that which `http::Uri`
/// takes: `"`, `[`, `\`, `]`, `^`, `{`, `|`, `}`.
const fn is_path_byte(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'#' | b'<' | b'>' | b'?' | b'`')
}

/// RFC 3986's query, and what `http::Uri` takes beyond it.
const fn is_query_byte(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'#' | b'<' | b'>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(whole: &str, name: Option<&str>) {
        let parsed = Authority::parse(whole.as_bytes()).map(|authority| authority.name);
        assert_eq!(parsed, name.map(str::as_bytes), "{whole:?}");
    }

    #[test]
    fn an_authority_is_one_host_and_at_most_one_port() {
        check("example.com", Some("example.com"));
        check("Example.COM:8080", Some("Example.COM"));
        check("example.com:", Some("example.com"));
        check("example.com.:0", Some("example.com."));
        check("under_score:65535", Some("under_score"));
        check("192.0.2.1:80", Some("192.0.2.1"));
        check("[::1]", Some("[::1]"));
        check("[2001:DB8::1]:443", Some("[2001:DB8::1]"));
    }

    #[test]
    fn an_authority_is_nothing_else() {
        for whole in [
            "",
            ":80",
            "a:65536",
            "a:000080",
            "a:+80",
            "a: 80",
            "a:80:80",
            "a b",
            "a,b",
            "a, b",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "user:pass@a",
            "%61",
            "a\\b",
            "[::1",
            "::1",
            "[::1]a",
            "[::1]]",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "[]",
            "[127.0.0.1]",
            "é",
            ".",
            ".a",
            "a..",
            "a..b",
            "..",
        ] {
            check(whole, None);
        }
        check(&"a".repeat(HOST_NAME_SIZE_MAX), Some(&"a".repeat(HOST_NAME_SIZE_MAX)));
        check(&"a".repeat(HOST_NAME_SIZE_MAX + 1), None);
    }
}
