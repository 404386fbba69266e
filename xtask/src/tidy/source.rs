//! A Rust file taken apart: what is code, what is comment, where its tests begin.

/// One file, by its path from the root of the clone with `/` between the parts.
pub(super) struct Source {
    pub(super) path: String,
    /// The code without comments and without what is inside string literals.
    code: String,
    /// The comments without the code.
    comments: String,
    /// Where, in bytes of `code`, an inline `#[cfg(test)] mod` begins.
    tests_start: usize,
}

/// What part of a file a byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Text,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Source {
        let (mut code, mut comments) = (String::new(), String::new());
        for (c, part) in parts(text) {
            let kept = |of: Part| if part == of || c == '\n' { c } else { ' ' };
            code.push(kept(Part::Code));
            comments.push(kept(Part::Comment));
        }
        let tests_start = match path.ends_with("tests.rs") || path.contains("/tests/") {
            true => 0,
            false => inline_tests(&code).unwrap_or(code.len()),
        };
        Source { path: path.to_owned(), code, comments, tests_start }
    }

    /// Whether the file is `stem.rs` or below the directory `stem`.
    pub(super) fn is_in(&self, stem: &str) -> bool {
        self.path.strip_prefix(stem).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    /// Lines, counted from 1, on which the code has `words`, tests included.
    pub(super) fn lines_with(&self, words: &str) -> Vec<usize> {
        lines_with(&self.code, words)
    }

    /// The same without tests.
    pub(super) fn lines_with_outside_tests(&self, words: &str) -> Vec<usize> {
        lines_with(&self.code[..self.tests_start], words)
    }

    /// Each comment line that is not empty, with its number.
    pub(super) fn comment_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.comments.lines().enumerate();
        numbered.map(|(index, line)| (index + 1, line.trim())).filter(|(_, line)| !line.is_empty())
    }

    /// Lines that are not tests.
    pub(super) fn lines_outside_tests(&self) -> usize {
        self.code[..self.tests_start].lines().count()
    }
}

fn inline_tests(code: &str) -> Option<usize> {
    code.match_indices("#[cfg(test)]")
        .find(|(at, mark)| code[at + mark.len()..].trim_start().starts_with("mod "))
        .map(|(at, _)| at)
}

fn lines_with(code: &str, words: &str) -> Vec<usize> {
    let numbered = code.lines().enumerate();
    numbered.filter(|(_, line)| has_words(line, words)).map(|(index, _)| index + 1).collect()
}

/// Whether `words` stand in `line` and are not part of a longer identifier.
fn has_words(line: &str, words: &str) -> bool {
    let is_joined = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(words).any(|(at, _)| {
        !is_joined(line[..at].chars().next_back())
            && !is_joined(line[at + words.len()..].chars().next())
    })
}

/// Every character of `text` with the part it belongs to.
fn parts(text: &str) -> Vec<(char, Part)> {
    let all: Vec<char> = text.chars().collect();
    let mut parts = Vec::with_capacity(all.len());
    while let Some(rest) = all.get(parts.len()..).filter(|rest| !rest.is_empty()) {
        let (length, part) = token(rest, parts.last().map(|(c, _)| *c));
        parts.extend(rest[..length].iter().map(|c| (*c, part)));
    }
    parts
}

/// The length and part of what `rest` begins with; `before` is the character in front of it.
fn token(rest: &[char], before: Option<char>) -> (usize, Part) {
    let starts = |with: &str| with.chars().eq(rest.iter().copied().take(with.len()));
    if starts("//") {
        return (rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()), Part::Comment);
    }
    if starts("/*") {
        return (block_comment(rest), Part::Comment);
    }
    if rest[0] == '"' {
        return (text_literal(rest), Part::Text);
    }
    let is_word_start = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if is_word_start && let Some(length) = raw_text_literal(rest) {
        return (length, Part::Text);
    }
    if rest[0] == '\''
        && let Some(length) = character_literal(rest)
    {
        return (length, Part::Text);
    }
    (1, Part::Code)
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn text_literal(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br#"…"#`: no escapes, ends with as many `#` as it began with.
fn raw_text_literal(rest: &[char]) -> Option<usize> {
    let prefix = match rest {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let start = prefix + hashes;
    if rest.get(start) != Some(&'"') {
        return None;
    }
    let is_end = |at: usize| rest[at..].iter().skip(1).take(hashes).filter(|c| **c == '#').count();
    let end = (start + 1..rest.len()).find(|at| rest[*at] == '"' && is_end(*at) == hashes);
    Some(end.map_or(rest.len(), |at| at + 1 + hashes))
}

/// `'x'` or `'\n'`, as against a lifetime.
fn character_literal(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', _, tail @ ..] => Some(3 + tail.iter().position(|c| *c == '\'')? + 1),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_code_from_comments_and_text() {
        fn check(text: &str, code: &str, comments: &str) {
            let source = Source::new("x.rs", text);
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(squeezed(&source.code), code, "code of {text}");
            assert_eq!(squeezed(&source.comments), comments, "comments of {text}");
        }
        check("let a = 1; // why", "let a = 1;", "// why");
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
        check(r#"f("unsafe // no") // yes"#, "f( )", "// yes");
        check(r#"f("\"unsafe") + g"#, "f( ) + g", "");
        check(r##"f(r#"a "unsafe" b"#, br"x")"##, "f( , )", "");
        check(r#"matches!(c, '"' | '\'' | '\u{7f}') // c"#, "matches!(c, | | )", "// c");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", "");
        check("for r in rows {}", "for r in rows {}", "");
        check("\"never closed", "", "");
    }

    #[test]
    fn finds_words_but_not_parts_of_words() {
        fn check(code: &str, words: &str, expected: &[usize]) {
            assert_eq!(Source::new("x.rs", code).lines_with(words), expected, "{words} in {code}");
        }
        check("a\nunsafe { }\n", "unsafe", &[2]);
        check("#![deny(unsafe_code)]", "unsafe", &[]);
        check("use aya::Ebpf;", "aya", &[1]);
        check("use aya_log::X; let playa = 1;", "aya", &[]);
        check("let t = Instant::now();", "Instant::now", &[1]);
        check("let t = Instant::nowhere();", "Instant::now", &[]);
        check("// unsafe\n\"unsafe\"", "unsafe", &[]);
    }

    #[test]
    fn knows_where_tests_begin() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use tokio::x;\n}\n";
        let source = Source::new("proxy/src/http.rs", text);
        assert_eq!(source.lines_with("tokio"), [4]);
        assert!(source.lines_with_outside_tests("tokio").is_empty());
        assert_eq!(source.lines_outside_tests(), 1);
        let source = Source::new("proxy/src/http.rs", "#[cfg(test)]\nuse tokio::x;\n");
        assert_eq!(source.lines_with_outside_tests("tokio"), [2]);
        let source = Source::new("proxy/src/http/tests.rs", "use tokio::x;\n");
        assert!(source.lines_with_outside_tests("tokio").is_empty());
    }

    #[test]
    fn is_in_a_module_file_or_its_directory_only() {
        let is_in = |path: &str| Source::new(path, "").is_in("proxy/src/http");
        assert!(is_in("proxy/src/http.rs"));
        assert!(is_in("proxy/src/http/head.rs"));
        assert!(!is_in("proxy/src/http2.rs"));
        assert!(!is_in("proxy/src/httpd/x.rs"));
    }
}
