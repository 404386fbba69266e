//! Signed tokens in compact form (RFC 7515 section 7.1, RFC 7519), read and not trusted: what a
//! token says is worth what its signature is.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

/// Bytes of a token.
pub const TOKEN_SIZE_MAX: usize = 16 << 10;

#[derive(Debug, PartialEq)]
pub struct Token<'t> {
    /// What the signature is of.
    pub signed: &'t [u8],
    pub signature: Vec<u8>,
    /// What the token says it is signed with.
    pub algorithm: String,
    /// What it calls the key that it is signed with.
    pub key_id: Option<String>,
    pub claims: Claims,
}

/// What is read of the claims. Times ought to be seconds since the Unix epoch.
#[derive(Debug, Default, PartialEq)]
pub struct Claims {
    pub expires: Option<Value>,
    pub not_before: Option<Value>,
    /// Under the name that was asked for.
    pub key: Option<Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<Value>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); none is.
    crit: Option<IgnoredAny>,
}

/// `None` if it is not a token, is longer than [`TOKEN_SIZE_MAX`], has an extension that must be
/// understood, or repeats a claim that is read (RFC 7519 section 4).
pub fn parse<'t>(token: &'t [u8], key_claim: &str) -> Option<Token<'t>> {
    let token = str::from_utf8(token).ok().filter(|token| token.len() <= TOKEN_SIZE_MAX)?;
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
    if header.crit.is_some() {
        return None;
    }
    let claims = decode(claims)?;
    let mut json = serde_json::Deserializer::from_slice(&claims);
    let claims = ClaimsWith(key_claim).deserialize(&mut json).ok()?;
    json.end().ok()?;
    let signed = signed.as_bytes();
    let key_id = header.kid.as_ref().and_then(Value::as_str).map(str::to_owned);
    let (signature, algorithm) = (decode(signature)?, header.alg);
    Some(Token { signed, signature, algorithm, key_id, claims })
}

fn decode(part: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(part).ok()
}

/// Reads claims, of which one has this name.
struct ClaimsWith<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for ClaimsWith<'_> {
    type Value = Claims;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Claims, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ClaimsWith<'_> {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut claims = Claims::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "exp" => once(&mut claims.expires, map.next_value()?)?,
                "nbf" => once(&mut claims.not_before, map.next_value()?)?,
                name if name == self.0 => once(&mut claims.key, map.next_value()?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(claims)
    }
}

fn once<T, E: Error>(claim: &mut Option<T>, value: T) -> Result<(), E> {
    match claim.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("repeated claim")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        format!("{}.{}.AAEC", encode(header), encode(claims))
    }

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    #[test]
    fn a_token_says_its_algorithm_and_its_claims() {
        let text = token(HEADER, r#"{"exp":1.5,"x":{"exp":1},"nbf":-2,"iss":"me","key":1}"#);
        let (signed, _) = text.rsplit_once('.').unwrap();
        let [expires, not_before, key] = [1.5.into(), (-2).into(), "me".into()].map(Some);
        let expected = Token {
            signed: signed.as_bytes(),
            signature: vec![0, 1, 2],
            algorithm: "HS256".into(),
            key_id: None,
            claims: Claims { expires, not_before, key },
        };
        assert_eq!(parse(text.as_bytes(), "iss"), Some(expected));
        for (kid, id) in [("\"k\"", Some("k")), ("\"\"", Some("")), ("1", None), ("null", None)] {
            let header = format!("{{\"alg\":\"ES256\",\"kid\":{kid}}}");
            let text = token(&header, "{}");
            assert_eq!(parse(text.as_bytes(), "key").unwrap().key_id.as_deref(), id, "{kid}");
        }
        assert_eq!(parse(token(HEADER, "{}").as_bytes(), "key").unwrap().claims, Claims::default());
    }

    #[test]
    fn what_could_be_read_differently_is_no_token() {
        let whole = token(HEADER, "{}");
        let [header, claims, signature] = *whole.split('.').collect::<Vec<_>>() else { panic!() };
        let long = token(HEADER, &format!("{{\"x\":\"{}\"}}", "x".repeat(TOKEN_SIZE_MAX)));
        let deep = token(HEADER, &format!("{{\"x\":{}", "[".repeat(1000)));
        for text in [
            String::new(),
            ".".into(),
            "..".into(),
            format!("{header}.{claims}"),
            format!("{whole}.{signature}"),
            format!("{header}.{claims}.{signature}="),
            format!("{header}.{claims}.+/+/"),
            format!(" {whole}"),
            format!("{header}.{claims}.A"),
            format!("{claims}.{claims}.{signature}"),
            format!("{header}..{signature}"),
            token("", "{}"),
            token("[]", "{}"),
            token(r#"{"alg":1}"#, "{}"),
            token(r#"{"alg":null}"#, "{}"),
            token(r#"{"alg":"HS256","alg":"none"}"#, "{}"),
            token(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "{}"),
            token(r#"{"alg":"HS256"} x"#, "{}"),
            token(HEADER, "{} {}"),
            token(HEADER, "[]"),
            token(HEADER, "\"x\""),
            token(HEADER, r#"{"exp":1e999}"#),
            token(HEADER, r#"{"exp":1,"exp":2}"#),
            token(HEADER, r#"{"exp":null,"exp":2}"#),
            token(HEADER, r#"{"exp":1,"\u0065xp":2}"#),
            token(HEADER, r#"{"key":"a","key":"b"}"#),
            token(HEADER, r#"{"key":"a","nbf":1,"nbf":1}"#),
            long,
            deep,
        ] {
            assert_eq!(parse(text.as_bytes(), "key"), None, "{text}");
        }
        assert_eq!(parse(b"\xff.\xff.\xff", "key"), None);
    }
}
