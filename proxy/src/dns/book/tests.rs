use std::net::IpAddr;

use super::{super::Records, *};

const SECOND: Duration = Duration::from_secs(1);

fn question(name: &str) -> Question {
    Question { name: name.into(), records: Records::Addresses }
}

fn answer(addresses: &[u8], ttl: u64) -> Answer {
    let found = |last: &u8| Found { address: IpAddr::from([10, 0, 0, *last]), service: None };
    Answer {
        found: addresses.iter().map(found).collect(),
        ttl: Duration::from_secs(ttl),
        is_partial: false,
        is_cut: false,
    }
}

/// A book of one name, and a clock that nothing but the test moves.
struct Bench {
    book: Book,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let settings = Resolver { ttl_min: SECOND, ttl_max: 100 * SECOND, ..Resolver::default() };
        let (mut book, now) = (Book::new(&settings), Instant::now());
        assert!(book.add([question("a")].iter(), now));
        Self { book, now }
    }

    /// Takes the question, which is due, and says what came of it; when it is due again.
    fn record(&mut self, outcome: Outcome) -> (News, Duration) {
        let (due, _) = self.book.take_due(self.now, 1);
        assert_eq!(due, [question("a")]);
        let news = self.book.record(&question("a"), outcome, self.now, 0);
        let (due, next) = self.book.take_due(self.now, 1);
        assert!(due.is_empty());
        let wait = next.expect("it is asked about again") - self.now;
        self.now += wait;
        (news, wait)
    }

    fn addresses(&self) -> Vec<String> {
        let found = self.book.found(&question("a"));
        found.iter().map(|found| found.address.to_string()).collect()
    }
}

#[test]
fn an_answer_counts_as_long_as_its_ttl_says_within_bounds() {
    for (ttl, expected) in [(0, 1), (1, 1), (30, 30), (100, 100), (86_400, 100)] {
        let mut bench = Bench::new();
        let (news, wait) = bench.record(Ok(answer(&[1], ttl)));
        assert_eq!((news, wait), (News::Changed, expected * SECOND), "{ttl}");
        assert_eq!(bench.record(Ok(answer(&[1], ttl))).0, News::None);
        assert_eq!(bench.record(Ok(answer(&[1, 2], ttl))).0, News::Changed);
        assert_eq!(bench.addresses(), ["10.0.0.1", "10.0.0.2"]);
    }
}

#[test]
fn the_last_good_answer_outlives_failures_which_are_told_once_and_tried_again_ever_later() {
    use Failure::{NoRecords, Refused, TimedOut};
    let failing = |why, has_answer| News::Failing { why, has_answer };
    let mut bench = Bench::new();
    assert_eq!(bench.record(Err(TimedOut)), (failing(TimedOut, false), SECOND));
    assert_eq!(bench.record(Ok(answer(&[1], 7))), (News::Changed, 7 * SECOND));
    let waits: Vec<_> = (0..7).map(|_| bench.record(Err(Refused))).collect();
    let expected = [1, 2, 4, 8, 16, 30, 30].map(|seconds| (News::None, seconds * SECOND));
    assert_eq!(waits[0], (failing(Refused, true), SECOND));
    assert_eq!(waits[1..], expected[1..]);
    assert_eq!(bench.record(Err(NoRecords)).0, failing(NoRecords, true));
    assert_eq!(bench.addresses(), ["10.0.0.1"]);
    assert_eq!(bench.record(Ok(answer(&[1], 7))), (News::Recovered, 7 * SECOND));
    assert_eq!(bench.record(Err(NoRecords)), (failing(NoRecords, true), SECOND));
    assert_eq!(bench.record(Ok(answer(&[2], 7))), (News::Changed, 7 * SECOND));
}

#[test]
fn a_part_of_an_answer_is_better_than_none_and_worse_than_a_whole_one() {
    let part = |last| Answer { is_partial: true, ..answer(&[last], 0) };
    let mut bench = Bench::new();
    assert_eq!(bench.record(Ok(part(1))), (News::Changed, SECOND));
    // What is missing may never come.
    assert_eq!(bench.record(Ok(part(3))), (News::Changed, SECOND));
    assert_eq!(bench.addresses(), ["10.0.0.3"]);
    assert_eq!(bench.record(Ok(answer(&[1, 2], 7))), (News::Changed, 7 * SECOND));
    let failing = News::Failing { why: Failure::Refused, has_answer: true };
    let expired = bench.now;
    assert_eq!(bench.record(Ok(part(2))), (failing, SECOND));
    assert_eq!(bench.addresses(), ["10.0.0.1", "10.0.0.2"]);
    // Not for ever: what is missing may never come again.
    while bench.now < expired + 60 * SECOND {
        assert_eq!(bench.record(Ok(part(2))).0, News::None);
    }
    assert_eq!(bench.record(Ok(part(2))), (News::Changed, SECOND));
    assert_eq!(bench.addresses(), ["10.0.0.2"]);
}

