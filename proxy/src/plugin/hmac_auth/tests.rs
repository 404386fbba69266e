use std::time::Duration;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use ring::{digest, hmac};

use super::super::{
    Call, Reply,
    trial::{self, Seen, Trial, findings},
};

const CONSUMERS: &str = "consumers:
  - { username: alice, plugins: { hmac-auth: { key_id: alice-key, secret_key: open sesame } } }
  - { username: bob, plugins: { hmac-auth: { key_id: bob-key, secret_key: other } } }
  - { username: guest }";
/// When a trial begins.
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const FAILED: &str = "client request can't be validated";

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ hmac-auth: {{ {settings} }} }}"), CONSUMERS)
}

/// What alice signs, and how she says that she did.
#[derive(Clone, Copy)]
struct Signing<'s> {
    algorithm: &'s str,
    secret: &'s str,
    headers: &'s str,
    /// Behind the key id, a line for each of `headers`.
    lines: &'s [&'s str],
}

const RIGHT: Signing<'static> = Signing {
    algorithm: "hmac-sha256",
    secret: "open sesame",
    headers: "@request-target date",
    lines: &["GET /a?b=%63", "date: Thu, 01 Jan 2026 00:00:00 GMT"],
};

impl Signing<'_> {
    fn signature(&self) -> String {
        let algorithm = match self.algorithm {
            "hmac-sha1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            "hmac-sha512" => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let key = hmac::Key::new(algorithm, self.secret.as_bytes());
        let text = format!("alice-key\n{}\n", self.lines.join("\n"));
        Base64::encode_string(hmac::sign(&key, text.as_bytes()).as_ref())
    }

    fn field(&self) -> String {
        let Self { algorithm, headers, .. } = self;
        let signature = self.signature();
        format!(
            "authorization: Signature keyId=\"alice-key\",algorithm=\"{algorithm}\",\
             headers=\"{headers}\",signature=\"{signature}\"\r\n"
        )
    }
}

fn dated(field: &str) -> String {
    format!("{field}Date: {DATE}\r\n")
}

#[track_caller]
fn check_attached(trial: &Trial, line: &str, fields: &str) -> Seen {
    trial::check_attached(trial, line, fields, "alice")
}

#[track_caller]
fn check_refused(trial: &Trial, line: &str, fields: &str, message: &str) {
    trial::check_challenged(trial, (line, fields), "hmac realm=\"hmac\"", message);
}

#[test]
fn what_a_consumer_signed_attaches_it() {
    let trial = trial("");
    for algorithm in ["hmac-sha1", "hmac-sha256", "hmac-sha512"] {
        let signing = Signing { algorithm, ..RIGHT };
        check_attached(&trial, "GET /a?b=%63", &dated(&signing.field()));
    }
    let lines = ["X-A: 1, 2", "date: Thu, 01 Jan 2026 00:00:00 GMT", "host: a", "POST /"];
    let headers = "X-A  date host @request-target";
    let signing = Signing { headers, lines: &lines, ..RIGHT };
    check_attached(&trial, "POST /", &format!("{}x-a:   1, 2  \r\n", dated(&signing.field())));
}

/// From OpenSSL: `printf 'alice-key\nGET /a?b=%%63\ndate: …\n' | openssl dgst -sha256 -hmac 'open sesame'`.
#[test]
fn a_signature_is_what_another_program_makes_of_the_same_text() {
    assert_eq!(RIGHT.signature(), "vL9BIbb/FzF/GYoLQJ5riS12xe+aASYUJlV9thKt7ss=");
}

#[test]
fn without_exactly_one_signature_the_request_is_refused() {
    let (trial, right) = (trial(""), dated(&RIGHT.field()));
    let line = "GET /a?b=%63";
    check_refused(&trial, line, "", &format!("{FAILED}: missing Authorization header"));
    for value in ["", "Signature", "SignaturekeyId=\"x\"", "Basic YTpi", "x"] {
        let message = format!("{FAILED}: Authorization header does not start with 'Signature'");
        check_refused(&trial, line, &format!("authorization: {value}\r\n"), &message);
    }
    let signature = RIGHT.signature();
    for fields in [
        format!("{}{right}", RIGHT.field()),
        "authorization: Signature x\r\n".to_owned(),
        right.replace("alice-key", "nobody"),
        right.replace("alice-key", "bob-key"),
        right.replace("alice-key", ""),
        right.replace("hmac-sha256", "hmac-sha1"),
        right.replace("hmac-sha256", "HMAC-SHA256"),
        right.replace("hmac-sha256", "none"),
        right.replace("algorithm=\"hmac-sha256\",", ""),
        right.replace(&signature, ""),
        right.replace(&signature, &signature[..signature.len() - 4]),
        right.replace(&signature, &Base64::encode_string(&[0; 32])),
        right.replace(&signature, &"A".repeat(400)),
        right.replace(&signature, "\u{fc}"),
        right.replace("@request-target date", "date"),
        right.replace("@request-target date", "date @request-target"),
        right.replace("@request-target date", "@request-target"),
        right.replace("@request-target date", "@request-target date x-a"),
        right.replace("headers=\"@request-target date\",", ""),
        format!("{right}Date: {DATE}\r\n"),
        dated(&Signing { secret: "other", ..RIGHT }.field()),
    ] {
        check_refused(&trial, line, &fields, FAILED);
    }
    check_refused(&trial, "POST /a?b=%63", &right, FAILED);
    check_refused(&trial, "GET /a?b=c", &right, FAILED);
    check_refused(&trial, "GET /a", &right, FAILED);
    check_attached(&trial, line, &right);
}

