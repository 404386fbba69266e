//! Files in, a configuration or the operator's error messages out.

use std::{fs, path::Path, time::Duration};

use proxy::{
    config::{
        CheckKind, Config, Datapath, Family, Judgement, KernelMode, LogTarget, Protocol, SameHost,
        Upstream, check,
    },
    dns::Records,
};

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
           body_size_max: 1GiB, pool_idle_max: 0, stream_buffer_max: 64KiB, pipe_size: 1MiB, splice_min: 5KiB, \
           send_buffer: 128KiB, receive_buffer: auto, unsent_max: 16KiB, sockmap_tunnels: 9, \
           encoder_memory: 3MiB, filter_memory: 5MiB }\n\
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
        [l.splice_min as usize, l.stream_buffer_max, l.pipe_size, l.send_buffer, l.unsent_max],
        [5120, 65_536, 1 << 20, 131_072, 16_384]
    );
    assert_eq!((l.receive_buffer, l.encoder_memory, l.filter_memory), (None, 3 << 20, 5 << 20));
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

/// What is reported about one addition to a valid file.
fn check_addition(addition: &str, expected: &[&str]) {
    check_errors(&with(addition), expected);
}

#[test]
fn only_http_has_an_express_lane() {
    let listeners =
        |keys: &str| format!("listeners: [{{ name: a, address: \"127.0.0.1:1\", {keys} }}]\n");
    let check = |keys: &str, expected: &str| {
        let yaml = listeners(keys);
        assert!(messages(&yaml).contains(expected), "{}", messages(&yaml));
    };
    check(
        "protocol: tcp, express_lane: true",
        "listeners[0].express_lane: only a listener with `protocol: http` has lanes",
    );
    check("express_lane: maybe", "listeners[0].express_lane: expected `true` or `false`");
}

#[test]
fn files_that_are_not_one_yaml_document_are_refused() {
    check_errors("a: [1, 2\nb: c\n", &["2:2: not YAML: illegal placement of ':' indicator"]);
    check_errors("a: b: c\n", &["1:5: not YAML: mapping values are not allowed in this context"]);
    check_errors("a: *x\n", &["1:4: not YAML: while parsing node, found unknown anchor"]);
    check_errors(
        "a: 1\n---\nb: 2\n",
        &["2:1: a second document begins; a configuration is one document"],
    );
    check_errors("- a\n", &["1:1: expected a mapping, found a list"]);
    check_errors("text\n", &["1:1: expected a mapping, found `text`"]);
    check_errors("a: \0b\n", &["1:4: the character U+0000 is not allowed in YAML"]);
    check_errors("a: x\u{1b}[31m\n", &["1:5: the character U+001B is not allowed in YAML"]);
    for empty in ["", "\n\n", "# nothing\n"] {
        check_errors(empty, &["1:1: the file is empty; it needs at least `listeners`"]);
    }
    check_errors("--- ~\n", &["1:5: expected a mapping, found nothing"]);
}

#[test]
fn yaml_that_readers_may_take_differently_is_refused() {
    check_addition(
        "limits: !!map { pool_idle_max: !!int 5 }\n",
        &[
            "4:9: limits: tags such as `!x` mean nothing here; remove it, quotes make a string",
            "4:32: limits.pool_idle_max: tags such as `!x` mean nothing here; remove it, quotes \
             make a string",
        ],
    );
    check_addition(
        "timeouts:\n  <<: { head: 5s }\n",
        &["5:3: timeouts: merge keys (`<<`) are not part of YAML 1.2; write the keys out or use \
           an alias for a whole value"],
    );
    check_addition("? [a]\n: b\n", &["4:3: a key is a plain word, not a list or a mapping"]);
    check_addition(
        "timeouts: { head: 5s, body: 1s, head: 6s }\n",
        &["4:33: timeouts.head: repeats the key of line 4; remove one"],
    );
    check_addition(
        "workers: 1\nworkers: 2\n",
        &["5:1: workers: repeats the key of line 4; remove one"],
    );
}

#[test]
fn aliases_stand_for_what_they_repeat() {
    let config = valid(&with(
        "upstreams:\n  - { id: a, nodes: &nodes { \"127.0.0.1:80\": 1 } }\n  - { id: b, nodes: *nodes }\n",
    ));
    assert_eq!(config.upstreams[0].nodes, config.upstreams[1].nodes);
    check_addition(
        "upstreams:\n  - { id: a, nodes: &nodes { a/b: 1 } }\n  - { id: b, nodes: *nodes }\n",
        &[
            "5:30: upstreams[0].nodes[\"a/b\"]: `a/b` is neither an address nor a host name",
            "5:30: upstreams[1].nodes[\"a/b\"]: `a/b` is neither an address nor a host name",
        ],
    );
}

#[test]
fn listeners_have_their_own_names_and_addresses() {
    check_errors("workers: auto\n", &["1:1: `listeners` is missing"]);
    check_errors(
        "listeners: []\n",
        &["1:12: listeners: is empty; a proxy needs at least one listener"],
    );
    check_errors(
        "listeners: { name: web }\n",
        &["1:12: listeners: expected a list, found a mapping"],
    );
    check_errors("listeners:\n", &["1:10: listeners: expected a list, found nothing"]);
    check_errors("listeners: [web]\n", &["1:13: listeners[0]: expected a mapping, found `web`"]);
    check_errors(
        "listeners:\n\
         \x20 - { name: web, address: 0.0.0.0:80 }\n\
         \x20 - { name: web, address: 0.0.0.0:80 }\n\
         \x20 - { name: low, address: 127.0.0.1:80 }\n\
         \x20 - { name: any, address: '[::]:80' }\n\
         \x20 - { name: a, address: 127.0.0.1:0 }\n\
         \x20 - { name: b, address: 127.0.0.1:0 }\n\
         \x20 - { name: a b, address: '[::ffff:127.0.0.1]:81', protocol: udp }\n\
         \x20 - { name: c, address: 127.0.0.1, protocol: htp, tls: {} }\n\
         \x20 - { name: '-', address: 127.0.0.1:9 }\n",
        &[
            "3:13: listeners[1].name: the listener of line 2 has this name; names are unique",
            "3:27: listeners[1].address: listener `web` has this address",
            "4:27: listeners[2].address: overlaps listener `web` on 0.0.0.0:80; bind one of them",
            "5:27: listeners[3].address: overlaps listener `web` on 0.0.0.0:80; bind one of them",
            "8:13: listeners[6].name: expected an id of 1 to 64 letters, digits, `-`, `_` or `.`, \
             not `-` alone, found `a b`",
            "8:62: listeners[6].protocol: `udp` is not built yet; use `http` or `tcp`",
            "9:25: listeners[7].address: expected an address with a port, such as \
             `127.0.0.1:9080` or `[::1]:9080`, found `127.0.0.1`",
            "9:46: listeners[7].protocol: expected `http` or `tcp`, found `htp`; did you mean \
             `http`?",
            "9:51: listeners[7].tls: not built yet; remove it",
            "10:13: listeners[8].name: expected an id of 1 to 64 letters, digits, `-`, `_` or `.`, \
             not `-` alone, found the string `-`",
        ],
    );
}

