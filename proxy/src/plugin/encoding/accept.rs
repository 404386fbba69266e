//! `Accept-Encoding` (RFC 9110 section 12.5.3): which codings a downstream wants, and how much.
//!
//! What names no coding, or a weight that is none, is not wanted: a response that is left as it is
//! can be read by everybody.

use crate::http::name;

/// Thousandths; 1000 is `q=1`.
pub(super) type Weight = u16;

/// Elements of the fields of one request; with more nothing is wanted.
const CODINGS_MAX: usize = 64;

/// What the fields of a request say.
#[derive(Debug)]
pub(super) struct Accepted<'v>(Vec<(&'v [u8], Weight)>);

impl<'v> Accepted<'v> {
    pub(super) fn of(values: impl Iterator<Item = &'v [u8]>) -> Self {
        let mut listed: Vec<_> =
            values.flat_map(name::list).take(CODINGS_MAX + 1).map(element).collect();
        if listed.len() > CODINGS_MAX {
            listed.clear();
        }
        Self(listed)
    }

    /// How much the coding of these names is wanted, if it is, and not less than none at all.
    pub(super) fn weight(&self, names: &[&str]) -> Option<Weight> {
        let weight = self.listed(names).or_else(|| self.listed(&["*"]))?;
        let is_preferred = self.listed(&["identity"]).is_none_or(|identity| weight >= identity);
        (weight > 0 && is_preferred).then_some(weight)
    }

    /// The least that is said of any of these.
    fn listed(&self, names: &[&str]) -> Option<Weight> {
        let is_meant =
            |coding: &[u8]| names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(coding));
        self.0.iter().filter(|(coding, _)| is_meant(coding)).map(|(_, weight)| *weight).min()
    }
}

/// `coding [; q=weight]`.
fn element(element: &[u8]) -> (&[u8], Weight) {
    let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let coding = parts.next().unwrap_or_default();
    let weight = match (parts.next(), parts.next()) {
        (None, _) => Some(1000),
        (Some([b'q' | b'Q', b'=', weight @ ..]), None) => parse(weight),
        (Some(_), _) => None,
    };
    (coding, weight.unwrap_or(0))
}

/// RFC 9110 section 12.4.2: 0 to 1 with at most three decimals.
fn parse(text: &[u8]) -> Option<Weight> {
    let (whole, decimals) = text.split_first()?;
    let decimals = match decimals {
        [] => decimals,
        [b'.', decimals @ ..] if decimals.len() <= 3 => decimals,
        _ => return None,
    };
    if !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = decimals.iter().chain(b"000").take(3);
    let thousandths = digits.fold(0, |sum, digit| sum * 10 + Weight::from(digit - b'0'));
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &[&str], names: &[&str], weight: Option<Weight>) {
        let accepted = Accepted::of(fields.iter().map(|field| field.as_bytes()));
        assert_eq!(accepted.weight(names), weight, "{fields:?}");
    }

    #[test]
    fn a_coding_is_wanted_by_its_name_or_by_any() {
        for (field, weight) in [
            ("gzip", Some(1000)),
            ("GZip", Some(1000)),
            ("x-gzip", Some(1000)),
            ("br, gzip;q=0.5", Some(500)),
            ("gzip ; q=0.123", Some(123)),
            ("gzip;Q=1.000", Some(1000)),
            ("gzip;q=0.", None),
            ("gzip;q=0", None),
            ("gzip;q=0.000", None),
            ("*", Some(1000)),
            ("*;q=0.2", Some(200)),
            ("gzip;q=0, *", None),
            ("*;q=0, gzip", Some(1000)),
            ("br", None),
            ("", None),
            (",", None),
            ("gzipped", None),
        ] {
            check(&[field], &["gzip", "x-gzip"], weight);
        }
        check(&[], &["gzip"], None);
        check(&["br", "deflate, gzip;q=0.3"], &["gzip"], Some(300));
        check(&["gzip", "gzip;q=0"], &["gzip"], None);
    }

    #[test]
    fn who_wants_too_many_wants_none() {
        let many = |count: usize| vec!["gzip"; count].join(",");
        check(&[&many(CODINGS_MAX)], &["gzip"], Some(1000));
        check(&[&many(CODINGS_MAX + 1)], &["gzip"], None);
    }

    #[test]
    fn what_is_no_weight_is_not_wanted() {
        for weight in ["q", "q=", "q=2", "q=1.1", "q=0.1234", "q=.5", "q=-0", "q=a", "p=1", "q=1;a"]
        {
            check(&[&format!("gzip;{weight}")], &["gzip"], None);
        }
    }

    #[test]
    fn no_coding_at_all_may_be_wanted_more() {
        check(&["identity;q=0, gzip;q=0.1"], &["gzip"], Some(100));
        check(&["identity, gzip;q=0.9"], &["gzip"], None);
        check(&["identity, gzip"], &["gzip"], Some(1000));
        check(&["identity;q=0"], &["gzip"], None);
        check(&["identity;q=0.5, *"], &["gzip"], Some(1000));
    }
}