#[test]
fn a_listed_field_that_is_not_there_or_there_twice_is_refused() {
    let trial = trial("");
    let date = "date: Thu, 01 Jan 2026 00:00:00 GMT";
    let with = |line| Signing { headers: "date x-a", lines: &[date, line], ..RIGHT }.field();
    check_attached(&trial, "GET /", &format!("{}x-a: 1\r\n", dated(&with("x-a: 1"))));
    check_attached(&trial, "GET /", &format!("{}x-a: \r\n", dated(&with("x-a: "))));
    let without = Signing { headers: "date x-a", lines: &[date], ..RIGHT }.field();
    check_refused(&trial, "GET /", &dated(&without), FAILED);
    check_refused(&trial, "GET /", &dated(&with("x-a: ")), FAILED);
    let twice = format!("{}x-a: 1\r\nx-a: 2\r\n", dated(&with("x-a: 1")));
    check_refused(&trial, "GET /", &twice, FAILED);
    let many = ["date"; super::SIGNED_MAX + 1];
    let lines = [date; super::SIGNED_MAX + 1];
    for (count, is_refused) in [(super::SIGNED_MAX, false), (super::SIGNED_MAX + 1, true)] {
        let headers = many[..count].join(" ");
        let fields = dated(&Signing { headers: &headers, lines: &lines[..count], ..RIGHT }.field());
        if is_refused {
            check_refused(&trial, "GET /", &fields, FAILED);
        } else {
            check_attached(&trial, "GET /", &fields);
        }
    }
}

#[test]
fn a_date_is_good_as_long_as_clocks_may_differ() {
    for (settings, skew) in [("", 300), ("clock_skew: 5", 5)] {
        for (seconds, is_good) in [(0, true), (skew, true), (skew + 1, false)] {
            let mut trial = trial(settings);
            trial.pass(Duration::from_secs(seconds));
            let fields = dated(&RIGHT.field());
            if is_good {
                check_attached(&trial, "GET /a?b=%63", &fields);
            } else {
                check_refused(&trial, "GET /a?b=%63", &fields, FAILED);
            }
        }
    }
    let trial = trial("");
    for (date, is_good) in [
        ("Thu, 01 Jan 2026 00:05:00 GMT", true),
        ("Thu, 01 Jan 2026 00:05:01 GMT", false),
        ("Wed, 31 Dec 1969 23:59:59 GMT", false),
        ("2026-01-01T00:00:00Z", false),
        ("1767225600", false),
        ("", false),
    ] {
        let line = format!("date: {date}");
        let field = Signing { headers: "date", lines: &[&line], ..RIGHT }.field();
        let seen = trial.ask("GET /", &format!("{field}date: {date}\r\n"));
        assert_eq!(seen.status(), (!is_good).then_some(401), "{date}");
    }
}

const CHECKED: &str = "validate_request_body: true";
/// `printf abc | openssl dgst -sha256 -binary | base64`.
const ABC: &str = "SHA-256=ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";

fn digest(body: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, body);
    format!("SHA-256={}", Base64::encode_string(digest.as_ref()))
}

fn asked(size_max: u64) -> Call {
    Call::Body { size_max, digest: Some(&digest::SHA256) }
}

/// What becomes of a request that is signed as `signing` says, with this `Digest` and this body.
fn ask_with_body(settings: &str, signing: Signing<'_>, digest: &str, body: &'static [u8]) -> Seen {
    let fields = format!("{}digest: {digest}\r\n", dated(&signing.field()));
    trial(settings).ask_with("GET /a?b=%63", &fields, &mut |call| {
        assert_eq!(*call, asked(64 << 20));
        let digest = Some(digest::digest(&digest::SHA256, body));
        Some(Reply::Body { content: Bytes::from_static(body), digest })
    })
}

