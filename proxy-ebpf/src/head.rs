//! The recogniser of response heads: a node's message in, how long the response is out, or why
//! userspace has to read it.
//!
//! Whoever forwards a response without userspace takes its word for where the response ends. So it
//! accepts only heads that userspace would pass on without changing a byte, and refuses whatever it
//! has the slightest doubt about: a refusal costs nothing but time. What follows the head is not
//! looked at.
//!
//! A machine that `bpf_loop` can drive. Each step takes a run of up to eight bytes, at least one:
//!
//! | state        | next bytes → state |
//! |--------------|--------------------|
//! | `StatusLine` | `HTTP/1.1`, blank, three digits, blank → `Phrase` |
//! | `Phrase`     | text → `Phrase`; CRLF → `Name` |
//! | `Name`       | token → `Name`; after at least one: colon, blank, text → `Value`, but `Length` of `content-length`, and `Name` behind `connection: keep-alive` CRLF; at once: CRLF → done |
//! | `Length`     | digit → `Length`; after at least one: CRLF → `Name` |
//! | `Value`      | text → `Value`; not after a blank: CRLF → `Name` |
//!
//! Every pair that is not named is refused.

use core::{marker::PhantomData, mem::size_of};

use proxy_common::limits::{HEAD_FIELDS_MAX, HEAD_MAX};

/// Steps after which a head is recognised or refused: each but the last takes a byte.
pub const STEPS_MAX: u32 = HEAD_MAX;

/// A message that may begin with a head.
pub trait Message {
    /// The eight bytes from `at` on, the first one lowest; `None` if they are not all there. Nothing
    /// is asked for that begins beyond `HEAD_MAX + 16`.
    fn word(&self, at: u32) -> Option<u64>;
}

/// The bytes between two addresses.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    start: usize,
    end: usize,
    bytes: PhantomData<&'a [u8]>,
}

impl Bytes<'_> {
    /// As a context gives them.
    ///
    /// # Safety
    /// They stay readable for the lifetime.
    #[inline(always)]
    pub unsafe fn between(start: usize, end: usize) -> Self {
        Self { start, end, bytes: PhantomData }
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let range = bytes.as_ptr_range();
        Self { start: range.start as usize, end: range.end as usize, bytes: PhantomData }
    }
}

impl Message for Bytes<'_> {
    #[inline(always)]
    fn word(&self, at: u32) -> Option<u64> {
        let from = place(self.start, at);
        if from + size_of::<u64>() > self.end {
            return None;
        }
        // SAFETY: the check above keeps the read inside the message, whose bytes are readable.
        Some(unsafe { load(from) })
    }
}

/// Offsets that the verifier has to know the bound of.
const OFFSET_MASK: u32 = 0xfff;
const _: () = assert!(HEAD_MAX + 16 <= OFFSET_MASK);

/// `start` and the offset `at`. In instructions of its own: taken apart and put together in another
/// order, as compilers like to, the verifier would not know the address that is read for the one that
/// was compared.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn place(start: usize, at: u32) -> usize {
    let mut place = at as usize;
    // SAFETY: arithmetic.
    unsafe {
        core::arch::asm!(
            "{place} &= {mask}",
            "{place} += {start}",
            place = inout(reg) place,
            start = in(reg) start,
            mask = const OFFSET_MASK,
            options(pure, nomem, nostack)
        );
    }
    place
}

#[cfg(not(target_arch = "bpf"))]
fn place(start: usize, at: u32) -> usize {
    start + (at & OFFSET_MASK) as usize
}

/// Loads a word in one instruction, which neither the kernel nor its processors want to be aligned.
///
/// # Safety
/// The eight bytes from `from` on are readable.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn load(from: usize) -> u64 {
    let word;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "{word} = *(u64 *)({from} + 0)",
            word = out(reg) word,
            from = in(reg) from,
            options(pure, readonly, nostack)
        );
    }
    word
}

/// # Safety
/// The eight bytes from `from` on are readable.
#[cfg(not(target_arch = "bpf"))]
unsafe fn load(from: usize) -> u64 {
    // SAFETY: as above.
    unsafe { (from as *const u64).read_unaligned() }
}

/// What a head says that was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// In bytes, the empty line included.
    pub size: u32,
    pub status: u16,
    pub content_length: u32,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    More,
    Done,
    Refused(Refusal),
}

