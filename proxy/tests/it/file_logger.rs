//! `file-logger`, seen from outside: what is in its lines, where they go, and what becomes of them when
//! files are renamed, rules change or nobody reads.

mod bodies;

use std::{
    fs, io::Read, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path, process::Command,
};

use proxy::test_support::{Client, Node, Reply, TestProxy, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    lane_pair::{LANES, LISTENERS},
    process::{Tandem, yaml},
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Two listeners, one for each lane, and one route with `plugins` for everything to `node`.
fn config(node: SocketAddr, plugins: &str, rest: &str) -> String {
    format!(
        "{LISTENERS}\
         routes: [{{ id: all, uri: \"/items/:id\", host: a, upstream_id: app, service_id: s, plugins: {plugins} }}]\n\
         services: [{{ id: s, name: shop }}]\n\
         upstreams: [{{ id: app, nodes: {{ \"{node}\": 1 }} }}]\n{rest}\n"
    )
}

/// The lines of a file once there are `count`.
fn lines(path: &Path, count: usize) -> Vec<Value> {
    let lines = eventually("log lines", || {
        let text = fs::read(path).unwrap_or_default();
        let whole =
            text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let lines: Vec<_> = whole.map(<[u8]>::to_vec).collect();
        (lines.len() >= count).then_some(lines)
    });
    assert_eq!(lines.len(), count);
    lines.iter().map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

/// One request on each lane, and what is logged of it.
fn logged(settings: &str, request: &[u8]) -> Vec<Value> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let node = Node::scripted(|_| {
        Reply::Bytes(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Node: n\r\nSet-Cookie: secret\r\n\
              content-length: 3\r\n\r\nxyz"
                .to_vec(),
        )
    });
    let plugins = format!("{{ file-logger: {{ path: {}{settings} }} }}", path.display());
    let proxy = TestProxy::start(&config(node.address, &plugins, ""));
    for lane in LANES {
        Client::connect(proxy.address(lane)).ask(request);
    }
    lines(&path, LANES.len())
}

#[test]
fn the_default_says_what_happened_and_no_secret() {
    let request = "POST /items/7?token=secret HTTP/1.1\r\nhost: a\r\nuser-agent: test\r\n\
                   authorization: secret\r\ncookie: secret\r\nX-Api-Key: secret\r\n\
                   referer: http://b/?secret\r\ncontent-length: 2\r\n\r\nhi";
    for mut entry in logged("", request.as_bytes()) {
        assert!(!entry.to_string().contains("secret"), "{entry}");
        let mut number = |name: &str| entry[name].take().as_f64().expect(name);
        let (latency, upstream) = (number("latency"), number("upstream_latency"));
        let own = number("apisix_latency");
        assert!(latency > 0.0 && upstream > 0.0 && own >= 0.0 && own + upstream <= latency + 0.1);
        let begun = number("start_time");
        assert!((1.7e12..4e12).contains(&begun), "{begun}");
        let upstream = entry["upstream"].take();
        assert!(upstream.as_str().is_some_and(|node| node.starts_with("127.0.0.1:")), "{upstream}");
        let url = entry["request"]["url"].take();
        let url = url.as_str().expect("a text");
        assert!(url.starts_with("http://a:") && url.ends_with("/items/7"), "{url}");
        assert!(entry["server"]["hostname"].take().as_str().is_some_and(|name| !name.is_empty()));
        let expected = json!({
            "apisix_latency": null,
            "client_ip": "127.0.0.1",
            "latency": null,
            "request": {
                "headers": { "content-length": "2", "host": "a", "user-agent": "test" },
                "method": "POST",
                "size": request.len(),
                "uri": "/items/7",
                "url": null,
            },
            "response": {
                "headers": { "content-length": "3", "content-type": "text/plain",
                             "date": entry["response"]["headers"]["date"] },
                "size": 3,
                "status": 200,
            },
            "route_id": "all",
            "server": { "hostname": null, "version": env!("CARGO_PKG_VERSION") },
            "service_id": "s",
            "start_time": null,
            "upstream": null,
            "upstream_latency": null,
        });
        assert_eq!(entry, expected);
    }
}

#[test]
fn a_format_of_ones_own_has_what_it_names() {
    let settings = ", log_format: { host: $host, n: 5, cost: \"5 $\", inner: { id: $uri_param_id, \
                    deep: { text: \"$method ${arg_a ?? none}/$status\" } }, none: $http_x_none, \
                    up: $upstream_status, sent: $body_bytes_sent, node: $sent_http_x_node, \
                    port: $balancer_port, addr: $upstream_addr, length: $request_length, \
                    service: $service_name, iso: $time_iso8601, local: $time_local, msec: $msec, \
                    took: $request_time, dialled: $upstream_connect_time, \
                    head: $upstream_header_time, answered: $upstream_response_time, \
                    me: $hostname, ip: $balancer_ip, several: \"$arg_a-$http_host $status\" }";
    let request = "GET /items/7?a=b%20c HTTP/1.1\r\nHost: A:80\r\n\r\n";
    for (at, mut entry) in logged(settings, request.as_bytes()).into_iter().enumerate() {
        // A connection out of the pool was not dialled.
        let dialled = entry.as_object_mut().and_then(|entry| entry.remove("dialled"));
        assert!(at > 0 || dialled.is_some_and(|time| time.as_str().is_some()));
        let mut text = |name: &str| entry[name].take().as_str().expect(name).to_owned();
        let (iso, local) = (text("iso"), text("local"));
        assert!(iso.len() == 25 && iso.starts_with("20") && iso.ends_with("+00:00"), "{iso}");
        assert!(local.len() == 26 && local.ends_with(" +0000") && local.contains("/20"), "{local}");
        for name in ["msec", "took", "head", "answered"] {
            let value = text(name);
            let (_, decimals) = value.split_once('.').expect("seconds");
            assert!(decimals.len() == 3 && value.parse::<f64>().is_ok(), "{name} {value}");
        }
        let (addr, port) = (text("addr"), text("port"));
        assert_eq!(addr, format!("127.0.0.1:{port}"));
        assert!(!text("me").is_empty());
        let expected = json!({
            "host": "a", "n": 5, "cost": "5 $", "up": "200", "sent": "3", "node": "n",
            "inner": { "id": "7", "deep": { "text": "GET b c/200" } },
            "length": request.len().to_string(), "service": "shop", "ip": "127.0.0.1",
            "iso": null, "local": null, "msec": null, "took": null,
            "head": null, "answered": null, "addr": null, "port": null, "me": null,
            "several": "b c-A:80 200",
            "route_id": "all", "service_id": "s",
        });
        assert_eq!(entry, expected);
    }
}

#[test]
fn more_may_be_said_beside_the_default_or_a_format() {
    let more = "log_format_extra: { route_id: mine, client_ip: none, x: { y: $method } }";
    for entry in logged(&format!(", {more}"), b"GET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n") {
        assert_eq!(entry["client_ip"], "none");
        assert_eq!((&entry["route_id"], &entry["x"]["y"]), (&json!("mine"), &json!("GET")));
        assert_eq!(entry["response"]["status"], 200);
    }
    let settings = format!(", log_format: {{ a: b }}, {more}");
    for entry in logged(&settings, b"GET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n") {
        let expected = json!({ "a": "b", "route_id": "mine", "client_ip": "none",
                               "x": { "y": "GET" }, "service_id": "s" });
        assert_eq!(entry, expected);
    }
}

#[test]
fn whatever_a_client_says_is_one_line() {
    let value = b"\"},{\\ \xff\xc3\x28\t \xe2\x80\xa8 <x> {\"a\": 1}\x80";
    let request =
        [b"GET /items/1 HTTP/1.1\r\nhost: a\r\nuser-agent: ", &value[..], b"\r\n\r\n"].concat();
    for entry in logged(", log_format: { agent: $http_user_agent }", &request) {
        assert_eq!(entry["agent"], String::from_utf8_lossy(value).into_owned());
    }
    for entry in logged("", &request) {
        assert_eq!(entry["request"]["headers"]["user-agent"], *String::from_utf8_lossy(value));
    }
    let long =
        format!("GET /items/1 HTTP/1.1\r\nhost: a\r\nuser-agent: {}\r\n\r\n", "x".repeat(9000));
    for entry in logged(", log_format: { agent: $http_user_agent }", long.as_bytes()) {
        assert_eq!(entry["agent"].as_str().map(str::len), Some(8192));
    }
}

#[test]
fn only_what_is_meant_is_logged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let node = Node::always("x");
    let of = |more: &str| {
        let shown = path.display();
        format!("{{ file-logger: {{ path: {shown}, log_format: {{ uri: $uri }}, {more} }} }}")
    };
    for more in [
        "match: [[[uri, \"~~\", \"[13]$\"], [status, 200]], [[arg_x, \"y\"]]]",
        "_meta: { filter: [OR, [uri, \"~~\", \"[13]$\"], [arg_x, \"y\"]] }",
    ] {
        let proxy = TestProxy::start(&config(node.address, &of(more), ""));
        for lane in LANES {
            let mut client = Client::connect(proxy.address(lane));
            for target in ["/items/1", "/items/2", "/items/3", "/items/4?x=y", "/items/5?x=z"] {
                client.ask(GET.replace("/ ", &format!("{target} ")));
            }
        }
        proxy.stop().expect("a clean end");
        let seen: Vec<_> = lines(&path, 6).iter().map(|line| line["uri"].clone()).collect();
        assert_eq!(seen, ["/items/1", "/items/3", "/items/4"].repeat(2), "{more}");
        fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn answers_of_the_proxy_and_requests_without_a_route_are_logged_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let node = Node::always("x");
    let format =
        "{ s: $status, type: $sent_http_content_type, who: $consumer_name, ip: $remote_addr }";
    let rule = format!(
        "global_rules: [{{ id: g, plugins: {{ file-logger: {{ path: {}, log_format: {format} }}, \
         real-ip: {{ source: arg_ip, trusted_addresses: [127.0.0.1] }} }} }}]\n\
         consumers: [{{ username: alice, plugins: {{ key-auth: {{ key: k }} }} }}]",
        path.display()
    );
    let proxy = TestProxy::start(&config(node.address, "{ key-auth: {} }", &rule));
    for lane in LANES {
        let mut client = Client::connect(proxy.address(lane));
        client.ask(GET.replace("/ ", "/nowhere?ip=192.0.2.9 "));
        client.ask(GET.replace("/ ", "/items/1 "));
        client.ask(GET.replace("/ ", "/items/1?apikey=k "));
    }
    for seen in lines(&path, 6).chunks(3) {
        let json = "application/json";
        let expected = [
            json!({ "s": "404", "type": json, "ip": "192.0.2.9", "route_id": "no-matched" }),
            json!({ "s": "401", "type": json, "ip": "127.0.0.1", "route_id": "all", "service_id": "s" }),
            json!({ "s": "200", "who": "alice", "ip": "127.0.0.1", "route_id": "all", "service_id": "s" }),
        ];
        assert_eq!(seen, expected);
    }
}

#[test]
fn routes_share_a_file_and_what_holds_for_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, other) = (directory.path().join("x.log"), directory.path().join("y.log"));
    let node = Node::always("x");
    let with = |path: &Path, format: &str| {
        format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\nroutes:\n\
             - {{ id: a, uri: /a, upstream_id: u, plugins: {{ file-logger: {{}} }} }}\n\
             - {{ id: b, uri: /b, upstream_id: u, plugins: {{ file-logger: {{ log_format: {{ own: 1 }} }} }} }}\n\
             upstreams: [{{ id: u, nodes: {{ \"{}\": 1 }} }}]\n\
             plugin_metadata: [{{ id: file-logger, path: {}, log_format: {{ all: {format} }} }}]\n",
            node.address,
            path.display()
        )
    };
    let proxy = TestProxy::start(&with(&path, "x"));
    let mut client = proxy.client();
    let mut ask = || ["/a ", "/b "].map(|target| client.ask(GET.replace("/ ", target)).status);
    assert_eq!(ask(), [200, 200]);
    proxy.access_log(2);
    proxy.reload(&with(&path, "y")).expect("applied");
    assert_eq!(ask(), [200, 200]);
    proxy.access_log(4);
    proxy.reload(&with(&other, "y")).expect("applied");
    assert_eq!(ask(), [200, 200]);
    let own = json!({ "own": 1, "route_id": "b" });
    let all = |value: &str| json!({ "all": value, "route_id": "a" });
    assert_eq!(lines(&path, 4), [all("x"), own.clone(), all("y"), own.clone()]);
    assert_eq!(lines(&other, 2), [all("y"), own]);
}

#[test]
fn nobody_waits_for_a_log_that_is_not_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    // Without anybody who could read, lines are dropped at once.
    let mut reader = fs::OpenOptions::new().read(true).custom_flags(nonblock()).open(&path);
    let reader = reader.as_mut().expect("a reader");
    let node = Node::always("x");
    let filler = "x".repeat(100_000);
    let plugins =
        format!("{{ file-logger: {{ path: {}, log_format: {{ a: {filler} }} }} }}", path.display());
    let proxy = TestProxy::start(&config(node.address, &plugins, ""));
    let sample = format!("tandem_log_file_dropped_total{{path=\"{}\"}}", path.display());
    let mut asked = 0;
    let mut client = Client::connect(proxy.address("web"));
    while proxy.metric(&sample) == 0.0 {
        assert_eq!(client.ask(GET.replace("/ ", "/items/1 ")).status, 200);
        asked += 1;
        assert!(asked < 100, "the queue has no end");
    }
    assert!(asked > 10);
    // Now it is read, so that the writer gets to its end.
    let mut first = [0; 10];
    eventually("a line", || reader.read(&mut first).ok().filter(|count| *count == 10));
    assert_eq!(&first, b"{\"a\":\"xxxx");
}

fn nonblock() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

#[test]
fn a_line_that_is_too_long_is_dropped_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("x.log");
    let node = Node::always("x");
    let filler = "x".repeat(140_000);
    let format = format!("log_format: {{ a: {filler} }}");
    let plugins = format!("{{ file-logger: {{ path: {}, {format} }} }}", path.display());
    let proxy = TestProxy::start(&config(node.address, &plugins, ""));
    Client::connect(proxy.address("web")).ask(GET.replace("/ ", "/items/1 "));
    proxy.check_metric(
        &format!("tandem_log_file_dropped_total{{path=\"{}\"}}", path.display()),
        1.0,
    );
    assert!(!path.exists());
}

/// The binary, its signal and its file.
#[test]
fn logs_that_were_renamed_are_opened_again_and_bad_paths_change_nothing() {
    let node = Node::always("x");
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let with = |path: &Path| {
        let plugin = format!(
            "plugins: {{ file-logger: {{ path: {}, log_format: {{ m: $method }} }} }}",
            path.display()
        );
        let access = format!("log: {{ access: {{ target: {} }} }}", at("access.log").display());
        yaml(node.address, &access).replace("uri: /*,", &format!("uri: /*, {plugin},"))
    };
    let tandem = Tandem::start(&with(&at("x.log")));
    let mut client = tandem.client();
    assert_eq!(client.ask(GET).status, 200);
    lines(&at("x.log"), 1);
    for name in ["x.log", "access.log"] {
        eventually(name, || (!fs::read(at(name)).ok()?.is_empty()).then_some(()));
        fs::rename(at(name), at(&format!("{name}.1"))).expect("renamed");
    }
    tandem.signal(Signal::USR1);
    eventually("new files", || (at("x.log").exists() && at("access.log").exists()).then_some(()));
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(lines(&at("x.log"), 1), lines(&at("x.log.1"), 1));
    eventually("an access-log line", || {
        (fs::read_to_string(at("access.log")).ok()?.lines().count() == 1).then_some(())
    });

    tandem.rewrite(&with(&at("missing/x.log")));
    tandem.line(&["configuration not reloaded", "file-logger.path: cannot be written to"]);
    assert_eq!(client.ask(GET).status, 200);
    lines(&at("x.log"), 2);
    tandem.rewrite(&with(&at("y.log")));
    tandem.line(&["configuration reloaded"]);
    assert_eq!(client.ask(GET).status, 200);
    lines(&at("y.log"), 1);
    lines(&at("x.log"), 2);
}
