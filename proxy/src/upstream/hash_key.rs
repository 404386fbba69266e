//! What `chash` and `maglev` hash of a request: `hash_on` and `key` of an upstream.

use std::borrow::Cow;

use crate::{
    template::Template,
    variable::{Ends, Facts, Variable},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    Variable(Variable),
    /// `hash_on: vars_combinations`.
    Combination(Template),
}

impl HashKey {
    /// The address of the client where nothing that it asks for is there, as in APISIX.
    pub fn of_request<'a>(&self, facts: &Facts<'a>) -> Cow<'a, [u8]> {
        let found = match self {
            HashKey::Variable(variable) => facts.value(variable),
            HashKey::Combination(template) => template.has_value(facts).then(|| {
                let mut text = Vec::new();
                template.expand(facts, None, &mut text);
                Cow::Owned(text)
            }),
        };
        found.unwrap_or_else(|| Cow::Owned(facts.ends.client.to_string().into_bytes()))
    }

    /// The same for a TCP connection.
    pub fn of_connection(&self, ends: Ends) -> String {
        match self {
            HashKey::Variable(Variable::RemotePort) => ends.peer.port().to_string(),
            HashKey::Variable(Variable::ServerAddr) => ends.local.ip().to_string(),
            HashKey::Variable(_) | HashKey::Combination(_) => ends.client.to_string(),
        }
    }

    /// Whether a TCP connection has what it asks for.
    pub fn is_of_connection(&self) -> bool {
        use Variable::{RemoteAddr, RemotePort, ServerAddr};
        matches!(self, HashKey::Variable(RemoteAddr | RemotePort | ServerAddr))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{
        http::{fields::Scheme, gate::RequestGate, head::HeadLimits},
        template::Groups,
    };

    fn ends() -> Ends {
        Ends {
            peer: ([127, 0, 0, 1], 1234).into(),
            client: [192, 0, 2, 7].into(),
            local: ([127, 0, 0, 2], 80).into(),
            scheme: Scheme::Http,
        }
    }

    fn variable(name: &str) -> HashKey {
        HashKey::Variable(Variable::parse(name).expect("a variable"))
    }

    fn combination(text: &str) -> HashKey {
        HashKey::Combination(Template::parse(text, Groups::None).expect("a template"))
    }

    #[test]
    fn a_key_is_what_the_request_has_or_the_client() {
        let limits = HeadLimits { size_max: 4096, fields_max: 20, target_size_max: 1024 };
        let text = "GET /a?x=1 HTTP/1.1\r\nhost: a\r\nX-User: u1\r\n\r\n";
        let head = RequestGate::new(limits).head(&mut BytesMut::from(text));
        let head = head.expect("a valid head").expect("a whole head");
        let facts = Facts::new(&head, "/a", Some("x=1"), ends());
        for (key, expected) in [
            (variable("http_x_user"), "u1"),
            (variable("http_other"), "192.0.2.7"),
            (variable("remote_port"), "1234"),
            (combination("$http_x_user/$arg_x$arg_y."), "u1/1."),
            (combination("all $arg_y$http_other"), "192.0.2.7"),
        ] {
            let value = key.of_request(&facts);
            assert_eq!(String::from_utf8_lossy(&value), expected, "{key:?}");
        }
    }

    #[test]
    fn a_connection_has_its_ends_alone() {
        for (key, expected, is_of_connection) in [
            (variable("remote_addr"), "192.0.2.7", true),
            (variable("remote_port"), "1234", true),
            (variable("server_addr"), "127.0.0.2", true),
            (variable("uri"), "192.0.2.7", false),
            (combination("$remote_port"), "192.0.2.7", false),
        ] {
            assert_eq!(key.of_connection(ends()), expected, "{key:?}");
            assert_eq!(key.is_of_connection(), is_of_connection, "{key:?}");
        }
    }
}
