//! Scalars of the file as typed values.
//!
//! Which type a plain scalar has is decided by YAML 1.2's core schema; serde_yaml then decodes it, so
//! that numbers, booleans and strings mean here what they mean in every serde type.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use serde_yaml::Value as Yaml;

use super::tree::{Origin, Scalar};

/// A type that one scalar holds.
pub(crate) trait Leaf: Sized {
    /// Ends the sentence "expected …".
    const EXPECTED: &'static str;

    fn decode(scalar: &Scalar) -> Option<Self>;

    /// As the file would spell it; only types with ranges have to.
    fn spell(&self) -> String {
        String::new()
    }
}

impl Scalar {
    pub(super) fn as_if(&self, origin: Origin) -> Scalar {
        Scalar { text: self.text.clone(), origin }
    }

    pub(super) fn is_null(&self) -> bool {
        self.origin == Origin::Plain && self.resolved().is_null()
    }

    /// The value with the type that its text has by the core schema.
    fn resolved(&self) -> Yaml {
        no_string(&self.text).unwrap_or_else(|| Yaml::String(self.text.clone()))
    }

    /// The text, if it is a string, or out of the environment.
    fn string(&self) -> Option<&str> {
        let is_string = match self.origin {
            Origin::Plain => no_string(&self.text).is_none(),
            Origin::Quoted | Origin::Environment => true,
            Origin::Unresolved => false,
        };
        is_string.then_some(&self.text)
    }

    /// As it is written, but for the quotes of what is a string without them too.
    pub(super) fn source(&self) -> String {
        let Scalar { text, origin } = self;
        let is_bare = *origin == Origin::Plain && self.string().is_some();
        let origin = if is_bare { Origin::Quoted } else { *origin };
        format!("{origin:?} {text}")
    }

    /// The value with the type that its text has; `None` for a number that JSON has not, and for what
    /// the environment did not resolve.
    pub(super) fn json(&self) -> Option<Json> {
        match self.origin {
            Origin::Quoted => Some(Json::String(self.text.clone())),
            Origin::Plain | Origin::Environment => {
                let value = self.resolved();
                let is_finite = value.as_f64().is_none_or(f64::is_finite);
                serde_json::to_value(value).ok().filter(|_| is_finite)
            }
            Origin::Unresolved => None,
        }
    }

    /// Decodes by serde, with the type the text has or, out of the environment, with the type that
    /// is asked for.
    fn decode<T: DeserializeOwned>(&self) -> Option<T> {
        let as_text = || serde_yaml::from_value(Yaml::String(self.text.clone())).ok();
        match self.origin {
            Origin::Plain => serde_yaml::from_value(self.resolved()).ok(),
            Origin::Quoted => as_text(),
            Origin::Environment => {
                as_text().or_else(|| serde_yaml::from_value(self.resolved()).ok())
            }
            Origin::Unresolved => None,
        }
    }

    fn parse<T: FromStr>(&self) -> Option<T> {
        self.string()?.parse().ok()
    }
}

/// What a plain text is by the core schema, unless a string.
fn no_string(text: &str) -> Option<Yaml> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Yaml::Null),
        "true" | "True" | "TRUE" => Some(Yaml::Bool(true)),
        "false" | "False" | "FALSE" => Some(Yaml::Bool(false)),
        _ => number(text).map(Yaml::Number),
    }
}

/// Decimal, hexadecimal (`0x`), octal (`0o`) or floating-point, as the core schema has them.
fn number(text: &str) -> Option<serde_yaml::Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let radix = |prefix, radix| {
        let digits: &str = text.strip_prefix(prefix)?;
        // `from_str_radix` also takes a sign.
        let is_digit = |c: char| c.is_digit(radix);
        digits.chars().all(is_digit).then(|| u64::from_str_radix(digits, radix).ok()).flatten()
    };
    if let Some(n) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Some(n.into());
    }
    if let Ok(n) = text.parse::<u64>() {
        return Some(n.into());
    }
    if let Ok(n) = text.parse::<i64>() {
        return Some(n.into());
    }
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY.into()),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY.into()),
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN.into()),
        // Rust also reads `inf` and `nan`, which are words in YAML.
        _ if text.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')) => None,
        _ => text.parse::<f64>().ok().map(Into::into),
    }
}

macro_rules! by_serde {
    ($($type:ty, $expected:literal;)*) => {
        $(impl Leaf for $type {
            const EXPECTED: &'static str = $expected;

            fn decode(scalar: &Scalar) -> Option<Self> {
                scalar.decode()
            }

            fn spell(&self) -> String {
                self.to_string()
            }
        })*
    };
}

