use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::{io::AsyncWriteExt as _, sync::Semaphore};

use super::*;
use crate::{
    client::{
        Purpose, Trust, Url,
        tests::{Host, client, read_head},
    },
    plugin::p256,
};

/// Somebody who publishes sets, one after the other; each waits to be let go.
struct Idp {
    host: Host,
    go: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

/// One key, whose name is `id`.
fn set(id: &str) -> String {
    // The generator of P-256.
    let x = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY";
    let y = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";
    let key = format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"{id}"}}"#);
    format!(r#"{{"keys":[{key}]}}"#)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

impl Idp {
    async fn new(answers: Vec<String>) -> Idp {
        let (go, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (gate, count, answers) = (Arc::clone(&go), Arc::clone(&asked), Arc::new(answers));
        let host = Host::new(move |mut stream, number| {
            let (gate, count, answers) =
                (Arc::clone(&gate), Arc::clone(&count), Arc::clone(&answers));
            async move {
                drop(read_head(&mut stream).await);
                count.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.expect("open").forget();
                drop(stream.write_all(answers[number].as_bytes()).await);
            }
        })
        .await;
        Idp { host, go, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn source(&self, ttl: Duration, interval: Duration) -> Arc<KeySource> {
        let request = Request {
            purpose: Purpose::Jwks,
            method: Method::GET,
            url: Url::parse(&format!("http://{}/", self.host.address)).expect("a URL"),
            address: None,
            fields: HeaderMap::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            body_size_max: 4096,
            trust: Trust::System,
            keep_alive: None,
        };
        Arc::new(KeySource::new(Settings { request, usage: p256(), ttl, interval }))
    }
}

const LONG: Duration = Duration::from_secs(3600);

fn has(source: &KeySource, id: &str) -> bool {
    source.keys().has(id)
}

#[tokio::test]
async fn those_who_need_a_set_at_once_wait_for_one_fetch() {
    let idp = Idp::new(vec![ok(&set("1"))]).await;
    let (source, client) = (idp.source(LONG, LONG), Arc::new(client()));
    // Nobody has published rules with it.
    source.refresh(&client).await;
    assert_eq!(idp.asked(), 0);
    let _sets = KeySets::new([&source].into_iter(), None);
    let waiting = |_| {
        let (source, client) = (Arc::clone(&source), Arc::clone(&client));
        tokio::spawn(async move { source.refresh(&client).await })
    };
    let waiting: Vec<_> = (0..5).map(waiting).collect();
    while idp.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // Whoever leaves does not take the fetch along.
    waiting[0].abort();
    assert!(!has(&source, "1"));
    idp.go.add_permits(1);
    for waiting in waiting.into_iter().skip(1) {
        waiting.await.expect("no panic");
    }
    assert!(has(&source, "1"));
    // Not again so soon, whatever a token says.
    source.refresh(&client).await;
    assert_eq!(idp.asked(), 1);
}

#[tokio::test]
async fn the_last_good_set_stays_until_there_is_a_better_one() {
    let bad = [
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ok("<html>"),
        String::new(),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n{}", set("x")),
    ];
    let count = bad.len();
    let answers = [vec![ok(&set("1"))], bad.to_vec(), vec![ok(&set("2"))]].concat();
    let idp = Idp::new(answers).await;
    idp.go.add_permits(count + 2);
    let (source, client) = (idp.source(LONG, Duration::ZERO), Arc::new(client()));
    let _sets = KeySets::new([&source].into_iter(), None);
    for asked in 1..count + 2 {
        source.refresh(&client).await;
        assert!(has(&source, "1"), "{asked}");
        assert_eq!(idp.asked(), asked);
    }
    source.refresh(&client).await;
    assert!(has(&source, "2") && !has(&source, "1"));
}

/// Keys for another use are none.
#[tokio::test]
async fn keys_that_are_withdrawn_are_not_believed_any_more() {
    let elsewhere = set("1").replace("\"kty\"", "\"use\":\"enc\",\"kty\"");
    for withdrawn in ["{\"keys\":[]}", &elsewhere] {
        let idp = Idp::new(vec![ok(&set("1")), ok(withdrawn), ok(&set("2"))]).await;
        idp.go.add_permits(3);
        let (source, client) = (idp.source(LONG, Duration::ZERO), Arc::new(client()));
        let _sets = KeySets::new([&source].into_iter(), None);
        for (one, two) in [(true, false), (false, false), (false, true)] {
            source.refresh(&client).await;
            assert_eq!((has(&source, "1"), has(&source, "2")), (one, two), "{withdrawn}");
        }
    }
}

#[tokio::test]
async fn a_set_is_fetched_when_its_time_is_over() {
    let idp = Idp::new(vec![ok(&set("1")), ok(&set("2"))]).await;
    idp.go.add_permits(2);
    let client = Arc::new(client());
    let (ttl, interval) = (Duration::from_millis(20), Duration::ZERO);
    let source = idp.source(ttl, interval);
    let sets = KeySets::new([&source].into_iter(), None);
    let mut ended = sets.0[0].ended.subscribe();
    for id in ["1", "2"] {
        while !sets.0[0].begin(&client, Cause::Time) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ended.changed().await.expect("a sender");
        assert!(has(&source, id));
    }
}

#[tokio::test]
async fn sources_that_are_configured_alike_share_a_set_through_reloads() {
    let idp = Idp::new(vec![ok(&set("1"))]).await;
    idp.go.add_permits(1);
    let client = Arc::new(client());
    let [one, two, after, other] = [LONG, LONG, LONG, LONG / 2].map(|ttl| idp.source(ttl, LONG));
    let before = KeySets::new([&one, &two].into_iter(), None);
    assert_eq!(before.0.len(), 1);
    one.refresh(&client).await;
    assert!(has(&two, "1"));
    let sets = KeySets::new([&after, &other].into_iter(), Some(&before));
    assert_eq!(sets.0.len(), 2);
    assert!(has(&after, "1"));
}

#[tokio::test]
async fn a_set_stays_when_only_its_renewal_changes() {
    let idp = Idp::new(vec![ok(&set("1")), ok(&set("2"))]).await;
    idp.go.add_permits(1);
    let client = Arc::new(client());
    let with = |change: fn(&mut Settings)| {
        let mut settings = idp.source(LONG, LONG).settings.clone();
        change(&mut settings);
        Arc::new(KeySource::new(settings))
    };
    let first = with(|_| ());
    let before = KeySets::new([&first].into_iter(), None);
    first.refresh(&client).await;
    let fetched = before.0[0].state().fetched.expect("a fetch");
    for (change, stays) in [
        ((|it| it.ttl = LONG / 2) as fn(&mut Settings), true),
        (|it| it.interval = LONG / 2, true),
        (|it| it.request.timeout = Duration::from_secs(1), true),
        (|it| it.request.trust = Trust::Anybody, false),
        (|it| it.request.url = Url::parse("http://a.invalid/").expect("a URL"), false),
    ] {
        let after = with(change);
        let sets = KeySets::new([&after].into_iter(), Some(&before));
        assert_eq!(has(&after, "1"), stays, "{:?}", after.settings);
        let due = sets.0[0].state().due;
        assert_eq!(due, stays.then(|| fetched + after.settings.ttl), "{:?}", after.settings);
    }
    // One that is due at once waits as long as it would have.
    let brief = with(|it| it.ttl = Duration::ZERO);
    let sets = KeySets::new([&brief].into_iter(), Some(&before));
    assert!(!sets.0[0].begin(&client, Cause::Time) && has(&brief, "1"));
    // A fetch for the old settings is no reason for the new ones to wait.
    let eager = with(|it| it.interval = Duration::ZERO);
    let sets = KeySets::new([&eager].into_iter(), Some(&sets));
    assert!(sets.0[0].begin(&client, Cause::Asked));
    let later = with(|it| it.interval = LONG / 3);
    let sets = KeySets::new([&later].into_iter(), Some(&sets));
    assert!(sets.0[0].begin(&client, Cause::Asked) && has(&later, "1"));
}