#[test]
fn no_end_of_a_connection_is_a_group_of_hosts() {
    check_errors(
        "listeners:\n\
         \x20 - { name: a, address: 224.0.0.1:80 }\n\
         \x20 - { name: b, address: 255.255.255.255:80 }\n\
         \x20 - { name: c, address: '[ff02::1]:80' }\n\
         \x20 - { name: l4, address: 0.0.0.0:9100, protocol: tcp }\n\
         admin: { address: 224.0.0.1:9180 }\n\
         upstreams: [{ id: u, nodes: { 239.1.2.3:80: 1, 255.255.255.255:80: 1 } }]\n\
         stream_routes: [{ id: s, server_addr: 224.0.0.1, upstream_id: u }]\n",
        &[
            "2:25: listeners[0].address: `224.0.0.1` is a multicast or broadcast address; write \
             the address of one host",
            "3:25: listeners[1].address: `255.255.255.255` is a multicast or broadcast address; \
             write the address of one host",
            "4:25: listeners[2].address: `ff02::1` is a multicast or broadcast address; write the \
             address of one host",
            "6:19: admin.address: `224.0.0.1` is a multicast or broadcast address; write the \
             address of one host",
            "7:31: upstreams[0].nodes[\"239.1.2.3:80\"]: `239.1.2.3` is a multicast or broadcast \
             address; write the address of one host",
            "7:48: upstreams[0].nodes[\"255.255.255.255:80\"]: `255.255.255.255` is a multicast \
             or broadcast address; write the address of one host",
            "8:39: stream_routes[0].server_addr: `224.0.0.1` is a multicast or broadcast address; \
             write the address of one host",
        ],
    );
}

#[test]
fn the_kernel_section_is_checked() {
    check_addition(
        "kernel:\n\
         \x20 mode: requires\n\
         \x20 xdp: { interfaces: [eth0, eth0, eth/0, an-interface-with-a-long-name], mode: offload }\n\
         \x20 same_host: { enabled: yes, cgroup: pods, uid: -1, window: 1KiB, egress_max: 2MiB }\n\
         \x20 guard:\n\
         \x20   allow: [10.0.0.0/8, 10.0.0.0/8, 10.0.0.1/8, '::ffff:10.0.0.0/104', any]\n\
         \x20   connection_rate: { per_second: 0 }\n",
        &[
            "5:9: kernel.mode: expected `off`, `auto` or `require`, found `requires`; did you mean \
             `require`?",
            "6:29: kernel.xdp.interfaces[1]: `eth0` is in the list already",
            "6:35: kernel.xdp.interfaces[2]: not the name of an interface; at most 15 bytes, no \
             `/`, `:` or blank",
            "6:42: kernel.xdp.interfaces[3]: not the name of an interface; at most 15 bytes, no \
             `/`, `:` or blank",
            "6:80: kernel.xdp.mode: `offload` is not built yet; use `auto`, `native` or `generic`",
            "7:25: kernel.same_host.enabled: expected `true` or `false`, found `yes`",
            "7:38: kernel.same_host.cgroup: expected a cgroup as `/proc/PID/cgroup` has it, such \
             as `/` or `/pods`",
            "7:49: kernel.same_host.uid: expected a whole number from 0 to 4294967294, found `-1`",
            "7:61: kernel.same_host.window: expected a size with its unit (`512B`, `16KiB`, `1MiB`) \
             from 64KiB to 16MiB, found `1KiB`",
            "7:79: kernel.same_host.egress_max: expected a size with its unit (`512B`, `16KiB`, \
             `1MiB`) from 0B to 1MiB, found `2MiB`",
            "9:25: kernel.guard.allow[1]: `10.0.0.0/8` is in line 9 already",
            "9:37: kernel.guard.allow[2]: bits are set behind the prefix; write `10.0.0.0/8`",
            "9:49: kernel.guard.allow[3]: an IPv4-mapped address; write it as `10.0.0.0`",
            "9:72: kernel.guard.allow[4]: expected a prefix such as `203.0.113.0/24` or \
             `2001:db8::/32`, found `any`",
            "10:22: kernel.guard.connection_rate: `burst` is missing",
            "10:36: kernel.guard.connection_rate.per_second: expected a whole number from 1 to \
             1000000, found `0`",
        ],
    );
    check_addition(
        "workers: 65\nkernel: { mode: require }\n",
        &["1:1: `workers: 65` with `kernel.mode: require`; the kernel half steers 64"],
    );
}

#[test]
fn delivery_on_this_host_is_asked_for_by_name() {
    let config = valid(&with(
        "kernel: { same_host: { enabled: true, cgroup: /pods, uid: 1000, cross_namespace: true } }\n",
    ));
    let expected = SameHost {
        cgroup: "/pods".into(),
        uid: Some(1000),
        is_cross_namespace: true,
        is_bypassed: true,
        window: 1 << 20,
        egress_max: 64 << 10,
    };
    assert_eq!(config.kernel.same_host, Some(expected));
    assert!(config.listeners[0].is_same_host && !config.listeners[1].is_same_host);
    let config = valid(&with("kernel: { same_host: { enabled: false, cgroup: / } }\n"));
    assert_eq!(config.kernel.same_host, None);
    check_addition(
        "kernel: { same_host: { enabled: true } }\n",
        &["4:22: kernel.same_host: `cgroup` is missing"],
    );
    check_errors(
        "listeners: [{ name: l4, address: 127.0.0.1:0, protocol: tcp, same_host: true }]\n\
         stream_routes: [{ id: a, upstream: { nodes: { \"127.0.0.1:80\": 1 } } }]\n",
        &["1:73: listeners[0].same_host: only a listener with `protocol: http` delivers directly"],
    );
}

#[test]
fn a_guard_list_over_the_capacity_of_the_kernel_is_refused() {
    let most = proxy_common::limits::PREFIXES_MAX;
    let list = |count: u32| {
        let address = |n: u32| std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        let prefixes: Vec<String> = (0..count).map(address).collect();
        with(&format!("kernel: {{ guard: {{ deny: [{}] }} }}\n", prefixes.join(", ")))
    };
    assert_eq!(valid(&list(most)).kernel.guard.deny.len(), most as usize);
    check_errors(
        &list(most + 1),
        &["4:18: kernel.guard: 65537 prefixes; the kernel's tables hold 65536, merge neighbours \
           into shorter prefixes"],
    );
}

