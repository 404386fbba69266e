use base64ct::{Base64, Encoding as _};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};

use super::super::tests::{
    check_attached, check_refused, consumers, encode, field, rsa, token, trial_of,
};
use crate::plugin::{
    Call, Reply,
    trial::{Seen, Trial, findings},
};

const CLAIMS: &str = "{\"key\":\"alice-key\"}";
const FAILED: &str = "failed to verify jwt";

type Sign = dyn Fn(&[u8]) -> Vec<u8>;

/// Somebody who signs, and what he publishes: members of a key, without braces.
struct Signer {
    algorithm: &'static str,
    published: String,
    sign: Box<Sign>,
}

impl Signer {
    fn ecdsa(algorithm: &'static str) -> Signer {
        let random = SystemRandom::new();
        let (signing, curve) = match algorithm {
            "ES256" => (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            _es384 => (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        };
        let pair = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, pair.as_ref(), &random).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let published =
            format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, encode(x), encode(y));
        let sign = move |signed: &[u8]| pair.sign(&random, signed).unwrap().as_ref().to_vec();
        Signer { algorithm, published, sign: Box::new(sign) }
    }

    fn eddsa() -> Signer {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap();
        let x = encode(pair.public_key());
        let published = format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#);
        let sign = move |signed: &[u8]| pair.sign(signed).as_ref().to_vec();
        Signer { algorithm: "EdDSA", published, sign: Box::new(sign) }
    }