#[test]
fn a_body_has_to_have_the_digest() {
    assert_eq!(digest(b"abc"), ABC);
    for (digest, body, is_good) in [
        (ABC, &b"abc"[..], true),
        (&digest(b""), b"", true),
        (ABC, b"", false),
        (ABC, b"abd", false),
        (ABC, b"abc\n", false),
        (&digest(b""), b"abc", false),
        // None that is meant to be one.
        ("", b"abc", false),
        (&ABC.replace("SHA-256=", ""), b"abc", false),
        (&ABC.replace("SHA-256", "SHA-512"), b"abc", false),
        (&ABC.replace("SHA-256", "sha-256"), b"abc", false),
        (&ABC.replace("Fa0=", "Fa0"), b"abc", false),
        (&ABC.replace("Fa0=", ""), b"abc", false),
        (&ABC.replace("Fa0=", "Fa1="), b"abc", false),
        (&ABC.replace("Fa0=", "Fa0AAAA="), b"abc", false),
        (&format!("{ABC}, {ABC}"), b"abc", false),
        (&format!("{ABC}\r\ndigest: {ABC}"), b"abc", false),
    ] {
        let seen = ask_with_body(CHECKED, RIGHT, digest, body);
        let consumer = is_good.then_some("alice");
        assert_eq!(seen.field("x-consumer-username"), consumer, "{digest} {seen:?}");
        assert_eq!(seen.status(), (!is_good).then_some(401), "{digest}");
    }
    // Nobody looks at it unless told so.
    check_attached(&trial(""), "GET /a?b=%63", &format!("{}digest: x\r\n", dated(&RIGHT.field())));
    let refused = ask_with_body(CHECKED, RIGHT, ABC, b"abd");
    let expected = Seen::Answered {
        status: 401,
        fields: "www-authenticate: hmac realm=\"hmac\"\n".to_owned(),
        body: format!("{{\"message\":\"{FAILED}\"}}\n"),
    };
    assert_eq!(refused, expected);
    let open = ask_with_body(&format!("{CHECKED}, anonymous_consumer: guest"), RIGHT, ABC, b"abd");
    assert_eq!(open.field("x-consumer-username"), Some("guest"));
}

#[test]
fn a_digest_may_be_signed_and_has_to_be_if_told_so() {
    let date = "date: Thu, 01 Jan 2026 00:00:00 GMT";
    let line = format!("digest: {ABC}");
    let lines = [date, line.as_str()];
    let signed = Signing { headers: "date digest", lines: &lines, ..RIGHT };
    let unsigned = Signing { headers: "date", lines: &lines[..1], ..RIGHT };
    let strict = format!("{CHECKED}, signed_headers: [date, digest]");
    for (settings, signing, digest, status) in [
        (CHECKED, signed, ABC, None),
        (CHECKED, unsigned, ABC, None),
        (&strict, signed, ABC, None),
        (&strict, unsigned, ABC, Some(401)),
        (&strict, signed, &digest(b"abd"), Some(401)),
    ] {
        let body = if digest == ABC { b"abc" } else { b"abd" };
        let seen = ask_with_body(settings, signing, digest, body);
        assert_eq!(seen.status(), status, "{settings} {} {digest}", signing.headers);
    }
    let hidden = ask_with_body(&format!("{strict}, hide_credentials: true"), signed, ABC, b"abc");
    assert_eq!((hidden.field("authorization"), hidden.field("digest")), (None, Some(ABC)));
}

#[test]
fn a_body_is_asked_for_only_if_it_can_be_right() {
    let (line, right) = ("GET /a?b=%63", dated(&RIGHT.field()));
    let trial = |more: &str| trial(&format!("{CHECKED}{more}"));
    let with_digest = format!("{right}digest: {ABC}\r\n");
    for size in [1, 256 << 20] {
        let seen = trial(&format!(", max_req_body_size: {size}")).ask(line, &with_digest);
        assert_eq!(seen, Seen::Called(asked(size)));
    }
    let wrong = dated(&Signing { secret: "other", ..RIGHT }.field());
    for fields in [&right, &format!("{right}digest: x\r\n"), &format!("{wrong}digest: {ABC}\r\n")] {
        check_refused(&trial(""), line, fields, FAILED);
    }
    let missing = format!("{FAILED}: missing Authorization header");
    check_refused(&trial(""), line, &format!("digest: {ABC}\r\n"), &missing);
    let open = trial(", anonymous_consumer: guest").ask(line, &right);
    assert_eq!(open.field("x-consumer-username"), Some("guest"));
}