#[test]
fn admin_and_log_are_checked() {
    check_addition("admin: {}\n", &["4:8: admin: `address` is missing"]);
    check_addition(
        "admin: { address: 127.0.0.1:9080, key: secret }\n",
        &[
            "4:19: admin.address: overlaps listener `web` on 127.0.0.1:9080",
            "4:35: admin.key: not built yet; remove it",
        ],
    );
    check_addition(
        "log: { level: verbose, format: xml, access: { format: text } }\n",
        &[
            "4:15: log.level: expected `error`, `warn`, `info`, `debug` or `trace`, found `verbose`",
            "4:32: log.format: expected `text` or `json`, found `xml`",
            "4:45: log.access: `target` is missing",
        ],
    );
    check_addition(
        "log: { access: { target: logs/access.log } }\n",
        &["4:26: log.access.target: expected `stdout`, `stderr` or a file as an absolute path"],
    );
    check_addition(
        "log: { access: { target: \"/tmp/a\\0b\" } }\n",
        &["4:26: log.access.target: contains U+0000, which no path has; remove it"],
    );
}

#[test]
fn times_and_sizes_have_units_and_ranges() {
    check_addition(
        "timeouts: { head: 0s, body: 25h, idle: 5 s, connect: 5, response: -1s, send: 1.5s }\n\
         drain: { timeout: 99999999999999999999s }\n",
        &[
            "4:19: timeouts.head: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             1ms to 24h, found `0s`",
            "4:29: timeouts.body: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             1ms to 24h, found `25h`",
            "4:40: timeouts.idle: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             1ms to 24h, found `5 s`",
            "4:54: timeouts.connect: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) \
             from 1ms to 24h, found `5`",
            "4:67: timeouts.response: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) \
             from 1ms to 24h, found `-1s`",
            "4:78: timeouts.send: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             1ms to 24h, found `1.5s`",
            "5:19: drain.timeout: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             0s to 24h, found `99999999999999999999s`",
        ],
    );
    check_addition(
        "limits: { head_size_max: 16KB, target_size_max: 1B, body_size_max: lots, pipe_size: 4096, \
         connections: 0, head_fields_max: '7', sockmap_tunnels: 1e9 }\n",
        &[
            "4:26: limits.head_size_max: expected a size with its unit (`512B`, `16KiB`, `1MiB`) \
             from 1KiB to 1MiB, found `16KB`",
            "4:49: limits.target_size_max: expected a size with its unit (`512B`, `16KiB`, \
             `1MiB`) from 64B to 1MiB, found `1B`",
            "4:68: limits.body_size_max: expected `none` or a size with its unit (`512B`, \
             `16KiB`, `1MiB`) from 0B to 1024GiB, found `lots`",
            "4:85: limits.pipe_size: expected a size with its unit (`512B`, `16KiB`, `1MiB`) from \
             64KiB to 64MiB, found `4096`",
            "4:104: limits.connections: expected `auto` or a whole number from 1 to 16777216, \
             found `0`",
            "4:124: limits.head_fields_max: expected a whole number from 1 to 1024, found the \
             string `7`; remove the quotes",
            "4:146: limits.sockmap_tunnels: expected a whole number from 1 to 65536, found `1e9`",
        ],
    );
    check_addition(
        "limits: { head_size_max: 4KiB }\n",
        &["4:9: limits: `target_size_max` is above `head_size_max`, of which a target is a part"],
    );
}

