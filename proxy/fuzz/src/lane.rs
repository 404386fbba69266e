//! What client and nodes have heard, compared with what each of them must have heard.

use std::slice;

use crate::reference::{self, Body, Found, Framing, Head};

/// Methods of requests that may be sent twice (RFC 9110 section 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
/// Of a body that no node gets the proxy need not read more, bytes.
const DISCARDED_MAX: usize = 64 << 10;
/// What may be wrong with a request.
const REFUSED: &[u16] = &[400, 405, 414, 417, 431, 501, 505];
/// What may be said to one that does not come whole.
const UNFINISHED: &[u16] = &[400, 408];
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// One client's connection, when it is over.
pub struct Heard {
    pub client_said: Vec<u8>,
    pub client: Vec<u8>,
    pub nodes: Vec<NodeHeard>,
    /// Every request that a node has seen anything of, in the order in which they began.
    pub asked: Vec<Asked>,
    /// Whether nodes may have answered before a request was whole.
    pub is_early: bool,
}

/// One connection to a node.
pub struct NodeHeard {
    pub heard: Vec<u8>,
    pub said: Vec<u8>,
    /// Whether the node has said that it says nothing more.
    pub has_ended: bool,
}

/// Where a request begins.
#[derive(Clone, Copy)]
pub struct Asked {
    pub connection: usize,
    /// In what the node has heard.
    pub at: usize,
    /// What the node had said when it began, and whether that was all it would.
    pub said: usize,
    pub had_ended: bool,
}

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Stays,
    Closes,
}

/// Who may have broken off a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    ByNode,
    /// The client as well, which has broken off its request.
    ByAnybody,
}

/// # Panics
/// Somebody has heard something else, or nothing where there should be something.
pub fn check(heard: &Heard) {
    let mut reader = Reader {
        heard,
        said: &heard.client_said,
        client: &heard.client,
        asked: heard.asked.iter(),
    };
    while reader.request() == After::Stays {}
    assert!(reader.client.is_empty(), "more for the client: {:?}", shown(reader.client));
    assert!(reader.asked.next().is_none(), "more for a node");
}

/// How far the comparison has come.
struct Reader<'h> {
    heard: &'h Heard,
    said: &'h [u8],
    client: &'h [u8],
    asked: slice::Iter<'h, Asked>,
}

impl<'h> Reader<'h> {
    /// The client's next request, and what came of it.
    fn request(&mut self) -> After {
        let head = match reference::request(self.said) {
            Found::Whole(head) => head,
            Found::Part => {
                if !self.client.is_empty() {
                    self.own(&[REFUSED, UNFINISHED].concat(), None, After::Closes);
                }
                return After::Closes;
            }
            Found::Broken => {
                self.own(REFUSED, None, After::Closes);
                return After::Closes;
            }
        };
        let body = reference::body(head.framing, &self.said[head.size..], false);
        if let Found::Whole(size) = body.size {
            self.said = &self.said[head.size + size..];
        }
        if head.expects
            && let Some(rest) = self.client.strip_prefix(CONTINUE)
        {
            self.client = rest;
        }
        if !head.is_sure && self.next_is_own() {
            return self.leave();
        }
        if head.is_sure && !head.second.starts_with(b"/a") && !head.second.starts_with(b"/f") {
            self.nowhere(&head, &body)
        } else {
            self.forwarded(&head, &body)
        }
    }

    /// A request that no route takes.
    fn nowhere(&mut self, head: &Head, body: &Body) -> After {
        match body.size {
            Found::Whole(_) => {
                let may_close =
                    !head.keeps_alive || head.expects || body.content.len() >= DISCARDED_MAX;
                let after = self.own(&[404], Some(head), After::Stays);
                assert!(after == After::Stays || may_close, "closed for no reason");
                assert!(after == After::Closes || head.keeps_alive, "open for no reason");
                after
            }
            Found::Part | Found::Broken => {
                self.unfinished(head, &[UNFINISHED, &[404]].concat(), &body.size)
            }
        }
    }

