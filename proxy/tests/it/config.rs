//! Files in, a configuration or the operator's error messages out.

mod consumers;
mod documents;
mod names;
mod process;
mod routes;
mod upstreams;

use std::{fs, path::Path, time::Duration};

use proxy::config::{Config, Datapath, KernelMode, LogTarget, Protocol, check};

fn messages(yaml: &str) -> String {
    match Config::parse(yaml, "t.yaml") {
        Ok(_) => panic!("is valid:\n{yaml}"),
        Err(errors) => errors.to_string(),
    }
}

/// Every error of a file, exactly, and the last line that counts them.
fn check_errors(yaml: &str, expected: &[&str]) {
    let count = expected.len();
    let noun = if count == 1 { "error" } else { "errors" };
    let mut lines: Vec<String> = expected.iter().map(|line| format!("t.yaml:{line}")).collect();
    lines.push(format!("{count} {noun} in t.yaml"));
    assert_eq!(messages(yaml), lines.join("\n"), "\n{yaml}");
}

fn valid(yaml: &str) -> Config {
    Config::parse(yaml, "t.yaml").unwrap_or_else(|errors| panic!("{errors}\n{yaml}"))
}

/// A valid file to which a test adds what it is about; the addition begins in line 4.
fn with(addition: &str) -> String {
    format!(
        "listeners:\n  - {{ name: web, address: 127.0.0.1:9080 }}\n  - {{ name: l4, address: \
         127.0.0.1:9100, protocol: tcp }}\n{addition}"
    )
}

#[test]
fn every_example_is_valid_and_without_warnings() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.extension().unwrap(), "yaml", "{path:?}");
        let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.warnings.list, [], "{path:?}");
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn quickstart_means_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart.yaml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.workers.count, None);
    assert!(config.workers.is_pinned);
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.listeners[1].protocol, Protocol::Tcp);
    assert_eq!(config.kernel.mode, KernelMode::Auto);
    assert_eq!(config.kernel.xdp.interfaces, ["lo"]);
    assert_eq!(config.kernel.guard.deny.len(), 2);
    assert_eq!(config.log.access.unwrap().target, LogTarget::Stdout);
    let ids: Vec<&str> = config.routes.iter().map(|route| &*route.id).collect();
    assert_eq!(ids, ["hello", "api"]);
    assert_eq!(config.routes[1].plugins.plugins.len(), 1);
    let ids: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.id).collect();
    assert_eq!(ids, ["app", "stream_route:echo"]);
    assert_eq!(config.upstreams[0].retries, 1);
    assert_eq!(config.stream_routes[0].datapath, Datapath::Sockmap);
    let [credential] = &*config.consumers[0].credentials else { panic!("one credential") };
    assert_eq!((credential.kind, &*credential.id), ("key-auth", &b"alice-secret"[..]));
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = valid("listeners: [{ name: web, address: '[::1]:0' }]\n");
    let timeouts = config.timeouts;
    assert_eq!(timeouts.head, Duration::from_secs(10));
    assert_eq!(timeouts.stream_idle, Duration::from_secs(600));
    assert_eq!(config.limits.head_size_max, 16 * 1024);
    assert_eq!(config.limits.body_size_max, None);
    assert_eq!(config.drain.timeout, Duration::from_secs(30));
    assert!(config.admin.address.is_none() && config.log.access.is_none());
    assert!(config.kernel.guard.deny.is_empty() && config.kernel.xdp.interfaces.is_empty());
    assert_eq!(config.listeners[0].protocol, Protocol::Http);
}

/// What is reported about one addition to a valid file.
fn check_addition(addition: &str, expected: &[&str]) {
    check_errors(&with(addition), expected);
}

