use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::{
    client::{self, Failure, KeepAlive, Response, Trust},
    plugin::{
        Call, Reply,
        trial::{Seen, Trial, refused},
    },
};

fn trial(settings: &str) -> Trial {
    Trial::new(&format!("{{ forward-auth: {{ uri: \"http://auth/check?x=1\", {settings} }} }}"), "")
}

/// What is asked about a request.
fn question(trial: &Trial, line: &str, fields: &str) -> client::Request {
    match trial.ask(line, fields) {
        Seen::Called(Call::Http(request)) => *request,
        seen @ (Seen::Called(_) | Seen::Forwarded { .. } | Seen::Answered { .. }) => {
            panic!("{seen:?}")
        }
    }
}

fn lines(fields: &HeaderMap) -> Vec<String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut lines: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}: {}", text(value))).collect();
    lines.sort();
    lines
}

fn answer(status: u16, fields: &[(&str, &str)], body: &'static str) -> Reply {
    let pair = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
        (name.parse().expect("a name"), value.parse().expect("a value"))
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(pair) {
        map.append(name, value);
    }
    Reply::Http(Ok(Response {
        status: StatusCode::from_u16(status).expect("a status"),
        fields: map,
        body: Ok(Bytes::from_static(body.as_bytes())),
    }))
}

/// What comes of a request about which this is answered.
fn judged(trial: &Trial, fields: &str, reply: Reply) -> Seen {
    let mut reply = Some(reply);
    trial.ask_with("GET /a", fields, &mut |_| reply.take())
}

#[test]
fn the_question_tells_of_the_request() {
    let trial = trial("request_headers: [Authorization, x-forwarded-user, x-gone]");
    let fields = "authorization: a\r\nauthorization: b\r\nx-forwarded-for: 10.9.9.9\r\n\
                  x-forwarded-uri: /open\r\nX-Forwarded-User: u\r\ncookie: c\r\n";
    let request = question(&trial, "DELETE /a/./b?c=d", fields);
    assert_eq!(request.method, "GET");
    assert_eq!(format!("{:?}", request.url), "http://auth:80/check");
    assert_eq!(request.url.target, "/check?x=1");
    assert_eq!(request.body, "");
    assert_eq!(
        lines(&request.fields),
        [
            "authorization: a",
            "authorization: b",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: a",
            "x-forwarded-method: DELETE",
            "x-forwarded-proto: http",
            "x-forwarded-uri: /a/b?c=d",
            "x-forwarded-user: u",
        ]
    );
}

#[test]
fn the_question_has_the_body_if_told_so() {
    let trial = trial("request_method: POST, request_headers: [content-type, x-a]");
    let fields = "content-type: a/b\r\ncontent-encoding: gzip\r\ncontent-language: de\r\nx-a: 1\r\n\
                  content-length: 3\r\n";
    let asked = trial.ask("PUT /", fields);
    assert_eq!(asked, Seen::Called(Call::Body { size_max: 64 << 20, digest: None }));
    let mut reply = Some(Reply::Body { content: Bytes::from_static(b"abc"), digest: None });
    let asked = trial.ask_with("PUT /", fields, &mut |_| reply.take());
    let Seen::Called(Call::Http(request)) = asked else { panic!("{asked:?}") };
    assert_eq!((request.method.as_str(), &*request.body), ("POST", &b"abc"[..]));
    let lines = lines(&request.fields);
    let own: Vec<_> = lines.iter().filter(|line| !line.starts_with("x-forwarded")).collect();
    assert_eq!(own, ["content-encoding: gzip", "content-type: a/b", "x-a: 1"]);
    for (size, seen) in [("1", 1), ("268435456", 256 << 20)] {
        let settings = format!("request_method: POST, max_req_body_size: {size}");
        let asked = self::trial(&settings).ask("PUT /", fields);
        assert_eq!(asked, Seen::Called(Call::Body { size_max: seen, digest: None }));
    }
}

