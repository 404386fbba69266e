use super::*;

/// A head that is accepted, with these lines between the first and the empty one.
fn lines(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n")
}

/// With the fields that have to be there.
fn with(field: &str) -> String {
    lines(&format!("date: today\r\n{field}\r\ncontent-length: 5\r\n"))
}

#[track_caller]
fn check(head: &str, expected: Result<(u16, u32), Refusal>) {
    check_bytes(head.as_bytes(), expected);
}

/// Whatever follows the head.
#[track_caller]
fn check_bytes(head: &[u8], expected: Result<(u16, u32), Refusal>) {
    for body in ["", "\r", "12345", "\r\n\r\n: HTTP/1.1 200 OK\r\n"] {
        let message = [head, body.as_bytes()].concat();
        let expected = expected.map(|(status, content_length)| Head {
            size: head.len() as u32,
            status,
            content_length,
        });
        assert_eq!(recognise(&message), expected, "{:?}", message.escape_ascii().to_string());
    }
}

#[test]
fn what_nodes_say_is_recognised() {
    check(
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 16:32:09 GMT\r\n\
         Content-Type: text/plain\r\nContent-Length: 1024\r\n\
         Last-Modified: Fri, 20 Nov 2026 10:00:00 GMT\r\nConnection: keep-alive\r\n\
         ETag: \"6554c7c0-400\"\r\nAccept-Ranges: bytes\r\n\r\n",
        Ok((200, 1024)),
    );
    check(
        "HTTP/1.1 404 Not Found\r\nX-Powered-By: Express\r\nContent-Type: text/html; \
         charset=utf-8\r\nContent-Length: 0\r\nDate: Sat, 21 Nov 2026 16:32:09 GMT\r\n\
         Connection: keep-alive\r\nKeep_Alive: timeout=5\r\n\r\n",
        Ok((404, 0)),
    );
    check("HTTP/1.1 599 \r\ndate: -\r\ncontent-length: 4294967295\r\n\r\n", Ok((599, u32::MAX)));
}

#[test]
fn a_status_line_has_one_form() {
    let rest = "\r\ndate: today\r\ncontent-length: 5\r\n\r\n";
    for phrase in ["", "OK", " a\tb ", "Nicht gefunden: (1) \u{e4}"] {
        check(&format!("HTTP/1.1 200 {phrase}{rest}"), Ok((200, 5)));
    }
    for line in [
        "HTTP/1.0 200 OK",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2o0 OK",
        "HTTP/1.1 :00 OK",
        "HTTP/1.1 20/ OK",
        "\r\nHTTP/1.1 200 OK",
        " HTTP/1.1 200 OK",
        "SSH-2.0-OpenSSH_9.2p1 Debian",
    ] {
        check(&format!("{line}{rest}"), Err(Refusal::StatusLine));
    }
    check(&format!("HTTP/1.1 200 O\0K{rest}"), Err(Refusal::Value));
    check(&format!("HTTP/1.1 200 O\x7fK{rest}"), Err(Refusal::Value));
    check(&format!("HTTP/1.1 200 O\nK{rest}"), Err(Refusal::LineEnding));
    check(&format!("HTTP/1.1 200 O\rK{rest}"), Err(Refusal::LineEnding));
}

#[test]
fn some_statuses_are_for_userspace() {
    for status in 0..1000 {
        let head = format!("HTTP/1.1 {status:03} -\r\ndate: today\r\ncontent-length: 5\r\n\r\n");
        let is_refused =
            !(200..=599).contains(&status) || [204, 205, 304, 408, 421].contains(&status);
        check(&head, if is_refused { Err(Refusal::Status) } else { Ok((status, 5)) });
    }
}

