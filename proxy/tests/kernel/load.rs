//! The verifier accepts every program, and the plane says what runs.

use proxy::config::{Guard, XdpMode};

use crate::{load, required, skip_without_privileges, topology::Namespace};

#[test]
fn every_program_loads() {
    if skip_without_privileges() {
        return;
    }
    let namespace = Namespace::new();
    namespace.run(|| {
        let kernel = required(&["lo"], XdpMode::Generic, Guard::default());
        let plane = load(&kernel, &["127.0.0.1:80".parse().unwrap()], 2);
        println!("{}", serde_json::to_string_pretty(&plane.status()).unwrap());
    });
}
