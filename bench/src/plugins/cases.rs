//! The plugins, each with the requests that are counted.

/// What the node says to all that reach it.
pub(super) const HELLO: &str = "hello from node\n";

/// A plugin and a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) plugin: &'static str,
    /// The end of the path, and what tells cases of a plugin apart.
    pub(super) name: &'static str,
    /// Of the plugin, in braces; `{node}` stands for a node's address.
    pub(super) settings: &'static str,
    /// Plugins that the route has without this one too.
    pub(super) beside: &'static str,
    pub(super) method: &'static str,
    /// `{date}` and `{token}` stand for what is not known before.
    pub(super) fields: &'static [(&'static str, &'static str)],
    pub(super) body: &'static str,
    pub(super) before: Before,
    pub(super) answer: Answer,
}

/// What has to happen before a request is answered as expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// The same request, which passes.
    One,
    /// A request that is never complete.
    Half,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The node's, with this body.
    Passed(&'static str),
    /// The node's, encoded like this.
    Encoded(&'static str),
    /// The proxy's own.
    Own(u16),
}

const fn passes(plugin: &'static str, settings: &'static str) -> Case {
    Case {
        plugin,
        name: "passes",
        settings,
        beside: "",
        method: "GET",
        fields: &[],
        body: "",
        before: Before::Nothing,
        answer: Answer::Passed(HELLO),
    }
}

const fn encodes(plugin: &'static str, fields: &'static [(&'static str, &'static str)]) -> Case {
    let [(_, coding)] = fields else { panic!("one coding") };
    Case {
        name: "encodes",
        fields,
        answer: Answer::Encoded(coding),
        ..passes(plugin, "{ types: '*', min_length: 1 }")
    }
}

const fn refuses(plugin: &'static str, settings: &'static str, status: u16) -> Case {
    Case { name: "refuses", answer: Answer::Own(status), ..passes(plugin, settings) }
}

/// What the consumer of the configuration is known by.
pub(super) const CREDENTIALS: &str = "\
    basic-auth: { username: bench, password: bench-password }, \
    hmac-auth: { key_id: bench-hmac, secret_key: bench-hmac-secret }, \
    jwt-auth: { key: bench-jwt, secret: bench-jwt-secret }, \
    key-auth: { key: bench-key }";

const KEY: (&str, &str) = ("apikey", "bench-key");
/// Of `GET /with/hmac-auth/passes`: `printf 'bench-hmac\nGET /with/hmac-auth/passes\n' |
/// openssl dgst -sha256 -hmac bench-hmac-secret -binary | base64`.
const SIGNATURE: (&str, &str) = (
    "authorization",
    "Signature keyId=\"bench-hmac\",algorithm=\"hmac-sha256\",headers=\"@request-target\",\
     signature=\"aXl1yEIsIDwS7LgrsCDSAZPbfcQMyHrpNd0O56z0jM4=\"",
);
/// Of `{"key":"bench-jwt"}` by HS256, with the right secret and with another.
const TOKEN: (&str, &str) = (
    "authorization",
    "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJiZW5jaC1qd3QifQ.\
     ZUqVTI7LQOl7JuKxt-P18xOjJQdyYbazAMfLEGHPxBU",
);
const FORGED_TOKEN: (&str, &str) = (
    "authorization",
    "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJrZXkiOiJiZW5jaC1qd3QifQ.\
     g4TBJG9UgNBk7vA8mZGWCI8QpZcRcMWiplAQp2neqA8",
);
const CSRF: &str = "{ key: bench-csrf }";
const SIGNED_TARGET: &str = "{ signed_headers: ['@request-target'] }";

pub(super) const CASES: &[Case] = &[
    passes("api-breaker", "{ break_response_code: 503 }"),
    // The status of the node, once in a while, is that of the breaker.
    Case {
        name: "refuses/status/503",
        ..refuses(
            "api-breaker",
            "{ break_response_code: 503, break_response_body: broken, \
             unhealthy: { http_statuses: [503], failures: 1 } }",
            503,
        )
    },
    Case {
        fields: &[("authorization", "Basic YmVuY2g6YmVuY2gtcGFzc3dvcmQ=")],
        ..passes("basic-auth", "{}")
    },
    Case {
        fields: &[("authorization", "Basic YmVuY2g6YmVuY2gtcGFzc3dvcmY=")],
        ..refuses("basic-auth", "{}", 401)
    },
    passes("brotli", "{ types: '*', min_length: 1 }"),
    encodes("brotli", &[("accept-encoding", "br")]),
    Case { method: "POST", body: "1234", ..passes("client-control", "{ max_body_size: 4 }") },
    Case { method: "POST", body: "1234", ..refuses("client-control", "{ max_body_size: 3 }", 413) },
    Case {
        beside: "key-auth: {}",
        fields: &[KEY],
        ..passes("consumer-restriction", "{ whitelist: [bench] }")
    },
    Case {
        beside: "key-auth: {}",
        fields: &[KEY],
        ..refuses("consumer-restriction", "{ blacklist: [bench] }", 403)
    },
    Case {
        fields: &[("origin", "https://a.example")],
        ..passes("cors", "{ allow_origins: 'https://a.example,https://b.example' }")
    },
    Case {
        name: "preflight",
        method: "OPTIONS",
        fields: &[
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a"),
        ],
        ..refuses("cors", "{ allow_origins: 'https://a.example,https://b.example' }", 200)
    },
    passes("csrf", CSRF),
    Case {
        name: "with-token",
        method: "POST",
        fields: &[("cookie", "apisix-csrf-token={token}"), ("apisix-csrf-token", "{token}")],
        ..passes("csrf", CSRF)
    },
    Case { method: "POST", ..refuses("csrf", CSRF, 401) },
    passes("fault-injection", "{ abort: { http_status: 503, percentage: 0 } }"),
    refuses("fault-injection", "{ abort: { http_status: 503, body: sorry } }", 503),
    passes("file-logger", "{ path: /dev/null }"),
    passes("forward-auth", "{ uri: 'http://{node}/' }"),
    passes("gzip", "{ types: '*', min_length: 1 }"),
    encodes("gzip", &[("accept-encoding", "gzip")]),
    Case { fields: &[SIGNATURE, ("date", "{date}")], ..passes("hmac-auth", SIGNED_TARGET) },
    // Of another path.
    Case { fields: &[SIGNATURE, ("date", "{date}")], ..refuses("hmac-auth", SIGNED_TARGET, 401) },
    passes("ip-restriction", "{ whitelist: [192.0.2.0/24, 127.0.0.0/8] }"),
    refuses("ip-restriction", "{ blacklist: [192.0.2.0/24, 127.0.0.0/8] }", 403),
    Case { fields: &[TOKEN], ..passes("jwt-auth", "{}") },
    Case { fields: &[FORGED_TOKEN], ..refuses("jwt-auth", "{}", 401) },
    Case { fields: &[KEY], ..passes("key-auth", "{}") },
    Case { fields: &[("apikey", "wrong-key")], ..refuses("key-auth", "{}", 401) },
    passes("limit-conn", "{ conn: 9, burst: 0, default_conn_delay: 0.1, key: remote_addr }"),
    Case {
        before: Before::Half,
        ..refuses(
            "limit-conn",
            "{ conn: 1, burst: 0, default_conn_delay: 0.1, key: remote_addr }",
            503,
        )
    },
    passes("limit-count", "{ count: 1000000, time_window: 3600 }"),
    Case {
        name: "sliding",
        ..passes("limit-count", "{ count: 1000000, time_window: 3600, window_type: sliding }")
    },
    Case { before: Before::One, ..refuses("limit-count", "{ count: 1, time_window: 86400 }", 503) },
    passes("limit-req", "{ rate: 1000000, burst: 1000, key: remote_addr }"),
    Case {
        before: Before::One,
        ..refuses("limit-req", "{ rate: 0.0001, burst: 0, key: remote_addr }", 503)
    },
    passes("proxy-mirror", "{ host: 'http://{node}' }"),
    passes("proxy-rewrite", "{ uri: '/rewritten$uri', headers: { set: { x-a: '$remote_addr' } } }"),
    Case {
        name: "regex",
        ..passes("proxy-rewrite", "{ regex_uri: ['^/with/(.*)/regex$', '/$1'] }")
    },
    Case {
        fields: &[("x-forwarded-for", "192.0.2.1, 192.0.2.2")],
        ..passes(
            "real-ip",
            "{ source: http_x_forwarded_for, trusted_addresses: [127.0.0.0/8], recursive: true }",
        )
    },
    Case { name: "redirects", ..refuses("redirect", "{ uri: '/there$uri' }", 302) },
    passes("request-id", "{}"),
    passes("response-rewrite", "{ headers: { set: { x-a: '$remote_addr' }, remove: [x-b] } }"),
    Case {
        name: "filters",
        answer: Answer::Passed("bye from node\n"),
        ..passes("response-rewrite", "{ filters: [{ regex: '^hello', replace: bye }] }")
    },
    passes(
        "traffic-split",
        "{ rules: [{ weighted_upstreams: [{ upstream_id: other, weight: 1 }, { weight: 1 }] }] }",
    ),
    Case {
        name: "by-field",
        fields: &[("x-group", "beta")],
        ..passes(
            "traffic-split",
            "{ rules: [{ match: [{ vars: [[http_x_group, '==', beta]] }], \
             weighted_upstreams: [{ upstream_id: other, weight: 1 }] }] }",
        )
    },
    passes("ua-restriction", "{ denylist: ['curl/[0-9]', '^Mozilla.*bot'] }"),
    refuses("ua-restriction", "{ denylist: ['curl/[0-9]', '^bench'] }", 403),
    passes("zstd", "{ types: '*', min_length: 1 }"),
    encodes("zstd", &[("accept-encoding", "zstd")]),
];

impl Case {
    /// Of the route with the plugin, of that without it, or of none at all.
    pub(super) fn path(&self, side: &str) -> String {
        format!("/{side}/{}/{}", self.plugin, self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What `plugins! { … }` of the proxy lists, as the configuration calls them.
    fn known() -> HashSet<String> {
        let text = include_str!("../../../proxy/src/plugin.rs");
        let (_, list) = text.split_once("\nplugins! {").expect("a list");
        let (list, _) = list.split_once('}').expect("an end");
        list.split_whitespace().map(|file| file.replace('_', "-")).collect()
    }

    #[test]
    fn every_plugin_is_counted() {
        let counted: HashSet<String> = CASES.iter().map(|case| case.plugin.to_owned()).collect();
        assert!(!counted.is_empty());
        let uncounted: Vec<String> = known().difference(&counted).cloned().collect();
        assert!(uncounted.is_empty(), "without a case in plugins/cases.rs: {uncounted:?}");
        let unknown: Vec<&String> = counted.iter().filter(|it| !known().contains(*it)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn each_case_has_a_path_of_its_own() {
        let paths: HashSet<String> = CASES.iter().map(|case| case.path("with")).collect();
        assert_eq!(paths.len(), CASES.len());
    }
}