#[test]
fn a_field_line_has_one_form() {
    for field in ["a: b", "a: b c", "a: b\tc", "a: \u{e4}", "!#$%&'*+-.^_`|~09AZaz: :,;\"\\"] {
        check(&with(field), Ok((200, 5)));
    }
    for field in ["a:b", "a:\tb", "a:  b", "a: \tb", "a: b ", "a: b\t", "a:", "a: ", "a:  "] {
        check(&with(field), Err(Refusal::Value));
    }
    for field in
        ["a : b", "a\t: b", ": b", "a b: c", " a: b", "\ta: b", "a", "a\r\n b: c", "a\0: b"]
    {
        check(&with(field), Err(Refusal::Name));
    }
    check(&with("a: b\r\n c"), Err(Refusal::Name));
    check(&with("a: b\r\n\tc"), Err(Refusal::Name));
    for field in ["a: b\rc: d", "a: b\nc: d", "a\n: b", "a: b\r\r", "a: b\r\r\nc: d", "\n"] {
        check(&with(field), Err(Refusal::LineEnding));
    }
}

/// Each byte in a name and in a value, in every place of a word and behind the last whole word.
#[test]
fn every_byte_is_judged_alike_in_every_place() {
    const OTHERS: &[u8] = b"!#$%&'*+-.^_`|~";
    for byte in u8::MIN..=u8::MAX {
        let is_token = byte.is_ascii_alphanumeric() || OTHERS.contains(&byte);
        assert_eq!(super::is_token(byte), is_token);
        let is_text = byte == b'\t' || !byte.is_ascii_control();
        for before in 1..=16 {
            let pad = "x".repeat(before);
            let head = |parts: [&[u8]; 3]| {
                [b"HTTP/1.1 200 OK\r\ndate: today\r\n", &parts.concat()[..]].concat()
            };
            let name = head([pad.as_bytes(), &[byte], b"x: y\r\ncontent-length: 5\r\n\r\n"]);
            let judged = recognise(&name);
            assert_eq!(judged.is_ok(), is_token, "{byte:#x} in a name behind {before}: {judged:?}");
            let value = [b"content-length: 5\r\nx: ", pad.as_bytes()].concat();
            let value = head([&value, &[byte], b"y\r\n\r\n"]);
            let judged = recognise(&value);
            assert_eq!(judged.is_ok(), is_text, "{byte:#x} in a value behind {before}: {judged:?}");
        }
    }
}

#[test]
fn there_is_one_length() {
    let length = |value: &str| lines(&format!("date: today\r\nContent-Length: {value}\r\n"));
    for value in [0, 1, 9, 10, 99_999_999, 100_000_000, 999_999_999, 4_294_967_290, u32::MAX] {
        check(&length(&value.to_string()), Ok((200, value)));
    }
    for value in [
        "00",
        "01",
        "4294967296",
        "9999999999",
        "99999999999",
        "18446744073709551621",
        "+5",
        "-5",
        "5 ",
        "5,5",
        "5, 5",
        "5;",
        "0x5",
        "5\t",
        "x",
        "\u{e4}",
    ] {
        check(&length(value), Err(Refusal::ContentLength));
    }
    check(&length(""), Err(Refusal::Value));
    check(&length("5\r5"), Err(Refusal::LineEnding));
    check(&length("5\n"), Err(Refusal::ContentLength));
    check(&with("content-length: 5"), Err(Refusal::Repeated));
    check(&lines("date: today\r\n"), Err(Refusal::Missing));
    check(&lines("date: today\r\ncontent_length: 5\r\n"), Err(Refusal::Missing));
}

#[test]
fn there_is_one_date() {
    check(&lines("content-length: 5\r\n"), Err(Refusal::Missing));
    check(&with("DATE: tomorrow"), Err(Refusal::Repeated));
    check(&lines("DaTe: today\r\ncontent-length: 5\r\n"), Ok((200, 5)));
}

