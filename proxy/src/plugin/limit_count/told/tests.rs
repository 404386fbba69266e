use std::time::{Duration, Instant};

use super::*;
use crate::plugin::{
    Call, Failure, Replied, Reply, Undo,
    trial::{Seen, Trial},
};

const SECOND: Duration = Duration::from_secs(1);

fn trial(settings: &str) -> Trial {
    let redis = "policy: redis, redis_host: redis.example, sync_interval: 1";
    Trial::new(&format!("{{ limit-count: {{ {settings}, {redis} }} }}"), "")
}

/// What comes of a request, and whether Redis was asked with these arguments, which answers so.
fn ask(trial: &Trial, numbers: Result<&[i64], Failure>) -> (Option<u16>, Option<Vec<String>>) {
    let mut asked = None;
    let seen = trial.ask_with("GET /", "", &mut |call| {
        let Call::Redis(question) = call else { panic!("{call:?}") };
        let texts = question.step.arguments.iter().map(|it| String::from_utf8_lossy(it).into());
        asked = Some(texts.collect());
        assert!(question.undoing.is_none());
        let teller = question.teller.as_ref().expect("one who tells");
        teller.0.told(&question.step, numbers.ok(), trial.now());
        Some(Reply::Redis(Replied { numbers: numbers.map(<[i64]>::to_vec), undo: Undo::default() }))
    });
    (seen.status(), asked)
}

fn arguments(texts: &[&str]) -> Option<Vec<String>> {
    Some(texts.iter().map(|text| (*text).to_owned()).collect())
}

#[test]
fn redis_is_asked_first_and_then_when_it_is_time() {
    let mut trial = trial("count: 6, time_window: 60");
    let fresh = arguments(&["fixed", "0", "60000"]);
    assert_eq!(ask(&trial, Ok(&[0, 2, 60_000, 60_000])), (None, fresh));
    for _ in 0..2 {
        assert_eq!(ask(&trial, Err(Failure::Broken)), (None, None), "nobody is asked");
    }
    // Nobody has told it meanwhile.
    trial.pass(2 * SECOND);
    let later = arguments(&["fixed", "3", "60000"]);
    assert_eq!(ask(&trial, Ok(&[3, 5, 58_000, 58_000])), (None, later));
    assert_eq!(ask(&trial, Err(Failure::Broken)), (Some(503), None));
    // Of the next window nothing is known.
    trial.pass(58 * SECOND);
    let next = arguments(&["fixed", "0", "60000"]);
    assert_eq!(ask(&trial, Ok(&[0, 0, 60_000, 60_000])), (None, next));
}

#[test]
fn what_redis_may_not_have_heard_is_told_again_and_nobody_passes_without_it() {
    let mut trial = trial("count: 3, time_window: 60");
    assert_eq!(ask(&trial, Err(Failure::Unreachable)).0, Some(500));
    assert_eq!(ask(&trial, Ok(&[0, 0, 60_000, 60_000])).0, None);
    assert_eq!(ask(&trial, Err(Failure::Broken)), (None, None));
    trial.pass(2 * SECOND);
    for _ in 0..2 {
        let told = arguments(&["fixed", "2", "60000"]);
        assert_eq!(ask(&trial, Err(Failure::TimedOut)), (Some(500), told));
    }
    let told = arguments(&["fixed", "2", "60000"]);
    assert_eq!(ask(&trial, Ok(&[2, 2, 58_000, 58_000])), (None, told));
    assert_eq!(ask(&trial, Ok(&[])), (Some(503), None));
}

#[test]
fn rules_are_asked_for_together() {
    let trial = trial(
        "window_type: sliding, rules: [{ count: 1, time_window: 10, key: a }, \
         { count: 5, time_window: 60, key: b }]",
    );
    let asked = arguments(&["sliding", "0", "10000", "0", "60000"]);
    let numbers = [0, 0, 10_000, 20_000, 0, 4, 60_000, 120_000];
    assert_eq!(ask(&trial, Ok(&numbers)), (None, asked));
    assert_eq!(ask(&trial, Err(Failure::Broken)), (Some(503), None));
}

