//! The sections that only a process can know.

use std::time::Duration;

use proxy::config::{KernelMode, SameHost};

use super::{check_addition, check_errors, messages, valid, with};

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
