use tokio::task::LocalSet;

use super::*;
use crate::plugin::Script;

static SCRIPT: Script = Script::new("return {}", |_, numbers| numbers.is_empty());

fn link() -> Rc<Link> {
    let server = Server {
        host: "127.0.0.1".into(),
        port: 1,
        username: None,
        password: None,
        database: 0,
        tls: None,
        timeout: Duration::from_secs(1),
        idle_timeout: Duration::ZERO,
    };
    Rc::new(Link::new(Arc::new(server), Arc::new(Metrics::new())))
}

fn undoing(names: &[&str], lasts: Duration) -> Undoing {
    let step = |name: &&str| {
        let name = || vec![name.as_bytes().to_vec()];
        Step { script: &SCRIPT, keys: name(), arguments: name() }
    };
    Undoing { steps: names.iter().map(step).collect(), lasts }
}

#[test]
fn only_so_many_calls_are_under_way() {
    let link = link();
    let mut turns: Vec<_> = (0..CALLS_MAX).map_while(|_| link.turn()).collect();
    assert_eq!(turns.len(), CALLS_MAX);
    assert!(link.turn().is_none());
    turns.pop();
    assert!(link.turn().is_some());
}

/// A server that is gone for good, or has left the configuration.
#[tokio::test(start_paused = true)]
async fn nobody_tries_for_ever_to_undo_something() {
    let (link, begun) = (link(), Instant::now());
    LocalSet::new()
        .run_until(async {
            let settling = task::spawn_local(Rc::clone(&link).settle());
            link.owe("test", undoing(&["a", "b"], Duration::MAX));
            link.settled().await;
            settling.abort();
        })
        .await;
    assert!((595..605).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn what_is_owed_is_given_up_at_the_end() {
    let link = link();
    link.owe("test", undoing(&["a"], Duration::from_secs(60)));
    assert!(!link.rests());
    link.give_up_settling();
    assert!(link.rests());
}

#[test]
fn dialling_waits_longer_with_each_failure_and_not_forever() {
    let link = link();
    let mut state = link.state.borrow_mut();
    for expected in [50, 100, 200, 400, 800, 1000, 1000] {
        assert_eq!(back_off(state.failures), Duration::from_millis(expected));
        state.fail();
    }
    state.failures = u32::MAX;
    state.fail();
    assert_eq!(back_off(state.failures), BACK_OFF.1);
}