fn told() -> (Told, Instant) {
    let trial = trial("count: 1, time_window: 1");
    let Seen::Called(Call::Redis(question)) = trial.ask("GET /", "") else { panic!("no call") };
    let shared = Shared::of(&question);
    (Told::new(shared, SECOND, "fixed"), Instant::now())
}

fn window(name: usize) -> Named {
    Named { key: name.to_string().into(), length: 60 * SECOND }
}

fn due(told: &Told, now: Instant) -> (Vec<String>, Vec<String>) {
    let Due::Step(step) = told.due(now) else { return Default::default() };
    let texts = |all: &[Vec<u8>]| all.iter().map(|it| String::from_utf8_lossy(it).into()).collect();
    (texts(&step.keys), texts(&step.arguments))
}

#[test]
fn everything_is_told_once_also_if_nobody_comes_any_more() {
    let (told, now) = told();
    let windows: Vec<_> = (0..WINDOWS_MAX + 2).map(window).collect();
    assert!(told.begin() && !told.begin());
    told.ask(&windows, now).expect("room");
    let numbers = [0, 0, 60_000, 60_000].repeat(windows.len());
    told.learn(&windows, Some(&numbers), now);
    assert_eq!(told.due(now), Due::Nothing);
    for window in windows.iter().flat_map(|window| [window, window]) {
        assert!(told.count(window, 9, now).expect("room").is_allowed);
    }
    let (keys, _) = due(&told, now + SECOND);
    assert_eq!(keys.len(), WINDOWS_MAX);
    let (keys, arguments) = due(&told, now + SECOND);
    assert_eq!(keys, [WINDOWS_MAX, WINDOWS_MAX + 1].map(|name| name.to_string()));
    assert_eq!(arguments, ["fixed", "2", "60000", "2", "60000"]);
    assert_eq!(told.due(now + SECOND), Due::Nothing);
    // A request that comes may wait for nobody for half an interval longer.
    assert!(told.is_known(&windows[0], now + 2 * SECOND));
    assert!(!told.is_known(&windows[0], now + 3 * SECOND));
    assert_eq!(told.due(now + 2 * SECOND), Due::Nothing);
    assert_eq!(told.due(now + 3 * SECOND), Due::Over);
    assert!(told.begin());
}

#[test]
fn a_window_is_to_be_told_of_once_however_often_redis_fails() {
    let (told, now) = told();
    let windows = [window(0)];
    told.ask(&windows, now).expect("room");
    told.learn(&windows, Some(&[0, 0, 60_000, 60_000]), now);
    told.count(&windows[0], 9, now).expect("room");
    for _ in 0..100 {
        told.ask(&windows, now).expect("room");
        told.learn(&windows, None, now);
    }
    assert_eq!(told.lock().windows.len(), 1);
    let (_, arguments) = due(&told, now);
    assert_eq!(arguments, ["fixed", "1", "60000"]);
    assert_eq!(told.due(now), Due::Nothing);
}

#[test]
fn what_was_told_in_vain_is_told_again() {
    let (told, now) = told();
    let windows = [window(0)];
    told.ask(&windows, now).expect("room");
    told.learn(&windows, Some(&[0, 5, 60_000, 60_000]), now);
    told.count(&windows[0], 9, now).expect("room");
    let Due::Step(step) = told.due(now) else { panic!("nothing is due") };
    told.count(&windows[0], 9, now).expect("room");
    told.told(&step, None, now);
    let (_, arguments) = due(&told, now);
    assert_eq!(arguments, ["fixed", "2", "60000"]);
    let counted = told.count(&windows[0], 9, now).expect("room");
    let left = 60 * SECOND;
    assert_eq!(counted, Counted { is_allowed: true, remaining: 1, left });
    // It is no use when the window is over.
    assert_eq!(told.due(now + left), Due::Over);
}
