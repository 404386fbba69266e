use super::super::trial::{findings, refused};

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("comp_level: 0", "from 1 to 9"),
        ("comp_level: 10", "from 1 to 9"),
        ("buffers: { number: 32, size: 4096 }", "NGINX's"),
        ("types: []", "needs 1 to 256 items"),
        ("types: [\"*\"]", "not a media type"),
        ("types: [text]", "not a media type"),
        ("types: [\"text/*\"]", "not a media type"),
        ("types: [\"text/html; charset=utf-8\"]", "not a media type"),
        ("min_length: 0", "from 1 to"),
        ("http_version: 2", "1.0 or 1.1"),
        ("vary: 1", "`true` or `false`"),
        ("lgwin: 19", "unknown key"),
    ] {
        refused("gzip", settings, message);
    }
}

#[test]
fn every_key_is_taken() {
    for settings in [
        "{}",
        "{ types: \"*\", min_length: 1, comp_level: 9, http_version: 1.0, vary: true }",
        "{ types: [text/html, application/vnd.api+json], http_version: \"1.1\" }",
    ] {
        assert_eq!(findings(&format!("{{ gzip: {settings} }}"), ""), Vec::<String>::new());
    }
}