/// Why userspace has to read a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The message ends before its head does.
    Incomplete,
    /// More than [`HEAD_MAX`] bytes.
    TooLarge,
    /// More than [`HEAD_FIELDS_MAX`].
    TooManyFields,
    /// Not HTTP/1.1, or not three digits between single blanks.
    StatusLine,
    /// One that is not passed on unseen: see `is_plain`.
    Status,
    /// CR or LF without the other.
    LineEnding,
    /// No token before the colon, or a line that goes on with the one before it.
    Name,
    /// Not one blank, text that begins and ends without one, and the end of the line.
    Value,
    /// A field that never leaves its connection.
    HopByHop,
    /// Not a number below 2^32 as one would write it.
    ContentLength,
    /// Anything but `keep-alive`.
    Connection,
    /// A second `content-length`, `date` or `connection`.
    Repeated,
    /// No `content-length`, or no `date`, which userspace would add.
    Missing,
}

/// How far a head has been read. All zero is a new one, so it may live in a map; on the stack the
/// verifier would follow it through every head there is.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Recogniser {
    /// The byte that comes next; at the end the size of the head.
    at: u32,
    /// Where the current line begins, or the digits of a length.
    start: u32,
    content_length: u32,
    fields: u32,
    status: u16,
    state: State,
    /// Fields that may be there once, as bits.
    seen: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
enum State {
    #[default]
    StatusLine,
    Phrase,
    Name,
    Length,
    Value,
}

/// Bits of [`Recogniser::seen`].
mod seen {
    pub(super) const CONTENT_LENGTH: u8 = 1;
    pub(super) const DATE: u8 = 2;
    pub(super) const CONNECTION: u8 = 4;
}

impl Recogniser {
    #[inline(always)]
    pub const fn new() -> Self {
        Self {
            at: 0,
            start: 0,
            content_length: 0,
            fields: 0,
            status: 0,
            state: State::StatusLine,
            seen: 0,
        }
    }

    /// Begins with another message. As little as has to be: whole structures are cleared by a function
    /// that goes byte by byte.
    #[inline(always)]
    pub const fn restart(&mut self) {
        self.at = 0;
        self.state = State::StatusLine;
    }

    /// Reads on in `message`, the same at every step. Once it was `Done` or `Refused` the next step
    /// is after [`restart`](Self::restart).
    #[inline(always)]
    pub fn step(&mut self, message: &impl Message) -> Step {
        match self.advance(message) {
            Ok(step) => step,
            Err(refusal) => Step::Refused(refusal),
        }
    }

    /// What was recognised, once a step was `Done`.
    #[inline(always)]
    pub const fn head(&self) -> Head {
        Head { size: self.at, status: self.status, content_length: self.content_length }
    }

    #[inline(always)]
    fn advance(&mut self, message: &impl Message) -> Result<Step, Refusal> {
        // Asked at every step, so that the verifier knows how far each of them may read.
        if self.at >= HEAD_MAX {
            return Err(Refusal::TooLarge);
        }
        match self.state {
            State::StatusLine => self.status_line(message),
            State::Phrase | State::Value => self.text(message),
            State::Name => self.name(message),
            State::Length => self.length(message),
        }
    }

    #[inline(always)]
    fn status_line(&mut self, message: &impl Message) -> Result<Step, Refusal> {
        const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.1");
        let version = message.word(0).ok_or(Refusal::Incomplete)?;
        let status = message.word(8).ok_or(Refusal::Incomplete)?;
        let [before, hundreds, tens, ones, after, ..] = status.to_le_bytes();
        if version != VERSION || before != b' ' || after != b' ' {
            return Err(Refusal::StatusLine);
        }
        self.status = 100 * digit(hundreds).ok_or(Refusal::StatusLine)?
            + 10 * digit(tens).ok_or(Refusal::StatusLine)?
            + digit(ones).ok_or(Refusal::StatusLine)?;
        if !is_plain(self.status) {
            return Err(Refusal::Status);
        }
        self.content_length = 0;
        self.fields = 0;
        self.seen = 0;
        self.at = 13;
        self.state = State::Phrase;
        Ok(Step::More)
    }

    /// A phrase or a value.
    #[inline(always)]
    fn text(&mut self, message: &impl Message) -> Result<Step, Refusal> {
        let run = Run::of(message, self.at, controls)?;
        let Some(control) = run.stop else {
            self.at += run.size;
            return Ok(Step::More);
        };
        let end = self.at + run.size;
        if control != b'\r' {
            return Err(if control == b'\n' { Refusal::LineEnding } else { Refusal::Value });
        }
        let before = line_end(message, end)?;
        if self.state == State::Value && is_blank(before) {
            return Err(Refusal::Value);
        }
        self.begin_line(end + 2)
    }

