//! Keys of `jwt-auth` that somebody else publishes, and changes.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use base64ct::{Base64UrlUnpadded, Encoding};
use proxy::test_support::{Client, Node, Reply, TestProxy, eventually};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};

use super::yaml;

/// Signs and publishes.
struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Signer {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("random");
        Signer { id, pair: Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("a key") }
    }

    fn set(&self) -> String {
        let x = encode(self.pair.public_key().as_ref());
        let key = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{}","x":"{x}"}}"#, self.id);
        format!(r#"{{"keys":[{key}]}}"#)
    }

    fn request(&self) -> String {
        let header = encode(format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, self.id).as_bytes());
        let signed = format!("{header}.{}", encode(b"{\"key\":\"idp\"}"));
        let token = format!("{signed}.{}", encode(self.pair.sign(signed.as_bytes()).as_ref()));
        format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")
    }
}

fn encode(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Says what it is told to say.
fn idp(says: &str) -> (Node, Arc<Mutex<String>>) {
    let says = Arc::new(Mutex::new(says.to_owned()));
    let said = Arc::clone(&says);
    let node = Node::scripted(move |_| {
        let body = said.lock().expect("no panic").clone();
        match body.as_str() {
            "" => Reply::Close(Vec::new()),
            body => Reply::ok(body),
        }
    });
    (node, says)
}

fn text(is_express: bool, node: &Node, keys: &str) -> String {
    let credential = format!("key: idp, algorithm: EdDSA, {keys}");
    let consumer = format!("{{ username: alice, plugins: {{ jwt-auth: {{ {credential} }} }} }}");
    format!("{}consumers: [{consumer}]\n", yaml(is_express, node, "jwt-auth: {}"))
}

fn statuses(client: &mut Client, signer: &Signer, count: usize) -> Vec<u16> {
    (0..count).map(|_| client.ask(signer.request()).status).collect()
}

#[test]
fn a_published_set_is_fetched_once_and_followed_when_it_changes() {
    for is_express in [true, false] {
        let (one, two, stranger) = (Signer::new("1"), Signer::new("2"), Signer::new("3"));
        let (node, (idp, says)) = (Node::always("x"), idp(&one.set()));
        let url = format!("jwks_url: 'http://{}/keys', jwks_interval: 1", idp.address);
        let text = text(is_express, &node, &url);
        let begun = Instant::now();
        let proxy = TestProxy::start(&text);
        let mut client = proxy.client();
        assert_eq!(statuses(&mut client, &one, 10), [200; 10]);
        let seen = node.take();
        assert_eq!(seen[9].field("x-consumer-username"), Some("alice"));
        // Whoever says that he has another key does not have it fetched for each of his requests.
        let strange = statuses(&mut client, &stranger, 30);
        assert_eq!(strange, [401; 30]);
        assert_eq!(node.take().len(), 0);
        assert!(idp.seen().len() as u64 <= 1 + begun.elapsed().as_secs(), "{:?}", idp.seen());

        *says.lock().expect("no panic") = two.set();
        eventually("the new key", || (client.ask(two.request()).status == 200).then_some(()));
        assert_eq!(client.ask(one.request()).status, 401);
        // What fails leaves what was there, and so do rules that change something else.
        says.lock().expect("no panic").clear();
        let asked = idp.seen().len();
        eventually("another attempt", || {
            assert_eq!(client.ask(stranger.request()).status, 401);
            (idp.seen().len() > asked).then_some(())
        });
        assert_eq!(statuses(&mut client, &two, 5), [200; 5]);
        proxy.reload(&text.replace("id: all", "id: other")).expect("applied");
        assert_eq!(statuses(&mut client, &two, 5), [200; 5]);
        assert_eq!(idp.seen()[0].line(), "GET /keys HTTP/1.1");
    }
}

#[test]
fn a_set_is_fetched_again_when_its_time_is_over() {
    let (one, two) = (Signer::new("1"), Signer::new("1"));
    let (node, (idp, says)) = (Node::always("x"), idp(&one.set()));
    let url = format!("jwks_url: 'http://{}/', jwks_interval: 1, jwks_ttl: 1", idp.address);
    let proxy = TestProxy::start(&text(true, &node, &url));
    assert_eq!(proxy.client().ask(one.request()).status, 200);
    // Under the same name: no token tells that there is another.
    *says.lock().expect("no panic") = two.set();
    eventually("the new key", || (proxy.client().ask(two.request()).status == 200).then_some(()));
}

#[test]
fn a_set_that_does_not_come_lets_nobody_pass() {
    let silent = super::host(|stream| {
        drop(super::read_head(&stream));
        drop(super::read_head(&stream));
    });
    let node = Node::always("x");
    let url = format!("jwks_url: 'http://{silent}/', jwks_timeout: 50");
    let proxy = TestProxy::start(&text(true, &node, &url));
    assert_eq!(proxy.client().ask(Signer::new("1").request()).status, 401);
    assert_eq!(node.seen().len(), 0);
    proxy.check_metric("tandem_calls_total{purpose=\"jwks\",result=\"timed_out\"}", 1.0);
}

#[test]
fn a_set_in_a_file_is_read_with_the_configuration() {
    let (one, two) = (Signer::new("1"), Signer::new("2"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), one.set()).expect("a file");
    let node = Node::always("x");
    let text = text(true, &node, &format!("jwks_file: '{}'", file.path().display()));
    let proxy = TestProxy::start(&text);
    let ask = |signer: &Signer| proxy.client().ask(signer.request()).status;
    assert_eq!((ask(&one), ask(&two)), (200, 401));
    std::fs::write(file.path(), two.set()).expect("a file");
    assert_eq!((ask(&one), ask(&two)), (200, 401));
    proxy.reload(&text).expect("applied");
    assert_eq!((ask(&one), ask(&two)), (401, 200));
}

#[test]
fn a_set_stays_when_only_its_renewal_changes() {
    for is_express in [true, false] {
        let one = Signer::new("1");
        let (idp, says) = idp(&one.set());
        let (node, url) = (Node::always("x"), format!("jwks_url: 'http://{}/'", idp.address));
        let proxy = TestProxy::start(&text(is_express, &node, &url));
        assert_eq!(proxy.client().ask(one.request()).status, 200);
        // From here on nothing is to be had of it.
        says.lock().expect("no panic").clear();
        for more in ["jwks_ttl: 600", "jwks_timeout: 500", "jwks_interval: 20"] {
            proxy.reload(&text(is_express, &node, &format!("{url}, {more}"))).expect("applied");
            assert_eq!(statuses(&mut proxy.client(), &one, 3), [200; 3], "{more}");
        }
        let other = format!("jwks_url: 'http://{}/other'", idp.address);
        proxy.reload(&text(is_express, &node, &other)).expect("applied");
        assert_eq!(proxy.client().ask(one.request()).status, 401);
    }
}
