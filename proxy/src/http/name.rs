//! Which bytes a field is made of, and which field a name is.
//!
//! A head's names are classified once, when it is read; whoever comes after (framing, forwarding,
//! loop detection) asks for the class instead of comparing names again.

/// RFC 9110 section 5.6.2: `tchar`.
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
        | b'|' | b'~')
}

/// RFC 9110 section 5.5: what a field value may hold, blanks included.
pub const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=0x7e | 0x80..=0xff)
}

/// The fields the proxy knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Other,
    /// With `_` where one that plugins may not touch has `-`: a node that is asked by way of CGI or WSGI
    /// takes both for the same.
    Alike,
    Connection,
    ContentLength,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    MaxForwards,
    /// `Proxy`: a CGI node would turn it into `HTTP_PROXY` (httpoxy).
    Proxy,
    ProxyAuthenticate,
    ProxyAuthenticationInfo,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    XRealIp,
}

/// Which of them a head has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KnownSet(u32);

impl KnownSet {
    pub(super) fn insert(&mut self, known: Known) {
        self.0 |= 1 << known as u32;
    }

    pub(super) fn contains(self, known: Known) -> bool {
        self.0 & (1 << known as u32) != 0
    }
}

impl Known {
    /// Compared without case. It runs on every field of every message: nearly every name that is not
    /// known is told by its length and its first letter.
    pub fn of(name: &[u8]) -> Known {
        for (spelling, known) in Known::candidates(name) {
            if is_spelled(name, spelling) {
                return *known;
            }
            if !known.is_editable() && is_alike(name, spelling) {
                return Known::Alike;
            }
        }
        Known::Other
    }

    /// All that are of the length of `name` and begin like it, lower-case.
    fn candidates(name: &[u8]) -> &'static [(&'static [u8], Known)] {
        let Some(first) = name.first() else { return &[] };
        match (name.len(), first.to_ascii_lowercase()) {
            (2, b't') => &[(b"te", Known::Te)],
            (3, b'v') => &[(b"via", Known::Via)],
            (4, b'h') => &[(b"host", Known::Host)],
            (4, b'd') => &[(b"date", Known::Date)],
            (5, b'p') => &[(b"proxy", Known::Proxy)],
            (6, b'e') => &[(b"expect", Known::Expect)],
            (7, b'u') => &[(b"upgrade", Known::Upgrade)],
            (7, b't') => &[(b"trailer", Known::Trailer)],
            (9, b'x') => &[(b"x-real-ip", Known::XRealIp)],
            (9, b'f') => &[(b"forwarded", Known::Forwarded)],
            (10, b'c') => &[(b"connection", Known::Connection)],
            (10, b'k') => &[(b"keep-alive", Known::KeepAlive)],
            (12, b'm') => &[(b"max-forwards", Known::MaxForwards)],
            (14, b'c') => &[(b"content-length", Known::ContentLength)],
            (14, b'h') => &[(b"http2-settings", Known::Http2Settings)],
            (15, b'x') => &[(b"x-forwarded-for", Known::XForwardedFor)],
            (16, b'x') => &[
                (b"x-forwarded-host", Known::XForwardedHost),
                (b"x-forwarded-port", Known::XForwardedPort),
            ],
            (16, b'p') => &[(b"proxy-connection", Known::ProxyConnection)],
            (17, b't') => &[(b"transfer-encoding", Known::TransferEncoding)],
            (17, b'x') => &[(b"x-forwarded-proto", Known::XForwardedProto)],
            (18, b'p') => &[(b"proxy-authenticate", Known::ProxyAuthenticate)],
            (19, b'p') => &[(b"proxy-authorization", Known::ProxyAuthorization)],
            (25, b'p') => &[(b"proxy-authentication-info", Known::ProxyAuthenticationInfo)],
            _ => &[],
        }
    }

    /// Fields that speak about one connection only and never leave it, whether `Connection` names
    /// them or not (RFC 9110 section 7.6.1).
    pub const fn is_hop_by_hop(self) -> bool {
        match self {
            Known::Connection
            | Known::Http2Settings
            | Known::KeepAlive
            | Known::Proxy
            | Known::ProxyAuthenticate
            | Known::ProxyAuthenticationInfo
            | Known::ProxyAuthorization
            | Known::ProxyConnection
            | Known::Te
            | Known::Trailer
            | Known::TransferEncoding
            | Known::Upgrade => true,
            Known::Other
            | Known::Alike
            | Known::ContentLength
            | Known::Date
            | Known::Expect
            | Known::Forwarded
            | Known::Host
            | Known::MaxForwards
            | Known::Via
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XForwardedProto
            | Known::XRealIp => false,
        }
    }

    /// Whether plugins may remove or set it: it is not one that frames a message, is meant for one
    /// connection, or tells of the downstream.
    pub const fn is_editable(self) -> bool {
        match self {
            Known::Other | Known::Date => true,
            Known::Alike
            | Known::Connection
            | Known::ContentLength
            | Known::Expect
            | Known::Forwarded
            | Known::Host
            | Known::Http2Settings
            | Known::KeepAlive
            | Known::MaxForwards
            | Known::Proxy
            | Known::ProxyAuthenticate
            | Known::ProxyAuthenticationInfo
            | Known::ProxyAuthorization
            | Known::ProxyConnection
            | Known::Te
            | Known::Trailer
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::Via
            | Known::XForwardedFor
            | Known::XForwardedHost
            | Known::XForwardedPort
            | Known::XForwardedProto
            | Known::XRealIp => false,
        }
    }
}

