//! `basic-auth`: a request must carry the name and the password of a consumer (RFC 7617).
//!
//! Names, defaults and texts are APISIX's. Names and passwords are compared whole, where APISIX
//! takes blanks out of both and reads a password only up to its first colon. What is kept of a
//! password is its HMAC under a key that nobody knows.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use ring::{hmac, rand::SystemRandom};

use super::{
    Credential, Found, Kind, Outcome, Phase, Plugin, RequestContext,
    authentication::{Authentication, only},
};
use crate::{
    config::plugins::{CredentialAt, Scope, Section},
    http::authorization::{BASIC_SIZE_MAX, basic},
};

pub(super) static KIND: Kind = Kind {
    name: "basic-auth",
    priority: 2520,
    phase: Phase::Rewrite,
    read,
    credential: Some(credential),
};

/// Bytes of a user name and of a password; with a colon they fit into [`BASIC_SIZE_MAX`].
const USERNAME_SIZE_MAX: usize = 256;
const PASSWORD_SIZE_MAX: usize = 512;
const USERNAME_FORM: &str = "needs 1 to 256 bytes, without colons and control characters";
const PASSWORD_FORM: &str = "needs 1 to 512 bytes, without control characters";

#[derive(Debug)]
struct BasicAuth {
    authentication: Authentication,
    /// Of nobody: what is tried for an unknown name, so that it takes as long as for a known one.
    decoy: Password,
}

/// A password that can be recognised but not read.
#[derive(Debug)]
struct Password {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Password {
    /// `None`: the system has no random numbers.
    fn new(password: &[u8]) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        Some(Self { tag: hmac::sign(&key, password), key })
    }

    /// In constant time.
    fn is(&self, password: &[u8]) -> bool {
        hmac::verify(&self.key, password, self.tag.as_ref()).is_ok()
    }
}

fn read(section: &mut Section<'_>, scope: &Scope<'_>) -> Option<Arc<dyn Plugin>> {
    let authentication = Authentication::read(section, scope, "Basic", "basic");
    let decoy = password(section, b"");
    Some(Arc::new(BasicAuth { authentication: authentication?, decoy: decoy? }))
}

fn password(section: &Section<'_>, password: &[u8]) -> Option<Password> {
    let made = Password::new(password);
    if made.is_none() {
        section.error("the system has no random numbers to keep passwords with");
    }
    made
}

fn credential<'t>(section: &mut Section<'t>) -> Option<CredentialAt<'t>> {
    let (username, secret) = (section.require("username"), section.require("password"));
    let secret = secret?.text(PASSWORD_FORM, |password| {
        (1..=PASSWORD_SIZE_MAX).contains(&password.len()) && !password.contains(char::is_control)
    });
    let username = username?;
    let name = username.text(USERNAME_FORM, |name| {
        (1..=USERNAME_SIZE_MAX).contains(&name.len())
            && !name.contains(|c: char| c == ':' || c.is_control())
    });
    let detail = Arc::new(password(section, secret?.as_bytes())?);
    let credential = Credential { kind: KIND.name, id: name?.into_bytes().into(), detail, keys: None, name: None };
    Some(CredentialAt { credential, place: username.place })
}

impl Plugin for BasicAuth {
    fn request(&self, cx: &mut RequestContext<'_>) -> Outcome {
        let found = self.owner(cx);
        self.authentication.conclude(cx, found, |cx| cx.edits.remove(AUTHORIZATION.as_str()))
    }
}

impl BasicAuth {
    /// Whose name and password the request carries, or what is wrong with them.
    fn owner<'a>(&self, cx: &RequestContext<'a>) -> Result<Found<'a>, &'static str> {
        const INVALID: &str = "Invalid authorization in request";
        let values = cx.request.head.values(AUTHORIZATION.as_str());
        let value = only(values, INVALID)?.ok_or("Missing authorization in request")?;
        let mut buffer = [0; BASIC_SIZE_MAX];
        let (name, password) = basic(value, &mut buffer).ok_or(INVALID)?;
        let owner = cx.consumers.owner::<Password>(KIND.name, name);
        let known = owner.map_or(&self.decoy, |(_, known)| known);
        let is_right = known.is(password);
        owner.filter(|_| is_right).map(|(found, _)| found).ok_or("Invalid user authorization")
    }
}

#[cfg(test)]
mod tests;
