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

/// Bytes of the longest name that is known.
const NAME_SIZE_MAX: usize = "proxy-authentication-info".len();

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

impl Known {
    pub fn of(name: &[u8]) -> Known {
        let known = Known::as_spelled(name);
        let is_alike = known == Known::Other && name.contains(&b'_') && is_alike(name);
        if is_alike { Known::Alike } else { known }
    }

    /// Compared without case, as it runs on every field of every message: by length first.
    fn as_spelled(name: &[u8]) -> Known {
        match name.len() {
            2 if lower(name) == *b"te" => Known::Te,
            3 if lower(name) == *b"via" => Known::Via,
            4 => match &lower(name) {
                b"host" => Known::Host,
                b"date" => Known::Date,
                _ => Known::Other,
            },
            5 if lower(name) == *b"proxy" => Known::Proxy,
            6 if lower(name) == *b"expect" => Known::Expect,
            7 => match &lower(name) {
                b"upgrade" => Known::Upgrade,
                b"trailer" => Known::Trailer,
                _ => Known::Other,
            },
            9 => match &lower(name) {
                b"x-real-ip" => Known::XRealIp,
                b"forwarded" => Known::Forwarded,
                _ => Known::Other,
            },
            10 => match &lower(name) {
                b"connection" => Known::Connection,
                b"keep-alive" => Known::KeepAlive,
                _ => Known::Other,
            },
            14 => match &lower(name) {
                b"content-length" => Known::ContentLength,
                b"http2-settings" => Known::Http2Settings,
                _ => Known::Other,
            },
            15 if lower(name) == *b"x-forwarded-for" => Known::XForwardedFor,
            16 => match &lower(name) {
                b"x-forwarded-host" => Known::XForwardedHost,
                b"x-forwarded-port" => Known::XForwardedPort,
                b"proxy-connection" => Known::ProxyConnection,
                _ => Known::Other,
            },
            17 => match &lower(name) {
                b"transfer-encoding" => Known::TransferEncoding,
                b"x-forwarded-proto" => Known::XForwardedProto,
                _ => Known::Other,
            },
            18 if lower(name) == *b"proxy-authenticate" => Known::ProxyAuthenticate,
            19 if lower(name) == *b"proxy-authorization" => Known::ProxyAuthorization,
            25 if lower(name) == *b"proxy-authentication-info" => Known::ProxyAuthenticationInfo,
            _ => Known::Other,
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

/// Whether it is [`Known::Alike`].
fn is_alike(name: &[u8]) -> bool {
    let mut dashed = [0; NAME_SIZE_MAX];
    let Some(dashed) = dashed.get_mut(..name.len()) else { return false };
    dashed.copy_from_slice(name);
    for byte in dashed.iter_mut().filter(|byte| **byte == b'_') {
        *byte = b'-';
    }
    !Known::as_spelled(dashed).is_editable()
}

/// A name of `N` bytes; no name if it has more or fewer.
fn lower<const N: usize>(name: &[u8]) -> [u8; N] {
    let name = <[u8; N]>::try_from(name).unwrap_or([0; N]);
    name.map(|byte| byte.to_ascii_lowercase())
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
