//! What an `Authorization` field says (RFC 9110 section 11.6.2).

use base64ct::{Base64, Encoding};

/// Bytes of `user:password`.
pub const BASIC_SIZE_MAX: usize = 1024;

/// The credentials behind `scheme`, whose case does not matter; `None`: another scheme.
pub fn after_scheme<'v>(value: &'v [u8], scheme: &str) -> Option<&'v [u8]> {
    let (name, rest) = value.split_at_checked(scheme.len())?;
    let is_meant = name.eq_ignore_ascii_case(scheme.as_bytes()) && rest.first() == Some(&b' ');
    is_meant.then(|| rest.trim_ascii())
}

/// User name and password (RFC 7617 section 2). The name ends at the first colon; the password may
/// have more of them. `None`: another scheme, not Base64, longer than `buffer`, or without colon.
pub fn basic<'b>(
    value: &[u8],
    buffer: &'b mut [u8; BASIC_SIZE_MAX],
) -> Option<(&'b [u8], &'b [u8])> {
    let decoded = Base64::decode(after_scheme(value, "basic")?, buffer).ok()?;
    let colon = memchr::memchr(b':', decoded)?;
    Some((&decoded[..colon], &decoded[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_basic(value: &[u8], expected: Option<(&str, &str)>) {
        let expected = expected.map(|(user, password)| (user.as_bytes(), password.as_bytes()));
        assert_eq!(basic(value, &mut [0; _]), expected, "{}", value.escape_ascii());
    }

    #[test]
    fn user_and_password_are_what_stands_before_and_behind_the_first_colon() {
        let alice = Some(("alice", "secret"));
        for value in
            ["Basic YWxpY2U6c2VjcmV0", "basic YWxpY2U6c2VjcmV0", "BASIC   YWxpY2U6c2VjcmV0"]
        {
            check_basic(value.as_bytes(), alice);
        }
        check_basic(b"Basic YTpiOmM=", Some(("a", "b:c")));
        check_basic(b"Basic YTo=", Some(("a", "")));
        check_basic(b"Basic OmI=", Some(("", "b")));
        check_basic(b"Basic Og==", Some(("", "")));
    }

    #[test]
    fn whatever_is_malformed_is_nothing() {
        let long = Base64::encode_string(&[b':'; BASIC_SIZE_MAX + 1]);
        let whole = Base64::encode_string(&[b':'; BASIC_SIZE_MAX]);
        assert!(basic(format!("Basic {whole}").as_bytes(), &mut [0; _]).is_some());
        for value in [
            "",
            "Basic",
            "Basic ",
            "Basi YTpi",
            "BasicYTpi",
            "Basic\tYTpi",
            "Bearer YTpi",
            "Basic YTpi,",
            "Basic YT pi",
            "Basic YTpi YTpi",
            "Basic YTo",
            "Basic YTo==",
            "Basic YTp=",
            "Basic Y",
            "Basic YWI=",
            "Basic _-_-",
            "Basic realm=\"x\"",
            &format!("Basic {long}"),
        ] {
            check_basic(value.as_bytes(), None);
        }
        check_basic(b"Basic \xff\xff\xff\xff", None);
    }
}
