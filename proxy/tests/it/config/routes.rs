//! What requests and connections are led by.

use proxy::config::Datapath;

use super::{check_addition, check_errors, valid, with};

/// A route of line 5 with these keys, from line 6 on, and an upstream of its own.
pub(super) fn check_route(keys: &str, expected: &[&str]) {
    let yaml =
        format!("routes:\n  - id: r\n{keys}    upstream: {{ nodes: {{ \"127.0.0.1:80\": 1 }} }}\n");
    check_addition(&yaml, expected);
}

#[test]
fn paths_of_routes_are_ones_that_can_match() {
    check_route("", &["5:5: routes[0]: `uri` or `uris` is missing"]);
    check_route(
        "    uris: []\n",
        &["6:11: routes[0].uris: is empty; remove the key if there is nothing to say"],
    );
    check_route(
        "    uri: /a\n    uris: [/b]\n",
        &["5:5: routes[0]: `uri` and `uris` at once; keep one of them"],
    );
    check_route(
        "    uris: [a, '*', /a*b, '/a?b', '/a#b', '/a b', /a//b, /a/./b, /a/.., /%2e%2E/a, /ok, /ok]\n",
        &[
            "6:12: routes[0].uris[0]: the path must start with `/`",
            "6:15: routes[0].uris[1]: the path must start with `/`",
            "6:20: routes[0].uris[2]: the path has a `*` inside a segment; it can open the end of a \
             path or stand for whole segments",
            "6:26: routes[0].uris[3]: the path has a `?` or `#`; routes match the path, without query",
            "6:34: routes[0].uris[4]: the path has a `?` or `#`; routes match the path, without query",
            "6:42: routes[0].uris[5]: the path has blanks or control characters; percent-encode them",
            "6:50: routes[0].uris[6]: the path never matches; empty segments are taken out of a \
             path before it is matched",
            "6:57: routes[0].uris[7]: the path never matches; `.` and `..` are taken out of a path \
             before it is matched",
            "6:65: routes[0].uris[8]: the path never matches; `.` and `..` are taken out of a path \
             before it is matched",
            "6:72: routes[0].uris[9]: the path never matches; `.` and `..` are taken out of a path \
             before it is matched",
            "6:88: routes[0].uris[11]: is in the list already",
        ],
    );
    let uris = "    uris: [/, /*, /a, /a*, /a/*, /.well-known/*, /.*, /a..b, /a%20b, /ü, '/a:b;c=d', \
                '/:a', '/a/:b-c/*', /*/b, /*rest]\n";
    let config = valid(&with(&format!(
        "routes:\n  - id: r\n{uris}    upstream: {{ nodes: {{ \"127.0.0.1:80\": 1 }} }}\n"
    )));
    assert_eq!(config.routes[0].uris.len(), 15);
}

#[test]
fn hosts_and_methods_of_routes_are_ones_that_can_match() {
    check_route(
        "    uri: /\n    hosts: ['a.com:80', 'a..b', '**.com', 'a.*', '', 'a/b', '[::1', '*', A.com, a.com]\n",
        &[
            "7:13: routes[0].hosts[0]: the host has a port; routes match the name alone",
            "7:25: routes[0].hosts[1]: the host has an empty label",
            "7:33: routes[0].hosts[2]: the host has a `*` that is not its first character; write \
             `*.example.com`",
            "7:43: routes[0].hosts[3]: the host has a `*` that is not its first character; write \
             `*.example.com`",
            "7:50: routes[0].hosts[4]: the host needs 1 to 253 characters",
            "7:54: routes[0].hosts[5]: the host has other characters than letters, digits, `-`, \
             `_` and `.`",
            "7:61: routes[0].hosts[6]: the host has a port; routes match the name alone",
            "7:81: routes[0].hosts[9]: is in the list already",
        ],
    );
    check_route(
        "    uri: /\n    methods: [GET, get, PSOT, CONNECT, GET]\n",
        &[
            "7:20: routes[0].methods[1]: expected `GET`, `POST`, `PUT`, `DELETE`, `PATCH`, \
             `HEAD`, `OPTIONS`, `TRACE` or `PURGE`, found `get`; did you mean `GET`?",
            "7:25: routes[0].methods[2]: expected `GET`, `POST`, `PUT`, `DELETE`, `PATCH`, \
             `HEAD`, `OPTIONS`, `TRACE` or `PURGE`, found `PSOT`; did you mean `POST`?",
            "7:31: routes[0].methods[3]: `CONNECT` is not built yet; use `GET`, `POST`, `PUT`, \
             `DELETE`, `PATCH`, `HEAD`, `OPTIONS`, `TRACE` or `PURGE`",
            "7:40: routes[0].methods[4]: is in the list already",
        ],
    );
    let config = valid(&with(
        "routes:\n  - { id: a, uri: /, host: '*', upstream_id: u }\n  \
         - { id: b, uri: /, hosts: [A.Example.com, '*.b.c', '*B.c', '[0:0:0:0:0:0:0:1]', \
         '[2001:DB8::0:1]', '[::ffff:102:304]'], upstream_id: u }\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n",
    ));
    assert_eq!(config.routes[0].hosts, ["*"]);
    assert_eq!(
        config.routes[1].hosts,
        ["a.example.com", "*.b.c", "*b.c", "[::1]", "[2001:db8::1]", "[::ffff:102:304]"]
    );
    check_route(
        "    uri: /\n    hosts: ['[::1]', '[::0:1]']\n",
        &["7:22: routes[0].hosts[1]: is in the list already"],
    );
}