    /// A token that names this key.
    fn token(&self, id: Option<&str>) -> String {
        let id = id.map_or(String::new(), |id| format!(r#","kid":"{id}""#));
        let header = format!(r#"{{"alg":"{}"{id}}}"#, self.algorithm);
        token(&header, CLAIMS, &*self.sign)
    }

    fn key(&self, more: &str) -> String {
        format!("{{{}{more}}}", self.published)
    }
}

fn set(keys: &[String]) -> String {
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// The part of a credential that names a file with `content`, and the file.
fn file(algorithm: &str, content: &str) -> (String, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), content).expect("a file");
    let path = file.path().display();
    (format!("key: alice-key, algorithm: {algorithm}, jwks_file: '{path}'"), file)
}

fn trial(algorithm: &str, content: &str) -> Trial {
    trial_of("", &file(algorithm, content).0)
}

#[test]
fn the_key_that_the_token_names_verifies() {
    type Make = fn() -> Signer;
    let makes: [Make; 3] =
        [|| Signer::ecdsa("ES256"), || Signer::ecdsa("ES384"), Signer::eddsa];
    for make in makes {
        let (one, two, other) = (make(), make(), make());
        let keys = set(&[one.key(r#","kid":"1","use":"sig""#), two.key(r#","kid":"2""#)]);
        let trial = trial(one.algorithm, &keys);
        check_attached(&trial, "GET /", &field(&one.token(Some("1"))));
        check_attached(&trial, "GET /", &field(&two.token(Some("2"))));
        for token in [
            one.token(Some("2")),
            one.token(Some("3")),
            one.token(Some("")),
            other.token(Some("1")),
            // Any of two.
            one.token(None),
        ] {
            check_refused(&trial, "GET /", &field(&token), FAILED);
        }
    }
}

/// The integers of `rsa::PUBLIC_KEY`, published.
fn rsa_key() -> String {
    let pem: String = rsa::PUBLIC_KEY.lines().filter(|line| !line.starts_with('-')).collect();
    let info = Base64::decode_vec(&pem).unwrap();
    // Behind the modulus: an integer of three bytes.
    let (front, exponent) = info.split_at(info.len() - 3);
    let modulus = &front[front.len() - 2 - 256..front.len() - 2];
    format!(r#""kty":"RSA","n":"{}","e":"{}""#, encode(modulus), encode(exponent))
}

#[test]
fn rsa_keys_verify_what_their_consumer_has_chosen() {
    for (algorithm, _) in rsa::TOKENS {
        let keys = set(&[format!("{{{}}}", rsa_key())]);
        let (credential, _file) = file(algorithm, &keys);
        let trial = trial_of("", &credential.replace("alice-key", "rsa"));
        for (other, token) in rsa::TOKENS {
            match other == algorithm {
                true => drop(check_attached(&trial, "GET /", &field(token))),
                false => check_refused(&trial, "GET /", &field(token), FAILED),
            }
        }
    }
}

#[test]
fn a_token_without_key_id_goes_with_the_only_key_there_is() {
    let (one, other) = (Signer::ecdsa("ES256"), Signer::eddsa());
    let keys = set(&[other.key(""), one.key(r#","kid":"1","alg":"ES256","key_ops":["verify"]"#)]);
    let trial = trial("ES256", &keys);
    check_attached(&trial, "GET /", &field(&one.token(None)));
    check_refused(&trial, "GET /", &field(&Signer::ecdsa("ES256").token(None)), FAILED);
    check_refused(&trial, "GET /", &field(&other.token(None)), FAILED);
}

#[test]
fn keys_for_something_else_are_left_out() {
    let one = Signer::ecdsa("ES256");
    let small = format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, encode([0xff; 128]));
    for (algorithm, key) in [
        ("ES256", one.key(r#","use":"enc""#)),
        ("ES256", one.key(r#","key_ops":["sign"]"#)),
        ("ES256", one.key(r#","key_ops":[]"#)),
        ("ES256", one.key(r#","alg":"ES384""#)),
        ("ES384", one.key("")),
        ("EdDSA", one.key("")),
        ("RS256", one.key("")),
        ("ES256", one.key("").replace("\"EC\"", "\"OKP\"")),
        ("ES256", one.key("").replace("P-256", "P-384")),
        ("ES256", one.key("").replace("\"x\":\"", "\"x\":\"AA")),
        ("ES256", one.key("").replace("\"y\":\"", "\"y\":\"*")),
        ("ES256", one.key(r#","kid":1"#)),
        ("RS256", small),
        ("RS256", r#"{"kty":"RSA","n":"","e":""}"#.to_owned()),
        ("ES256", r#"{"kty":"oct","k":"AAAA"}"#.to_owned()),
        ("ES256", "7".to_owned()),
    ] {
        let (credential, _file) = file(algorithm, &set(std::slice::from_ref(&key)));
        let problem = format!("has no key for {algorithm}");
        let place = "consumers[0].plugins.jwt-auth.jwks_file";
        assert_eq!(findings("{}", &consumers(&credential)), [format!("{place}: {problem}")], "{key}");
        if algorithm == "ES256" {
            // What is wrong with one is nothing to the others.
            let trial = trial(algorithm, &set(&[key, one.key(r#","kid":"1""#)]));
            check_attached(&trial, "GET /", &field(&one.token(Some("1"))));
        }
    }
}

#[test]
fn what_is_no_set_is_a_configuration_error() {
    let key = Signer::ecdsa("ES256").key("");
    let one = set(std::slice::from_ref(&key));
    let large = format!("{one}{}", " ".repeat(super::SET_SIZE_MAX));
    for (content, problem) in [
        ("", "is no JSON Web Key Set"),
        ("{}", "is no JSON Web Key Set"),
        (&key, "is no JSON Web Key Set"),
        (&format!("[{key}]"), "is no JSON Web Key Set"),
        ("{\"keys\":{}}", "is no JSON Web Key Set"),
        (&set(&vec![key.clone(); 101]), "has more than 100 keys"),
        (&large, "is a file of more than 262144 bytes"),
        (&set(&[]), "has no key for ES256"),
    ] {
        let (credential, _file) = file("ES256", content);
        let expected = format!("consumers[0].plugins.jwt-auth.jwks_file: {problem}");
        assert_eq!(findings("{}", &consumers(&credential)), [expected]);
    }
    let (whole, _file) = file("ES256", &set(&[key]));
    let url = "key: k, algorithm: ES256, jwks_url: 'https://idp/keys'";
    let several =
        "has several of `secret`, `public_key`, `jwks_file` and `jwks_url`; keep the one of its algorithm";
    for (credential, problem) in [
        ("key: k, algorithm: ES256, jwks_file: /nowhere", "not read: "),
        ("key: k, algorithm: ES256, jwks_file: /", "not read: "),
        ("key: k, algorithm: ES256, jwks_url: idp/keys", "needs a URL"),
        (&format!("{url}, secret: x"), several),
        (&format!("{whole}, jwks_url: 'https://idp/keys'"), several),
        (&format!("{whole}, jwks_ttl: 5"), "unknown key"),
        (&format!("{whole}, ssl_verify: false"), "unknown key"),
        (&url.replace("ES256", "HS256"), "property \"secret\" is required"),
        (&format!("{url}, jwks_ttl: 0"), "from 1 to 604800"),
        (&format!("{url}, jwks_interval: 0"), "from 1 to 3600"),
        (&format!("{url}, jwks_timeout: 0"), "from 1 to 60000"),
        (&url.replace("https", "http"), "whoever is on the way can replace keys"),
    ] {
        let found = findings("{}", &consumers(credential));
        assert!(found.len() == 1 && found[0].contains(problem), "{credential}: {found:?}");
    }
    assert_eq!(findings("{}", &consumers(url)), [""; 0]);
}

#[test]
fn keys_are_asked_for_only_when_a_token_may_be_good() {
    let trial = trial_of("", "key: alice-key, algorithm: ES256, jwks_url: 'https://idp/keys'");
    let one = Signer::ecdsa("ES256");
    for id in [Some("1"), None] {
        let seen = trial.ask("GET /", &field(&one.token(id)));
        assert!(matches!(seen, Seen::Called(Call::Keys(_))), "{seen:?}");
        let mut calls = 0;
        let seen = trial.ask_with("GET /", &field(&one.token(id)), &mut |_| {
            calls += 1;
            Some(Reply::Refreshed)
        });
        assert_eq!((seen.status(), calls), (Some(401), 1));
    }
    let expired = token(r#"{"alg":"ES256","kid":"1"}"#, r#"{"key":"alice-key","exp":1}"#, &*one.sign);
    for token in [expired, Signer::eddsa().token(Some("1"))] {
        check_refused(&trial, "GET /", &field(&token), FAILED);
    }
}
