//! A file as a whole: what is no configuration at all, and how errors are told.

use std::{fs, path::Path};

use proxy::config::Config;

use super::{check_addition, check_errors, messages, valid, with};

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