#[test]
fn a_client_cannot_say_what_we_say() {
    let trial = Trial::new(
        "{ forward-auth: { uri: \"http://auth/\", \
           request_headers: [x-forwarded-uri, x-consumer-username, x-route, apikey], \
           extra_headers: { x-route: $route_id, x-key: $http_x_key } }, \
           key-auth: { hide_credentials: true } }",
        "consumers: [{ username: alice, plugins: { key-auth: { key: k } } }]",
    );
    let fields = "apikey: k\r\nx-forwarded-uri: /\r\nx-consumer-username: root\r\nx-route: z\r\n\
                  x-forwarded-method: GET\r\nconnection: x-hop\r\n";
    let request = question(&trial, "POST /p", fields);
    assert_eq!(
        lines(&request.fields),
        [
            "x-consumer-username: alice",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: a",
            "x-forwarded-method: POST",
            "x-forwarded-proto: http",
            "x-forwarded-uri: /p",
            "x-key: ",
            "x-route: r",
        ]
    );
}

#[test]
fn what_the_node_would_not_see_is_no_part_of_the_question() {
    let trial = trial("request_headers: [x-consumer-username, x-hop, x-a]");
    let fields = "x-consumer-username: root\r\nx-hop: 1\r\nconnection: X-Hop\r\nx-a: 1\r\n";
    let request = question(&trial, "GET /", fields);
    let asked = ["x-consumer-username", "x-hop", "x-a"].map(|name| request.fields.contains_key(name));
    assert_eq!(asked, [false, false, true]);
}

#[test]
fn what_no_field_can_hold_is_refused() {
    let trial = trial("extra_headers: { x-a: $arg_a }, status_on_error: 400, allow_degradation: true");
    assert_eq!(trial.ask("GET /?a=x%0d%0ax-b:+c", "").status(), Some(400));
    assert_eq!(question(&trial, "GET /?a=x%20y", "").fields["x-a"], "x y");
}

#[test]
fn fields_of_the_answer_stand_in_place_of_the_clients() {
    let trial = trial("upstream_headers: [X-User, x-role]");
    let forged = "x-user: root\r\nX_User: root\r\nx-role: admin\r\nx-other: o\r\n";
    let given = [("x-user", "alice"), ("x-user", "al"), ("x-secret", "s")];
    let seen = judged(&trial, forged, answer(200, &given, "ignored"));
    let Seen::Forwarded { head, .. } = &seen else { panic!("{seen:?}") };
    let about_user: Vec<_> = head.lines().filter(|line| line.contains("user")).collect();
    assert_eq!(about_user, ["x-user: alice", "x-user: al"]);
    assert_eq!((seen.field("x-role"), seen.field("x-secret")), (None, None));
    assert_eq!(seen.field("x-other"), Some("o"));
    // What is for this connection alone is not passed on, whatever it is called.
    let given = [("x-user", "alice"), ("connection", "close, X-User")];
    let seen = judged(&trial, forged, answer(204, &given, ""));
    assert_eq!(seen.field("x-user"), None);
    assert!(seen.line().is_some());
}

