//! What signatures are verified with (RFC 7518 section 3, RFC 8037).

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use ring::{
    hmac,
    signature::{self, UnparsedPublicKey, VerificationAlgorithm},
};
use spki::{
    ObjectIdentifier, SubjectPublicKeyInfoRef,
    der::{Decode, Document, Reader, SliceReader, asn1::UintRef},
};

use super::{
    key_set::{KeySet, Use, Verified},
    published,
};
use crate::{
    config::plugins::{Section, Value},
    key_source::KeySource,
};

/// What a consumer's tokens are verified with.
#[derive(Debug)]
pub(super) enum Verifier {
    Key(VerifyingKey),
    Set(KeySet),
    Source(Arc<KeySource>),
}

impl Verifier {
    /// `id` is what the token calls the key that it was signed with.
    pub(super) fn verifies(&self, id: Option<&str>, signed: &[u8], signature: &[u8]) -> Verified {
        match self {
            Verifier::Key(key) if key.verifies(signed, signature) => Verified::Yes,
            Verifier::Key(_) => Verified::No,
            Verifier::Set(set) => set.verifies(id, signed, signature),
            Verifier::Source(source) => source.keys().verifies(id, signed, signature),
        }
    }
}

#[derive(Debug)]
pub(super) enum VerifyingKey {
    Secret(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl VerifyingKey {
    /// A secret in constant time.
    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            VerifyingKey::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            VerifyingKey::Public(key) => key.verify(signed, signature).is_ok(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Algorithm {
    name: &'static str,
    family: Family,
}

#[derive(Debug, Clone, Copy)]
enum Family {
    Secret(&'static hmac::Algorithm),
    Public(&'static dyn VerificationAlgorithm, KeyForm),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum KeyForm {
    Rsa,
    P256,
    P384,
    Ed25519,
}

const fn secret(name: &'static str, algorithm: &'static hmac::Algorithm) -> (&'static str, Algorithm) {
    (name, Algorithm { name, family: Family::Secret(algorithm) })
}

const fn public(
    name: &'static str,
    algorithm: &'static dyn VerificationAlgorithm,
    form: KeyForm,
) -> (&'static str, Algorithm) {
    (name, Algorithm { name, family: Family::Public(algorithm, form) })
}

const ALGORITHMS: [(&str, Algorithm); 12] = [
    secret("HS256", &hmac::HMAC_SHA256),
    secret("HS384", &hmac::HMAC_SHA384),
    secret("HS512", &hmac::HMAC_SHA512),
    public("RS256", &signature::RSA_PKCS1_2048_8192_SHA256, KeyForm::Rsa),
    public("RS384", &signature::RSA_PKCS1_2048_8192_SHA384, KeyForm::Rsa),
    public("RS512", &signature::RSA_PKCS1_2048_8192_SHA512, KeyForm::Rsa),
    public("PS256", &signature::RSA_PSS_2048_8192_SHA256, KeyForm::Rsa),
    public("PS384", &signature::RSA_PSS_2048_8192_SHA384, KeyForm::Rsa),
    public("PS512", &signature::RSA_PSS_2048_8192_SHA512, KeyForm::Rsa),
    public("ES256", &signature::ECDSA_P256_SHA256_FIXED, KeyForm::P256),
    public("ES384", &signature::ECDSA_P384_SHA384_FIXED, KeyForm::P384),
    public("EdDSA", &signature::ED25519, KeyForm::Ed25519),
];

#[cfg(test)]
pub(crate) fn p256() -> Use {
    let verification = &signature::ECDSA_P256_SHA256_FIXED;
    Use { algorithm: "ES256", verification, form: KeyForm::P256 }
}

/// What a consumer says of its keys.
enum Material<'t> {
    Secret(Value<'t>),
    PublicKey(Value<'t>),
    File(Value<'t>),
    Url(Value<'t>),
}

impl<'t> Material<'t> {
    /// What is public to one algorithm must never become the secret of another, so there is one at
    /// most.
    fn take(section: &mut Section<'t>) -> Option<Option<Material<'t>>> {
        let given = [
            section.take("secret").map(Material::Secret),
            section.take("public_key").map(Material::PublicKey),
            section.take("jwks_file").map(Material::File),
            section.take("jwks_url").map(Material::Url),
        ];
        let mut given = given.into_iter().flatten();
        let first = given.next();
        if given.next().is_some() {
            section.error(
                "has several of `secret`, `public_key`, `jwks_file` and `jwks_url`; keep the one of \
                 its algorithm",
            );
            return None;
        }
        Some(first)
    }
}

/// The name of the algorithm, and what verifies.
pub(super) fn read(section: &mut Section<'_>) -> Option<(&'static str, Verifier)> {
    let algorithm = match section.take("algorithm") {
        Some(value) => value.one_of(&ALGORITHMS, &["ES512"]),
        None => Some(ALGORITHMS[0].1),
    };
    let material = Material::take(section);
    let is_base64 = section.leaf_or("base64_secret", false);
    let Algorithm { name, family } = algorithm?;
    let verifier = match family {
        Family::Secret(algorithm) => secret_key(algorithm, material?, section, is_base64),
        Family::Public(verification, form) => {
            public_keys(Use { algorithm: name, verification, form }, material?, section)
        }
    };
    Some((name, verifier?))
}

fn secret_key(
    algorithm: &hmac::Algorithm,
    material: Option<Material<'_>>,
    section: &Section<'_>,
    is_base64: bool,
) -> Option<Verifier> {
    match material {
        Some(Material::Secret(value)) => {
            let key = hmac::Key::new(*algorithm, &secret_bytes(&value, is_base64)?);
            Some(Verifier::Key(VerifyingKey::Secret(key)))
        }
        None | Some(Material::PublicKey(_) | Material::File(_) | Material::Url(_)) => {
            section.error("property \"secret\" is required when using HS based algorithms");
            None
        }
    }
}

fn public_keys(
    usage: Use,
    material: Option<Material<'_>>,
    section: &mut Section<'_>,
) -> Option<Verifier> {
    match material {
        Some(Material::PublicKey(value)) => {
            let bytes = public_key_bytes(&value, usage.form)?;
            let key = UnparsedPublicKey::new(usage.verification, bytes);
            Some(Verifier::Key(VerifyingKey::Public(key)))
        }
        Some(Material::File(value)) => published::in_file(&value, usage).map(Verifier::Set),
        Some(Material::Url(value)) => {
            published::at_url(&value, section, usage).map(Verifier::Source)
        }
        None | Some(Material::Secret(_)) => {
            section.error("missing valid public key");
            None
        }
    }
}

fn secret_bytes(value: &Value<'_>, is_base64: bool) -> Option<Vec<u8>> {
    let text = value.text("needs a secret, and no key in PEM", |text| {
        !text.is_empty() && !text.contains("-----BEGIN")
    })?;
    if !is_base64 {
        return Some(text.into_bytes());
    }
    let bytes = Base64::decode_vec(&text).ok().filter(|bytes| !bytes.is_empty());
    if bytes.is_none() {
        value.error("base64_secret required but the secret is not in base64 format");
    }
    bytes
}

fn public_key_bytes(value: &Value<'_>, form: KeyForm) -> Option<Vec<u8>> {
    let text = value.leaf::<String>()?;
    let key = decode(&text, form);
    if key.is_none() {
        value.error(match form {
            KeyForm::Rsa => "missing valid public key: needs `PUBLIC KEY` in PEM, RSA, 2048 to 8192 bits",
            KeyForm::P256 => "missing valid public key: needs `PUBLIC KEY` in PEM, EC on P-256",
            KeyForm::P384 => "missing valid public key: needs `PUBLIC KEY` in PEM, EC on P-384",
            KeyForm::Ed25519 => "missing valid public key: needs `PUBLIC KEY` in PEM, Ed25519",
        });
    }
    key
}

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// Bytes of the modulus of an RSA key; what `ring` verifies with.
pub(super) const MODULUS_SIZE: std::ops::RangeInclusive<usize> = 256..=1024;
/// SEC 1 section 2.3.3: an uncompressed point.
pub(super) const UNCOMPRESSED: u8 = 4;

/// The key within a `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
fn decode(pem: &str, form: KeyForm) -> Option<Vec<u8>> {
    let (label, document) = Document::from_pem(pem.trim()).ok()?;
    let info = SubjectPublicKeyInfoRef::try_from(document.as_bytes()).ok()?;
    let key = info.subject_public_key.as_bytes()?;
    let is_point = |curve, size| {
        info.algorithm.oids() == Ok((EC, Some(curve)))
            && key.len() == size
            && key.first() == Some(&UNCOMPRESSED)
    };
    let fits = match form {
        KeyForm::Rsa => info.algorithm.oid == RSA && MODULUS_SIZE.contains(&modulus_size(key)?),
        KeyForm::P256 => is_point(P256, 65),
        KeyForm::P384 => is_point(P384, 97),
        KeyForm::Ed25519 => info.algorithm.oid == ED25519 && key.len() == 32,
    };
    (label == "PUBLIC KEY" && fits).then(|| key.to_vec())
}

/// Of an `RSAPublicKey` (RFC 8017 appendix A.1.1).
fn modulus_size(key: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(key).ok()?;
    let sizes = reader.sequence(|fields| {
        let (modulus, _exponent) = (UintRef::decode(fields)?, UintRef::decode(fields)?);
        Ok(modulus.as_bytes().len())
    });
    sizes.ok()
}
