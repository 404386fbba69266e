use std::env::VarError;

use super::*;
use crate::config::finding::Findings;

fn lookup(name: &str) -> Result<String, VarError> {
    match name {
        "TEXT" => Ok("a: [b]".to_owned()),
        _ => Err(VarError::NotPresent),
    }
}

fn read_all(text: &str) -> (Option<Node>, Findings) {
    let sink = Sink::default();
    let tree = read(text, &lookup, &sink);
    (tree, sink.take_findings("t.yaml").0)
}

/// Every scalar and key as `line:column path=text`.
fn outline(node: &Node) -> Vec<String> {
    fn walk(node: &Node, path: &str, lines: &mut Vec<String>) {
        let at = |mark: Mark| format!("{}:{}", mark.line, mark.column);
        match &node.content {
            Content::Scalar(scalar) => {
                lines.push(format!("{} {path}={}", at(node.mark), scalar.text));
            }
            Content::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    let mut path = path.to_owned();
                    push_index(&mut path, index);
                    walk(item, &path, lines);
                }
            }
            Content::Mapping(entries) => {
                for entry in entries {
                    let mut path = path.to_owned();
                    push_key(&mut path, &entry.key);
                    lines.push(format!("{} {path}", at(entry.mark)));
                    walk(&entry.value, &path, lines);
                }
            }
        }
    }
    let mut lines = Vec::new();
    walk(node, "", &mut lines);
    lines
}

fn check(text: &str, expected: &[&str]) {
    let (tree, errors) = read_all(text);
    assert_eq!(errors.list, [], "{text}");
    assert_eq!(outline(&tree.expect("has a document")), expected, "{text}");
}

#[test]
fn everything_knows_where_it_stands() {
    check(
        "a: 1\nb:\n  - x\n  - { c: 'y', \"d e\": z }\n",
        &[
            "1:1 a",
            "1:4 a=1",
            "2:1 b",
            "3:5 b[0]=x",
            "4:7 b[1].c",
            "4:10 b[1].c=y",
            "4:15 b[1][\"d e\"]",
            "4:22 b[1][\"d e\"]=z",
        ],
    );
    check(
        "ü: ä\n# comment\nß: ö\n",
        &["1:1 [\"ü\"]", "1:4 [\"ü\"]=ä", "3:1 [\"ß\"]", "3:4 [\"ß\"]=ö"],
    );
    check("a: 1\r\nb: 2\r\n", &["1:1 a", "1:4 a=1", "2:1 b", "2:4 b=2"]);
    check("a: |\n  text\n  more\nb: 2\n", &["1:1 a", "2:3 a=text\nmore\n", "4:1 b", "4:4 b=2"]);
}

#[test]
fn what_the_end_of_the_file_cuts_off_is_reported_there() {
    for (text, line, column) in [("a: [{", 1, 6), ("a:\n- [{\n", 3, 1), ("a: \"x", 1, 4)] {
        let (tree, errors) = read_all(text);
        assert!(tree.is_none());
        assert_eq!(errors.list[0].mark, Some(Mark { line, column }), "{text:?}: {errors:?}");
    }
}

#[test]
fn no_place_is_behind_the_end_of_the_file() {
    check("? ##", &["1:5 [\"\"]", "1:5 [\"\"]="]);
    check("a:", &["1:1 a", "1:2 a="]);
}

#[test]
fn offsets_are_places() {
    let text = "ab\nü\r\nc\rd\n";
    let places: Vec<(usize, usize)> = text
        .char_indices()
        .map(|(offset, _)| Mark::at(text, offset))
        .map(|mark| (mark.line, mark.column))
        .collect();
    assert_eq!(
        places,
        [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2)]
    );
    assert_eq!(Mark::at(text, text.len()), Mark { line: 5, column: 1 });
}

#[test]
fn aliases_keep_the_place_of_what_they_stand_for() {
    check("a: &x [1]\nb: *x\n", &["1:1 a", "1:8 a[0]=1", "2:1 b", "1:8 b[0]=1"]);
    check("&k a: 1\nb: *k\n", &["1:1 a", "1:7 a=1", "2:1 b", "1:1 b=a"]);
}

#[test]
fn the_environment_cannot_add_structure() {
    check("a: ${{TEXT}}\n", &["1:1 a", "1:4 a=a: [b]"]);
    check("a: [\"${{TEXT}}\", '${{TEXT}}']\n", &["1:1 a", "1:5 a[0]=a: [b]", "1:18 a[1]=a: [b]"]);
    check("${{TEXT}}: 1\n", &["1:1 [\"a: [b]\"]", "1:12 [\"a: [b]\"]=1"]);
    check("a: ${x} $1 ${{NO:=default}}\n", &["1:1 a", "1:4 a=${x} $1 default"]);
}

#[test]
fn every_variable_that_is_missing_is_reported_with_its_path() {
    let (tree, errors) = read_all("a: ${{ONE}}\nb: [x, \"${{TWO}}\"]\n${{THREE}}: 1\nc: 2\n");
    let paths: Vec<&str> = errors.list.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(paths, ["a", "b[1]", ""]);
    assert!(errors.list[0].message.contains("`ONE` is not set"), "{errors:?}");
    let outline = outline(&tree.expect("has a document"));
    assert!(outline.iter().all(|line| !line.contains("THREE")), "{outline:?}");
    assert_eq!(outline.last().map(String::as_str), Some("4:4 c=2"));
}

#[test]
fn a_reference_without_quotes_in_a_flow_collection_is_explained() {
    let (tree, errors) = read_all("a: [x, ${{TEXT}}]\n");
    assert!(tree.is_none());
    assert!(errors.list[0].message.ends_with("put `${{…}}` in quotes"), "{errors:?}");
    let (_, errors) = read_all("a: [x, y}\n");
    assert!(!errors.list[0].message.contains("quotes"), "{errors:?}");
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_first_key() {
    check("\u{feff}a: 1\n", &["1:1 a", "1:4 a=1"]);
}

#[test]
fn shown_text_is_one_short_line() {
    assert_eq!(shown("a\nb\u{1b}"), "a\\nb\\u{1b}");
    assert_eq!(shown(&"x".repeat(100)).chars().count(), SHOWN_CHARS_MAX + 1);
}