#[test]
fn changes_are_published_together_and_not_too_often() {
    let names = ["a", "b", "c"].map(question);
    let (mut book, now) = (Book::new(&Resolver::default()), Instant::now());
    book.add(names.iter(), now);
    let record = |book: &mut Book, name: usize, outcome, after| {
        book.record(&names[name], outcome, now + after, 0);
    };
    assert_eq!(book.publication(), None);
    record(&mut book, 0, Ok(answer(&[1], 7)), Duration::ZERO);
    record(&mut book, 1, Err(Failure::TimedOut), TOGETHER);
    assert_eq!(book.publication(), Some(now + PUBLISH_INTERVAL), "nobody has answered the third");
    record(&mut book, 2, Ok(answer(&[1], 7)), 2 * TOGETHER);
    assert_eq!(book.publication(), Some(now + TOGETHER), "all have answered");
    book.published(book.changes(), now + SECOND);
    assert_eq!(book.publication(), None);
    record(&mut book, 0, Ok(answer(&[1], 7)), SECOND);
    record(&mut book, 1, Err(Failure::Refused), SECOND);
    assert_eq!(book.publication(), None, "nothing new");
    record(&mut book, 0, Ok(answer(&[2], 7)), SECOND + TOGETHER);
    record(&mut book, 0, Ok(answer(&[3], 7)), SECOND + 3 * TOGETHER);
    assert_eq!(book.publication(), Some(now + SECOND + PUBLISH_INTERVAL));
    let changes = book.changes();
    record(&mut book, 0, Ok(answer(&[4], 7)), SECOND + 4 * TOGETHER);
    book.published(changes, now + 2 * SECOND);
    assert_eq!(book.publication(), Some(now + 2 * SECOND + PUBLISH_INTERVAL), "that came later");
    book.published(book.changes(), now + 2 * SECOND);
    record(&mut book, 0, Ok(answer(&[5], 7)), 4 * SECOND);
    assert_eq!(book.publication(), Some(now + 4 * SECOND + TOGETHER));
}

#[test]
fn times_are_spread_by_a_sixteenth() {
    let mut bench = Bench::new();
    let due = |bench: &mut Bench, random| {
        bench.book.take_due(bench.now, 1);
        bench.book.record(&question("a"), Ok(answer(&[1], 16)), bench.now, random);
        let due = bench.book.take_due(bench.now, 1).1.expect("due again") - bench.now;
        bench.now += due;
        due
    };
    assert_eq!(due(&mut bench, 0), 16 * SECOND);
    assert_eq!(due(&mut bench, 1 << 31), 16 * SECOND + SECOND / 2);
    assert!(due(&mut bench, u32::MAX) < 17 * SECOND);
}

#[test]
fn who_has_waited_longest_is_asked_first() {
    let now = Instant::now();
    let mut book = Book::new(&Resolver::default());
    let names: Vec<_> = (0..20).map(|n| question(&n.to_string())).collect();
    for (at, name) in names.iter().enumerate() {
        book.add([name].into_iter(), now + at as u32 * SECOND);
    }
    let late = now + 100 * SECOND;
    for name in &names {
        assert_eq!(book.take_due(late, 1).0, std::slice::from_ref(name));
    }
}

#[test]
fn what_is_due_is_asked_once_and_as_there_is_room() {
    let now = Instant::now();
    let mut book = Book::new(&Resolver::default());
    let names: Vec<_> = ["a", "b", "c"].map(question).into();
    assert!(book.add(names.iter(), now) && !book.add(names.iter(), now));
    assert!(book.is_waiting());
    assert_eq!(book.take_due(now, 0), (Vec::new(), None));
    let (two, next) = book.take_due(now, 2);
    assert_eq!((two.len(), next), (2, None));
    let (one, _) = book.take_due(now, 2);
    assert_eq!(one.len(), 1);
    assert_eq!(book.take_due(now, 2), (Vec::new(), None));
    for question in two.iter().chain(&one) {
        book.record(question, Err(Failure::TimedOut), now, 0);
    }
    assert!(!book.is_waiting());
    assert_eq!(book.take_due(now, 3), (Vec::new(), Some(now + SECOND)));
    book.keep(names[..1].iter());
    assert_eq!(book.take_due(now + SECOND, 3).0, names[..1]);
    let late = book.record(&names[1], Ok(answer(&[1], 7)), now, 0);
    assert_eq!((late, book.found(&names[1])), (News::None, &[][..]), "forgotten meanwhile");
    let shown = book.shown();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].failure, Some("no answer in time"));
}
