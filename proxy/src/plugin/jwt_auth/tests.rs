pub(super) mod rsa;

use std::time::Duration;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair},
};

use super::super::trial::{self, BEGIN, Seen, Trial, findings};

const SECRET: &str = "a secret of 32 bytes, or of more";

/// The consumer `alice` with this credential, and a guest.
pub(super) fn consumers(credential: &str) -> String {
    format!(
        "consumers: [{{ username: alice, plugins: {{ jwt-auth: {{ {credential} }} }} }}, {{ \
         username: guest }}]"
    )
}

pub(super) fn trial_of(settings: &str, credential: &str) -> Trial {
    Trial::new(&format!("{{ jwt-auth: {{ {settings} }} }}"), &consumers(credential))
}

fn trial(settings: &str) -> Trial {
    trial_of(settings, &format!("key: alice-key, secret: '{SECRET}'"))
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

pub(super) fn token(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn with_secret(algorithm: hmac::Algorithm, secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(algorithm, secret);
    move |signed| hmac::sign(&key, signed).as_ref().to_vec()
}

/// Signed by alice, with HS256.
fn hs256(claims: &str) -> String {
    token("{\"alg\":\"HS256\"}", claims, with_secret(hmac::HMAC_SHA256, SECRET.as_bytes()))
}

fn right() -> String {
    hs256("{\"key\":\"alice-key\"}")
}

pub(super) fn field(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

#[track_caller]
pub(super) fn check_attached(trial: &Trial, line: &str, fields: &str) -> Seen {
    trial::check_attached(trial, line, fields, "alice")
}

#[track_caller]
pub(super) fn check_refused(trial: &Trial, line: &str, fields: &str, message: &str) {
    trial::check_challenged(trial, (line, fields), "Bearer realm=\"jwt\"", message);
}

#[test]
fn a_token_in_the_field_the_query_or_a_cookie_attaches_its_consumer() {
    let (trial, token) = (trial(""), right());
    for fields in [
        format!("Authorization: Bearer {token}\r\n"),
        format!("authorization: bearer {token}\r\n"),
        format!("authorization: {token}\r\n"),
        format!("cookie: a=1; jwt={token}\r\n"),
        format!("cookie: a=1\r\ncookie: jwt={token};b=2\r\n"),
    ] {
        check_attached(&trial, "GET /", &fields);
    }
    check_attached(&trial, &format!("GET /?a=1&jwt={token}"), "");
}

#[test]
fn without_exactly_one_token_the_request_is_refused() {
    let (trial, token) = (trial(""), right());
    for (line, fields) in [("GET /?JWT=x", ""), ("GET /", "cookie: JWT=x; a=jwt=x\r\n")] {
        check_refused(&trial, line, fields, "Missing JWT token in request");
    }
    for fields in [
        field(&token).repeat(2),
        format!("{}{}", field("x"), field(&token)),
        "authorization: Basic YTpi\r\n".to_owned(),
        field(""),
        field("x"),
        field(&format!("{token}x.x")),
        field(&format!("{token}.")),
        field(&format!("\"{token}\"")),
        field(&format!("{token}, Bearer {token}")),
        field(&hs256(&format!("{{\"key\":\"alice-key\",\"x\":\"{}\"}}", "x".repeat(20_000)))),
        format!("cookie: jwt={token}; jwt={token}\r\n"),
        "authorization: Bearer \u{fc}\r\n".to_owned(),
    ] {
        check_refused(&trial, "GET /", &fields, "JWT token invalid");
    }
    let twice = format!("GET /?jwt={token}&jwt={token}");
    check_refused(&trial, &twice, "", "JWT token invalid");
    // What is looked at first is wrong.
    check_refused(&trial, &format!("GET /?jwt={token}"), &field("x"), "JWT token invalid");
}

#[test]
fn a_token_that_names_nobody_or_says_something_twice_is_refused() {
    let trial = trial("");
    for (claims, message) in [
        ("{}", "missing user key in JWT token"),
        ("{\"sub\":\"alice-key\"}", "missing user key in JWT token"),
        ("{\"key\":1}", "missing user key in JWT token"),
        ("{\"key\":[\"alice-key\"]}", "missing user key in JWT token"),
        ("{\"key\":\"\"}", "Invalid user key in JWT token"),
        ("{\"key\":\"alice\"}", "Invalid user key in JWT token"),
        ("{\"key\":\"alice-key\",\"key\":\"alice-key\"}", "JWT token invalid"),
        ("{\"key\":\"alice-key\",\"exp\":1,\"exp\":9999999999}", "JWT token invalid"),
        ("{\"key\":\"alice-key\",\"exp\":\"9999999999\"}", "failed to verify jwt"),
        ("{\"key\":\"alice-key\",\"exp\":null}", "failed to verify jwt"),
        ("{\"key\":\"alice-key\",\"exp\":true}", "failed to verify jwt"),
        ("{\"key\":\"alice-key\",\"nbf\":[]}", "failed to verify jwt"),
        ("{\"key\":\"nobody\",\"nbf\":\"1\"}", "Invalid user key in JWT token"),
    ] {
        check_refused(&trial, "GET /", &field(&hs256(claims)), message);
    }
}

#[test]
fn only_what_the_consumer_signed_as_it_said_is_believed() {
    let trial = trial("");
    let claims = "{\"key\":\"alice-key\"}";
    let whole = right();
    let (signed, signature) = whole.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let by = |header: &str, algorithm, secret: &str| {
        token(header, claims, with_secret(algorithm, secret.as_bytes()))
    };
    let hs256_header = "{\"alg\":\"HS256\"}";
    for token in [
        // Not signed, whatever it says.
        format!("{signed}."),
        token("{\"alg\":\"none\"}", claims, |_| Vec::new()),
        token("{\"alg\":\"None\"}", claims, |_| Vec::new()),
        by("{\"alg\":\"none\"}", hmac::HMAC_SHA256, SECRET),
        // Signed otherwise.
        by("{\"alg\":\"hs256\"}", hmac::HMAC_SHA256, SECRET),
        by("{\"alg\":\"\"}", hmac::HMAC_SHA256, SECRET),
        by("{\"alg\":\"HS512\"}", hmac::HMAC_SHA512, SECRET),
        by(hs256_header, hmac::HMAC_SHA512, SECRET),
        by(hs256_header, hmac::HMAC_SHA256, ""),
        by(hs256_header, hmac::HMAC_SHA256, "alice-key"),
        by("{\"alg\":\"RS256\"}", hmac::HMAC_SHA256, SECRET),
        // A part of the signature, or that of something else.
        format!("{signed}.{}", encode([0; 32])),
        format!("{signed}.{}", &signature[..4]),
        format!("{header}.{}.{signature}", encode("{\"key\":\"alice-key\",\"admin\":true}")),
        // A key that the token brings along.
        by("{\"alg\":\"HS256\",\"jwk\":{\"kty\":\"oct\",\"k\":\"\"}}", hmac::HMAC_SHA256, ""),
    ] {
        check_refused(&trial, "GET /", &field(&token), "failed to verify jwt");
    }
}

#[test]
fn a_public_key_is_never_a_secret() {
    let credential = format!("key: rsa, algorithm: RS256, public_key: \"{}\"", escaped(rsa::PUBLIC_KEY));
    let trial = trial_of("", &credential);
    for secret in [rsa::PUBLIC_KEY.to_owned(), format!("{}\n", rsa::PUBLIC_KEY)] {
        for algorithm in ["HS256", "RS256"] {
            let header = format!("{{\"alg\":\"{algorithm}\"}}");
            let sign = with_secret(hmac::HMAC_SHA256, secret.as_bytes());
            let forged = token(&header, "{\"key\":\"rsa\"}", sign);
            check_refused(&trial, "GET /", &field(&forged), "failed to verify jwt");
        }
    }
}

/// As a double-quoted scalar.
fn escaped(pem: &str) -> String {
    pem.replace('\n', "\\n")
}

/// A token of alice signed so, and another key's with the same header.
#[track_caller]
fn check_algorithm(algorithm: &str, key: &str, right: &str, wrong: &str) {
    let trial = trial_of("", &format!("key: alice-key, algorithm: {algorithm}, {key}"));
    check_attached(&trial, "GET /", &field(right));
    check_refused(&trial, "GET /", &field(wrong), "failed to verify jwt");
    let (signed, signature) = right.rsplit_once('.').unwrap();
    let mut bytes = Base64UrlUnpadded::decode_vec(signature).unwrap();
    bytes[7] ^= 1;
    let changed = format!("{signed}.{}", encode(bytes));
    check_refused(&trial, "GET /", &field(&changed), "failed to verify jwt");
}

#[test]
fn every_secret_algorithm_verifies() {
    for (name, algorithm) in
        [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        let header = format!("{{\"alg\":\"{name}\"}}");
        let by = |secret| {
            token(&header, "{\"key\":\"alice-key\"}", with_secret(algorithm, secret))
        };
        check_algorithm(name, &format!("secret: '{SECRET}'"), &by(SECRET.as_bytes()), &by(b"x"));
        let secret = Base64::encode_string(&[0, 255, 7]);
        let key = format!("secret: {secret}, base64_secret: true");
        check_algorithm(name, &key, &by(&[0, 255, 7]), &by(secret.as_bytes()));
    }
}

/// `prefix` is what stands before the key in its `SubjectPublicKeyInfo`.
fn public_key(prefix: &[u8], key: &[u8]) -> String {
    let info = Base64::encode_string(&[prefix, key].concat());
    let lines: Vec<_> = info.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    let body = lines.join("\\n");
    format!("public_key: \"-----BEGIN PUBLIC KEY-----\\n{body}\\n-----END PUBLIC KEY-----\\n\"")
}

const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
    \x3d\x03\x01\x07\x03\x42\x00";
const P384: &[u8] = b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\
    \x22\x03\x62\x00";
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

#[test]
fn every_elliptic_algorithm_verifies() {
    let random = SystemRandom::new();
    let ecdsa = |algorithm: &'static EcdsaSigningAlgorithm| {
        let pair = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(algorithm, pair.as_ref(), &random).unwrap()
    };
    for (name, algorithm, prefix) in [
        ("ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING, P256),
        ("ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING, P384),
    ] {
        let (alice, other) = (ecdsa(algorithm), ecdsa(algorithm));
        let header = format!("{{\"alg\":\"{name}\"}}");
        let by = |pair: &EcdsaKeyPair| {
            let sign = |signed: &[u8]| pair.sign(&random, signed).unwrap().as_ref().to_vec();
            token(&header, "{\"key\":\"alice-key\"}", sign)
        };
        let key = public_key(prefix, alice.public_key().as_ref());
        check_algorithm(name, &key, &by(&alice), &by(&other));
    }
    let eddsa = || {
        let pair = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap()
    };
    let (alice, other) = (eddsa(), eddsa());
    let by = |pair: &Ed25519KeyPair| {
        let sign = |signed: &[u8]| pair.sign(signed).as_ref().to_vec();
        token("{\"alg\":\"EdDSA\"}", "{\"key\":\"alice-key\"}", sign)
    };
    let key = public_key(ED25519, alice.public_key().as_ref());
    check_algorithm("EdDSA", &key, &by(&alice), &by(&other));
}

#[test]
fn every_rsa_algorithm_verifies_and_none_for_another() {
    for (algorithm, _) in rsa::TOKENS {
        let pem = escaped(rsa::PUBLIC_KEY);
        let credential = format!("key: rsa, algorithm: {algorithm}, public_key: \"{pem}\"");
        let trial = trial_of("", &credential);
        for (other, token) in rsa::TOKENS {
            if other == algorithm {
                check_attached(&trial, "GET /", &field(token));
            } else {
                check_refused(&trial, "GET /", &field(token), "failed to verify jwt");
            }
        }
    }
}

/// Whether a token with these claims is good at the time [`BEGIN`] and `after` seconds later.
#[track_caller]
fn check_times(settings: &str, grace: u64, claims: &str, expected: &[(u64, bool)]) {
    let credential =
        format!("key: alice-key, secret: '{SECRET}', lifetime_grace_period: {grace}");
    for (after, is_valid) in expected {
        let mut trial = trial_of(settings, &credential);
        trial.pass(Duration::from_secs(*after));
        let fields = field(&hs256(&format!("{{\"key\":\"alice-key\"{claims}}}")));
        if *is_valid {
            check_attached(&trial, "GET /", &fields);
        } else {
            check_refused(&trial, "GET /", &fields, "failed to verify jwt");
        }
    }
}

#[test]
fn a_token_is_good_from_nbf_until_exp() {
    let exp = |seconds: u64| format!(",\"exp\":{}", BEGIN + seconds);
    let nbf = |seconds: u64| format!(",\"nbf\":{}", BEGIN + seconds);
    check_times("", 0, "", &[(0, true)]);
    check_times("", 0, &exp(10), &[(0, true), (9, true), (10, false), (11, false)]);
    check_times("", 5, &exp(10), &[(14, true), (15, false)]);
    check_times("", 0, &nbf(10), &[(0, false), (9, false), (10, true), (11, true)]);
    check_times("", 5, &nbf(10), &[(4, false), (5, true)]);
    check_times("", 0, &format!("{}{}", nbf(5), exp(10)), &[(4, false), (5, true), (10, false)]);
    for claims in [",\"exp\":0", ",\"exp\":-1", ",\"exp\":1767225600", ",\"nbf\":1e300"] {
        check_times("", 0, claims, &[(0, false)]);
    }
    check_times("", 0, ",\"exp\":1e300,\"nbf\":0.5", &[(0, true)]);
    let (both, one) = ("claims_to_verify: [exp, nbf]", "claims_to_verify: [nbf]");
    check_times(both, 0, &exp(10), &[(0, false)]);
    check_times(both, 0, &nbf(0), &[(0, false)]);
    check_times(both, 0, &format!("{}{}", nbf(0), exp(10)), &[(0, true)]);
    check_times(one, 0, &nbf(0), &[(0, true)]);
    check_times(one, 0, &exp(10), &[(0, false)]);
}

#[test]
fn settings_say_where_the_token_and_the_key_are() {
    let settings = "header: X-Token, query: q, cookie: C, key_claim_name: iss, realm: shop";
    let (trial, token) = (trial(settings), hs256("{\"iss\":\"alice-key\",\"key\":\"x\"}"));
    check_attached(&trial, "GET /", &format!("x-token: {token}\r\n"));
    check_attached(&trial, &format!("GET /?q={token}"), &field("x"));
    check_attached(&trial, "GET /", &format!("cookie: C={token}\r\n"));
    let refused = trial.ask("GET /", &field(&token));
    assert_eq!(refused.field("www-authenticate"), Some("Bearer realm=\"shop\""));
}

#[test]
fn hidden_tokens_are_taken_out_wherever_they_stand() {
    let (trial, token) = (trial("hide_credentials: true"), right());
    let fields = format!("{}cookie: a=1; jwt=x; b\r\ncookie: jwt=y;c=\"2\"\r\n", field(&token));
    let seen = check_attached(&trial, "GET /?jwt=z&d=3", &fields);
    assert_eq!(seen.line(), Some("GET /?d=3 HTTP/1.1"));
    assert_eq!((seen.field("authorization"), seen.field("cookie")), (None, Some("a=1; b; c=\"2\"")));
    let seen = check_attached(&trial, "GET /", &format!("cookie: jwt={token}\r\n"));
    assert_eq!(seen.field("cookie"), None);
}

#[test]
fn an_anonymous_consumer_stands_in() {
    let trial = trial("anonymous_consumer: guest");
    for fields in ["", "authorization: x\r\n", &field(&hs256("{\"key\":\"alice-key\",\"exp\":1}"))] {
        assert_eq!(trial.ask("GET /", fields).field("x-consumer-username"), Some("guest"));
    }
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error_that_shows_no_secret() {
    for (settings, key, problem) in [
        ("key_claim_name: exp", ".key_claim_name", "needs 1 to 1024 bytes, and neither `exp` nor `nbf`"),
        ("cookie: 'a b'", ".cookie", "is not the name of a cookie"),
        ("claims_to_verify: [iat]", ".claims_to_verify[0]", "expected `exp` or `nbf`, found `iat`"),
        ("store_in_ctx: true", ".store_in_ctx", "`true` is not built yet; remove it"),
    ] {
        let found = findings(&format!("{{ jwt-auth: {{ {settings}, _meta: {{}} }} }}"), "");
        assert_eq!(found, [format!("routes[0].plugins.jwt-auth{key}: {problem}")]);
    }
    let p256 = public_key(P256, &[4; 65]);
    let small = public_key(
        b"\x30\x1b\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x0a\x00",
        b"\x30\x07\x02\x02\x7f\xff\x02\x01\x03",
    );
    let rsa = "missing valid public key: needs `PUBLIC KEY` in PEM, RSA, 2048 to 8192 bits";
    let not_a_point = public_key(P256, &[2; 65]);
    let no_secret = "property \"secret\" is required when using HS based algorithms";
    let private = "public_key: \"-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE KEY-----\"";
    for (credential, key, problem) in [
        ("secret: s3cret", "", "`key` is missing"),
        ("key: '', secret: x", ".key", "needs 1 to 1024 bytes"),
        ("key: k", "", no_secret),
        ("key: k, algorithm: HS512, public_key: x", "", no_secret),
        ("key: k, secret: ''", ".secret", "needs a secret, and no key in PEM"),
        ("key: k, secret: '-----BEGIN PUBLIC KEY-----'", ".secret", "needs a secret, and no key in PEM"),
        (
            "key: k, secret: 's3cret!', base64_secret: true",
            ".secret",
            "base64_secret required but the secret is not in base64 format",
        ),
        ("key: k, algorithm: RS256", "", "missing valid public key"),
        ("key: k, algorithm: RS256, secret: s3cret", "", "missing valid public key"),
        (
            &format!("key: k, algorithm: ES256, secret: s3cret, {p256}"),
            "",
            "has several of `secret`, `public_key`, `jwks_file` and `jwks_url`; keep the one of its algorithm",
        ),
        (&format!("key: k, algorithm: RS256, {p256}"), ".public_key", rsa),
        (&format!("key: k, algorithm: RS256, {small}"), ".public_key", rsa),
        (&format!("key: k, algorithm: RS256, {private}"), ".public_key", rsa),
        ("key: k, algorithm: PS512, public_key: s3cret", ".public_key", rsa),
        (
            &format!("key: k, algorithm: ES384, {p256}"),
            ".public_key",
            "missing valid public key: needs `PUBLIC KEY` in PEM, EC on P-384",
        ),
        (
            &format!("key: k, algorithm: ES256, {not_a_point}"),
            ".public_key",
            "missing valid public key: needs `PUBLIC KEY` in PEM, EC on P-256",
        ),
        (
            &format!("key: k, algorithm: EdDSA, {p256}"),
            ".public_key",
            "missing valid public key: needs `PUBLIC KEY` in PEM, Ed25519",
        ),
    ] {
        let expected = format!("consumers[0].plugins.jwt-auth{key}: {problem}");
        assert_eq!(findings("{}", &consumers(credential)), [expected], "{credential}");
    }
    let none = findings("{}", &consumers("key: k, algorithm: none, secret: x"));
    assert!(none[0].starts_with("consumers[0].plugins.jwt-auth.algorithm: expected `HS256`"));
    let twice = "consumers: [{ username: a, plugins: { jwt-auth: { key: k, secret: x } } }, \
                 { username: b, plugins: { jwt-auth: { key: k, secret: y } } }]";
    let problem = "consumer `a` has the same jwt-auth credential; it belongs to one consumer";
    let expected = format!("consumers[1].plugins.jwt-auth.key: {problem}");
    assert_eq!(findings("{}", twice), [expected]);
}