#[test]
fn the_connection_is_kept() {
    for value in ["keep-alive", "Keep-Alive", "KEEP-ALIVE"] {
        check(&with(&format!("connection: {value}")), Ok((200, 5)));
        check(&with(&format!("CONNECTION: {value}\r\na: b")), Ok((200, 5)));
    }
    for value in [
        "close",
        "keep-alive, close",
        "keep-alive,x",
        "keep-alive ",
        "keep-aliv",
        "keep-alivee",
        "keep-alive\t",
        "keep\ralive",
        "keep\ralive\r",
        "kee0-alive",
        "keep-alive\r",
        "x-a",
        "\"",
        "keep-alive\n",
    ] {
        check(&with(&format!("connection: {value}")), Err(Refusal::Connection));
    }
    let twice = "connection: keep-alive\r\nconnection: keep-alive";
    check(&with(twice), Err(Refusal::Repeated));
}

const HOP_BY_HOP: [&str; 11] = [
    "te",
    "proxy",
    "trailer",
    "upgrade",
    "keep-alive",
    "http2-settings",
    "proxy-connection",
    "transfer-encoding",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
];

#[test]
fn what_never_leaves_a_connection_is_refused() {
    for name in HOP_BY_HOP {
        check(&with(&format!("{name}: x")), Err(Refusal::HopByHop));
        check(&with(&format!("{}: x", name.to_uppercase())), Err(Refusal::HopByHop));
        let mixed = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
        check(&with(&format!("{mixed}: x")), Err(Refusal::HopByHop));
    }
}

/// Shorter and longer ones, and those that differ in one byte: of names longer than 16 bytes only the
/// end and the length are looked at.
#[test]
fn neighbours_of_known_names_are_other_names() {
    for name in HOP_BY_HOP.into_iter().chain(["date", "connection", "content-length"]) {
        for neighbour in [
            format!("x{name}"),
            format!("{name}x"),
            name[1..].to_owned(),
            name[..name.len() - 1].to_owned(),
        ] {
            check(&with(&format!("{neighbour}: 1")), Ok((200, 5)));
        }
        for place in 0..name.len() {
            for other in ["~", "_", "!", "0"] {
                let neighbour = format!("{}{other}{}", &name[..place], &name[place + 1..]);
                let is_unseen = name.len() - place > 16;
                let expected = if is_unseen { Err(Refusal::HopByHop) } else { Ok((200, 5)) };
                check(&with(&format!("{neighbour}: 1")), expected);
            }
        }
    }
}

/// Names of all lengths that end like one that is refused, or are its end.
#[test]
fn a_name_is_known_by_its_length_too() {
    for name in HOP_BY_HOP {
        for size in 1..=40 {
            let longer = format!("{}{name}", "x".repeat(40));
            let other = &longer[longer.len() - size..];
            let expected = match other {
                "connection" => Err(Refusal::Connection),
                _ if HOP_BY_HOP.contains(&other) => Err(Refusal::HopByHop),
                _ => Ok((200, 5)),
            };
            check(&with(&format!("{other}: 1")), expected);
        }
    }
}

#[test]
fn there_are_not_too_many_fields() {
    let fields = |count: usize| with(&vec!["a: b"; count - 2].join("\r\n"));
    let max = HEAD_FIELDS_MAX as usize;
    check(&fields(max), Ok((200, 5)));
    check(&fields(max + 1), Err(Refusal::TooManyFields));
}

/// Pads a head to `size` bytes, with names or values or a phrase.
fn sized(size: u32) -> [String; 3] {
    let pad = |head: &dyn Fn(&str) -> String| head(&"x".repeat(size as usize - head("").len()));
    [
        pad(&|pad| with(&format!("x{pad}: y"))),
        pad(&|pad| with(&format!("x: y{pad}"))),
        pad(&|pad| format!("HTTP/1.1 200 {pad}\r\ndate: -\r\ncontent-length: 5\r\n\r\n")),
    ]
}

#[test]
fn a_head_has_a_largest_size() {
    for size in HEAD_MAX - 9..=HEAD_MAX {
        for head in sized(size) {
            check(&head, Ok((200, 5)));
        }
    }
    for size in (HEAD_MAX + 1..HEAD_MAX + 20).chain([2 * HEAD_MAX]) {
        for head in sized(size) {
            check(&head, Err(Refusal::TooLarge));
        }
    }
}