    #[inline(always)]
    fn begin_line(&mut self, at: u32) -> Result<Step, Refusal> {
        self.at = at;
        self.start = at;
        self.state = State::Name;
        Ok(Step::More)
    }

    #[inline(always)]
    fn name(&mut self, message: &impl Message) -> Result<Step, Refusal> {
        let run = Run::of(message, self.at, not_alphanumeric)?;
        let end = self.at + run.size;
        match run.stop {
            None => {
                self.at = end;
                Ok(Step::More)
            }
            Some(b':') if end > self.start => self.field(message, end),
            Some(b'\r') if end == self.start => self.finish(message, end),
            Some(byte) if is_token(byte) => {
                self.at = end + 1;
                Ok(Step::More)
            }
            Some(b'\n') => Err(Refusal::LineEnding),
            Some(_) => Err(Refusal::Name),
        }
    }

    /// The name ends at `colon`: which field it is, and where its value begins.
    #[inline(always)]
    fn field(&mut self, message: &impl Message, colon: u32) -> Result<Step, Refusal> {
        if self.fields >= HEAD_FIELDS_MAX {
            return Err(Refusal::TooManyFields);
        }
        self.fields += 1;
        let [.., blank, first] = word_before(message, colon + 3)?.to_le_bytes();
        if blank != b' ' || is_blank(first) || is_control(first) {
            return Err(Refusal::Value);
        }
        self.at = colon + 2;
        match Field::of(message, self.start, colon)? {
            Field::ContentLength => {
                self.see(seen::CONTENT_LENGTH)?;
                self.start = self.at;
                self.state = State::Length;
                Ok(Step::More)
            }
            Field::Connection => {
                self.see(seen::CONNECTION)?;
                self.keep_alive(message, colon)
            }
            Field::Date => {
                self.see(seen::DATE)?;
                self.state = State::Value;
                Ok(Step::More)
            }
            Field::Other => {
                self.state = State::Value;
                Ok(Step::More)
            }
            Field::HopByHop => Err(Refusal::HopByHop),
        }
    }

    #[inline(always)]
    const fn see(&mut self, field: u8) -> Result<(), Refusal> {
        if self.seen & field != 0 {
            return Err(Refusal::Repeated);
        }
        self.seen |= field;
        Ok(())
    }

    /// The value of `connection` with its colon before and its CRLF behind it, in two words: a head
    /// that is complete has two more bytes.
    #[inline(always)]
    fn keep_alive(&mut self, message: &impl Message, colon: u32) -> Result<Step, Refusal> {
        const START: Pattern = Pattern::new(b": keep-a");
        const END: Pattern = Pattern::new(b"live\r\n");
        if !START.begins(message.word(colon).ok_or(Refusal::Incomplete)?)
            || !END.begins(message.word(colon + 8).ok_or(Refusal::Incomplete)?)
        {
            return Err(Refusal::Connection);
        }
        self.begin_line(colon + 14)
    }

    #[inline(always)]
    fn length(&mut self, message: &impl Message) -> Result<Step, Refusal> {
        let byte = byte(message, self.at)?;
        let is_first = self.at == self.start;
        if byte == b'\r' && !is_first {
            line_end(message, self.at)?;
            return self.begin_line(self.at + 2);
        }
        let digit = digit(byte).ok_or(Refusal::ContentLength)?;
        let length = u64::from(self.content_length) * 10 + u64::from(digit);
        // Neither a second digit behind a zero nor more than fits.
        if length > u64::from(u32::MAX) || self.content_length == 0 && !is_first {
            return Err(Refusal::ContentLength);
        }
        self.content_length = length as u32;
        self.at += 1;
        Ok(Step::More)
    }

    /// The empty line.
    #[inline(always)]
    fn finish(&mut self, message: &impl Message, end: u32) -> Result<Step, Refusal> {
        const REQUIRED: u8 = seen::CONTENT_LENGTH | seen::DATE;
        line_end(message, end)?;
        if end + 2 > HEAD_MAX {
            return Err(Refusal::TooLarge);
        }
        if self.seen & REQUIRED != REQUIRED {
            return Err(Refusal::Missing);
        }
        self.at = end + 2;
        Ok(Step::Done)
    }
}

