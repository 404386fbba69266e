use super::*;

fn scalar(text: &str, origin: Origin) -> Scalar {
    Scalar { text: text.to_owned(), origin }
}

fn plain<T: Leaf>(text: &str) -> Option<T> {
    T::decode(&scalar(text, Origin::Plain))
}

fn quoted<T: Leaf>(text: &str) -> Option<T> {
    T::decode(&scalar(text, Origin::Quoted))
}

fn environment<T: Leaf>(text: &str) -> Option<T> {
    T::decode(&scalar(text, Origin::Environment))
}

#[test]
fn plain_scalars_have_the_type_of_the_core_schema() {
    assert_eq!(plain::<u64>("7"), Some(7));
    assert_eq!(plain::<u64>("0x1F"), Some(31));
    assert_eq!(plain::<u64>("0o17"), Some(15));
    assert_eq!(plain::<u64>("+7"), Some(7));
    assert_eq!(plain::<i64>("-7"), Some(-7));
    assert_eq!(plain::<bool>("true"), Some(true));
    assert_eq!(plain::<bool>("False"), Some(false));
    assert_eq!(plain::<String>("text"), Some("text".to_owned()));
    // Words in YAML 1.2, booleans in YAML 1.1.
    for word in ["yes", "no", "on", "off", "y", "n", "inf", "nan", "0b1", "1_000", "0x", "1:30"] {
        assert_eq!(plain::<bool>(word), None, "{word}");
        assert_eq!(plain::<String>(word), Some(word.to_owned()));
    }
    for other in ["7", "1.5", ".5", "1e3", ".inf", "-.INF", ".nan", "true", "~", "null", ""] {
        assert_eq!(plain::<String>(other), None, "{other}");
    }
    for not_whole in ["1.5", "1e3", "-1", "18446744073709551616", ".inf", "", "0x", "0x+1"] {
        assert_eq!(plain::<u64>(not_whole), None, "{not_whole}");
    }
}

#[test]
fn quoted_scalars_are_strings() {
    assert_eq!(quoted::<String>("7"), Some("7".to_owned()));
    assert_eq!(quoted::<String>(""), Some(String::new()));
    assert_eq!(quoted::<u64>("7"), None);
    assert_eq!(quoted::<bool>("true"), None);
}

#[test]
fn what_comes_from_the_environment_is_what_the_key_asks_for() {
    assert_eq!(environment::<u64>("7"), Some(7));
    assert_eq!(environment::<String>("7"), Some("7".to_owned()));
    assert_eq!(environment::<String>("null"), Some("null".to_owned()));
    assert_eq!(environment::<bool>("true"), Some(true));
    assert_eq!(environment::<u64>("x"), None);
    assert_eq!(environment::<u64>("[7]"), None);
}

#[test]
fn times_and_sizes_say_their_unit() {
    assert_eq!(plain::<Duration>("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(plain::<Duration>("2h"), Some(Duration::from_secs(7200)));
    assert_eq!(quoted::<Duration>("5s"), Some(Duration::from_secs(5)));
    assert_eq!(plain::<Size>("16KiB"), Some(Size(16_384)));
    assert_eq!(plain::<Size>("0B"), Some(Size(0)));
    for text in ["5", "s", "5 s", "5sec", "-5s", "1.5s", "5S", "99999999999999999999s", "٥s"] {
        assert_eq!(plain::<Duration>(text), None, "{text}");
    }
    for text in ["5", "5kb", "5K", "5KIB", "KiB", "18446744073709551615GiB", "5 B"] {
        assert_eq!(plain::<Size>(text), None, "{text}");
    }
}

#[test]
fn values_are_spelled_as_they_are_read() {
    for text in ["0s", "1ms", "250ms", "5s", "10m", "24h", "90s", "61m"] {
        assert_eq!(plain::<Duration>(text).map(|time| time.spell()).as_deref(), Some(text));
    }
    for text in ["0B", "1B", "1023B", "1KiB", "16KiB", "1MiB", "1GiB", "1025MiB"] {
        assert_eq!(plain::<Size>(text).map(|size| size.spell()).as_deref(), Some(text));
    }
}

#[test]
fn ids_are_those_of_the_admin_api() {
    for id in ["a", "7", "a-b_c.d", "0", &"x".repeat(64)] {
        assert!(quoted::<Id>(id).is_some(), "{id}");
    }
    assert_eq!(plain::<Id>("7"), Some(Id("7".into())));
    for id in ["", "-", "a b", "a/b", "a:b", "ä", &"x".repeat(65)] {
        assert_eq!(quoted::<Id>(id), None, "{id}");
    }
    for id in ["0", "-1", "1.5", "true", "~"] {
        assert_eq!(plain::<Id>(id), None, "{id}");
    }
}

#[test]
fn prefixes_may_be_addresses() {
    assert_eq!(plain::<IpNet>("192.0.2.1"), "192.0.2.1/32".parse().ok());
    assert_eq!(quoted::<IpNet>("2001:db8::/32"), "2001:db8::/32".parse().ok());
    for text in ["192.0.2.0/33", "192.0.2/24", "::/129", "any", "192.0.2.1:80"] {
        assert_eq!(quoted::<IpNet>(text), None, "{text}");
    }
}