/// A line of every length, so that each line ending falls into every place of a word.
#[test]
fn lines_may_end_in_every_place_of_a_word() {
    for size in 1..=24 {
        let pad = "x".repeat(size);
        check(&format!("HTTP/1.1 200 {pad}\r\ndate: -\r\ncontent-length: 5\r\n\r\n"), Ok((200, 5)));
        check(&with(&format!("x: {pad}")), Ok((200, 5)));
        check(&with(&format!("{pad}: y")), Ok((200, 5)));
        check(&lines(&format!("content-length: 5\r\ndate: {pad}\r\n")), Ok((200, 5)));
        for (end, refusal) in [
            ("\r", Refusal::LineEnding),
            ("\n", Refusal::LineEnding),
            ("\n\r", Refusal::LineEnding),
            (" \r\n", Refusal::Value),
            ("\t\r\n", Refusal::Value),
            ("\x0b\r\n", Refusal::Value),
        ] {
            check(&lines(&format!("content-length: 5\r\ndate: {pad}{end}y: z\r\n")), Err(refusal));
        }
    }
}

fn accepted() -> Vec<String> {
    vec![
        with("Server: nginx/1.22.1\r\nConnection: Keep-Alive"),
        lines("content-length: 4294967295\r\nDate: Sat, 21 Nov 2026 16:32:09 GMT\r\n"),
        lines("date: -\r\ncontent-length: 10\r\nconnection: keep-alive\r\n"),
        "HTTP/1.1 500 \r\ncontent-length: 0\r\nx-longer-than-16-bytes: y\r\ndate: -\r\n\r\n".into(),
    ]
}

#[test]
fn the_start_of_a_head_is_not_a_head() {
    for head in accepted() {
        for size in 0..head.len() {
            assert_eq!(recognise(&head.as_bytes()[..size]), Err(Refusal::Incomplete), "{size}");
        }
        assert!(recognise(head.as_bytes()).is_ok());
    }
}

/// Whatever it has read before, and how far.
#[test]
fn it_begins_anew() {
    let mut recogniser = Recogniser::new();
    let refused = [with("te: x"), with("date: -"), lines("content-length: 01\r\n")];
    for message in accepted().into_iter().flat_map(|one| refused.clone().into_iter().chain([one])) {
        let message = message.as_bytes();
        recogniser.restart();
        let mut step = Step::More;
        while step == Step::More {
            step = recogniser.step(&Bytes::from(message));
        }
        let again = match step {
            Step::Refused(refusal) => Err(refusal),
            Step::Done | Step::More => Ok(recogniser.head()),
        };
        assert_eq!(again, recognise(message));
    }
}

/// A message that notes the largest offset that it was asked for.
struct Watched<'a>(Bytes<'a>, std::cell::Cell<u32>);

impl Message for Watched<'_> {
    fn word(&self, at: u32) -> Option<u64> {
        self.1.set(self.1.get().max(at));
        self.0.word(at)
    }
}

/// Steps until the end, and the largest offset asked for.
fn effort(message: &[u8]) -> (u32, u32) {
    let message = Watched(message.into(), 0.into());
    let mut recogniser = Recogniser::new();
    let mut steps = 1;
    while recogniser.step(&message) == Step::More {
        steps += 1;
    }
    (steps, message.1.get())
}

#[test]
fn steps_and_offsets_are_bounded() {
    let (steps, _) = effort(with("Server: nginx/1.22.1").as_bytes());
    assert!(steps < 20, "{steps} steps");
    // A byte at a time, which is the slowest there is.
    for start in 0..20 {
        let pad = "x".repeat(start);
        for field in [
            format!("{pad}{}", "_".repeat(3000)),
            format!("{pad}: {}", "y".repeat(3000)),
            format!("x: {}\r\nconnection: keep-alive", "y".repeat(1980 + start)),
        ] {
            let (steps, largest) = effort(with(&field).as_bytes());
            assert!(steps <= STEPS_MAX, "{steps} steps");
            assert!(largest <= HEAD_MAX + 16, "{largest}");
        }
    }
}