/// Whether two names are one, whatever their case. Most that are one are spelled alike, which is told
/// much sooner.
pub(super) fn is_same(one: &[u8], other: &[u8]) -> bool {
    one == other || one.eq_ignore_ascii_case(other)
}

/// Whether `name`, of token bytes, is `spelling` in whatever case. That is of lower-case letters, digits
/// and `-`: no token byte but the upper-case letter differs from one of these in that one bit.
pub(crate) fn is_spelled(name: &[u8], spelling: &[u8]) -> bool {
    const CASE: u64 = u64::from_ne_bytes([b' '; 8]);
    let differ = |one: &[u8; 8], other: &[u8; 8]| {
        (u64::from_ne_bytes(*one) ^ u64::from_ne_bytes(*other)) & !CASE != 0
    };
    if name.len() != spelling.len() {
        return false;
    }
    match (name.last_chunk(), spelling.last_chunk()) {
        (Some(name_end), Some(spelling_end)) => {
            let mut words = name.as_chunks().0.iter().zip(spelling.as_chunks().0);
            !differ(name_end, spelling_end) && !words.any(|(one, other)| differ(one, other))
        }
        _ => name.iter().zip(spelling).all(|(one, other)| (one ^ other) & !b' ' == 0),
    }
}

/// Whether `name` is `spelling`, which is as long and in lower-case, with `_` in place of `-`.
fn is_alike(name: &[u8], spelling: &[u8]) -> bool {
    let dashed = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.iter().map(dashed).eq(spelling.iter().copied())
}

/// The elements of a comma-separated list, without the blanks around them and without empty ones
/// (RFC 9110 section 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Known) {
        assert_eq!(Known::of(name.as_bytes()), expected, "{name}");
    }

    #[test]
    fn names_are_known_in_any_case() {
        check("Host", Known::Host);
        check("TE", Known::Te);
        check("trailer", Known::Trailer);
        check("Upgrade", Known::Upgrade);
        check("Via", Known::Via);
        check("DATE", Known::Date);
        check("Proxy", Known::Proxy);
        check("expecT", Known::Expect);
        check("Connection", Known::Connection);
        check("Keep-Alive", Known::KeepAlive);
        check("Forwarded", Known::Forwarded);
        check("Max-Forwards", Known::MaxForwards);
        check("HTTP2-Settings", Known::Http2Settings);
        check("Transfer-Encoding", Known::TransferEncoding);
        check("CONTENT-LENGTH", Known::ContentLength);
        check("X-Real-IP", Known::XRealIp);
        check("X-Forwarded-For", Known::XForwardedFor);
        check("X-Forwarded-Host", Known::XForwardedHost);
        check("X-Forwarded-Port", Known::XForwardedPort);
        check("X-Forwarded-Proto", Known::XForwardedProto);
        check("Proxy-Connection", Known::ProxyConnection);
        check("Proxy-Authenticate", Known::ProxyAuthenticate);
        check("Proxy-Authorization", Known::ProxyAuthorization);
        check("Proxy-Authentication-Info", Known::ProxyAuthenticationInfo);
    }

    #[test]
    fn only_case_makes_no_difference_to_a_spelling() {
        let tokens = || (0..=u8::MAX).filter(|byte| is_token_byte(*byte));
        for spelling in ["te", "dnt", "x-1", "x-real-ip", "http2-settings", "content-encoding-7"] {
            let spelling = spelling.as_bytes();
            assert!(is_spelled(&spelling.to_ascii_uppercase(), spelling));
            assert!(!is_spelled(&spelling[1..], spelling));
            for (at, byte) in
                (0..spelling.len()).flat_map(|at| tokens().map(move |byte| (at, byte)))
            {
                let mut name = spelling.to_vec();
                name[at] = byte;
                let is_same = name.eq_ignore_ascii_case(spelling);
                assert_eq!(is_spelled(&name, spelling), is_same, "{name:?}");
            }
        }
    }

    #[test]
    fn names_that_a_node_may_take_for_ours_are_told() {
        check("X_Forwarded-For", Known::Alike);
        check("x_real_ip", Known::Alike);
        check("Content_Length", Known::Alike);
        check("PROXY_AUTHENTICATION_INFO", Known::Alike);
        for name in ["x_real_ipx", "user_agent", "_", "keep_aliv", &"_".repeat(40)] {
            check(name, Known::Other);
        }
    }

    #[test]
    fn neighbours_of_known_names_are_not_known() {
        for name in ["", "hosts", "transfer-encodin", "x-forwarded-fo", "proxy-status", "x_y"] {
            check(name, Known::Other);
        }
    }

    #[test]
    fn lists_lose_blanks_and_empty_elements() {
        let elements: Vec<_> = list(b" close,, \tx-a\t, ,").collect();
        assert_eq!(elements, [&b"close"[..], b"x-a"]);
        assert_eq!(list(b"").count(), 0);
    }
}