/// Whether a status says nothing to the proxy itself, and a body may follow it.
#[inline(always)]
const fn is_plain(status: u16) -> bool {
    match status {
        // No body, whatever the length says; a body where there should be none.
        204 | 205 | 304 => false,
        // May be the node's farewell to an idle connection rather than an answer.
        408 => false,
        // Wants to be tried again on another connection.
        421 => false,
        // Not interim and no upgrade (1xx); a status there is.
        _ => 200 <= status && status <= 599,
    }
}

/// What a field is to the recogniser.
#[derive(Clone, Copy)]
enum Field {
    Other,
    Connection,
    ContentLength,
    Date,
    HopByHop,
}

impl Field {
    /// By the last 16 bytes and the length of a name of tokens. Two words before its end are always
    /// there: a status line is longer than 14 bytes.
    #[inline(always)]
    fn of(message: &impl Message, start: u32, end: u32) -> Result<Self, Refusal> {
        let last = word_before(message, end)?;
        let first = word_before(message, end.checked_sub(8).ok_or(Refusal::Incomplete)?)?;
        let is = |name: Name| name.last.ends(last) && name.first.ends(first);
        let refused = |is_refused| if is_refused { Self::HopByHop } else { Self::Other };
        Ok(match end.wrapping_sub(start) {
            2 => refused(is(const { Name::new(b"te") })),
            4 if is(const { Name::new(b"date") }) => Self::Date,
            5 => refused(is(const { Name::new(b"proxy") })),
            7 => {
                refused(is(const { Name::new(b"trailer") }) || is(const { Name::new(b"upgrade") }))
            }
            10 if is(const { Name::new(b"connection") }) => Self::Connection,
            10 => refused(is(const { Name::new(b"keep-alive") })),
            14 if is(const { Name::new(b"content-length") }) => Self::ContentLength,
            14 => refused(is(const { Name::new(b"http2-settings") })),
            16 => refused(is(const { Name::new(b"proxy-connection") })),
            17 => refused(is(const { Name::new(b"transfer-encoding") })),
            18 => refused(is(const { Name::new(b"proxy-authenticate") })),
            19 => refused(is(const { Name::new(b"proxy-authorization") })),
            25 => refused(is(const { Name::new(b"proxy-authentication-info") })),
            _ => Self::Other,
        })
    }
}

/// The last 16 bytes of a name.
#[derive(Clone, Copy)]
struct Name {
    first: Pattern,
    last: Pattern,
}

impl Name {
    const fn new(name: &[u8]) -> Self {
        let (rest, last) = name.split_at(name.len().saturating_sub(8));
        let (_, first) = rest.split_at(rest.len().saturating_sub(8));
        Self { first: Pattern::new(first), last: Pattern::new(last) }
    }
}

/// Up to eight bytes that a word is compared with; letters in any case.
#[derive(Clone, Copy)]
struct Pattern {
    /// In lower case, the first byte lowest.
    bytes: u64,
    /// What upper case lacks.
    case: u64,
    size: usize,
}

impl Pattern {
    const fn new(text: &[u8]) -> Self {
        let mut bytes = 0;
        let mut case = 0;
        let mut index = 0;
        while index < text.len() {
            assert!(!text[index].is_ascii_uppercase());
            bytes |= (text[index] as u64) << (8 * index);
            if text[index].is_ascii_lowercase() {
                case |= 0x20 << (8 * index);
            }
            index += 1;
        }
        Self { bytes, case, size: text.len() }
    }

    /// Whether the low bytes of `word` are these.
    #[inline(always)]
    const fn begins(self, word: u64) -> bool {
        let mask = if self.size == 0 { 0 } else { u64::MAX >> (64 - 8 * self.size) };
        (word | self.case) & mask == self.bytes
    }

    /// Whether the high bytes of `word` are these.
    #[inline(always)]
    const fn ends(self, word: u64) -> bool {
        self.size == 0 || self.begins(word >> (64 - 8 * self.size))
    }
}

/// Up to eight bytes from some place on, up to one that is of another kind.
struct Run {
    size: u32,
    stop: Option<u8>,
}

impl Run {
    /// `stops` marks the bytes of a word that end a run by their highest bits.
    #[inline(always)]
    fn of(message: &impl Message, at: u32, stops: impl Fn(u64) -> u64) -> Result<Self, Refusal> {
        let Some(word) = message.word(at) else {
            let byte = byte(message, at)?;
            let is_stop = stops(u64::from(byte)) & 0x80 != 0;
            return Ok(if is_stop {
                Self { size: 0, stop: Some(byte) }
            } else {
                Self { size: 1, stop: None }
            });
        };
        let marks = stops(word);
        if marks == 0 {
            return Ok(Self { size: 8, stop: None });
        }
        let index = first_mark(marks);
        Ok(Self { size: index, stop: Some((word >> (8 * index)) as u8) })
    }
}