#[test]
fn settings_say_what_has_to_be_signed_and_how() {
    let fields = dated(&RIGHT.field());
    let line = "GET /a?b=%63";
    for settings in [
        "signed_headers: [date, x-a]",
        "signed_headers: [Host]",
        "allowed_algorithms: [hmac-sha1, hmac-sha512]",
    ] {
        check_refused(&trial(settings), line, &fields, FAILED);
    }
    for settings in [
        "signed_headers: [Date, '@request-target']",
        "signed_headers: ['@request-target']",
        "allowed_algorithms: [hmac-sha256]",
        "validate_request_body: false",
    ] {
        check_attached(&trial(settings), line, &fields);
    }
    let hidden = check_attached(&trial("hide_credentials: true"), line, &fields);
    assert_eq!(hidden.field("authorization"), None);
    let open = trial("anonymous_consumer: guest").ask("GET /", &fields);
    assert_eq!(open.field("x-consumer-username"), Some("guest"));
    let realm = trial("realm: shop").ask("GET /", "");
    assert_eq!(realm.field("www-authenticate"), Some("hmac realm=\"shop\""));
}

#[test]
fn what_cannot_be_meant_is_a_configuration_error_that_shows_no_secret() {
    for (settings, key, problem) in [
        (
            "max_req_body_size: 1",
            ".max_req_body_size",
            "means nothing without `validate_request_body: true`",
        ),
        (
            "validate_request_body: false, max_req_body_size: 1",
            ".max_req_body_size",
            "means nothing without `validate_request_body: true`",
        ),
        (
            "validate_request_body: true, max_req_body_size: 0",
            ".max_req_body_size",
            "expected a whole number from 1 to 268435456, found `0`",
        ),
        ("allowed_algorithms: []", ".allowed_algorithms", "needs 1 to 3 items"),
        (
            "allowed_algorithms: [hmac-md5]",
            ".allowed_algorithms[0]",
            "expected `hmac-sha1`, `hmac-sha256` or `hmac-sha512`, found `hmac-md5`",
        ),
        ("clock_skew: 0", ".clock_skew", "expected a whole number from 1 to 31536000, found `0`"),
        (
            "signed_headers: [date, 'a b'], realm: x",
            ".signed_headers[1]",
            "needs 1 to 50 characters without blanks",
        ),
    ] {
        let found = findings(&format!("{{ hmac-auth: {{ {settings} }} }}"), "");
        assert_eq!(found, [format!("routes[0].plugins.hmac-auth{key}: {problem}")]);
    }
    assert_eq!(
        findings("{ hmac-auth: { signed_headers: [host] } }", ""),
        [
            "routes[0].plugins.hmac-auth.signed_headers: without `date` in it a request can be \
             repeated for ever"
        ]
    );
    assert_eq!(
        findings("{ hmac-auth: { validate_request_body: true } }", ""),
        [
            "routes[0].plugins.hmac-auth.validate_request_body: without `digest` in \
             `signed_headers` whoever changes a body can change its digest too"
        ]
    );
    let signed = "validate_request_body: true, signed_headers: [date, Digest]";
    assert_eq!(findings(&format!("{{ hmac-auth: {{ {signed} }} }}"), ""), [""; 0]);
    let id = "needs 1 to 256 bytes, without quotes, backslashes and control characters";
    let long = "s3cret".repeat(50);
    for (credential, key, problem) in [
        ("{ key_id: s3cret }", "", "`secret_key` is missing"),
        ("{ secret_key: s3cret }", "", "`key_id` is missing"),
        ("{ key_id: '', secret_key: s3cret }", ".key_id", id),
        ("{ key_id: 's3\"cret', secret_key: s3cret }", ".key_id", id),
        ("{ key_id: k, secret_key: '' }", ".secret_key", "needs 1 to 256 bytes"),
        (&format!("{{ key_id: k, secret_key: {long} }}"), ".secret_key", "needs 1 to 256 bytes"),
    ] {
        let consumer = format!("{{ username: a, plugins: {{ hmac-auth: {credential} }} }}");
        let expected = format!("consumers[0].plugins.hmac-auth{key}: {problem}");
        assert_eq!(findings("{}", &format!("consumers: [{consumer}]")), [expected]);
    }
    let twice = "consumers: [{ username: a, plugins: { hmac-auth: { key_id: k, secret_key: x } } }, \
                 { username: b, plugins: { hmac-auth: { key_id: k, secret_key: y } } }]";
    let problem = "consumer `a` has the same hmac-auth credential; it belongs to one consumer";
    let expected = format!("consumers[1].plugins.hmac-auth.key_id: {problem}");
    assert_eq!(findings("{}", twice), [expected]);
}
