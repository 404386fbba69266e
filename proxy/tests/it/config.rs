//! Files in, a configuration or the operator's error messages out.

use std::{fs, path::Path, time::Duration};

use proxy::config::{Config, Datapath, KernelMode, LogTarget, Protocol};

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
    assert_eq!(config.routes[1].plugins.len(), 1);
    let ids: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.id).collect();
    assert_eq!(ids, ["app", "stream_route:echo"]);
    assert_eq!(config.upstreams[0].retries, 1);
    assert_eq!(config.stream_routes[0].datapath, Datapath::Sockmap);
    assert_eq!(config.consumers[0].key_auth.as_deref(), Some("alice-secret"));
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

#[test]
fn every_scalar_key_acts() {
    let config = valid(&with(
        "workers: { count: 2, pin: false }\n\
         kernel: { mode: off, guard: { allow: [192.0.2.1], connection_rate: { per_second: 5, burst: 9 } } }\n\
         admin: { address: 127.0.0.1:9180 }\n\
         log: { level: debug, format: json, access: { target: /tmp/a.log, format: json } }\n\
         timeouts: { head: 250ms, body: 1s, idle: 2m, connect: 3s, response: 4s, response_body: 5s, \
           send: 6s, pool_idle: 7s, stream_idle: 1h }\n\
         limits: { connections: 7, head_size_max: 8KiB, head_fields_max: 50, target_size_max: 4KiB, \
           body_size_max: 1GiB, pool_idle_max: 0, stream_buffer_max: 64KiB, pipe_size: 1MiB, \
           send_buffer: 128KiB, unsent_max: 16KiB, sockmap_tunnels: 9 }\n\
         drain: { timeout: 0s }\n",
    ));
    assert_eq!(config.workers.count.map(usize::from), Some(2));
    assert!(!config.workers.is_pinned);
    assert_eq!(config.kernel.mode, KernelMode::Off);
    assert_eq!(config.kernel.guard.allow, ["192.0.2.1/32".parse().unwrap()]);
    assert_eq!(
        config.kernel.guard.connection_rate.map(|rate| (rate.per_second, rate.burst)),
        Some((5, 9))
    );
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    let t = config.timeouts;
    let waits = [
        t.head,
        t.body,
        t.idle,
        t.connect,
        t.response,
        t.response_body,
        t.send,
        t.pool_idle,
        t.stream_idle,
    ];
    assert_eq!(
        waits.map(|wait| wait.as_millis()),
        [250, 1000, 120_000, 3000, 4000, 5000, 6000, 7000, 3_600_000]
    );
    let l = config.limits;
    assert_eq!(l.connections.map(usize::from), Some(7));
    assert_eq!(l.body_size_max, Some(1 << 30));
    assert_eq!(
        [l.head_size_max, l.head_fields_max, l.target_size_max, l.pool_idle_max],
        [8192, 50, 4096, 0]
    );
    assert_eq!(
        [l.stream_buffer_max, l.pipe_size, l.send_buffer, l.unsent_max],
        [65_536, 1 << 20, 131_072, 16_384]
    );
    assert_eq!((l.sockmap_tunnels, config.drain.timeout), (9, Duration::ZERO));
}

#[test]
fn all_errors_of_a_file_come_at_once_in_its_order() {
    check_errors(
        "workers: 0\n\
         lisseners: []\n\
         listeners:\n\
         \x20 - name: web\n\
         \x20   address: localhost:80\n\
         kernel: { mode: on }\n\
         timeouts:\n\
         \x20 head: 5\n\
         routes:\n\
         \x20 - id: a\n\
         \x20   uri: api\n\
         \x20   upstream_id: ap\n\
         \x20 - id: a\n\
         \x20   upstream_id: app\n\
         upstreams:\n\
         \x20 - id: app\n\
         \x20   nodes: { \"127.0.0.1:80\": heavy }\n",
        &[
            "1:10: workers: expected `auto` or a whole number from 1 to 1024, found `0`",
            "2:1: lisseners: unknown key; did you mean `listeners`?",
            "5:14: listeners[0].address: expected an address with a port, such as \
             `127.0.0.1:9080` or `[::1]:9080`, found `localhost:80`",
            "6:17: kernel.mode: expected `off`, `auto` or `require`, found `on`",
            "8:9: timeouts.head: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             1ms to 24h, found `5`",
            "11:10: routes[0].uri: the path must start with `/`",
            "12:18: routes[0].upstream_id: no upstream has the id `ap`; did you mean `app`?",
            "13:5: routes[1]: `uri` or `uris` is missing",
            "13:9: routes[1].id: `a` is the id of line 10 too; ids are unique",
            "17:30: upstreams[0].nodes[\"127.0.0.1:80\"]: expected a whole number from 0 to 65535, \
             found `heavy`",
        ],
    );
}
