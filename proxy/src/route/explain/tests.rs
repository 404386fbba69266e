use super::*;

const YAML: &str = "\
listeners: [{ name: web, address: 127.0.0.1:80 }]
upstreams: [{ id: u, nodes: { \"127.0.0.1:1\": 1 } }]
routes:
- { id: exact, uri: /a/b, methods: [POST], upstream_id: u }
- { id: segment, uri: \"/a/:x/c\", upstream_id: u }
- { id: local, uri: /a/*, priority: 1, remote_addr: 10.0.0.0/8, upstream_id: u }
- { id: vars, uri: /a/*, vars: [[http_x, \"1\"], [scheme, https], [server_port, 80]], upstream_id: u }
- { id: hosted, uri: /a*, host: h, methods: [PUT], upstream_id: u }
- { id: elsewhere, uri: /b, upstream_id: u }
";

fn explained(
    method: &str,
    url: &str,
    fields: &[&str],
    from: &str,
) -> Result<(String, bool), String> {
    let config = Config::parse(YAML, "t.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let fields: Vec<_> = fields.iter().map(|line| (*line).to_owned()).collect();
    let asked = Asked { method, url, fields: &fields, client: from.parse().unwrap() };
    report(&config, &asked)
}

#[test]
fn candidates_are_told_in_the_order_in_which_they_are_looked_at() {
    let method = "no: the method is not among `methods`";
    let client = "no: the client is not among `remote_addrs`";
    let (pattern, vars) =
        ("no: the path goes on otherwise than the pattern", "no: `vars` do not hold");
    let all = format!(
        "hosted /a* {method}\nexact /a/b {method}\nlocal /a/* {client}\nsegment /a/:x/c {pattern}\n\
         vars /a/* {vars}\nno route\n"
    );
    for (request, url, fields, from, expected) in [
        ("GET", "http://H:80/a/%62?q", &[][..], "::1", (&*all, false)),
        ("PUT", "http://h/a/b", &[], "::1", ("hosted /a* yes\nroute hosted\n", true)),
        ("POST", "http://o/a/b", &[], "::1", ("exact /a/b yes\nroute exact\n", true)),
        ("GET", "http://o/a/1/c", &[], "::ffff:10.1.2.3", ("local /a/* yes\nroute local\n", true)),
        (
            "GET",
            "https://o/a/1/d",
            &["X: 1"],
            "::1",
            (
                &format!(
                    "local /a/* {client}\nsegment /a/:x/c {pattern}\nvars /a/* yes\nroute vars\n"
                ),
                true,
            ),
        ),
        ("GET", "http://o", &[], "::1", ("no route\n", false)),
        ("GET", "http://o?x", &[], "::1", ("no route\n", false)),
    ] {
        let (text, is_matched) = explained(request, url, fields, from).expect(url);
        assert_eq!((&*text, is_matched), expected, "{request} {url}");
    }
}

#[test]
fn what_the_proxy_refuses_has_no_route() {
    for (method, url, fields, error) in [
        ("GET", "/a", &[][..], "the URL is not `http://HOST/PATH`"),
        ("GET", "http://a/%zz", &[], "refused: Encoding path"),
        ("GET", "http://a b/", &[], "refused: HostInvalid"),
        ("G T", "http://a/", &[], "refused: RequestLine"),
        ("GET", "http://a/", &["host: b"], "refused: HostRepeated"),
        ("GET", "http://a/", &["x: 1\r\n\r\nGET / HTTP/1.1"], "not one request"),
        ("CONNECT", "http://a/", &[], "refused: Method"),
    ] {
        assert_eq!(explained(method, url, fields, "::1"), Err(error.to_owned()), "{url}");
    }
}