/// A word of eight times this byte.
const fn each(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

const HIGH: u64 = each(0x80);

/// Where the first marked byte of a word is. BPF cannot count zeros; the product has the index in
/// its highest byte.
#[inline(always)]
const fn first_mark(marks: u64) -> u32 {
    const INDEXES: u64 = u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
    let first = marks & marks.wrapping_neg();
    ((first >> 7).wrapping_mul(INDEXES) >> 56) as u32 & 7
}

/// Marks the bytes that are at least `least`, which is not 0; those of `word` are below 0x80. No sum
/// overflows its byte.
#[inline(always)]
const fn at_least(word: u64, least: u8) -> u64 {
    word + each(0x80 - least)
}

/// Marks the bytes that no text has: controls but HTAB (RFC 9110 section 5.5).
#[inline(always)]
const fn controls(word: u64) -> u64 {
    let low = word & !HIGH;
    let is_tab = !at_least(low ^ each(b'\t'), 1);
    (!at_least(low, b' ') | at_least(low, 0x7f)) & !is_tab & !word & HIGH
}

/// Marks the bytes that are neither letters, digits nor `-`, which names rarely have.
#[inline(always)]
const fn not_alphanumeric(word: u64) -> u64 {
    let low = word & !HIGH;
    let lower = low | each(0x20);
    let is_letter = at_least(lower, b'a') & !at_least(lower, b'z' + 1);
    let is_digit = at_least(low, b'0') & !at_least(low, b'9' + 1);
    let is_dash = !at_least(low ^ each(b'-'), 1);
    (!(is_letter | is_digit | is_dash) | word) & HIGH
}

/// RFC 9110 section 5.6.2: `tchar`.
#[inline(always)]
const fn is_token(byte: u8) -> bool {
    const BITS: [u64; 2] = token_bits();
    let bits = if byte < 64 { BITS[0] } else { BITS[1] };
    byte < 128 && bits >> (byte & 63) & 1 == 1
}

const fn token_bits() -> [u64; 2] {
    let mut bits = [0; 2];
    let mut byte = 0;
    while byte < 128 {
        let is_token = matches!(byte,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~');
        if is_token {
            bits[byte as usize / 64] |= 1 << (byte % 64);
        }
        byte += 1;
    }
    bits
}

#[inline(always)]
const fn digit(byte: u8) -> Option<u16> {
    if byte.is_ascii_digit() { Some((byte - b'0') as u16) } else { None }
}

#[inline(always)]
const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[inline(always)]
const fn is_control(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f
}

/// The byte before the CR at `cr`, behind which there has to be an LF.
#[inline(always)]
fn line_end(message: &impl Message, cr: u32) -> Result<u8, Refusal> {
    let [.., before, _cr, lf] = word_before(message, cr + 2)?.to_le_bytes();
    if lf == b'\n' { Ok(before) } else { Err(Refusal::LineEnding) }
}

/// One byte, of any line but the first. With the bytes before it: the last ones of a message are no
/// whole word, and of a single byte's bounds check the compiler makes one that the verifier does not
/// understand.
#[inline(always)]
fn byte(message: &impl Message, at: u32) -> Result<u8, Refusal> {
    let [.., byte] = word_before(message, at + 1)?.to_le_bytes();
    Ok(byte)
}

/// The eight bytes before `end`: every line but the first has as many before it.
#[inline(always)]
fn word_before(message: &impl Message, end: u32) -> Result<u64, Refusal> {
    let at = end.checked_sub(8).ok_or(Refusal::Incomplete)?;
    message.word(at).ok_or(Refusal::Incomplete)
}

/// The whole machine, as the kernel drives it.
///
/// # Errors
/// Userspace has to read it.
#[cfg(not(target_arch = "bpf"))]
pub fn recognise(message: &[u8]) -> Result<Head, Refusal> {
    let mut recogniser = Recogniser::new();
    for _ in 0..STEPS_MAX {
        match recogniser.step(&Bytes::from(message)) {
            Step::More => {}
            Step::Done => return Ok(recogniser.head()),
            Step::Refused(refusal) => return Err(refusal),
        }
    }
    Err(Refusal::TooLarge)
}

#[cfg(test)]
mod tests;