    /// A request that a node gets, if it is whole.
    fn forwarded(&mut self, head: &Head, body: &Body) -> After {
        let is_replayable =
            head.framing == Framing::None && IDEMPOTENT.contains(&head.first.as_str());
        loop {
            let Some(asked) = self.asked.next() else {
                assert!(!matches!(body.size, Found::Whole(_)), "no node has got {head:?}");
                return self.unfinished(head, UNFINISHED, &body.size);
            };
            self.check_sent(asked, head, body);
            let is_reused = self.check_reused(asked);
            let (said, has_ended) = self.answer_to(asked);
            if said.is_empty() && has_ended && is_reused && is_replayable {
                continue;
            }
            return match body.size {
                Found::Whole(_) => self.answered(head, said, has_ended, Cut::ByNode),
                Found::Part | Found::Broken if !self.heard.is_early => {
                    self.unfinished(head, UNFINISHED, &body.size)
                }
                Found::Part | Found::Broken if self.client.is_empty() || self.next_is_own() => {
                    self.unfinished(head, &[UNFINISHED, &[502, 504]].concat(), &Found::Part)
                }
                Found::Part | Found::Broken => {
                    self.answered(head, said, has_ended, Cut::ByAnybody);
                    After::Closes
                }
            };
        }
    }

    /// What the node has got of a request is that request, and whole only if that is.
    fn check_sent(&self, asked: &Asked, head: &Head, body: &Body) {
        let node = &self.heard.nodes[asked.connection];
        let heard = &node.heard[asked.at..];
        let Found::Whole(sent) = reference::request(heard) else {
            panic!("a node cannot read {:?}", shown(heard));
        };
        assert_eq!(sent.first, head.first);
        assert!(sent.second == head.second || !head.is_sure, "another target: {sent:?}");
        assert_eq!(sent.framing, head.framing);
        assert!(!sent.is_http10 && sent.keeps_alive && !sent.expects && !sent.announces_more);
        let got = reference::body(sent.framing, &heard[sent.size..], false);
        match (&body.size, &got.size) {
            (Found::Whole(_), Found::Whole(_)) => assert!(got.content == body.content, "{got:?}"),
            (Found::Whole(_), Found::Part) if self.heard.is_early => {
                assert!(body.content.starts_with(&got.content), "{got:?}");
            }
            (Found::Part | Found::Broken, Found::Part) => {
                assert!(body.content.starts_with(&got.content), "{got:?}");
            }
            (said, got) => panic!("{said:?} was sent on as {got:?}"),
        }
    }

    /// A connection carries another request only if everything that came on it before is whole, may be
    /// followed by something, and is all there was. Whether it carries one that is not its first.
    fn check_reused(&self, asked: &Asked) -> bool {
        assert!(!asked.had_ended, "used again behind its end");
        let node = &self.heard.nodes[asked.connection];
        let before = self.heard.asked.iter().take_while(|it| !std::ptr::eq(*it, asked));
        let before: Vec<_> =
            before.filter(|it| it.connection == asked.connection).chain([asked]).collect();
        for pair in before.windows(2) {
            let [earlier, later] = pair else { continue };
            let sent = &node.heard[earlier.at..later.at];
            let Found::Whole(request) = reference::request(sent) else { panic!("half a request") };
            let body = reference::body(request.framing, &sent[request.size..], false);
            assert_eq!(body.size, Found::Whole(sent.len() - request.size));
            let said = &node.said[earlier.said..later.said];
            let Found::Whole(head) = reference::response(said, request.first == "HEAD") else {
                panic!("used again behind {:?}", shown(said));
            };
            assert!(head.keeps_alive, "used again behind {head:?}");
            let body = reference::body(head.framing, &said[head.size..], false);
            assert_eq!(body.size, Found::Whole(said.len() - head.size), "{:?}", shown(said));
        }
        before.len() > 1
    }

    /// What the node says to a request, and whether nothing can follow that.
    fn answer_to(&self, asked: &Asked) -> (&'h [u8], bool) {
        let node = &self.heard.nodes[asked.connection];
        let mut behind = self.asked.as_slice().iter();
        match behind.find(|later| later.connection == asked.connection) {
            Some(later) => (&node.said[asked.said..later.said], false),
            None => (&node.said[asked.said..], node.has_ended),
        }
    }