/// A route of line 5 with these keys, from line 6 on, and an upstream of its own.
fn check_route(keys: &str, expected: &[&str]) {
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
    let config = valid(&with(
        "routes: [{ id: r, uri: /, remote_addr: 10.0.0.1, vars: [], upstream_id: u }]\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 } }]\n",
    ));
    assert_eq!(config.routes[0].remote_addrs, ["10.0.0.1/32".parse().unwrap()]);
    assert!(config.routes[0].vars.is_some());
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

/// An upstream `u` of line 5 with these keys, referred to by the route of line 7 or later.
fn check_upstream(keys: &str, expected: &[&str]) {
    check_addition(
        &format!("upstreams:\n  - id: u\n{keys}routes: [{{ id: r, uri: /, upstream_id: u }}]\n"),
        expected,
    );
}

#[test]
fn nodes_are_addresses_that_occur_once() {
    check_upstream("", &["5:5: upstreams[0]: `nodes` is missing"]);
    check_upstream(
        "    nodes: {}\n",
        &["6:12: upstreams[0].nodes: is empty; an upstream needs at least one node"],
    );
    check_upstream("    nodes: 5\n", &["6:12: upstreams[0].nodes: expected a list, found `5`"]);
    check_upstream(
        "    nodes:\n\
         \x20     127.0.0.1:80: 1\n\
         \x20     \"127.0.0.1:80\": 1\n\
         \x20     127.0.0.256:80: 1\n\
         \x20     127.0.0.1:x: 1\n\
         \x20     ::1: 1\n\
         \x20     127.0.0.1:0: 1\n\
         \x20     0.0.0.0:80: 1\n\
         \x20     '[::ffff:127.0.0.1]:80': 1\n\
         \x20     127.0.0.2:80: 65536\n\
         \x20     127.0.0.3:80: -1\n",
        &[
            "8:7: upstreams[0].nodes[\"127.0.0.1:80\"]: repeats the key of line 7; remove one",
            "9:7: upstreams[0].nodes[\"127.0.0.256:80\"]: `127.0.0.256` is neither an address nor a \
             host name",
            "10:7: upstreams[0].nodes[\"127.0.0.1:x\"]: invalid port `x`",
            "11:7: upstreams[0].nodes[\"::1\"]: an IPv6 address stands in brackets; write `[::1]`",
            "12:7: upstreams[0].nodes[\"127.0.0.1:0\"]: port 0 cannot be dialled",
            "13:7: upstreams[0].nodes[\"0.0.0.0:80\"]: `0.0.0.0` is no address of a node",
            "14:7: upstreams[0].nodes[\"[::ffff:127.0.0.1]:80\"]: an IPv4-mapped address; write \
             it as `127.0.0.1`",
            "15:21: upstreams[0].nodes[\"127.0.0.2:80\"]: expected a whole number from 0 to \
             65535, found `65536`",
            "16:21: upstreams[0].nodes[\"127.0.0.3:80\"]: expected a whole number from 0 to \
             65535, found `-1`",
        ],
    );
    check_upstream(
        "    nodes:\n\
         \x20     - { host: 127.0.0.1, port: 80, weight: 1 }\n\
         \x20     - { host: 127.0.0.1, port: 80, weight: 2 }\n\
         \x20     - { host: '::1', port: 80, weight: 1 }\n\
         \x20     - { host: app, port: 0 }\n",
        &[
            "8:9: upstreams[0].nodes[1]: node 127.0.0.1:80 is in line 7 already",
            "9:9: upstreams[0].nodes[2]: an IPv6 address stands in brackets; write `[::1]`",
            "10:9: upstreams[0].nodes[3]: `weight` is missing",
            "10:28: upstreams[0].nodes[3].port: expected a whole number from 1 to 65535, found `0`",
        ],
    );
}

#[test]
fn what_is_hashed_is_named_and_of_its_kind() {
    let nodes = "    nodes: { \"127.0.0.1:80\": 1 }\n";
    let check = |keys: &str, expected: &[&str]| check_upstream(&format!("{nodes}{keys}"), expected);
    let missing = ["5:5: upstreams[0]: missing key; `key` says what to hash"];
    check("    type: chash\n", &missing);
    check("    type: maglev\n    hash_on: cookie\n", &missing);
    check(
        "    type: chash\n    hash_on: consumers\n    key: a\n",
        &["8:14: upstreams[0].hash_on: expected `vars`, `header`, `cookie`, `consumer` or \
           `vars_combinations`, found `consumers`; did you mean `consumer`?"],
    );
    for (on, key, expected) in [
        ("header", "'a b'", "failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"a b\""),
        ("cookie", "''", "failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"\""),
        (
            "vars_combinations",
            "$uri$nothing",
            "unknown variable `nothing`; write `\\$` for a `$` that means itself",
        ),
        ("vars_combinations", "plain", "names no variable; write `$uri`"),
    ] {
        let keys = format!("    type: chash\n    hash_on: {on}\n    key: {key}\n");
        check(&keys, &[&format!("9:10: upstreams[0].key: {expected}")]);
    }
    for key in ["http_x", "arg_", "arg_a b", "body"] {
        check(
            &format!("    type: chash\n    key: {key}\n"),
            &[&format!(
                "8:10: upstreams[0].key: failed to match pattern \"^((uri|server_addr|request_uri|\
                 remote_port|remote_addr|query_string|host)|arg_[0-9a-zA-Z_-]+)$\" with \"{key}\""
            )],
        );
    }
}

#[test]
fn hosts_waits_and_pools_of_upstreams_are_ones_that_there_can_be() {
    let nodes = "    nodes: { \"127.0.0.1:80\": 1 }\n";
    let check = |keys: &str, expected: &[&str]| check_upstream(&format!("{nodes}{keys}"), expected);
    let empty = "`upstream_host` can't be empty when `pass_host` is `rewrite`";
    check("    pass_host: rewrite\n", &[&format!("5:5: upstreams[0]: {empty}")]);
    for (host, expected) in [("''", empty), ("a b", "is no host, with or without a port")] {
        check(
            &format!("    pass_host: rewrite\n    upstream_host: {host}\n"),
            &[&format!("8:20: upstreams[0].upstream_host: {expected}")],
        );
    }
    check(
        "    timeout: { connect: 0, send: 5s, read: 86401, idle: 1 }\n",
        &[
            "7:25: upstreams[0].timeout.connect: expected a number from 0.001 to 86400, found `0`",
            "7:34: upstreams[0].timeout.send: expected a number from 0.001 to 86400, found `5s`",
            "7:44: upstreams[0].timeout.read: expected a number from 0.001 to 86400, found `86401`",
            "7:51: upstreams[0].timeout.idle: unknown key; known here: `connect`, `send` or `read`",
        ],
    );
    check(
        "    retry_timeout: -1\n    keepalive_pool: { size: 0, idle_timeout: .nan, requests: 0 }\n",
        &[
            "7:20: upstreams[0].retry_timeout: expected a number from 0 to 86400, found `-1`",
            "8:29: upstreams[0].keepalive_pool.size: expected a whole number from 1 to 65536, found \
             `0`",
            "8:46: upstreams[0].keepalive_pool.idle_timeout: expected a number from 0 to 86400, \
             found `.nan`",
            "8:62: upstreams[0].keepalive_pool.requests: expected a whole number from 1 to \
             4294967295, found `0`",
        ],
    );
    check(
        "    retry_on: [resets, 399]\n    retry_budget: { percent: 101, min: 1 }\n",
        &[
            "7:16: upstreams[0].retry_on[0]: expected `connect-failure`, `reset`, `timeout`, \
             `gateway-error` or `5xx`, found `resets`; did you mean `reset`?",
            "7:24: upstreams[0].retry_on[1]: expected a whole number from 400 to 599, found `399`",
            "8:30: upstreams[0].retry_budget.percent: expected a whole number from 0 to 100, found \
             `101`",
            "8:35: upstreams[0].retry_budget.min: unknown key; known here: `percent` or \
             `min_per_second`",
        ],
    );
    check(
        "    sticky: { cookie: a=b, path: app, max_age: 0, same_site: none }\n    type: chash\n    \
         key: uri\n    slow_start: { window: 0 }\n",
        &[
            "7:13: upstreams[0].sticky: browsers ignore cookies with `same_site: none` and without \
             `secure: true`",
            "7:23: upstreams[0].sticky.cookie: expected the name of a cookie",
            "7:34: upstreams[0].sticky.path: expected a path as in `/app`",
            "7:48: upstreams[0].sticky.max_age: expected a whole number from 1 to 34560000, found \
             `0`",
            "10:17: upstreams[0].slow_start: `chash` and `maglev` give each key its node from the \
             start; remove it",
            "10:27: upstreams[0].slow_start.window: expected a number from 0.001 to 86400, found \
             `0`",
        ],
    );
}

#[test]
fn checks_are_ones_that_can_be_made() {
    let nodes = "    nodes: { \"127.0.0.1:80\": 1 }\n";
    let check = |keys: &str, expected: &[&str]| check_upstream(&format!("{nodes}{keys}"), expected);
    check(
        "    checks: { passive: {}, shift: 1 }\n",
        &[
            "7:13: upstreams[0].checks: `active` is missing",
            "7:28: upstreams[0].checks.shift: unknown key; known here: `active` or `passive`",
        ],
    );
    check(
        "    checks:\n\
         \x20     active:\n\
         \x20       type: udp\n\
         \x20       timeout: 0\n\
         \x20       concurrency: 0\n\
         \x20       host: a b\n\
         \x20       port: 0\n\
         \x20       http_method: CONNECT\n\
         \x20       http_path: probe\n\
         \x20       req_headers: [x, 'host: a', 'a b: c', \"x: a\\r\\nb\", 'x: y', 'x: y']\n\
         \x20       healthy: { interval: 0.001, http_statuses: [], successes: 0 }\n\
         \x20       unhealthy: { http_statuses: [199, 200, 200], tcp_failures: 255, failures: 1 }\n\
         \x20     passive:\n\
         \x20       healthy: { interval: 1, successes: 0 }\n\
         \x20       unhealthy: { http_failures: 0, tcp_failures: 0, timeouts: 255 }\n",
        &[
            "9:15: upstreams[0].checks.active.type: expected `http`, `https` or `tcp`, found `udp`",
            "10:18: upstreams[0].checks.active.timeout: expected a number from 0.001 to 86400, \
             found `0`",
            "11:22: upstreams[0].checks.active.concurrency: expected a whole number from 1 to 1024, \
             found `0`",
            "12:15: upstreams[0].checks.active.host: is no host, with or without a port",
            "13:15: upstreams[0].checks.active.port: expected a whole number from 1 to 65535, \
             found `0`",
            "14:22: upstreams[0].checks.active.http_method: expected `GET`, `HEAD`, `POST`, `PUT`, \
             `PATCH`, `DELETE`, `OPTIONS` or `TRACE`, found `CONNECT`",
            "15:20: upstreams[0].checks.active.http_path: is no path of a request; it starts with \
             `/`, and what is not ASCII, a blank or a `#` is percent-encoded",
            "16:23: upstreams[0].checks.active.req_headers[0]: is no field; write `name: value`",
            "16:26: upstreams[0].checks.active.req_headers[1]: is a field that the proxy makes \
             itself",
            "16:37: upstreams[0].checks.active.req_headers[2]: is not the name of a field",
            "16:47: upstreams[0].checks.active.req_headers[3]: is no value of a field",
            "16:68: upstreams[0].checks.active.req_headers[5]: is in the list already",
            "17:30: upstreams[0].checks.active.healthy.interval: expected a number from 0.01 to \
             86400, found `0.001`",
            "17:52: upstreams[0].checks.active.healthy.http_statuses: is empty; remove the key if \
             there is nothing to say",
            "17:67: upstreams[0].checks.active.healthy.successes: expected a whole number from 1 to \
             254, found `0`",
            "18:38: upstreams[0].checks.active.unhealthy.http_statuses[0]: expected a whole number \
             from 200 to 599, found `199`",
            "18:48: upstreams[0].checks.active.unhealthy.http_statuses[2]: is in the list already",
            "18:68: upstreams[0].checks.active.unhealthy.tcp_failures: expected a whole number from \
             1 to 254, found `255`",
            "18:73: upstreams[0].checks.active.unhealthy.failures: unknown key; did you mean \
             `tcp_failures`?",
            "20:20: upstreams[0].checks.passive.healthy.interval: unknown key; known here: \
             `http_statuses` or `successes`",
            "21:67: upstreams[0].checks.passive.unhealthy.timeouts: expected a whole number from 0 \
             to 254, found `255`",
        ],
    );
    check(
        "    outlier_detection: { consecutive_5xx: 0, interval: 0, max_ejection_percent: 101 }\n",
        &[
            "7:24: upstreams[0].outlier_detection: every threshold is 0, so that nothing is ever \
             ejected; remove it",
            "7:56: upstreams[0].outlier_detection.interval: expected a number from 0.01 to 86400, \
             found `0`",
            "7:81: upstreams[0].outlier_detection.max_ejection_percent: expected a whole number \
             from 0 to 100, found `101`",
        ],
    );
}

#[test]
fn checks_have_the_defaults_of_apisix() {
    let config = valid(&with(
        "routes: [{ id: r, uri: /, upstream_id: u }]\n\
         upstreams: [{ id: u, nodes: { \"127.0.0.1:80\": 1 }, checks: { active: {}, passive: {} }, \
         outlier_detection: {} }]\n",
    ));
    let upstream = &config.upstreams[0];
    let checks = upstream.checks.as_deref().expect("checks");
    let (active, passive) = (&checks.active, checks.passive.as_ref().expect("passive"));
    assert_eq!((active.kind, active.path.as_str()), (CheckKind::Http, "/"));
    assert_eq!((active.method.as_str(), active.concurrency), ("GET", 10));
    let second = Duration::from_secs(1);
    let times = [active.timeout, active.healthy_interval, active.unhealthy_interval];
    assert_eq!(times, [second; 3]);
    assert_eq!(active.judgement.healthy_statuses, [200, 302]);
    let unhealthy = [429, 404, 500, 501, 502, 503, 504, 505];
    assert_eq!(active.judgement.unhealthy_statuses, unhealthy);
    let counts = |it: &Judgement| [it.successes, it.http_failures, it.tcp_failures, it.timeouts];
    assert_eq!(counts(&active.judgement), [2, 5, 2, 3]);
    assert_eq!(passive.kind, CheckKind::Http);
    let healthy: Vec<u16> = (200..=208).chain([226]).chain(300..=308).collect();
    assert_eq!(passive.judgement.healthy_statuses, healthy);
    assert_eq!(passive.judgement.unhealthy_statuses, [429, 500, 503]);
    assert_eq!(counts(&passive.judgement), [5, 5, 2, 7]);
    let outliers = upstream.outlier_detection.as_ref().expect("outliers");
    assert_eq!([outliers.consecutive_5xx, outliers.consecutive_gateway_failure], [5, 0]);
    assert_eq!(outliers.max_ejection_percent, 10);
    assert_eq!(outliers.failure_percentage_threshold, 0);
    assert_eq!(outliers.failure_percentage_minimum_hosts, 5);
    assert_eq!(outliers.failure_percentage_request_volume, 50);
    let times = [outliers.interval, outliers.base_ejection_time, outliers.max_ejection_time];
    assert_eq!(times, [10, 30, 300].map(Duration::from_secs));
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
fn what_a_type_would_lay_out_is_bounded() {
    let weights = |kind: &str, a: u32| {
        format!(
            "    type: {kind}\n    key: uri\n    nodes: {{ \"127.0.0.1:80\": {a}, \"127.0.0.1:81\": 1 }}\n"
        )
    };
    check_upstream(
        &weights("chash", 6553),
        &["8:12: upstreams[0].nodes: the weights make a ring of 1048640 points, at most 1048576; \
           use smaller weights or weights with a common divisor"],
    );
    for (kind, weight) in [("chash", 6552), ("maglev", 65_535), ("least_conn", 65_535)] {
        let text = format!("upstreams:\n  - id: u\n{}", weights(kind, weight));
        assert_eq!(valid(&with(&text)).upstreams.len(), 1);
    }
    let many: Vec<_> = (1..=656).map(|port| format!("\"127.0.0.1:{port}\": 1")).collect();
    check_upstream(
        &format!("    type: maglev\n    key: uri\n    nodes: {{ {} }}\n", many.join(", ")),
        &["8:12: upstreams[0].nodes: 656 nodes of one priority; `maglev` has room for 655"],
    );
}

#[test]
fn nodes_may_be_names_that_occur_once() {
    let long = |length: usize| "a".repeat(length);
    check_upstream(
        &format!(
            "    nodes:\n\
             \x20     App.internal: 1\n\
             \x20     app.internal:80: 1\n\
             \x20     app.internal:81: 1\n\
             \x20     -a.internal: 1\n\
             \x20     a..b: 1\n\
             \x20     app.internal:65536: 1\n\
             \x20     {}: 1\n\
             \x20     app.9: 1\n\
             \x20     '[app]:80': 1\n\
             \x20     'app:': 1\n",
            long(64)
        ),
        &[
            "8:7: upstreams[0].nodes[\"app.internal:80\"]: node app.internal:80 is in line 7 already",
            "10:7: upstreams[0].nodes[\"-a.internal\"]: `-a.internal` is neither an address nor a \
             host name",
            "11:7: upstreams[0].nodes[\"a..b\"]: `a..b` is neither an address nor a host name",
            "12:7: upstreams[0].nodes[\"app.internal:65536\"]: invalid port `65536`",
            &format!(
                "13:7: upstreams[0].nodes.{0}: `{0}` is neither an address nor a host name",
                long(64)
            ),
            "14:7: upstreams[0].nodes[\"app.9\"]: `app.9` is neither an address nor a host name",
            "15:7: upstreams[0].nodes[\"[app]:80\"]: `[app]` is neither an address nor a host name",
            "16:7: upstreams[0].nodes[\"app:\"]: invalid port ``",
        ],
    );
    check_upstream(
        "    nodes: [{ host: 'app:80', port: 80, weight: 1 }, { host: app, weight: 1 }, \
         { host: APP, port: 80, weight: 2 }]\n",
        &[
            "6:13: upstreams[0].nodes[0]: `app:80` is neither an address nor a host name",
            "6:80: upstreams[0].nodes[2]: node app:80 is in line 6 already",
        ],
    );
    let config = valid(&with(
        "upstreams: [{ id: u, nodes: [{ host: My_App.internal., weight: 3, priority: -1 }, \
         { host: 10.0.0.1, weight: 1 }] }, { id: v, nodes: { a: 1, '[::1]': 2, b:81: 3 } }]\n",
    ));
    let [u, v] = config.upstreams.as_slice() else { panic!("two upstreams") };
    let names = |upstream: &Upstream| -> Vec<_> {
        let names = upstream.names.iter();
        names.map(|it| (it.question.name.to_string(), it.port, it.weight, it.priority)).collect()
    };
    assert_eq!(names(u), [("my_app.internal.".to_owned(), 80, 3, -1)]);
    assert_eq!(u.nodes[0].address.to_string(), "10.0.0.1:80");
    assert_eq!(names(v), [("a".to_owned(), 80, 1, 0), ("b".to_owned(), 81, 3, 0)]);
    assert_eq!(v.nodes[0].address.to_string(), "[::1]:80");
}

#[test]
fn a_service_is_discovered_by_dns() {
    let check = |keys: &str, expected: &[&str]| {
        let route = "routes: [{ id: r, uri: /, upstream_id: u }]\n";
        check_addition(&format!("upstreams: [{{ id: u, {keys} }}]\n{route}"), expected);
    };
    check(
        "discovery_type: dns",
        &["4:13: upstreams[0]: `service_name` is missing; `discovery_type` alone finds nothing"],
    );
    check(
        "service_name: app",
        &["4:13: upstreams[0]: `discovery_type` is missing; write `discovery_type: dns`"],
    );
    check(
        "discovery_type: dns, service_name: app, nodes: { a: 1 }",
        &["4:13: upstreams[0]: `nodes` and a service to discover at once; keep one of them"],
    );
    for (service, error) in [
        ("10.0.0.1:80", "is an address; write it in `nodes`"),
        ("_http._tcp.app:80", "SRV records have ports of their own; remove this one"),
        ("a/b", "`a/b` is neither an address nor a host name"),
    ] {
        check(
            &format!("discovery_type: dns, service_name: \"{service}\""),
            &[&format!("4:57: upstreams[0].service_name: {error}")],
        );
    }
    check(
        "discovery_type: nacos, service_name: app, discovery_args: {}",
        &[
            "4:38: upstreams[0].discovery_type: `nacos` is not built yet; use `dns`",
            "4:64: upstreams[0].discovery_args: not built yet; remove it",
        ],
    );
    for (service, port, records) in [
        ("App:8080", 8080, Records::Addresses),
        ("App", 80, Records::ServicesOrAddresses),
        ("_http._tcp.App", 80, Records::Services),
    ] {
        let config = valid(&with(&format!(
            "upstreams: [{{ id: u, discovery_type: dns, service_name: \"{service}\" }}]\n"
        )));
        let [name] = config.upstreams[0].names.as_slice() else { panic!("one name") };
        assert_eq!((name.port, name.question.records), (port, records));
        assert!(name.question.name.ends_with("app") && config.upstreams[0].nodes.is_empty());
    }
}

#[test]
fn so_many_names_are_followed() {
    let nodes: Vec<_> = (0..1025).map(|n| format!("a{n}: 1")).collect();
    check_addition(
        &format!(
            "upstreams: [{{ id: u, nodes: {{ {} }} }}]\nroutes: [{{ id: r, uri: /, upstream_id: u }}]\n",
            nodes.join(", ")
        ),
        &["1:1: 1025 nodes with names; at most 1024"],
    );
}

#[test]
fn the_resolver_has_servers_and_times() {
    check_addition(
        "resolver:\n\
         \x20 nameservers: [127.0.0.1, '127.0.0.1:53', '[::1]', '[::1]:0', 0.0.0.0, dns.internal, 239.1.1.1]\n\
         \x20 timeout: 1ms\n\
         \x20 valid: 5s\n\
         \x20 ttl_max: 2s\n\
         \x20 family: ipv5\n\
         \x20 search: [x]\n",
        &[
            "5:28: resolver.nameservers[1]: is in the list already",
            "5:53: resolver.nameservers[3]: `[::1]:0` is no address of a name server",
            "5:64: resolver.nameservers[4]: `0.0.0.0:53` is no address of a name server",
            "5:73: resolver.nameservers[5]: expected the address of a name server, such as \
             `10.0.0.53` or `[2001:db8::53]:5353`",
            "5:87: resolver.nameservers[6]: `239.1.1.1` is a multicast or broadcast address; write \
             the address of one host",
            "6:12: resolver.timeout: expected a time with its unit (`250ms`, `5s`, `10m`, `1h`) from \
             10ms to 1m, found `1ms`",
            "7:10: resolver.valid: stands in place of every TTL; keep it, or `ttl_min` and `ttl_max`",
            "9:11: resolver.family: expected `prefer_ipv4`, `prefer_ipv6`, `both`, `ipv4` or `ipv6`, \
             found `ipv5`; did you mean `ipv4`?",
            "10:3: resolver.search: unknown key; known here: `nameservers`, `timeout`, `valid`, \
             `ttl_min`, `ttl_max` or `family`",
        ],
    );
    check_addition(
        "resolver: { ttl_min: 2m, ttl_max: 1m, nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4, \
         1.1.1.5, 1.1.1.6, 1.1.1.7, 1.1.1.8, 1.1.1.9] }\n",
        &[
            "4:11: resolver: 9 name servers; at most 8",
            "4:11: resolver: `ttl_min` (2m) is above `ttl_max` (1m)",
        ],
    );
    let seconds = Duration::from_secs;
    let resolver = valid(&with("resolver: { nameservers: ['::1', 10.0.0.53:5353] }\n")).resolver;
    let nameservers: Vec<_> = resolver.nameservers.iter().map(ToString::to_string).collect();
    assert_eq!(nameservers, ["[::1]:53", "10.0.0.53:5353"]);
    assert_eq!((resolver.ttl_min, resolver.ttl_max), (seconds(1), seconds(3600)));
    assert_eq!((resolver.timeout, resolver.family), (seconds(5), Family::PreferIpv4));
    let resolver = valid(&with("resolver: { valid: 7s, timeout: 1s, family: both }\n")).resolver;
    assert_eq!((resolver.ttl_min, resolver.ttl_max), (seconds(7), seconds(7)));
    assert_eq!((resolver.timeout, resolver.family), (seconds(1), Family::Both));
}

#[test]
fn both_forms_of_nodes_mean_the_same() {
    let config = valid(&with(
        "upstreams:\n\
         \x20 - { id: a, nodes: { \"127.0.0.1:80\": 3, \"[::1]:81\": 0 } }\n\
         \x20 - { id: b, retries: 9, nodes: [{ host: 127.0.0.1, port: 80, weight: 3 }, \
         { host: '[::1]', port: 81, weight: 0 }] }\n\
         \x20 - { id: 7, retries: 0, nodes: { \"127.0.0.1:80\": 1, \"127.0.0.1:81\": 1 } }\n",
    ));
    let [a, b, c] = config.upstreams.as_slice() else { panic!("three upstreams") };
    assert_eq!(a.nodes, b.nodes);
    assert_eq!([a.retries, b.retries, c.retries], [1, 1, 0], "a node is tried once at most");
    assert_eq!(&*c.id, "7");
}

#[test]
fn weights_whose_cycle_is_too_long_are_refused() {
    let weights =
        |a: u32, b: u32| format!("    nodes: {{ \"127.0.0.1:80\": {a}, \"127.0.0.1:81\": {b} }}\n");
    check_upstream(
        &weights(65_535, 2),
        &["6:12: upstreams[0].nodes: the weights make a cycle of 65537 slots, at most 65536; use \
           smaller weights or weights with a common divisor"],
    );
    for (a, b) in [(65_535, 1), (65_535, 65_535), (65_534, 65_532), (0, 0), (0, 65_535)] {
        let nodes = weights(a, b);
        valid(&with(&format!(
            "upstreams:\n  - id: u\n{nodes}routes: [{{ id: r, uri: /, upstream_id: u }}]\n"
        )));
    }
}

#[test]
fn references_lead_somewhere() {
    check_addition(
        "upstreams:\n\
         \x20 - { id: app, nodes: { \"127.0.0.1:80\": 1 } }\n\
         \x20 - { id: app, nodes: { \"127.0.0.1:81\": 1 } }\n\
         \x20 - { id: broken, nodes: {} }\n\
         routes:\n\
         \x20 - { id: a, uri: /, upstream_id: ap }\n\
         \x20 - { id: b, uri: / }\n\
         \x20 - { id: c, uri: /, upstream_id: app, upstream: { nodes: { \"127.0.0.1:80\": 1 } } }\n\
         \x20 - { id: d, uri: /, upstream_id: broken }\n\
         \x20 - { id: e, uri: /, upstream_id: app, plugins: { key-auth: { anonymous_consumer: bob } } }\n\
         consumers: [{ username: alice }]\n",
        &[
            "6:11: upstreams[1].id: `app` is the id of line 5 too; ids are unique",
            "7:26: upstreams[2].nodes: is empty; an upstream needs at least one node",
            "9:35: routes[0].upstream_id: no upstream has the id `ap`; did you mean `app`?",
            "10:5: routes[1]: `upstream`, `upstream_id`, `service_id` or `plugins` is \
             missing",
            "11:5: routes[2]: `upstream_id` and `upstream` at once; keep one of them",
            "13:83: routes[4].plugins.key-auth.anonymous_consumer: no consumer is named `bob`",
        ],
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
fn a_scheme_is_that_of_who_uses_the_upstream() {
    let nodes = "nodes: { \"127.0.0.1:80\": 1 }";
    let yaml = |of_route: &str, of_stream_route: &str| {
        with(&format!(
            "upstreams:\n\
             \x20 - {{ id: http, scheme: http, {nodes} }}\n\
             \x20 - {{ id: tcp, scheme: tcp, {nodes} }}\n\
             \x20 - {{ id: both, {nodes} }}\n\
             routes: [{{ id: r, uri: /, {of_route} }}]\n\
             stream_routes: [{{ id: s, {of_stream_route} }}]\n"
        ))
    };
    valid(&yaml("upstream_id: http", "upstream_id: tcp"));
    valid(&yaml("upstream_id: both", "upstream_id: both"));
    check_errors(
        &yaml("upstream_id: tcp", "upstream_id: http"),
        &[
            "8:40: routes[0].upstream_id: the upstream has `scheme: tcp`, a route needs `http`; \
             change or remove the scheme",
            "9:39: stream_routes[0].upstream_id: the upstream has `scheme: http`, a stream_route \
             needs `tcp`; change or remove the scheme",
        ],
    );
    check_errors(
        &yaml(
            &format!("upstream: {{ scheme: tcp, {nodes} }}"),
            &format!("upstream: {{ scheme: http, {nodes} }}"),
        ),
        &[
            "8:47: routes[0].upstream.scheme: the upstream has `scheme: tcp`, a route needs \
             `http`; change or remove the scheme",
            "9:46: stream_routes[0].upstream.scheme: the upstream has `scheme: http`, a \
             stream_route needs `tcp`; change or remove the scheme",
        ],
    );
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
fn credentials_stand_among_the_consumers() {
    let config = valid(&with(
        "consumers:\n\
         \x20 - { id: a/credentials/c-1, plugins: { key-auth: { key: one } }, desc: d, name: n }\n\
         \x20 - { username: a, plugins: { key-auth: { key: two } } }\n\
         \x20 - { id: a/credentials/c-2, plugins: { basic-auth: { username: a, password: p } } }\n",
    ));
    let [consumer] = &*config.consumers else { panic!("one consumer") };
    let names = consumer.credentials.iter().map(|one| one.name.as_ref()?.to_str().ok());
    assert_eq!(names.collect::<Vec<_>>(), [None, Some("c-1"), Some("c-2")]);
    check_addition(
        "consumers:\n\
         \x20 - { username: a, plugins: { key-auth: { key: s3cret } } }\n\
         \x20 - { username: b }\n\
         \x20 - { id: a/credentials/c, plugins: { key-auth: { key: s3cret } } }\n\
         \x20 - { id: b/credentials/c, plugins: { key-auth: { key: s3cret } } }\n\
         \x20 - { id: a/credentials/c, plugins: { key-auth: { key: x }, basic-auth: { username: a, password: p } } }\n\
         \x20 - { id: d/credentials/c, plugins: { limit-count: { count: 1, time_window: 1 } } }\n\
         \x20 - { id: a/credentials/b/c, plugins: {}, username: a }\n\
         \x20 - { id: b/credentials/d }\n",
        &[
            "7:56: consumers[2].plugins.key-auth.key: consumer `a` has the same key-auth credential; \
             say it once",
            "8:56: consumers[3].plugins.key-auth.key: consumer `a` has the same key-auth credential; \
             it belongs to one consumer",
            "9:11: consumers[4].id: is the id of line 7 too; ids are unique",
            "9:37: consumers[4].plugins: needs one plugin; a further one has a credential of its own",
            "10:11: consumers[5].id: no consumer is named `d`",
            "10:39: consumers[5].plugins: only supports auth type plugins in consumer \
             credential",
            "11:11: consumers[6].id: expected `USERNAME/credentials/ID`, both as consumers and ids \
             are named, found `a/credentials/b/c`",
            "11:39: consumers[6].plugins: needs one plugin; a further one has a credential of its own",
            "11:43: consumers[6].username: unknown key; known here: `name`, `desc`, `create_time`, \
             `update_time`, `labels`, `id` or `plugins`",
            "12:5: consumers[7]: `plugins` is missing",
        ],
    );
}

#[test]
fn consumers_have_their_own_names_and_keys() {
    check_addition(
        "consumers:\n\
         \x20 - { username: alice, plugins: { key-auth: { key: s3cret-one } } }\n\
         \x20 - { username: alice, plugins: { key-auth: { key: s3cret-two } } }\n\
         \x20 - { username: bob, plugins: { key-auth: { key: s3cret-one } } }\n\
         \x20 - { username: 'a b', group_id: 1 }\n",
        &[
            "6:17: consumers[1].username: the consumer of line 5 has this name; names are unique",
            "7:50: consumers[2].plugins.key-auth.key: consumer `alice` has the same key-auth \
             credential; it belongs to one consumer",
            "8:17: consumers[3].username: expected a name of 1 to 256 letters, digits, `-` or \
             `_`, found the string `a b`",
            "8:34: consumers[3].group_id: no consumer group has the id `1`",
        ],
    );
}

#[test]
fn keys_of_consumers_are_in_no_message_and_no_debug_output() {
    const SECRET: &str = "s3cret";
    for plugins in [
        "s3cret",
        "[s3cret]",
        "{ s3cret: 1 }",
        "{ key-auth: s3cret }",
        "{ key-auth: [s3cret] }",
        "{ key-auth: { s3cret } }",
        "{ key-auth: { s3cret: 1, s3cret: 2 } }",
        "{ key-auth: { key: [s3cret] } }",
        "{ key-auth: { key: ' s3cret' } }",
        "{ key-auth: { key: \"s3cret\\n\" } }",
        "{ key-auth: { key: s3cret, kee: s3cret } }",
        "{ key-auth: { key: s3cret, header: s3cret } }",
    ] {
        for whose in ["username: a", "id: a/credentials/b"] {
            let text =
                messages(&with(&format!("consumers: [{{ {whose}, plugins: {plugins} }}]\n")));
            assert!(!text.contains(SECRET), "{plugins}: {text}");
        }
    }
    let config =
        valid(&with("consumers: [{ username: a, plugins: { key-auth: { key: s3cret } } }]\n"));
    let text = format!("{config:?}");
    assert!(!text.contains(SECRET) && text.contains("Credential { kind: \"key-auth\""), "{text}");
}

#[test]
fn key_auth_takes_what_apisix_takes() {
    check_route(
        "    uri: /\n    plugins: { key-auth: { header: 'a b', query: 'a&b', realm: '\"', \
         hide_credentials: 'yes', anonymous_consumer: '' } }\n",
        &[
            "7:36: routes[0].plugins.key-auth.header: is not the name of a field",
            "7:50: routes[0].plugins.key-auth.query: is not the name of a query argument",
            "7:64: routes[0].plugins.key-auth.realm: needs 1 to 128 printable characters but `\"` \
             and `\\`",
            "7:87: routes[0].plugins.key-auth.hide_credentials: expected `true` or `false`, found \
             the string `yes`",
            "7:114: routes[0].plugins.key-auth.anonymous_consumer: no consumer is named ``",
        ],
    );
    for header in ["Content-Length", "transfer-encoding", "host", "via", "x-forwarded-for"] {
        check_route(
            &format!("    uri: /\n    plugins: {{ key-auth: {{ header: {header} }} }}\n"),
            &[
                "7:36: routes[0].plugins.key-auth.header: is a field that the proxy makes itself; use \
               one of its own",
            ],
        );
    }
    check_route(
        "    uri: /\n    plugins: { key-auth: }\n",
        &["7:24: routes[0].plugins.key-auth: expected a mapping, found nothing"],
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
fn limits_stop_what_only_an_attack_has() {
    let nested = format!("a: {}{}\n", "[".repeat(40), "]".repeat(40));
    assert!(messages(&nested).contains("more than 32 levels of nesting"), "{}", messages(&nested));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let previous = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![previous; 10].join(", "));
    }
    let text = messages(&bomb);
    assert!(text.contains("more than 500000 values, aliases written out"), "{text}");
    let text = messages(&format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(64)));
    assert!(text.contains("bytes of text, aliases written out"), "{text}");
    let text = messages("a: &a [*a]\n");
    assert!(text.contains("alias inside of what it stands for"), "{text}");
    let text = messages(&format!("a: {}\n", "x".repeat(9 << 20)));
    assert_eq!(
        text,
        "t.yaml:1:1: more than 8388608 bytes; is it a configuration?\n1 error in t.yaml"
    );
}

#[test]
fn lists_that_are_compared_item_by_item_are_bounded() {
    let many = |item: &str| vec![item; 2000].join(", ");
    let text = messages(&format!("listeners: [{}]\n", many("{ name: a, address: 127.0.0.1:0 }")));
    assert_eq!(text, "t.yaml:1:12: listeners: 2000 listeners; at most 64\n1 error in t.yaml");
    let text = messages(&with(&format!("kernel: {{ xdp: {{ interfaces: [{}] }} }}\n", many("lo"))));
    assert!(text.contains("kernel.xdp.interfaces: 2000 interfaces; at most 64"), "{text}");
    let text = messages(&with(&format!(
        "routes:\n  - id: r\n    uris: [{}]\n    upstream: {{ nodes: {{ \"127.0.0.1:80\": 1 }} }}\n",
        many("/")
    )));
    assert!(text.contains("routes[0].uris: 2000 entries; at most 1024"), "{text}");
}

#[test]
fn of_very_many_errors_the_first_are_shown() {
    let keys: String = (0..150).map(|n| format!("key{n:03}: 1\n")).collect();
    let text = messages(&with(&keys));
    assert_eq!(text.lines().count(), 101);
    assert!(text.ends_with("150 errors in t.yaml, the first 100 shown"), "{text}");
    assert!(text.contains("key099") && !text.contains("key100"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_error() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.yaml");
    let text = Config::load(&missing).unwrap_err().to_string();
    let name = missing.display();
    assert!(text.starts_with(&format!("{name}: No such file or directory")), "{text}");
    assert!(text.ends_with(&format!("1 error in {name}")), "{text}");
    assert!(Config::load(directory.path()).is_err(), "a directory");
    let latin = directory.path().join("latin.yaml");
    fs::write(&latin, b"a: 1\nb: \"caf\xe9\"\n").unwrap();
    let text = Config::load(&latin).unwrap_err().to_string();
    assert!(text.starts_with(&format!("{}:2:8: not UTF-8", latin.display())), "{text}");
    let endless = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(endless.starts_with("/dev/zero:1:1: more than 8388608 bytes"), "{endless}");
    let empty = Config::load(Path::new("/dev/null")).unwrap_err().to_string();
    assert!(empty.starts_with("/dev/null:1:1: the file is empty"), "{empty}");
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
