use super::*;
use crate::plugin::trial::refused;

fn mirror(path: Option<(&str, Concat)>) -> Mirror {
    let host = Url::parse("https://[::1]:8443").expect("a URL");
    Mirror { host, path: path.map(|(path, concat)| (path.to_owned(), concat)) }
}

#[test]
fn the_path_is_kept_replaced_or_led_by_another() {
    for (path, target, expected) in [
        (None, "/a?b=c?d", Some("/a?b=c?d")),
        (None, "*", Some("*")),
        (Some(("/m", Concat::Replace)), "/a/b?c=d", Some("/m?c=d")),
        (Some(("/m", Concat::Replace)), "/a?", Some("/m?")),
        (Some(("/m", Concat::Replace)), "/a", Some("/m")),
        (Some(("/m", Concat::Prefix)), "/a/b?c=d", Some("/m/a/b?c=d")),
        (None, &"/x".repeat(40_000), None),
    ] {
        let url = mirror(path).url(target);
        let shown = url.as_ref().map(|url| url.target.as_str());
        assert_eq!(shown, expected, "{path:?} {}", &target[..target.len().min(20)]);
        if let Some(Url { is_tls, host, port, .. }) = url {
            assert_eq!((is_tls, &*host, port), (true, "::1", 8443));
        }
    }
}

#[test]
fn a_share_is_exact() {
    for (share, count) in [(None, 1000), (Some(1 << 62), 250), (Some(u64::MAX / 1000 + 1), 1)] {
        let plugin =
            ProxyMirror { mirror: Arc::new(mirror(None)), share, due: AtomicU64::new(0) };
        assert_eq!((0..1000).filter(|_| plugin.is_meant()).count(), count);
    }
}

#[test]
fn settings_that_cannot_be_met_are_refused() {
    for (settings, message) in [
        ("", "`host` is missing"),
        ("host: mirror:80", "needs a URL"),
        ("host: \"ftp://a\"", "needs a URL"),
        ("host: \"grpc://a:50051\"", "gRPC is not built yet"),
        ("host: \"http://a/b\"", "needs scheme, host and port alone"),
        ("host: \"http://a?b\"", "needs scheme, host and port alone"),
        ("host: \"http://a\", path: b", "needs a path"),
        ("host: \"http://a\", path: \"/b?c\"", "needs a path"),
        ("host: \"http://a\", path: \"/b c\"", "needs a path"),
        ("host: \"http://a\", path_concat_mode: prefix", "means nothing without `path`"),
        ("host: \"http://a\", path: /b, path_concat_mode: x", "expected `replace` or `prefix`"),
        ("host: \"http://a\", sample_ratio: 0", "from 0.00001 to 1"),
        ("host: \"http://a\", sample_ratio: 1.1", "from 0.00001 to 1"),
    ] {
        refused("proxy-mirror", settings, message);
    }
}
