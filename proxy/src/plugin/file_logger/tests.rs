use super::super::trial::{findings, refused};

fn errors(settings: &str, metadata: &str) -> Vec<String> {
    findings(&format!("{{ file-logger: {{ {settings} }} }}"), metadata)
}

#[test]
fn what_makes_no_sense_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = format!("path: {}/x.log", directory.path().display());
    for (settings, message) in [
        ("", "property \"path\" is not set in either the plugin conf or the metadata"),
        ("path: x.log", "an absolute path"),
        ("path: /nowhere/x.log", "cannot be written to: No such file or directory"),
        ("path: /etc/hostname/x.log", "cannot be written to: Not a directory"),
        (&format!("path: {}", directory.path().display()), "cannot be written to: is a directory"),
        (&format!("{path}, log_format: {{}}"), "needs 1 to 128 members"),
        (&format!("{path}, log_format: x"), "a mapping"),
        (&format!("{path}, log_format: {{ a: [b] }}"), "is a list"),
        (&format!("{path}, log_format: {{ a: $nothing }}"), "unknown variable `nothing`"),
        (&format!("{path}, log_format: {{ a: \"$host $nothing\" }}"), "unknown variable `nothing`"),
        (
            &format!("{path}, log_format_extra: {{ a: {{ a: {{ a: {{ a: {{ a: {{ a: b }} }} }} }} }} }}"),
            "more than 5 mappings inside each other",
        ),
        (&format!("{path}, match: [[a]]"), "match"),
        (&format!("{path}, include_req_body: 1"), "include_req_body"),
        (&format!("{path}, include_req_body_expr: []"), "mean nothing without `include_req_body: true`"),
        (&format!("{path}, max_resp_body_bytes: 1"), "mean nothing without `include_resp_body: true`"),
        (&format!("{path}, include_req_body: true, max_req_body_bytes: 0"), "from 1 to 1048576"),
        (&format!("{path}, include_resp_body: true, max_resp_body_bytes: 1048577"), "from 1 to"),
        (&format!("{path}, include_resp_body: true, include_resp_body_expr: [a]"), "include_resp_body_expr"),
    ] {
        refused("file-logger", settings, message);
    }
}

#[test]
fn every_key_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = format!(
        "path: {}/x.log, include_req_body: true, include_resp_body: true, \
         include_req_body_expr: [[arg_a, \"==\", b]], max_req_body_bytes: 1048576, \
         include_resp_body_expr: [[status, \">=\", 500]], max_resp_body_bytes: 1, \
         log_format: {{ a: {{ b: {{ c: {{ d: {{ e: $host, f: 1, g: null, h: \"cost $5\" }} }} }} }} }}, \
         log_format_extra: {{ t: \"${{uri}} ${{arg_x ?? none}}\" }}, \
         match: [[[status, \">=\", 400]], [[request_time, \">\", 1]]]",
        directory.path().display()
    );
    assert_eq!(errors(&settings, ""), Vec::<String>::new());
}

#[test]
fn what_holds_for_all_is_checked_where_it_stands() {
    let directory = tempfile::tempdir().expect("a directory");
    let with = |rest: &str| {
        let list = format!("plugin_metadata: [{{ {rest} }}]");
        errors("", &list).into_iter().find(|error| error.starts_with("plugin_metadata"))
    };
    let path = format!("path: {}/x.log", directory.path().display());
    assert_eq!(errors("", &format!("plugin_metadata: [{{ id: file-logger, {path} }}]")).len(), 0);
    for (rest, message) in [
        ("id: file-logger, path: /nowhere/x", "plugin_metadata[0].path: cannot be written to"),
        ("id: file-logger, paht: /x", "plugin_metadata[0].paht: unknown key; did you mean `path`?"),
        ("id: csrf", "plugin_metadata[0]: `csrf` has no metadata"),
        ("id: http-logger", "plugin_metadata[0]: only `cors`, `file-logger` and"),
        ("path: /x", "plugin_metadata[0]: `id` is missing"),
        ("id: file-logger, log_format: { a: $b }", "plugin_metadata[0].log_format.a: unknown"),
    ] {
        let error = with(rest).unwrap_or_default();
        assert!(error.starts_with(message), "{rest}: {error}");
    }
}

#[test]
fn there_is_an_end_to_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let routes = |count: usize| {
        let route = |at: usize| {
            let path = directory.path().join((at % count).to_string());
            let path = path.display();
            format!("{{ id: r{at}, uri: /{at}, plugins: {{ file-logger: {{ path: {path} }} }} }}")
        };
        let routes: Vec<_> = (0..2 * count).map(route).collect();
        format!(
            "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\nroutes: [{}]\n",
            routes.join(", ")
        )
    };
    let parsed = |count| crate::config::Config::parse(&routes(count), "t.yaml").map(drop);
    assert_eq!(parsed(64), Ok(()));
    assert!(parsed(65).expect_err("too many").to_string().contains("more than 64 log files"));
}