#[test]
fn what_is_planned_is_refused_by_name() {
    check_addition(
        "ssl: []\nsecrets: []\nprotos: []\ntls: {}\n\
         routes:\n\
         \x20 - id: r\n\
         \x20   uri: /\n\
         \x20   service_id: s\n\
         \x20   filter_func: function() return true end\n\
         \x20   plugin_config_id: p\n\
         \x20   timeout: { connect: 1 }\n\
         \x20   enable_websocket: true\n\
         \x20   plugins: { openid-connect: {}, key-auth: { _meta: { pre_function: f } }, key_auth: {}, my-plugin: {} }\n\
         \x20   upstream:\n\
         \x20     type: random\n\
         \x20     scheme: https\n\
         \x20     pass_host: origin\n\
         \x20     checks: {}\n\
         \x20     nodes: [{ host: 127.0.0.1, port: 80, weight: 1, metadata: {} }]\n\
         stream_routes:\n\
         \x20 - { id: s, sni: a.com, datapath: xdp, upstream_id: u }\n\
         upstreams:\n\
         \x20 - { id: u, nodes: { \"127.0.0.1:80\": 1 } }\n",
        &[
            "4:1: ssl: not built yet; remove it",
            "5:1: secrets: not built yet; remove it",
            "6:1: protos: not built yet; remove it",
            "7:1: tls: not built yet; remove it",
            "11:17: routes[0].service_id: no service has the id `s`",
            "12:5: routes[0].filter_func: runs Lua, which Tandem does not; remove it",
            "13:23: routes[0].plugin_config_id: no plugin config has the id `p`",
            "14:14: routes[0].timeout: `read` is missing",
            "14:14: routes[0].timeout: `send` is missing",
            "15:5: routes[0].enable_websocket: not built yet; remove it",
            "16:16: routes[0].plugins.openid-connect: not built yet; remove it",
            "16:57: routes[0].plugins.key-auth._meta.pre_function: runs Lua, which Tandem does not; \
             remove it",
            "16:78: routes[0].plugins.key_auth: unknown plugin [key_auth]; did you mean `key-auth`?",
            "16:92: routes[0].plugins.my-plugin: unknown plugin [my-plugin]",
            "18:13: routes[0].upstream.type: expected `roundrobin`, `chash`, `least_conn`, `ewma` or \
             `maglev`, found `random`",
            "19:15: routes[0].upstream.scheme: `https` is not built yet; use `http` or `tcp`",
            "20:18: routes[0].upstream.pass_host: expected `pass`, `node` or `rewrite`, found \
             `origin`",
            "21:15: routes[0].upstream.checks: `active` is missing",
            "22:55: routes[0].upstream.nodes[0].metadata: not built yet; remove it",
            "24:14: stream_routes[0].sni: not built yet; remove it",
            "24:36: stream_routes[0].datapath: `xdp` is not built yet; use `user`, `splice` or \
             `sockmap`",
        ],
    );
}

#[test]
fn references_lead_somewhere() {
    check_addition(
        "upstreams:\n\
         \x20 - { id: app, nodes: { \"127.0.0.1:80\": 1 } }\n\
         \x20 - { id: app, nodes: { \"127.0.0.1:81\": 1 } }\n\
         \x20 - { id: broken, nodes: 5 }\n\
         routes:\n\
         \x20 - { id: a, uri: /, upstream_id: ap }\n\
         \x20 - { id: b, uri: / }\n\
         \x20 - { id: c, uri: /, upstream_id: app, upstream: { nodes: { \"127.0.0.1:80\": 1 } } }\n\
         \x20 - { id: d, uri: /, upstream_id: broken }\n\
         \x20 - { id: e, uri: /, upstream_id: app, plugins: { key-auth: { anonymous_consumer: bob } } }\n\
         consumers: [{ username: alice }]\n",
        &[
            "6:11: upstreams[1].id: `app` is the id of line 5 too; ids are unique",
            "7:26: upstreams[2].nodes: expected a list, found `5`",
            "9:35: routes[0].upstream_id: no upstream has the id `ap`; did you mean `app`?",
            "10:5: routes[1]: `upstream`, `upstream_id`, `service_id` or `plugins` is \
             missing",
            "11:5: routes[2]: `upstream_id` and `upstream` at once; keep one of them",
            "13:83: routes[4].plugins.key-auth.anonymous_consumer: no consumer is named `bob`",
        ],
    );
}