by_serde! {
    bool, "`true` or `false`";
    u8, "a whole number";
    u16, "a whole number";
    u32, "a whole number";
    u64, "a whole number";
    usize, "a whole number";
    i32, "a whole number";
    f64, "a number";
    i64, "a whole number";
}

impl Leaf for String {
    const EXPECTED: &'static str = "a string";

    fn decode(scalar: &Scalar) -> Option<Self> {
        scalar.string().map(str::to_owned)
    }
}

macro_rules! by_text {
    ($($type:ty, $expected:literal;)*) => {
        $(impl Leaf for $type {
            const EXPECTED: &'static str = $expected;

            fn decode(scalar: &Scalar) -> Option<Self> {
                scalar.parse()
            }
        })*
    };
}

by_text! {
    SocketAddr, "an address with a port, such as `127.0.0.1:9080` or `[::1]:9080`";
    IpAddr, "an IP address";
}

/// A prefix; an address alone is a prefix of its whole length.
impl Leaf for IpNet {
    const EXPECTED: &'static str = "a prefix such as `203.0.113.0/24` or `2001:db8::/32`";

    fn decode(scalar: &Scalar) -> Option<Self> {
        scalar.parse().or_else(|| scalar.parse::<IpAddr>().map(IpNet::from))
    }
}

/// What the Admin API takes as an id: `[a-zA-Z0-9-_.]`, 1 to 64 characters, or a whole number from 1 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id(pub(super) Arc<str>);

impl Leaf for Id {
    const EXPECTED: &'static str =
        "an id of 1 to 64 letters, digits, `-`, `_` or `.`, not `-` alone";

    fn decode(scalar: &Scalar) -> Option<Self> {
        let number = || scalar.decode::<u64>().filter(|&n| n > 0).map(|n| n.to_string().into());
        let text = scalar.string().map(Cow::Borrowed).or_else(number)?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        // `-` alone is what logs and metrics write for "none".
        let is_id = (1..=64).contains(&text.len()) && text.chars().all(is_allowed) && text != "-";
        is_id.then(|| Id(text.into()))
    }
}

/// What the Admin API takes as a consumer's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Username(pub(super) Arc<str>);

impl Leaf for Username {
    const EXPECTED: &'static str = "a name of 1 to 256 letters, digits, `-` or `_`";

    fn decode(scalar: &Scalar) -> Option<Self> {
        let text = scalar.string()?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_name = (1..=256).contains(&text.len()) && text.chars().all(is_allowed);
        is_name.then(|| Username(text.into()))
    }
}

/// What the Admin API calls a credential among consumers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CredentialId {
    pub(super) consumer: Arc<str>,
    pub(super) id: Arc<str>,
}

impl CredentialId {
    /// Between the name of the consumer and the id.
    pub(super) const BETWEEN: &'static str = "/credentials/";
}

impl Leaf for CredentialId {
    const EXPECTED: &'static str = "`USERNAME/credentials/ID`, both as consumers and ids are named";

    fn decode(scalar: &Scalar) -> Option<Self> {
        let text = scalar.decode::<String>()?;
        let (consumer, id) = text.split_once(Self::BETWEEN)?;
        let quoted = |text: &str| Scalar { text: text.to_owned(), origin: Origin::Quoted };
        let Username(consumer) = Leaf::decode(&quoted(consumer))?;
        let Id(id) = Leaf::decode(&quoted(id))?;
        Some(CredentialId { consumer, id })
    }
}

impl Leaf for Duration {
    const EXPECTED: &'static str = "a time with its unit (`250ms`, `5s`, `10m`, `1h`)";

    fn decode(scalar: &Scalar) -> Option<Self> {
        let (count, unit) = count_and_unit(scalar.string()?)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        count.checked_mul(milliseconds).map(Duration::from_millis)
    }

    fn spell(&self) -> String {
        match self.as_millis() {
            0 => "0s".to_owned(),
            ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
            ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
            ms => format!("{ms}ms"),
        }
    }
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl Leaf for Size {
    const EXPECTED: &'static str = "a size with its unit (`512B`, `16KiB`, `1MiB`)";

    fn decode(scalar: &Scalar) -> Option<Self> {
        let (count, unit) = count_and_unit(scalar.string()?)?;
        let bytes = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        count.checked_mul(bytes).map(Size)
    }

    fn spell(&self) -> String {
        match self.0 {
            0 => "0B".to_owned(),
            n if n.is_multiple_of(1 << 30) => format!("{}GiB", n >> 30),
            n if n.is_multiple_of(1 << 20) => format!("{}MiB", n >> 20),
            n if n.is_multiple_of(1 << 10) => format!("{}KiB", n >> 10),
            n => format!("{n}B"),
        }
    }
}

/// `5s` is 5 and `s`.
fn count_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    Some((count.parse().ok()?, unit))
}

#[cfg(test)]
mod tests;
