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

/// The parameters of a `Signature` (draft-cavage-http-signatures section 2.1).
#[derive(Debug, PartialEq, Eq)]
pub struct Signature<'v> {
    pub key_id: &'v str,
    pub algorithm: &'v str,
    /// What is signed, in order.
    pub headers: &'v str,
    /// Base64.
    pub signature: &'v str,
}

/// Reads `name="value"` between commas, each of the known names at most once; all but `headers` must
/// be there. `None` is anything else: what is not understood may be meant to restrict.
pub fn signature(parameters: &[u8]) -> Option<Signature<'_>> {
    let mut rest = str::from_utf8(parameters).ok()?.trim();
    let (mut key_id, mut algorithm, mut headers, mut signature) = (None, None, None, None);
    loop {
        let (name, behind) = rest.split_once("=\"")?;
        let (value, behind) = behind.split_once('"').filter(|(value, _)| !value.contains('\\'))?;
        let parameter = match name {
            "keyId" => &mut key_id,
            "algorithm" => &mut algorithm,
            "headers" => &mut headers,
            "signature" => &mut signature,
            _ => return None,
        };
        if parameter.replace(value).is_some() {
            return None;
        }
        let behind = behind.trim_start();
        if behind.is_empty() {
            break;
        }
        rest = behind.strip_prefix(',')?.trim_start();
    }
    Some(Signature {
        key_id: key_id?,
        algorithm: algorithm?,
        headers: headers.unwrap_or_default(),
        signature: signature?,
    })
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

    #[track_caller]
    fn check_signature(parameters: &str, expected: Option<[&str; 4]>) {
        let expected = expected.map(|[key_id, algorithm, headers, signature]| Signature {
            key_id,
            algorithm,
            headers,
            signature,
        });
        assert_eq!(super::signature(parameters.as_bytes()), expected, "{parameters}");
    }

    #[test]
    fn the_parameters_of_a_signature_come_in_any_order() {
        let expected = Some(["k", "a", "x y", "s=="]);
        check_signature("keyId=\"k\",algorithm=\"a\",headers=\"x y\",signature=\"s==\"", expected);
        check_signature(
            " signature=\"s==\" ,\theaders=\"x y\", algorithm=\"a\",   keyId=\"k\" ",
            expected,
        );
        let empty = Some(["k,algorithm=x", "a", "", "s"]);
        check_signature("keyId=\"k,algorithm=x\",algorithm=\"a\",signature=\"s\"", empty);
    }

    #[test]
    fn parameters_that_are_missing_repeated_or_unknown_are_nothing() {
        const WHOLE: &str = "keyId=\"k\",algorithm=\"a\",signature=\"s\"";
        for parameters in [
            "",
            ",",
            "keyId",
            "keyId=\"k\",algorithm=\"a\"",
            "keyId=\"k\",signature=\"s\"",
            "algorithm=\"a\",signature=\"s\"",
            "keyId=k,algorithm=\"a\",signature=\"s\"",
            "keyid=\"k\",algorithm=\"a\",signature=\"s\"",
            "keyId =\"k\",algorithm=\"a\",signature=\"s\"",
            "keyId=\"k\\\"\",algorithm=\"a\",signature=\"s\"",
            "keyId=\"k\" algorithm=\"a\" signature=\"s\"",
            &format!("{WHOLE},"),
            &format!("{WHOLE};"),
            &format!("{WHOLE},keyId=\"k\""),
            &format!("{WHOLE},headers=\"x\",headers=\"y\""),
            &format!("{WHOLE},expires=\"1\""),
            &format!("{WHOLE},x"),
            &WHOLE[..WHOLE.len() - 1],
        ] {
            check_signature(parameters, None);
        }
        assert_eq!(super::signature(b"keyId=\"\xff\""), None);
    }
}
