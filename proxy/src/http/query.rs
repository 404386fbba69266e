//! The arguments of a query, as HTML forms write them: `name=value` pieces between `&`.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The pieces of `query` whose decoded name is `name`, each with its decoded value. A piece without
/// `=` has an empty one.
pub fn arguments<'q>(query: &'q str, name: &str) -> impl Iterator<Item = (&'q str, Cow<'q, [u8]>)> {
    query.split('&').filter_map(move |piece| {
        let (key, value) = piece.split_once('=').unwrap_or((piece, ""));
        (*decode(key) == *name.as_bytes()).then(|| (piece, decode(value)))
    })
}

/// `text` with its `%xx` decoded once, and a blank for each `+`. A `%` that encodes nothing stands for
/// itself.
pub fn decode(text: &str) -> Cow<'_, [u8]> {
    if memchr::memchr(b'+', text.as_bytes()).is_none() {
        return percent_decode_str(text).into();
    }
    percent_decode_str(&text.replace('+', " ")).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, name: &str, expected: &[(&str, &str)]) {
        let found: Vec<_> = arguments(query, name)
            .map(|(piece, value)| (piece, String::from_utf8(value.into_owned()).unwrap()))
            .collect();
        let found: Vec<_> = found.iter().map(|(piece, value)| (*piece, &**value)).collect();
        assert_eq!(found, expected, "{query} {name}");
    }

    #[test]
    fn arguments_are_found_by_their_decoded_name() {
        check("a=1&b=2&a=3", "a", &[("a=1", "1"), ("a=3", "3")]);
        check("%61=x%20y+z%2B", "a", &[("%61=x%20y+z%2B", "x y z+")]);
        check("a+b=+&a%20b=2&a%2Bb=3", "a b", &[("a+b=+", " "), ("a%20b=2", "2")]);
        check("a", "a", &[("a", "")]);
        check("a=b=c", "a", &[("a=b=c", "b=c")]);
        check("a=%zz%4", "a", &[("a=%zz%4", "%zz%4")]);
        check("A=1&aa=2&=3", "a", &[]);
        check("", "a", &[]);
    }
}