    /// A whole request to which a node has said `said`.
    fn answered(&mut self, request: &Head, said: &[u8], has_ended: bool, cut: Cut) -> After {
        let is_to_head = request.first == "HEAD";
        let head = match reference::response(said, is_to_head) {
            Found::Whole(head) => head,
            Found::Part => return self.own_for_node(request, &[502, 504]),
            Found::Broken => return self.own_for_node(request, &[502]),
        };
        let body = reference::body(head.framing, &said[head.size..], has_ended);
        // Of a chunk that is broken the beginning of its line is enough.
        let is_seen_whole =
            matches!(body.size, Found::Whole(_)) || head.framing != Framing::Chunked;
        let may_be_refused = !head.is_sure || !is_seen_whole;
        if may_be_refused && self.next_is_own() {
            return self.own_for_node(request, &[502]);
        }
        let is_whole = matches!(body.size, Found::Whole(_));
        if self.client.is_empty() && !is_whole && self.may_say_nothing(request, &body) {
            return After::Closes;
        }
        let Found::Whole(got) = reference::response(self.client, is_to_head) else {
            panic!("the client cannot read {:?}", shown(self.client));
        };
        assert_eq!((got.status, &got.second), (head.status, &head.second));
        // Whoever speaks, it is HTTP/1.1 (RFC 9112 section 2.3).
        assert!(!got.is_http10, "{got:?}");
        let got_body = reference::body(got.framing, &self.client[got.size..], true);
        let Found::Whole(size) = got_body.size else {
            assert!(!is_whole || cut == Cut::ByAnybody, "only {got_body:?} of {body:?}");
            assert!(body.content.starts_with(&got_body.content), "{got_body:?} of {body:?}");
            self.client = &[];
            return After::Closes;
        };
        let says_so = got.framing != Framing::UntilClose;
        assert!(is_whole || !says_so, "{body:?} looks whole: {got:?}");
        let is_same = got_body.content == body.content
            || !is_whole && body.content.starts_with(&got_body.content);
        assert!(is_same, "{got_body:?} instead of {body:?}");
        self.client = &self.client[got.size + size..];
        assert_eq!(got.keeps_alive, request.keeps_alive && says_so, "{got:?}");
        if got.keeps_alive { self.stays(request) } else { After::Closes }
    }

    /// Where a response breaks off before anything of it has left; in the lane that passes bytes on as
    /// they are only if what broke it came with its head.
    fn may_say_nothing(&self, request: &Head, body: &Body) -> bool {
        let is_plain = !request.is_http10 && !request.expects && !request.announces_more;
        !is_plain || body.size == Found::Broken || self.heard.is_early
    }

    /// The proxy's answer in place of a node's.
    fn own_for_node(&mut self, request: &Head, statuses: &[u16]) -> After {
        let expected = if request.keeps_alive { After::Stays } else { After::Closes };
        let after = self.own(statuses, Some(request), After::Stays);
        assert!(after == expected || self.heard.is_early, "{after:?} instead of {expected:?}");
        if after == After::Stays { self.stays(request) } else { after }
    }

    /// A connection whose request's rest a node may have left may close, whatever was said.
    fn stays(&mut self, request: &Head) -> After {
        let has_more = !self.client.is_empty() || !self.asked.as_slice().is_empty();
        let may_close = self.heard.is_early && request.framing != Framing::None;
        if may_close && !has_more { After::Closes } else { After::Stays }
    }

    /// A request that never came whole: the proxy says so, or nothing.
    fn unfinished(&mut self, head: &Head, statuses: &[u16], size: &Found<usize>) -> After {
        if !self.client.is_empty() {
            self.own(statuses, Some(head), After::Closes);
        } else {
            assert_ne!(*size, Found::Broken, "no answer to {head:?}");
        }
        After::Closes
    }

    /// Whether the client's next response is one that the proxy has made.
    fn next_is_own(&self) -> bool {
        let head = reference::response(self.client, false);
        matches!(head, Found::Whole(head) if head.values("server").any(|it| it == b"tandem"))
    }

    /// An answer to a request that may be refused, or have gone to a node: nobody knows what is next.
    fn leave(&mut self) -> After {
        (self.client, self.asked) = (&[], [].iter());
        After::Closes
    }

    /// An answer of the proxy, with one of `statuses`, to `request`, if that was read. `After::Closes`:
    /// it has to be the last.
    fn own(&mut self, statuses: &[u16], request: Option<&Head>, after: After) -> After {
        // Of one that was not read, its beginning says so.
        let begins = self.said.strip_prefix(b"\r\n").unwrap_or(self.said).starts_with(b"HEAD ");
        let is_to_head = request.map_or(begins, |request| request.first == "HEAD");
        let Found::Whole(head) = reference::response(self.client, is_to_head) else {
            panic!("one of {statuses:?} instead of {:?}", shown(self.client));
        };
        let body = reference::body(head.framing, &self.client[head.size..], true);
        let Found::Whole(size) = body.size else { panic!("half an answer: {head:?}") };
        assert!(statuses.contains(&head.status), "{statuses:?} instead of {head:?}");
        assert!(head.values("server").any(|it| it == b"tandem"), "not its own: {head:?}");
        self.client = &self.client[head.size + size..];
        assert!(after == After::Stays || !head.keeps_alive, "another may follow {head:?}");
        if head.keeps_alive { After::Stays } else { After::Closes }
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
