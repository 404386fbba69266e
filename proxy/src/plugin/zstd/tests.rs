use super::super::trial::{findings, refused};

#[test]
fn what_makes_no_sense_is_refused() {
    for (settings, message) in [
        ("comp_level: 0", "from 1 to 19"),
        ("comp_level: 20", "from 1 to 19"),
        ("min_length: x", "a whole number"),
        ("types: a", "a list"),
    ] {
        refused("zstd", settings, message);
    }
}

#[test]
fn every_key_is_taken() {
    let settings = "{ types: [a/b], min_length: 1, comp_level: 19, http_version: 1.0, vary: true }";
    assert_eq!(findings(&format!("{{ zstd: {settings} }}"), ""), Vec::<String>::new());
}