#[test]
fn a_refusal_is_passed_on_with_the_fields_that_are_named() {
    let trial = trial("client_headers: [Location, set-cookie, x-absent]");
    let given = [
        ("location", "/login"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-secret", "s"),
        ("content-type", "text/html"),
    ];
    for status in [300, 302, 401, 403, 500, 999] {
        let seen = judged(&trial, "", answer(status, &given, "<p>"));
        let Seen::Answered { status: seen, fields, body } = seen else { panic!("{seen:?}") };
        let expected = "content-type: text/html\nlocation: /login\nset-cookie: a=1\nset-cookie: b=2\n";
        assert_eq!((seen, fields.as_str(), body.as_str()), (status, expected, "<p>"));
    }
    let seen = judged(&trial, "", answer(403, &[], "no"));
    assert_eq!(seen.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(judged(&trial, "", answer(401, &[], "")).field("content-type"), None);
}

/// What is answered, but for its body.
fn broken(status: StatusCode, failure: Failure) -> Reply {
    Reply::Http(Ok(Response { status, fields: HeaderMap::new(), body: Err(failure) }))
}

#[test]
fn an_answer_that_breaks_off_refuses_or_is_none() {
    let trials = ["", "allow_degradation: true"].map(|more| {
        trial(&format!("status_on_error: 503, {more}"))
    });
    for failure in Failure::ALL {
        let judge = |status| trials.each_ref().map(|one| judged(one, "", broken(status, failure)));
        assert_eq!(judge(StatusCode::UNAUTHORIZED).map(|seen| seen.status()), [Some(401); 2]);
        let is_given = failure == Failure::TooLarge;
        let [strict, degrading] = judge(StatusCode::OK);
        assert_eq!(strict.status(), (!is_given).then_some(503), "{failure:?}");
        assert_eq!(degrading.status(), None);
    }
}

#[test]
fn without_an_answer_a_request_is_refused_unless_told_otherwise() {
    for failure in Failure::ALL {
        let reply = || Reply::Http(Err(failure));
        assert_eq!(judged(&trial(""), "", reply()).status(), Some(403));
        assert_eq!(judged(&trial("status_on_error: 503"), "", reply()).status(), Some(503));
        let degrading = trial("allow_degradation: true, upstream_headers: [x-user]");
        let seen = judged(&degrading, "x-user: root\r\n", reply());
        assert!(seen.line().is_some(), "{seen:?}");
        assert_eq!(seen.field("x-user"), None, "{failure:?}");
    }
}

#[test]
fn no_body_of_a_client_keeps_it_from_being_judged() {
    use Failure::{OutOfFiles, Tls, Unreachable, Unresolved};
    for failure in Failure::ALL {
        let degrading = trial("allow_degradation: true, request_method: POST");
        let seen = judged(&degrading, "", Reply::Http(Err(failure)));
        let passes = matches!(failure, Unresolved | Unreachable | OutOfFiles | Tls);
        assert_eq!(seen.status(), (!passes).then_some(403), "{failure:?}");
    }
}

#[test]
fn settings_decide_how_it_is_asked() {
    let ask = |settings| question(&trial(settings), "GET /", "");
    let request = ask("");
    assert_eq!((request.timeout.as_millis(), request.trust), (3000, Trust::System));
    let idle_timeout = std::time::Duration::from_secs(60);
    assert_eq!(request.keep_alive, Some(KeepAlive { idle_max: 5, idle_timeout }));
    let request = ask("timeout: 20, ssl_verify: false, keepalive: false");
    assert_eq!((request.timeout.as_millis(), request.trust), (20, Trust::Anybody));
    assert_eq!(request.keep_alive, None);
    let request = ask("keepalive_pool: 2, keepalive_timeout: 1000");
    let idle_timeout = std::time::Duration::from_secs(1);
    assert_eq!(request.keep_alive, Some(KeepAlive { idle_max: 2, idle_timeout }));
}

#[test]
fn settings_that_cannot_be_met_are_refused() {
    for (settings, message) in [
        ("", "`uri` is missing"),
        ("uri: auth/check", "needs a URL"),
        ("uri: \"http://u:p@a/\"", "needs a URL"),
        ("uri: \"http://a/\", request_method: PUT", "expected"),
        ("uri: \"http://a/\", max_req_body_size: 1", "means nothing without `request_method: POST`"),
        ("uri: \"http://a/\", request_method: POST, max_req_body_size: 0", "from 1 to 268435456"),
        ("uri: \"http://a/\", timeout: 0", "from 1 to 60000"),
        ("uri: \"http://a/\", timeout: 60001", "from 1 to 60000"),
        ("uri: \"http://a/\", status_on_error: 100", "from 200 to 599"),
        ("uri: \"http://a/\", keepalive_pool: 0", "from 1 to 64"),
        ("uri: \"http://a/\", keepalive_timeout: 10", "from 1000 to"),
        ("uri: \"http://a/\", upstream_headers: [host]", "a field that the proxy makes itself"),
        ("uri: \"http://a/\", client_headers: [content-length]", "the proxy makes itself"),
        ("uri: \"http://a/\", request_headers: [\"a b\"]", "is not the name of a field"),
        ("uri: \"http://a/\", request_headers: []", "needs 1 to 64 items"),
        ("uri: \"http://a/\", extra_headers: { x-a: $nothing }", "unknown variable"),
        ("uri: \"http://a/\", extra_headers: { connection: a }", "the proxy makes itself"),
        ("uri: \"http://a/\", header: a", "unknown key"),
    ] {
        refused("forward-auth", settings, message);
    }
}
