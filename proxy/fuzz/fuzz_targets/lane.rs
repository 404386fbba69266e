//! Both lanes, as a connection drives them: whatever client and nodes say, in whatever pieces, each of
//! them hears what a slow and simple reading of RFC 9112 says, and a message that nobody can read in
//! one way only ends what it came on.
//!
//! Four bytes choose the pieces, one the manners, the rest is what is said (`Script`).

#![no_main]

use std::net::TcpStream;

use libfuzzer_sys::fuzz_target;
use proxy::test_support::stage::{End, Stage};
use proxy_fuzz::{
    lane::{self, Asked, Heard, NodeHeard},
    reference::{self, Found},
};

thread_local! {
    static STAGE: Stage = Stage::new(yaml);
}

fuzz_target!(|data: &[u8]| {
    if let Some(script) = Script::read(data) {
        STAGE.with(|stage| lane::check(&play(stage, &script)));
    }
});

/// `/a…` goes to the node, `/f…` too, by way of a filter that finds nothing; nothing else does.
fn yaml(node: std::net::SocketAddr) -> String {
    format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         kernel: {{ mode: off }}\n\
         limits: {{ splice_min: 600B }}\n\
         routes:\n\
         - {{ id: plain, uri: /a*, upstream_id: app }}\n\
         - id: filtered\n  uri: /f*\n  upstream_id: app\n  plugins:\n    response-rewrite:\n\
         \x20     filters: [{{ regex: \"%%%%\", replace: x }}]\n\
         upstreams: [{{ id: app, type: roundrobin, nodes: {{ \"{node}\": 1 }} }}]\n"
    )
}

/// Ends what the client says, and each answer.
const SEAM: u8 = 0xff;
/// In an answer: behind it the node says nothing more on its connection.
const END: u8 = 0xfe;
/// Stands for 64 times as many bytes as the next byte says.
const RUN: u8 = 0xfd;
/// Small pieces; what is left then goes at once.
const PIECES_MAX: usize = 24;

/// What everybody says.
struct Script {
    client: Vec<u8>,
    /// One for each request, whichever connection that comes on.
    answers: Vec<Answer>,
    client_pieces: [usize; 2],
    node_pieces: [usize; 2],
    /// The client says that it is done; otherwise it waits.
    client_ends: bool,
    /// Nodes answer a head, without waiting for its body.
    is_early: bool,
    /// A node without an answer is silent; otherwise it closes.
    node_waits: bool,
    /// The client reads little at a time.
    is_slow: bool,
}

struct Answer {
    bytes: Vec<u8>,
    ends: bool,
}

impl Script {
    fn read(data: &[u8]) -> Option<Script> {
        let (&[client_first, client_next, node_first, node_next, manners], said) =
            data.split_first_chunk()?;
        let mut said = said.split(|byte| *byte == SEAM);
        let client = expanded(said.next()?);
        let answers =
            said.map(|answer| Answer { bytes: expanded(answer), ends: answer.contains(&END) });
        let pieces = |first: u8, next: u8| [usize::from(first), usize::from(next)];
        let is_set = |bit: u8| manners & 1 << bit != 0;
        Some(Script {
            client,
            answers: answers.collect(),
            client_pieces: pieces(client_first, client_next),
            node_pieces: pieces(node_first, node_next),
            client_ends: is_set(0),
            is_early: is_set(1),
            node_waits: is_set(2),
            is_slow: is_set(3),
        })
    }
}

/// With runs of bytes in which a displaced one shows.
fn expanded(said: &[u8]) -> Vec<u8> {
    let (mut bytes, mut said) = (Vec::new(), said.iter());
    while let Some(byte) = said.next() {
        match *byte {
            RUN => {
                let size = usize::from(*said.next().unwrap_or(&0)) * 64;
                bytes.extend((0..size).map(|at| b'a' + (at % 23) as u8));
            }
            END => {}
            byte => bytes.push(byte),
        }
    }
    bytes
}

/// What is left to be said, cut.
struct Saying<'s> {
    left: &'s [u8],
    /// The first piece, then all others.
    pieces: [usize; 2],
    count: usize,
}

impl<'s> Saying<'s> {
    fn new(left: &'s [u8], pieces: [usize; 2]) -> Self {
        Saying { left, pieces, count: 0 }
    }

    /// Has `say` say the next piece; `false`: nothing is left, or not a byte is taken.
    fn go_on(&mut self, say: impl FnOnce(&[u8]) -> usize) -> bool {
        let size = self.pieces[self.count.min(1)];
        let is_cut = size > 0 && self.count < PIECES_MAX;
        let size = if is_cut { size.min(self.left.len()) } else { self.left.len() };
        self.count += 1;
        let count = if size == 0 { 0 } else { say(&self.left[..size]) };
        self.left = &self.left[count..];
        count > 0
    }
}

/// What a node makes of one connection.
#[derive(Default)]
struct Node<'s> {
    said: Vec<u8>,
    /// Where the request begins that is coming.
    at: usize,
    /// Whether that has begun, and whether it is among those that are due.
    has_begun: bool,
    is_due: bool,
    /// Requests that wait for an answer.
    due: usize,
    /// The answer under way, and whether it is the last.
    saying: Option<(Saying<'s>, bool)>,
    has_ended: bool,
}

fn play(stage: &Stage, script: &Script) -> Heard {
    let mut talk = stage.talk(if script.is_slow { 1 } else { 256 << 10 });
    let mut client = Saying::new(&script.client, script.client_pieces);
    let mut answers = script.answers.iter();
    let (mut nodes, mut asked) = (Vec::new(), Vec::new());
    let mut has_ended = false;
    loop {
        let mut is_news = client.go_on(|piece| talk.client.say(piece));
        if client.left.is_empty() && script.client_ends && !has_ended {
            talk.client.end();
            has_ended = true;
        }
        is_news |= talk.turn(if script.is_slow { 700 } else { usize::MAX });
        nodes.resize_with(talk.nodes.len(), Node::default);
        for (connection, (end, node)) in talk.nodes.iter_mut().zip(&mut nodes).enumerate() {
            node.hear(script.is_early, &end.heard, |at, said, had_ended| {
                asked.push(Asked { connection, at, said, had_ended });
            });
            is_news |= node.answer(script, &mut answers, end);
        }
        if !is_news && talk.pass() {
            break;
        }
    }
    let heard = talk.nodes.iter_mut().map(|node| std::mem::take(&mut node.heard));
    let nodes = heard.zip(nodes).map(|(heard, node)| NodeHeard {
        heard,
        said: node.said,
        has_ended: node.has_ended,
    });
    Heard {
        client_said: script.client.clone(),
        client: std::mem::take(&mut talk.client.heard),
        nodes: nodes.collect(),
        asked,
        is_early: script.is_early,
    }
}

impl<'s> Node<'s> {
    /// Finds the requests in what has come; `note`s where one begins, what was said before it, and whether
    /// that was all.
    fn hear(&mut self, is_early: bool, heard: &[u8], mut note: impl FnMut(usize, usize, bool)) {
        while let request @ [_, ..] = &heard[self.at..] {
            if !std::mem::replace(&mut self.has_begun, true) {
                note(self.at, self.said.len(), self.has_ended);
            }
            let (is_head_whole, size) = progress(request);
            let is_due = size.is_some() || is_early && is_head_whole;
            if is_due && !std::mem::replace(&mut self.is_due, true) {
                self.due += 1;
            }
            let Some(size) = size else { return };
            self.at += size;
            (self.has_begun, self.is_due) = (false, false);
        }
    }

    /// Says the next piece. Whether there was one, or the end.
    fn answer(
        &mut self,
        script: &'s Script,
        answers: &mut std::slice::Iter<'s, Answer>,
        end: &mut End<TcpStream>,
    ) -> bool {
        if self.saying.is_none() && self.due > 0 && !self.has_ended {
            self.due -= 1;
            let next = answers.next();
            let bytes = next.map_or(&[][..], |answer| &answer.bytes);
            let ends = next.map_or(!script.node_waits, |answer| answer.ends);
            self.saying = Some((Saying::new(bytes, script.node_pieces), ends));
        }
        let Some((saying, ends)) = &mut self.saying else { return false };
        let said = &mut self.said;
        let is_news = saying.go_on(|piece| {
            let count = end.say(piece);
            said.extend_from_slice(&piece[..count]);
            count
        });
        if !saying.left.is_empty() {
            return is_news;
        }
        if *ends {
            end.end();
            self.has_ended = true;
        }
        self.saying = None;
        true
    }
}

/// Whether the head of the request at the front of `bytes` is there, and how large the request is, if
/// it is whole.
fn progress(bytes: &[u8]) -> (bool, Option<usize>) {
    let Found::Whole(head) = reference::request(bytes) else { return (false, None) };
    let body = reference::body(head.framing, &bytes[head.size..], false);
    match body.size {
        Found::Whole(size) => (true, Some(head.size + size)),
        Found::Part | Found::Broken => (true, None),
    }
}
