//! Sets of public keys (RFC 7517), of which those count that one algorithm can verify with.

use std::fmt;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use ring::signature::{UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use spki::der::{Encode as _, Header, Length, Tag, asn1::UintRef};

use super::key::{KeyForm, MODULUS_SIZE, UNCOMPRESSED};

/// Bytes of a set.
pub(crate) const SET_SIZE_MAX: usize = 256 << 10;
/// Keys of a set.
const KEYS_MAX: usize = 100;

/// How the keys of a set are used: by the algorithm that a consumer has chosen, whatever a token or a
/// key says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    /// As in RFC 7518 section 3.1.
    pub(super) algorithm: &'static str,
    pub(super) verification: &'static dyn VerificationAlgorithm,
    pub(super) form: KeyForm,
}

/// The name says all.
impl PartialEq for Use {
    fn eq(&self, other: &Use) -> bool {
        self.algorithm == other.algorithm
    }
}

impl Eq for Use {}

#[derive(Debug, Default)]
pub(crate) struct KeySet(Vec<NamedKey>);

#[derive(Debug)]
struct NamedKey {
    id: Option<String>,
    key: UnparsedPublicKey<Vec<u8>>,
}

/// Why a text is no set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadSet {
    Malformed,
    TooMany,
    /// None is for the algorithm.
    Empty(&'static str),
}

impl fmt::Display for BadSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadSet::Malformed => f.write_str("is no JSON Web Key Set"),
            BadSet::TooMany => write!(f, "has more than {KEYS_MAX} keys"),
            BadSet::Empty(algorithm) => write!(f, "has no key for {algorithm}"),
        }
    }
}

/// What came of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verified {
    Yes,
    No,
    /// The key that it was made with may be one that the set does not have.
    Unknown,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// A key as it is published; there are others, and other members.
#[derive(Deserialize)]
struct Published {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// The keys of a set that are for this use; what is unknown or for another use is left out
    /// (RFC 7517 section 5).
    pub(crate) fn parse(json: &[u8], usage: Use) -> Result<KeySet, BadSet> {
        let Set { keys } = serde_json::from_slice(json).map_err(|_| BadSet::Malformed)?;
        if keys.len() > KEYS_MAX {
            return Err(BadSet::TooMany);
        }
        let published = keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<_> = published.filter_map(|key: Published| key.named(usage)).collect();
        if keys.is_empty() { Err(BadSet::Empty(usage.algorithm)) } else { Ok(KeySet(keys)) }
    }

    /// Of somebody who has withdrawn all his keys.
    pub(crate) fn none() -> KeySet {
        KeySet(Vec::new())
    }

    #[cfg(test)]
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// Whether the key `id` has signed. A token without one is believed if there is one key only.
    pub(super) fn verifies(&self, id: Option<&str>, signed: &[u8], signature: &[u8]) -> Verified {
        let verifies = |key: &NamedKey| key.key.verify(signed, signature).is_ok();
        let Some(id) = id else {
            return match &*self.0 {
                [only] if verifies(only) => Verified::Yes,
                [] | [_] => Verified::Unknown,
                [_, _, ..] => Verified::No,
            };
        };
        let mut named = self.0.iter().filter(|key| key.id.as_deref() == Some(id)).peekable();
        if named.peek().is_none() {
            Verified::Unknown
        } else if named.any(verifies) {
            Verified::Yes
        } else {
            Verified::No
        }
    }
}

impl Published {
    fn named(self, usage: Use) -> Option<NamedKey> {
        let is_to_verify = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        let is_meant = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(is_to_verify)
            && self.alg.as_deref().is_none_or(|algorithm| algorithm == usage.algorithm);
        let key = self.bytes(usage.form).filter(|_| is_meant)?;
        Some(NamedKey { id: self.kid, key: UnparsedPublicKey::new(usage.verification, key) })
    }

    /// The key as `ring` takes it, if it has this form (RFC 7518 section 6, RFC 8037 section 2).
    fn bytes(&self, form: KeyForm) -> Option<Vec<u8>> {
        match form {
            KeyForm::Rsa => self.rsa(),
            KeyForm::P256 => self.point("P-256", 32),
            KeyForm::P384 => self.point("P-384", 48),
            KeyForm::Ed25519 => {
                let x = decode(self.x.as_deref()?)?;
                let is_one = self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519");
                (is_one && x.len() == 32).then_some(x)
            }
        }
    }

    fn point(&self, curve: &str, size: usize) -> Option<Vec<u8>> {
        let (x, y) = (decode(self.x.as_deref()?)?, decode(self.y.as_deref()?)?);
        let is_one = self.kty == "EC" && self.crv.as_deref() == Some(curve);
        let fits = is_one && x.len() == size && y.len() == size;
        fits.then(|| [&[UNCOMPRESSED][..], &x, &y].concat())
    }

    /// An `RSAPublicKey` (RFC 8017 appendix A.1.1).
    fn rsa(&self) -> Option<Vec<u8>> {
        let (modulus, exponent) = (decode(self.n.as_deref()?)?, decode(self.e.as_deref()?)?);
        let (modulus, exponent) = (UintRef::new(&modulus).ok()?, UintRef::new(&exponent).ok()?);
        if self.kty != "RSA" || !MODULUS_SIZE.contains(&modulus.as_bytes().len()) {
            return None;
        }
        let fields = [modulus.to_der().ok()?, exponent.to_der().ok()?].concat();
        let header = Header::new(Tag::Sequence, Length::try_from(fields.len()).ok()?).ok()?;
        Some([header.to_der().ok()?, fields].concat())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(text).ok()
}

#[cfg(test)]
mod tests;