#[test]
fn what_describes_a_resource_has_apisixs_bounds() {
    let long = "x".repeat(257);
    let most = "x".repeat(256);
    let route = |keys: &str| {
        let yaml = "upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n\
                    routes: [{ id: r, uri: /, upstream_id: u, KEYS }]\n";
        yaml.replace("KEYS", keys)
    };
    valid(&with(&route(&format!("name: {most}, desc: {most}, labels: {{ a: {most} }}"))));
    valid(&with(&route("desc: ''")));
    let (name, label) = ("needs 1 to 256 characters", "needs 1 to 256 characters without blanks");
    for (keys, place, problem) in [
        (format!("name: {long}"), "name", name),
        ("name: ''".to_owned(), "name", name),
        (format!("desc: {long}"), "desc", "has more than 256 characters"),
        (format!("labels: {{ a: {long} }}"), "labels.a", label),
        ("labels: { a: '' }".to_owned(), "labels.a", label),
        ("labels: { a: 'b c' }".to_owned(), "labels.a", label),
    ] {
        let text = messages(&with(&route(&keys)));
        let expected = format!(": routes[0].{place}: {problem}\n");
        assert!(text.contains(&expected), "{keys}: {text}");
    }
    for (addition, place, key) in [
        ("global_rules: [{ id: 1, plugins: {}, KEY: x }]\n", "global_rules[0]", "name"),
        ("global_rules: [{ id: 1, plugins: {}, KEY: x }]\n", "global_rules[0]", "desc"),
        ("global_rules: [{ id: 1, plugins: {}, KEY: { a: b } }]\n", "global_rules[0]", "labels"),
        ("consumers: [{ username: a, KEY: x }]\n", "consumers[0]", "name"),
    ] {
        let text = messages(&with(&addition.replace("KEY", key)));
        assert!(text.contains(&format!(": {place}.{key}: unknown key")), "{text}");
    }
    valid(&with("global_rules: [{ id: 1, plugins: {}, create_time: 1, update_time: 2 }]\n"));
    valid(&with(
        "consumers: [{ username: a, id: a, desc: x, labels: { b: c }, create_time: 1 }]\n",
    ));
    check_addition(
        "consumers: [{ username: a, id: b }]\n",
        &[
            "4:32: consumers[0].id: is not the `username`, which is what names a consumer; remove it",
        ],
    );
}

#[test]
fn what_is_valid_and_hardly_meant_is_a_warning() {
    let warnings = |addition: &str| -> Vec<String> {
        let findings = valid(addition).warnings;
        findings
            .list
            .iter()
            .map(|finding| format!("{}: {}", finding.path, finding.message))
            .collect()
    };
    assert_eq!(
        warnings(&with(
            "admin: { address: 0.0.0.0:9180 }\nupstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n"
        )),
        [
            ": no route: every request is answered 404",
            ": no stream route: every connection of a `tcp` listener is closed",
            "admin.address: reachable from other machines, and asks for no key",
            "upstreams[0]: no route refers to upstream `u`",
        ]
    );
    let of_kernel = |mode: &str| {
        warnings(&format!(
            "listeners: [{{ name: l4, address: 127.0.0.1:9100, protocol: tcp }}]\n\
             kernel: {{ mode: {mode}, xdp: {{ interfaces: [lo] }} }}\n\
             stream_routes:\n\
             \x20 - {{ id: a, datapath: sockmap, upstream: {{ nodes: {{ \"127.0.0.1:80\": 1 }} }} }}\n"
        ))
    };
    assert_eq!(
        of_kernel("off"),
        [
            "kernel.xdp.interfaces: no XDP program is attached under `kernel.mode: off`",
            "stream_routes[0].datapath: `sockmap` becomes `splice` under `kernel.mode: off`",
        ]
    );
    assert_eq!(of_kernel("auto"), [""; 0]);
}

#[test]
fn check_reports_errors_or_warnings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.yaml");
    let name = path.display();
    fs::write(&path, "listeners: [{ name: web, address: 127.0.0.1:80 }]\n").unwrap();
    let report = check(&path);
    assert!(report.is_valid());
    assert_eq!(
        report.to_string(),
        format!("{name}:1:1: warning: no route: every request is answered 404\n{name}: valid")
    );
    fs::write(&path, "listeners: 5\n").unwrap();
    let report = check(&path);
    assert!(!report.is_valid());
    assert_eq!(
        report.to_string(),
        format!("{name}:1:12: listeners: expected a list, found `5`\n1 error in {name}")
    );
}
