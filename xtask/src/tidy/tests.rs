use super::*;

/// Runs one rule over one file: the lines it finds.
#[track_caller]
fn check(rule: Rule, path: &str, text: &str, expected: &[usize]) {
    let mut findings = Vec::new();
    rule(&Source::new(path, text), &mut findings);
    let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, expected, "{path}: {text}: {findings:?}");
}

#[test]
fn only_kernel_imports_aya_rule() {
    let rule = only_kernel_imports_aya;
    check(rule, "proxy/src/listener.rs", "use aya::Ebpf;\n", &[1]);
    check(rule, "proxy/src/forward/splice.rs", "fn f() {\n    aya_log::init();\n}\n", &[2]);
    check(rule, "proxy/src/kernel.rs", "use aya::Ebpf;\n", &[]);
    check(rule, "proxy/src/kernel/loader.rs", "use aya::Ebpf;\n", &[]);
    check(rule, "proxy/tests/kernel/verdict.rs", "use aya::Ebpf;\n", &[]);
    check(rule, "proxy/src/listener.rs", "// aya does this\nlet x = \"aya\";\n", &[]);
}

#[test]
fn pure_modules_rule() {
    let rule = pure_modules_do_nothing_but_decide;
    check(rule, "proxy/src/route.rs", "use std::sync::Arc;\nuse tokio::time;\n", &[2]);
    check(rule, "proxy/src/http/gate.rs", "use hyper::body::Bytes;\n", &[1]);
    check(rule, "proxy/src/guard.rs", "let now = Instant::now();\n", &[1]);
    check(rule, "proxy/src/plugin/key_auth.rs", "let text = std::fs::read(p);\n", &[1]);
    check(rule, "proxy/src/guard.rs", "fn admit(now: Instant) {}\n", &[]);
    check(rule, "proxy/src/route.rs", "#[cfg(test)]\nmod tests {\n use tokio::x;\n}\n", &[]);
    check(rule, "proxy/src/http/tests.rs", "use tokio::time;\n", &[]);
    check(rule, "proxy/src/upstream/pool.rs", "use tokio::time;\n", &[]);
}

#[test]
fn unsafe_rule() {
    let rule = unsafe_stays_where_it_is_allowed;
    check(rule, "proxy/src/listener.rs", "fn f() {\n    unsafe { g() }\n}\n", &[2]);
    check(rule, "bench/src/load.rs", "unsafe impl Send for X {}\n", &[1]);
    check(rule, "proxy/src/sys/splice.rs", "unsafe { g() }\n", &[]);
    check(rule, "proxy-ebpf/src/packet.rs", "unsafe { g() }\n", &[]);
    check(rule, "proxy-common/src/layout.rs", "unsafe impl Pod for X {}\n", &[]);
    check(rule, "proxy-common/src/flow.rs", "unsafe impl Pod for X {}\n", &[1]);
    check(rule, "proxy/src/lib.rs", "#![deny(unsafe_code)]\n", &[]);
}

#[test]
fn crate_roots_rule() {
    let rule = crate_roots_say_how_much_unsafe;
    check(rule, "bench/src/main.rs", "fn main() {}\n", &[1]);
    check(rule, "proxy/src/lib.rs", "// #![deny(unsafe_code)]\n", &[1]);
    check(rule, "bench/src/main.rs", "#![forbid(unsafe_code)]\nfn main() {}\n", &[]);
    check(rule, "bench/src/load.rs", "fn f() {}\n", &[]);
}

#[test]
fn verdicts_rule() {
    let rule = verdicts_are_given_in_one_place;
    check(rule, "proxy-ebpf/src/xdp.rs", "return XDP_DROP;\n", &[1]);
    check(rule, "proxy-ebpf/src/tunnel.rs", "use bindings::SK_PASS;\n", &[1]);
    check(rule, "proxy-ebpf/src/main.rs", "xdp_action::XDP_PASS\n", &[]);
    check(rule, "proxy/tests/kernel/verdict.rs", "assert_eq!(v, XDP_PASS);\n", &[]);
    check(rule, "proxy-ebpf/src/xdp.rs", "// XDP_DROP is for main\n", &[]);
}

#[test]
fn names_rule() {
    let rule = files_are_named_by_what_they_hold;
    check(rule, "proxy/src/http/mod.rs", "", &[1]);
    check(rule, "proxy/src/utils.rs", "", &[1]);
    check(rule, "bench/src/common/x.rs", "", &[1]);
    check(rule, "proxy-common/src/flow.rs", "", &[]);
    check(rule, "proxy/src/model.rs", "", &[]);
}

#[test]
fn unfinished_rule() {
    let rule = unfinished_work_names_its_issue;
    check(rule, "a.rs", "fn f() {}\n// TODO: later\n", &[2]);
    check(rule, "a.rs", "/* FIXME */\n", &[1]);
    check(rule, "a.rs", "// TODO(#12): later\n", &[]);
    check(rule, "a.rs", "let todo = \"TODO\"; // MASTODON\n", &[]);
}

#[test]
fn ignored_rule() {
    let rule = ignored_tests_say_why;
    check(rule, "a.rs", "#[test]\n#[ignore]\nfn f() {}\n", &[2]);
    check(rule, "a.rs", "#[test]\n#[ignore = \"needs a NIC\"]\nfn f() {}\n", &[]);
}

#[test]
fn manifest_rule() {
    #[track_caller]
    fn check(path: &str, text: &str, expected: &[usize]) {
        let mut findings = Vec::new();
        check_manifest(path, text, &mut findings);
        let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, expected, "{path}: {text}");
    }
    check("bench/Cargo.toml", "[dependencies]\nanyhow = \"1\"\nproxy.workspace = true\n", &[3]);
    check("bench/Cargo.toml", "[dev-dependencies.proxy]\npath = \"../proxy\"\n", &[1]);
    check("bench/Cargo.toml", "[dependencies]\nproxy-wasm = \"1\"\n[features]\nproxy = []\n", &[]);
    check("proxy-common/Cargo.toml", "[dependencies]\naya = { optional = true }\n", &[]);
    check("proxy-common/Cargo.toml", "[dependencies]\nserde.workspace = true\n", &[2]);
    check("proxy/Cargo.toml", "[dependencies]\nproxy = \"1\"\n", &[]);
}
