//! Whom the proxy trusts when it asks by TLS.

use std::{io::Write as _, net::SocketAddr, sync::Arc};

use base64ct::{Base64, Encoding as _};
use proxy::test_support::Node;
use rcgen::CertifiedKey;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{get, host, proxy, read_head};
use crate::process::{Tandem, yaml};

/// Lets everybody in, and proves to be `localhost`, by a certificate that it has made itself.
fn localhost() -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let CertifiedKey { cert, signing_key } = made.expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocols")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key);
    let config = Arc::new(config.expect("a certificate"));
    let address = host(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).expect("a configuration");
        let mut stream = StreamOwned::new(connection, stream);
        while read_head(&mut stream).is_some() {
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-user: alice\r\n\r\n";
            if stream.write_all(ok).is_err() {
                return;
            }
        }
    });
    let text = Base64::encode_string(cert.der());
    (address, format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"))
}

fn settings(host: &str, port: u16, more: &str) -> String {
    format!("forward-auth: {{ uri: \"https://{host}:{port}/\", upstream_headers: [x-user]{more} }}")
}

#[test]
fn a_certificate_that_nobody_vouches_for_will_do_only_if_told_so() {
    let (auth, _) = localhost();
    for (more, status) in [("", 403), (", ssl_verify: true", 403), (", ssl_verify: false", 200)] {
        let node = Node::always("x");
        let proxy = proxy(true, &node, &settings("localhost", auth.port(), more));
        let mut client = proxy.client();
        for _ in 0..2 {
            assert_eq!(client.ask(get("/")).status, status, "{more}");
        }
        let users: Vec<_> =
            node.seen().iter().map(|seen| seen.field("x-user").map(str::to_owned)).collect();
        assert_eq!(users, vec![Some("alice".to_owned()); if status == 200 { 2 } else { 0 }]);
        if status == 403 {
            proxy.check_metric("tandem_calls_total{purpose=\"forward_auth\",result=\"tls\"}", 2.0);
        }
    }
}

#[test]
fn the_systems_roots_vouch_for_a_name() {
    let (auth, certificate) = localhost();
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, certificate).expect("a file");
    let variable = format!("SSL_CERT_FILE={}", roots.display());
    let node = Node::always("x");
    // Its certificate has the name, and no address.
    let route = |path, host| {
        let plugins = settings(host, auth.port(), "");
        format!("{{ id: {path}, uri: /{path}, upstream_id: app, plugins: {{ {plugins} }} }}")
    };
    let routes = [route("name", "localhost"), route("address", "127.0.0.1")].join(", ");
    let text = yaml(node.address, "").replace("{ id: all, uri: /*, upstream_id: app }", &routes);
    let tandem = Tandem::start_with(&["env", &variable], &text);
    assert_eq!(tandem.client().ask(get("/name")).status, 200);
    assert_eq!(tandem.client().ask(get("/address")).status, 403);
    assert_eq!(node.only().field("x-user"), Some("alice"));
}