#[test]
fn clients_and_vars_of_routes_are_conditions() {
    check_route(
        "    uri: /\n    remote_addr: 10.0.0.1/8\n    remote_addrs: [x, '::ffff:1.2.3.4', '::1', '::1']\n",
        &[
            "5:5: routes[0]: `remote_addr` and `remote_addrs` at once; keep one of them",
            "7:18: routes[0].remote_addr: bits are set behind the prefix; write `10.0.0.0/8`",
        ],
    );
    check_route(
        "    uri: /\n    remote_addrs: [x, '::ffff:1.2.3.4', '::1', '::1']\n",
        &[
            "7:20: routes[0].remote_addrs[0]: expected a prefix such as `203.0.113.0/24` or \
             `2001:db8::/32`, found `x`",
            "7:23: routes[0].remote_addrs[1]: an IPv4-mapped address; write it as `1.2.3.4`",
            "7:48: routes[0].remote_addrs[3]: is in the list already",
        ],
    );
    check_route(
        "    uri: /\n    vars: [arg_a, ==, x]\n",
        &["7:11: routes[0].vars: rule should be wrapped inside brackets"],
    );
    check_route(
        "    uri: /\n    vars:\n    - [arg_a, ==, x]\n    - [OR, [uri, /], [arg_a, =, x]]\n",
        &["9:22: routes[0].vars[1][2]: invalid operator '='"],
    );
    check_route(
        "    uri: /\n    vars: [[remote_adr, ==, 10]]\n",
        &["7:12: routes[0].vars[0]: unknown variable `remote_adr`; did you mean `remote_addr`?"],
    );
    check_route(
        "    uri: /\n    vars: [[uri, '~~', '(']]\n",
        &["7:12: routes[0].vars[0]: invalid regular expression: unclosed group"],
    );
    // What could never hold would leave a route dead, and a plugin that guards it aside.
    check_route(
        "    uri: /\n    vars: [[consumer_name, x]]\n    plugins:\n      \
         key-auth: { _meta: { filter: [[status, ==, 200]] } }\n      \
         cors: { _meta: { filter: [[upstream_addr, null]] } }\n      \
         limit-count: { count: 1, time_window: 1, key: upstream_addr }\n      \
         ip-restriction: { whitelist: [\"::1\"], _meta: { filter: [[consumer_name, x]] } }\n      \
         response-rewrite: { headers: { x-a: $balancer_ip, x-b: $request_time, x-c: $msec } }\n",
        &[
            "7:11: routes[0].vars: `consumer_name` is not known before the request is authenticated",
            "9:36: routes[0].plugins.key-auth._meta.filter: `status` is not known before there is a \
             response",
            "10:32: routes[0].plugins.cors._meta.filter: `upstream_addr` is not known before there is \
             a response",
            "11:53: routes[0].plugins.limit-count.key: `upstream_addr` is not known before there is a \
             response",
            "13:62: routes[0].plugins.response-rewrite.headers.x-b: `request_time` is known to logs only",
        ],
    );
    let config = valid(&with(
        "routes: [{ id: r, uri: /, remote_addr: 10.0.0.1, vars: [], upstream_id: u }]\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n",
    ));
    assert_eq!(config.routes[0].remote_addrs, ["10.0.0.1/32".parse().unwrap()]);
    assert!(config.routes[0].vars.is_some());
}

#[test]
fn a_stream_route_hashes_what_a_connection_has() {
    let route = |key: &str| {
        let upstream = format!("{{ type: chash, key: {key}, nodes: {{ \"127.0.0.1:80\": 1 }} }}");
        format!("stream_routes:\n  - id: s\n    upstream: {upstream}\n")
    };
    assert_eq!(valid(&with(&route("remote_addr"))).stream_routes.len(), 1);
    check_addition(
        &route("uri"),
        &["6:15: stream_routes[0].upstream: the upstream hashes what only requests have; a \
           stream_route needs `hash_on: vars` and `remote_addr`, `remote_port` or `server_addr`"],
    );
}

