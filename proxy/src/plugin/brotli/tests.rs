use super::super::trial::{findings, refused};

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("comp_level: -1", "from 0 to 11"),
        ("comp_level: 12", "from 0 to 11"),
        ("mode: 3", "from 0 to 2"),
        ("lgwin: 9", "0 or a number from 10 to 24"),
        ("lgwin: 25", "0 or a number from 10 to 24"),
        ("lgblock: 15", "0 or a number from 16 to 24"),
        ("types: [a]", "not a media type"),
    ] {
        refused("brotli", settings, message);
    }
}

#[test]
fn every_key_is_taken() {
    let settings = "{ types: \"*\", min_length: 1, comp_level: 0, mode: 2, lgwin: 24, lgblock: 16, \
                    http_version: 1.0, vary: true }";
    for settings in [settings, "{ lgwin: 0, lgblock: 0 }"] {
        assert_eq!(findings(&format!("{{ brotli: {settings} }}"), ""), Vec::<String>::new());
    }
}
