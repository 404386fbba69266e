use super::*;
use crate::plugin::Script;

static SCRIPT: Script = Script::new("return {}", |_, numbers| numbers.is_empty());
static OTHER: Script = Script::new("return {1}", |_, _| true);

fn link() -> Rc<Link> {
    let server = Server {
        host: "127.0.0.1".into(),
        port: 1,
        username: None,
        password: None,
        database: 0,
        timeout: Duration::from_secs(1),
        idle_timeout: Duration::ZERO,
    };
    Rc::new(Link::new(Arc::new(server), Arc::new(Metrics::new())))
}

fn owed(script: &'static Script, name: usize) -> Owed {
    let name = || vec![name.to_string().into_bytes()];
    Owed { plugin: "test", step: Step { script, keys: name(), arguments: name() } }
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

#[test]
fn what_is_alike_is_undone_at_once() {
    let link = link();
    assert!(link.next_owed().is_none());
    (0..UNDONE_AT_ONCE + 1).for_each(|name| link.owe(owed(&SCRIPT, name)));
    let (step, count) = link.next_owed().expect("something");
    assert_eq!((count, step.keys.len(), step.arguments.len()), (64, 64, 64));
    assert_eq!((&*step.keys[63], step.script), (&b"63"[..], &SCRIPT));
    link.lose(count);
    link.owe(owed(&OTHER, 0));
    let (step, count) = link.next_owed().expect("something");
    assert_eq!((count, step.keys), (1, vec![b"64".to_vec()]));
}

#[test]
fn only_so_much_waits_to_be_undone() {
    let link = link();
    (0..OWED_MAX + 1).for_each(|name| link.owe(owed(&SCRIPT, name)));
    assert_eq!(link.owed.borrow().len(), OWED_MAX);
    assert!(!link.rests());
    link.give_up_settling();
    assert!(link.owed.borrow().is_empty() && link.rests());
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