#[test]
fn stream_routes_have_a_listener() {
    check_addition(
        "stream_routes:\n\
         \x20 - { id: a, server_port: 9101, upstream_id: u }\n\
         \x20 - { id: b, server_port: 9080, upstream_id: u }\n\
         \x20 - { id: c, server_addr: 127.0.0.2, upstream_id: u }\n\
         \x20 - { id: d, server_port: 9100, server_addr: 127.0.0.2, upstream_id: u }\n\
         \x20 - { id: e, server_port: 9100, server_addr: 127.0.0.1, remote_addr: 10.0.0.0/8, upstream_id: u }\n\
         \x20 - { id: f, remote_addr: everybody, upstream_id: u }\n\
         \x20 - { id: g, server_port: 0, upstream_id: u }\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n",
        &[
            "5:27: stream_routes[0].server_port: no listener with `protocol: tcp` is bound there",
            "6:27: stream_routes[1].server_port: no listener with `protocol: tcp` is bound there",
            "7:27: stream_routes[2].server_addr: no listener with `protocol: tcp` is bound there",
            "8:27: stream_routes[3].server_port: no listener with `protocol: tcp` is bound there",
            "10:27: stream_routes[5].remote_addr: expected a prefix such as `203.0.113.0/24` or \
             `2001:db8::/32`, found `everybody`",
            "11:27: stream_routes[6].server_port: expected a whole number from 1 to 65535, found `0`",
        ],
    );
    let config =
        valid(&with("stream_routes: [{ id: a, upstream: { nodes: { \"127.0.0.1:80\": 1 } } }]\n"));
    assert_eq!(config.stream_routes[0].datapath, Datapath::Splice, "the default");
    assert_eq!(&*config.stream_routes[0].upstream.id, "stream_route:a");
}

#[test]
fn conditions_of_stream_routes_are_ones_that_can_match() {
    check_errors(
        "listeners:\n\
         \x20 - { name: v4, address: 0.0.0.0:9100, protocol: tcp }\n\
         \x20 - { name: v6, address: '[::]:9101', protocol: tcp }\n\
         stream_routes:\n\
         \x20 - { id: a, server_addr: 0.0.0.0, upstream_id: u }\n\
         \x20 - { id: b, server_port: 9101, server_addr: '::', upstream_id: u }\n\
         \x20 - { id: c, server_addr: '::ffff:127.0.0.1', upstream_id: u }\n\
         \x20 - { id: d, remote_addr: '::ffff:10.0.0.0/104', upstream_id: u }\n\
         \x20 - { id: e, remote_addr: 1.2.3.4/8, upstream_id: u }\n\
         \x20 - { id: f, server_port: 9100, server_addr: '::1', upstream_id: u }\n\
         \x20 - { id: g, server_port: 9101, server_addr: 127.0.0.1, upstream_id: u }\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n",
        &[
            "5:27: stream_routes[0].server_addr: no connection has the address `0.0.0.0`; without \
             the key any fits",
            "6:46: stream_routes[1].server_addr: no connection has the address `::`; without the \
             key any fits",
            "7:27: stream_routes[2].server_addr: an IPv4-mapped address; write it as `127.0.0.1`",
            "8:27: stream_routes[3].remote_addr: an IPv4-mapped address; write it as `10.0.0.0`",
            "9:27: stream_routes[4].remote_addr: bits are set behind the prefix; write `1.0.0.0/8`",
            "10:27: stream_routes[5].server_port: no listener with `protocol: tcp` is bound there",
        ],
    );
}

#[test]
fn a_listener_with_an_error_is_not_missed_by_stream_routes() {
    let yaml = |listeners: &str| {
        format!(
            "listeners: {listeners}\n\
             stream_routes: [{{ id: a, server_port: 9100, upstream_id: u }}]\n\
             upstreams: [{{ id: u, nodes: {{ \"127.0.0.1:80\": 1 }} }}]\n"
        )
    };
    check_errors(
        &yaml("[{ name: l4, address: localhost:9100, protocol: tcp }]"),
        &["1:34: listeners[0].address: expected an address with a port, such as \
           `127.0.0.1:9080` or `[::1]:9080`, found `localhost:9100`"],
    );
    check_errors(&yaml("[]"), &["1:12: listeners: is empty; a proxy needs at least one listener"]);
}

#[test]
fn a_route_that_is_switched_off_is_checked_and_left_out() {
    let yaml = "upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n\
                routes:\n  - { id: a, uri: /, status: 0, upstream_id: u }\n\
                \x20 - { id: b, uri: /, status: 1, upstream_id: u, name: n, desc: d, \
                labels: { team: a }, create_time: 1 }\n";
    let config = valid(&with(yaml));
    assert_eq!(config.routes.len(), 1);
    assert_eq!(&*config.routes[0].id, "b");
    check_addition(
        &yaml.replace("uri: /, status: 0", "uri: x, status: 2"),
        &[
            "6:19: routes[0].uri: the path must start with `/`",
            "6:30: routes[0].status: expected a whole number from 0 to 1, found `2`",
        ],
    );
}
