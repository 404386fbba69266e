//! `${{NAME}}` and `${{NAME:=default}}` inside a scalar.
//!
//! What is put in is text: it is not looked at again, neither for references nor for YAML. `${x}`,
//! `$1` and a lone `$` are left alone, they belong to plugins.

use std::env::VarError;

/// How a variable is looked up; tests bring their own.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// What begins a reference.
pub(super) const OPEN: &str = "${{";
const CLOSE: &str = "}}";
const DEFAULT: &str = ":=";

/// The text with every reference replaced, or `None` if it has none.
pub(super) fn substitute(text: &str, lookup: Lookup<'_>) -> Result<Option<String>, String> {
    // Of most texts this is all that is asked, and a byte is found sooner than a word.
    if !text.contains('$') {
        return Ok(None);
    }
    let Some((before, mut rest)) = text.split_once(OPEN) else { return Ok(None) };
    let mut replaced = before.to_owned();
    loop {
        let Some((reference, after)) = rest.split_once(CLOSE) else {
            return Err(format!("`{OPEN}` without `{CLOSE}`"));
        };
        replaced.push_str(&resolve(reference, lookup)?);
        match after.split_once(OPEN) {
            Some((between, next)) => {
                replaced.push_str(between);
                rest = next;
            }
            None => {
                replaced.push_str(after);
                return Ok(Some(replaced));
            }
        }
    }
}

fn resolve(reference: &str, lookup: Lookup<'_>) -> Result<String, String> {
    let (name, default) = match reference.split_once(DEFAULT) {
        Some((name, default)) => (name.trim(), Some(default)),
        None => (reference.trim(), None),
    };
    if !is_name(name) {
        return Err(format!(
            "`{OPEN}…{CLOSE}` holds no variable name; letters, digits and `_`, not first a digit"
        ));
    }
    match (lookup(name), default) {
        (Ok(value), _) => Ok(value),
        (Err(VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
        (Err(VarError::NotPresent), None) => Err(format!(
            "environment variable `{name}` is not set; set it or write \
             `{OPEN}{name}{DEFAULT}default{CLOSE}`"
        )),
        (Err(VarError::NotUnicode(_)), _) => {
            Err(format!("environment variable `{name}` is not UTF-8"))
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn lookup(name: &str) -> Result<String, VarError> {
        match name {
            "PORT" => Ok("9080".into()),
            "EMPTY" => Ok(String::new()),
            "REFERENCE" => Ok("${{PORT}}".into()),
            "YAML" => Ok("a: [b]\n- c".into()),
            "BYTES" => Err(VarError::NotUnicode(OsString::new())),
            _ => Err(VarError::NotPresent),
        }
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(substitute(text, &lookup), Ok(Some(expected.to_owned())), "{text}");
    }

    fn check_error(text: &str, part: &str) {
        let error = substitute(text, &lookup).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }

    #[test]
    fn replaces_references() {
        check("${{PORT}}", "9080");
        check("127.0.0.1:${{ PORT }}", "127.0.0.1:9080");
        check("${{PORT}}${{PORT}}/x", "90809080/x");
        check("${{MISSING:=7}}", "7");
        check("${{MISSING:=}}", "");
        check("${{PORT:=7}}", "9080");
        check("${{EMPTY:=7}}", "");
        check("${{MISSING:=a:=b}}", "a:=b");
    }

    #[test]
    fn leaves_other_dollars_alone() {
        for text in ["", "$", "$1", "${x}", "${ {x}}", "$${x}", "a}}", "{{x}}"] {
            assert_eq!(substitute(text, &lookup), Ok(None), "{text}");
        }
    }

    #[test]
    fn never_looks_at_what_it_put_in() {
        check("${{REFERENCE}}", "${{PORT}}");
        check("${{YAML}}", "a: [b]\n- c");
    }

    #[test]
    fn says_what_is_missing() {
        check_error("${{MISSING}}", "`MISSING` is not set");
        check_error("${{BYTES}}", "`BYTES` is not UTF-8");
        check_error("${{PORT", "without `}}`");
        check_error("${{PORT}} ${{", "without `}}`");
        for text in ["${{}}", "${{ }}", "${{1A}}", "${{A-B}}", "${{A B}}", "${{:=x}}"] {
            check_error(text, "holds no variable name");
        }
    }
}
