use super::*;
use crate::forward::Via;

fn entry() -> Entry<'static> {
    Entry {
        // 2026-03-01T12:34:56.789Z
        at: UNIX_EPOCH + Duration::from_millis(1_772_368_496_789),
        downstream: SocketAddr::from(([192, 0, 2, 7], 51000)),
        listener: "web",
        route: Some("api"),
        upstream: Some("app"),
        node: Some(SocketAddr::from(([127, 0, 0, 1], 3000))),
        method: Some("GET"),
        host: Some("example.com:9080"),
        path: Some("/api/v1"),
        status: Some(200),
        sent_bytes: 12,
        recv_bytes: 0,
        total: Duration::from_micros(1234),
        connect: Some(Duration::from_micros(56)),
        first_byte: Some(Duration::from_millis(1)),
        is_reused: true,
        lane: Some(Lane::Express),
        via: Via::User,
        end: "--",
    }
}

/// A connection that closed before its head was whole.
fn early() -> Entry<'static> {
    Entry {
        downstream: "[2001:db8::1]:40000".parse().unwrap(),
        route: None,
        upstream: None,
        node: None,
        method: None,
        host: None,
        path: None,
        status: None,
        sent_bytes: 0,
        connect: None,
        first_byte: None,
        is_reused: false,
        lane: None,
        end: "CR",
        ..entry()
    }
}

fn text_of(entry: &Entry<'_>) -> String {
    let mut line = String::new();
    text(&mut line, entry);
    line
}

fn json_of(entry: &Entry<'_>) -> String {
    let mut line = String::new();
    json(&mut line, entry);
    line
}

#[test]
fn text_lines_read_as_documented() {
    assert_eq!(
        text_of(&entry()),
        "2026-03-01T12:34:56.789Z 192.0.2.7:51000 web api app 127.0.0.1:3000 GET \
         example.com:9080 /api/v1 200 12 0 1.234 0.056 1.000 reused express user --\n"
    );
    assert_eq!(
        text_of(&early()),
        "2026-03-01T12:34:56.789Z [2001:db8::1]:40000 web - - - - - - - 0 0 1.234 - - - - user CR\n"
    );
}

#[test]
fn json_lines_read_as_documented() {
    assert_eq!(
        json_of(&entry()),
        concat!(
            r#"{"time":"2026-03-01T12:34:56.789Z","downstream":"192.0.2.7:51000","#,
            r#""listener":"web","route":"api","upstream":"app","node":"127.0.0.1:3000","#,
            r#""method":"GET","host":"example.com:9080","path":"/api/v1","status":200,"#,
            r#""sent_bytes":12,"recv_bytes":0,"total_ms":1.234,"connect_ms":0.056,"#,
            r#""first_byte_ms":1.000,"reused":true,"lane":"express","via":"user","end":"--"}"#,
            "\n"
        )
    );
    assert_eq!(
        json_of(&early()),
        concat!(
            r#"{"time":"2026-03-01T12:34:56.789Z","downstream":"[2001:db8::1]:40000","#,
            r#""listener":"web","route":null,"upstream":null,"node":null,"#,
            r#""method":null,"host":null,"path":null,"status":null,"#,
            r#""sent_bytes":0,"recv_bytes":0,"total_ms":1.234,"connect_ms":null,"#,
            r#""first_byte_ms":null,"reused":false,"lane":null,"via":"user","end":"CR"}"#,
            "\n"
        )
    );
}

#[test]
fn both_formats_have_the_same_values() {
    let words = text_of(&entry()).split_whitespace().count();
    let json: serde_json::Value = serde_json::from_str(&json_of(&entry())).unwrap();
    assert_eq!(words, json.as_object().unwrap().len());
}

/// Values that a downstream may choose.
fn hostile() -> Vec<String> {
    let mut values: Vec<String> =
        ["", "-", " ", "a b", "\"", "\\", "\\x41", "\n", "\r\nGET /", "\t", "\u{1b}[31m", "\u{7f}"]
            .map(String::from)
            .to_vec();
    values.extend(["/ü", "/\u{1f600}", "\u{2028}", "\u{feff}"].map(String::from));
    values.extend((0..=0x7fu8).map(|byte| format!("/{}", char::from(byte))));
    values.push("ü".repeat(VALUE_SIZE_MAX));
    values.push("a".repeat(VALUE_SIZE_MAX * 8));
    values
}

#[test]
fn no_value_breaks_a_line() {
    let words = text_of(&entry()).split(' ').count();
    for value in hostile() {
        let (host, path, method) = (Some(&*value), Some(&*value), Some(&*value));
        let line = text_of(&Entry { host, path, method, ..entry() });
        let (body, end) = line.split_at(line.len() - 1);
        assert_eq!(end, "\n");
        assert!(body.bytes().all(|byte| matches!(byte, 0x20..=0x7e)), "{line}");
        assert_eq!(body.split(' ').count(), words, "{line}");
        assert!(!body.contains('"'), "{line}");
    }
}

#[test]
fn json_is_valid_and_true_whatever_the_entry_holds() {
    for value in hostile() {
        let (host, path, method) = (Some(&*value), Some(&*value), Some(&*value));
        let line = json_of(&Entry { host, path, method, ..entry() });
        assert!(line.trim_end().bytes().all(|byte| matches!(byte, 0x20..=0x7e)), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        if value.len() <= VALUE_SIZE_MAX {
            assert_eq!(read["path"], value);
        } else {
            let cut = read["path"].as_str().unwrap().strip_suffix("...").unwrap();
            assert!(value.starts_with(cut) && cut.len() <= VALUE_SIZE_MAX);
        }
    }
}

#[test]
fn text_tells_a_dash_from_nothing() {
    let path = |path| {
        let line = text_of(&Entry { path, ..entry() });
        line.split(' ').nth(8).unwrap().to_owned()
    };
    assert_eq!(path(None), "-");
    assert_eq!(path(Some("-")), "\\x2d");
    assert_eq!(path(Some("/a-b")), "/a-b");
    assert_eq!(path(Some("/a\"\\ \u{e9}")), "/a\\x22\\x5c\\x20\\xc3\\xa9");
}

#[test]
fn a_line_has_a_bounded_size() {
    let long = "\u{1}".repeat(1 << 20);
    let (host, path, method) = (Some(&*long), Some(&*long), Some(&*long));
    let entry = Entry { host, path, method, ..entry() };
    assert!(text_of(&entry).len() < 3 * 4 * VALUE_SIZE_MAX + 512);
    assert!(json_of(&entry).len() < 3 * 6 * VALUE_SIZE_MAX + 512);
}

#[test]
fn dates_follow_the_calendar() {
    let time = |seconds| {
        let mut line = String::new();
        push_time(&mut line, UNIX_EPOCH + Duration::from_secs(seconds));
        line
    };
    assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(time(951_782_399), "2000-02-28T23:59:59.000Z");
    assert_eq!(time(951_782_400), "2000-02-29T00:00:00.000Z");
    assert_eq!(time(951_868_800), "2000-03-01T00:00:00.000Z");
    assert_eq!(time(1_709_164_800), "2024-02-29T00:00:00.000Z");
    assert_eq!(time(4_107_542_400), "2100-03-01T00:00:00.000Z");
    assert_eq!(time(253_402_300_799), "9999-12-31T23:59:59.000Z");
    let mut line = String::new();
    push_time(&mut line, UNIX_EPOCH - Duration::from_secs(1));
    assert_eq!(line, "1970-01-01T00:00:00.000Z");
}
