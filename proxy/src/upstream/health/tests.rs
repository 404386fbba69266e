use std::{array, thread};

use super::*;
use crate::config::{Config, Judgement};

/// An upstream `app` with these keys and nodes at the ports 1, 2, …
fn config(keys: &str, nodes: usize) -> config::Upstream {
    let nodes: Vec<_> = (1..=nodes).map(|port| format!("\"127.0.0.1:{port}\": 1")).collect();
    config_of(&format!("{keys}, nodes: {{ {} }}", nodes.join(", ")))
}

fn config_of(keys: &str) -> config::Upstream {
    let yaml = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         upstreams: [{{ id: app, {keys} }}]\n",
    );
    let config = Config::parse(&yaml, "t.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let upstream = Arc::clone(&config.upstreams[0]);
    drop(config);
    Arc::into_inner(upstream).expect("the only one")
}

struct Bench {
    health: Arc<Health>,
    metrics: Metrics,
    start: Instant,
}

impl Bench {
    fn new(keys: &str, nodes: usize) -> Bench {
        let (metrics, start) = (Metrics::new(), Instant::now());
        let health = Health::new(&config(keys, nodes), None, &metrics, start).expect("judged");
        Bench { health, metrics, start }
    }

    /// What becomes of it with these keys.
    fn changed(&self, keys: &str, nodes: usize) -> Option<Arc<Health>> {
        Health::new(&config(keys, nodes), Some(&self.health), &self.metrics, self.start)
    }

    fn observe(&self, node: usize, outcome: Outcome, seconds: f64) {
        let now = self.start + Duration::from_secs_f64(seconds);
        self.health.observe(NodeIndex::at(node), outcome, || now);
    }

    fn fail(&self, node: usize, times: usize, seconds: f64) {
        (0..times).for_each(|_| self.observe(node, Outcome::Status(500), seconds));
    }

    fn sweep(&self, seconds: f64) {
        self.health.sweep(self.start + Duration::from_secs_f64(seconds));
    }

    fn probe(&self, node: usize, outcome: Outcome) {
        self.health.nodes[node].probed(outcome, || self.start);
    }

    fn up(&self) -> Vec<bool> {
        up(&self.health)
    }
}

fn up(health: &Health) -> Vec<bool> {
    health.nodes.iter().map(|node| node.is_up()).collect()
}

/// `+` a success, `h` a status that counts against it, `c` no connection, `t` a timeout, each followed
/// by the state that it leads to: `H`, `h` (mostly healthy), `u` (mostly unhealthy), `U`.
#[track_caller]
fn check_states(script: &str) {
    let judgement =
        Judgement { successes: 2, http_failures: 3, tcp_failures: 2, timeouts: 1, ..none() };
    let mut standing = Standing::default();
    for (at, step) in script.split(' ').enumerate() {
        let (event, expected) = step.split_at(1);
        let report = match event {
            "+" => Report::Success,
            "h" => Report::HttpFailure,
            "c" => Report::TcpFailure,
            _ => Report::Timeout,
        };
        standing = standing.reported(report, report.limit(&judgement));
        let state = match standing.state {
            State::Healthy => "H",
            State::MostlyHealthy => "h",
            State::MostlyUnhealthy => "u",
            State::Unhealthy => "U",
        };
        assert_eq!(state, expected, "step {at} of {script}: {standing:?}");
        assert_eq!(standing.is_up(), matches!(state, "H" | "h"));
        assert_eq!(Standing::unpack(standing.pack()), standing);
    }
}

fn none() -> Judgement {
    Judgement {
        healthy_statuses: vec![200],
        successes: 0,
        unhealthy_statuses: vec![500],
        http_failures: 0,
        tcp_failures: 0,
        timeouts: 0,
    }
}

#[test]
fn states_follow_the_table() {
    check_states("+H hh hh hU hU +u +H");
    // A success ends a row of failures, and a failure a row of successes.
    check_states("hh hh +h hh hh +h +H hh hh hU");
    check_states("tU +u hu +u cu +u +H");
    // Each kind is counted by itself.
    check_states("hh ch hh cU");
    check_states("hh ch hh hU");
    check_states("tU +u hu hu hU");
    check_states("ch +h +H");
}

#[test]
fn a_limit_of_0_never_matters() {
    for report in Report::ALL {
        for before in [Standing::default(), Standing::default().reported(Report::Timeout, 1)] {
            assert_eq!(before.reported(report, 0), before, "{report:?}");
        }
    }
}

/// The rules of lua-resty-healthcheck, spelt out: counters that a report of the other kind clears.
#[derive(Default)]
struct Model {
    is_up: bool,
    is_settled: bool,
    counters: [u32; 4],
}

impl Model {
    fn report(&mut self, report: usize, limit: u32) {
        let is_success = report == 0;
        if self.is_settled && self.is_up == is_success {
            return;
        }
        for (at, counter) in self.counters.iter_mut().enumerate() {
            *counter = if (at == 0) == is_success { *counter } else { 0 };
        }
        self.counters[report] += 1;
        self.is_settled = self.counters[report] >= limit;
        if self.is_settled {
            self.is_up = is_success;
        }
    }
}

#[test]
fn states_are_those_of_the_model_whatever_happens() {
    let mut seed = 7_u64;
    let mut random = |end: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % end
    };
    for round in 0..300 {
        let limits: [u8; 4] =
            array::from_fn(|_| 1 + random(if round == 0 { 254 } else { 5 }) as u8);
        let mut model = Model { is_up: true, is_settled: true, ..Model::default() };
        let mut standing = Standing::default();
        for _ in 0..300 {
            let report = random(4) as usize;
            let times = 1 + random(4);
            for _ in 0..times {
                let limit = limits[report];
                model.report(report, limit.into());
                standing = standing.reported(Report::ALL[report], limit);
                assert_eq!(standing.is_up(), model.is_up, "{standing:?} {limits:?}");
                let is_settled = matches!(standing.state, State::Healthy | State::Unhealthy);
                assert_eq!(is_settled, model.is_settled, "{standing:?} {limits:?}");
                assert_eq!(Standing::unpack(standing.pack()), standing);
            }
        }
    }
}

#[test]
fn outcomes_mean_what_the_check_says() {
    use config::CheckKind::{Http, Tcp};
    for (outcome, http, tcp) in [
        (Outcome::Status(200), Some(Report::Success), Some(Report::Success)),
        (Outcome::Status(500), Some(Report::HttpFailure), Some(Report::Success)),
        (Outcome::Status(404), None, Some(Report::Success)),
        (Outcome::Connected, None, Some(Report::Success)),
        (Outcome::Closed, Some(Report::TcpFailure), Some(Report::TcpFailure)),
        (Outcome::TimedOut, Some(Report::Timeout), Some(Report::Timeout)),
    ] {
        assert_eq!(Report::of(outcome, Http, &none()), http, "{outcome}");
        assert_eq!(Report::of(outcome, Tcp, &none()), tcp, "{outcome}");
        assert_eq!(Outcome::unpack(outcome.pack()), Some(outcome));
    }
    assert_eq!(Outcome::unpack(0), None);
}

#[test]
fn faults_that_a_node_cannot_help_do_not_count() {
    for (fault, expected) in [
        (Fault::ConnectRefused, Some(Outcome::Closed)),
        (Fault::ConnectTimedOut, Some(Outcome::TimedOut)),
        (Fault::UpstreamClosed, Some(Outcome::Closed)),
        (Fault::ResponseMalformed, Some(Outcome::Closed)),
        (Fault::ResponseTimedOut, Some(Outcome::TimedOut)),
        (Fault::StaleConnection, None),
        (Fault::OutOfFiles, None),
        (Fault::DownstreamReset, None),
        (Fault::BodyTimedOut, None),
        (Fault::Denied, None),
        (Fault::Internal, None),
        (Fault::DrainDeadline, None),
    ] {
        assert_eq!(Outcome::of_fault(fault), expected, "{fault:?}");
    }
}

const PASSIVE: &str = "checks: { active: {}, passive: { unhealthy: { http_failures: 2 } } }";

#[test]
fn requests_and_probes_count_together() {
    let bench = Bench::new(PASSIVE, 2);
    bench.fail(0, 1, 0.0);
    bench.observe(0, Outcome::Status(200), 0.0);
    bench.fail(0, 1, 0.0);
    assert_eq!(bench.up(), [true, true]);
    bench.fail(0, 1, 0.0);
    assert_eq!(bench.up(), [false, true]);
    let view = bench.health.nodes[0].view();
    assert_eq!((view.state, view.last_failure), ("unhealthy", Some(Outcome::Status(500))));
    bench.probe(0, Outcome::Status(200));
    assert_eq!(bench.health.nodes[0].view().state, "mostly_unhealthy");
    bench.probe(0, Outcome::Status(200));
    assert_eq!(bench.up(), [true, true]);
}

#[test]
fn without_passive_checks_requests_do_not_count() {
    let bench = Bench::new("checks: { active: {} }", 1);
    bench.fail(0, 20, 0.0);
    (0..20).for_each(|_| bench.observe(0, Outcome::Closed, 0.0));
    assert_eq!(bench.up(), [true]);
}

#[test]
fn of_many_reports_at_once_none_is_lost() {
    let keys = "checks: { active: {}, passive: { unhealthy: { http_failures: 200 } } }";
    let bench = Bench::new(keys, 1);
    let at_once = |each: usize| {
        thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| bench.fail(0, each, 0.0))));
        });
    };
    at_once(49);
    bench.fail(0, 3, 0.0);
    assert_eq!(bench.up(), [true], "199");
    bench.fail(0, 1, 0.0);
    assert_eq!(bench.up(), [false], "200");
}

const OUTLIERS: &str = "outlier_detection: { consecutive_5xx: 3, base_ejection_time: 30, \
                        max_ejection_time: 70, max_ejection_percent: 50 }";

#[test]
fn an_outlier_is_ejected_for_longer_each_time_until_that_is_forgotten() {
    let bench = Bench::new(OUTLIERS, 2);
    bench.fail(0, 2, 0.0);
    bench.observe(0, Outcome::Status(200), 0.0);
    bench.fail(0, 2, 0.0);
    assert_eq!(bench.up(), [true, true], "never three in a row");
    let mut now = 0.0;
    for time in [30.0, 60.0, 70.0, 70.0] {
        bench.fail(0, 3, now);
        assert_eq!(bench.up(), [false, true]);
        assert_eq!(bench.health.nodes[0].view().state, "ejected");
        bench.sweep(now + time - 0.1);
        assert_eq!(bench.up(), [false, true], "{time}");
        bench.sweep(now + time);
        assert_eq!(bench.up(), [true, true], "{time}");
        now += time;
    }
    // Four ejections; each is forgotten after an `interval` of 10 s, however often one looks.
    (0..20).for_each(|_| bench.sweep(now + 30.0));
    bench.fail(0, 3, now + 30.0);
    bench.sweep(now + 89.0);
    assert_eq!(bench.up(), [false, true], "one was not forgotten: 60 s");
    bench.sweep(now + 90.0);
    assert_eq!(bench.up(), [true, true]);
}

#[test]
fn each_streak_ends_as_it_should() {
    let keys = |streaks: &str| format!("outlier_detection: {{ {streaks} }}");
    for (streaks, script, is_up) in [
        ("consecutive_5xx: 2", [Outcome::Status(500), Outcome::Status(599)], false),
        ("consecutive_5xx: 2", [Outcome::Status(500), Outcome::TimedOut], false),
        ("consecutive_5xx: 2", [Outcome::Closed, Outcome::Closed], false),
        ("consecutive_5xx: 2", [Outcome::Status(500), Outcome::Status(499)], true),
        ("consecutive_5xx: 2", [Outcome::Closed, Outcome::Connected], true),
        ("consecutive_5xx: 1", [Outcome::Status(200), Outcome::Status(500)], false),
        ("consecutive_5xx: 0, consecutive_gateway_failure: 1", [Outcome::Status(500); 2], true),
        ("consecutive_5xx: 0, consecutive_gateway_failure: 2", [Outcome::Status(502); 2], false),
        (
            "consecutive_5xx: 0, consecutive_gateway_failure: 2",
            [Outcome::Status(504), Outcome::Closed],
            false,
        ),
        (
            "consecutive_5xx: 0, consecutive_gateway_failure: 2",
            [Outcome::Status(503), Outcome::Status(500)],
            true,
        ),
    ] {
        let bench = Bench::new(&keys(streaks), 1);
        script.into_iter().for_each(|outcome| bench.observe(0, outcome, 0.0));
        assert_eq!(bench.up(), [is_up], "{streaks}: {script:?}");
    }
}

#[test]
fn a_share_of_failures_makes_an_outlier_among_enough_others() {
    let keys = "outlier_detection: { consecutive_5xx: 0, failure_percentage_threshold: 50, \
                failure_percentage_minimum_hosts: 2, failure_percentage_request_volume: 10, \
                max_ejection_percent: 100 }";
    for (requests, expected) in [
        // Failures and successes of each node.
        ([(5, 5), (0, 10)], [false, true]),
        ([(4, 6), (0, 10)], [true, true]),
        ([(5, 5), (9, 1)], [false, false]),
        // Too few requests of the one, or of the other.
        ([(9, 0), (0, 10)], [true, true]),
        ([(10, 0), (0, 9)], [true, true]),
    ] {
        let bench = Bench::new(keys, 2);
        for (node, (failures, successes)) in requests.into_iter().enumerate() {
            bench.fail(node, failures, 0.0);
            (0..successes).for_each(|_| bench.observe(node, Outcome::Status(200), 0.0));
        }
        assert_eq!(bench.up(), [true, true]);
        bench.sweep(10.0);
        assert_eq!(bench.up(), expected, "{requests:?}");
        bench.sweep(39.0);
        assert_eq!(bench.up(), expected, "{requests:?}: each interval by itself");
        bench.sweep(40.0);
        assert_eq!(bench.up(), [true, true], "{requests:?}");
    }
}

#[test]
fn no_more_are_ejected_than_may_be_but_one_always() {
    for (nodes, percent, expected) in [(1, 10, 1), (4, 0, 1), (4, 49, 1), (4, 50, 2), (4, 100, 4)] {
        let keys = format!("outlier_detection: {{ max_ejection_percent: {percent} }}");
        let bench = Bench::new(&keys, nodes);
        (0..nodes).for_each(|node| bench.fail(node, 5, 0.0));
        let ejected = bench.up().iter().filter(|is_up| !**is_up).count();
        assert_eq!(ejected, expected, "{percent} % of {nodes}");
        // There is room again once one is back.
        bench.sweep(30.0);
        assert_eq!(bench.up(), vec![true; nodes]);
        bench.fail(nodes - 1, 5, 30.0);
        assert!(!bench.up()[nodes - 1]);
    }
}

#[test]
fn workers_that_fail_at_once_eject_no_more_than_may_be() {
    let keys = "outlier_detection: { consecutive_5xx: 1, max_ejection_percent: 25 }";
    let bench = Bench::new(keys, 8);
    thread::scope(|scope| {
        let bench = &bench;
        (0..8).for_each(|node| drop(scope.spawn(move || bench.fail(node, 50, 0.0))));
    });
    assert_eq!(bench.up().iter().filter(|is_up| !**is_up).count(), 2);
}

#[test]
fn a_probe_that_succeeds_ends_an_ejection() {
    let bench = Bench::new(&format!("checks: {{ active: {{}} }}, {OUTLIERS}"), 1);
    bench.fail(0, 3, 0.0);
    bench.probe(0, Outcome::Status(404));
    assert_eq!(bench.up(), [false]);
    bench.probe(0, Outcome::Status(200));
    assert_eq!(bench.up(), [true]);
}

#[test]
fn what_is_known_of_a_node_outlives_changes_that_are_not_about_it() {
    let both = format!("{PASSIVE}, {OUTLIERS}");
    let bench = Bench::new(&both, 4);
    bench.fail(0, 2, 0.0);
    bench.fail(1, 3, 0.0);
    assert_eq!(bench.up(), [false, false, true, true]);
    let kept =
        |health: &Health, node: usize| Arc::ptr_eq(&health.nodes[node], &bench.health.nodes[node]);
    let more = bench.changed(&both, 5).expect("judged");
    assert_eq!(up(&more), [false, false, true, true, true]);
    assert!((0..4).all(|node| kept(&more, node)));
    let fewer = bench.changed(&format!("retries: 0, {both}"), 1).expect("judged");
    assert!(up(&fewer) == [false] && kept(&fewer, 0));

    let without = bench.changed(PASSIVE, 4).expect("judged");
    assert_eq!(up(&without), [false, false, true, true], "both have failed their checks");
    assert!(!kept(&without, 0), "what still runs by other rules must not be seen");
    let otherwise = bench.changed(OUTLIERS, 4).expect("judged");
    assert_eq!(up(&otherwise), [true; 4]);
    assert!(bench.changed("retries: 0", 4).is_none());
}

#[test]
fn a_request_that_began_before_speaks_to_the_rules_that_are_in_force() {
    let passive = |failures: usize| {
        format!(
            "checks: {{ active: {{}}, passive: {{ unhealthy: {{ http_failures: {failures} }} }} }}"
        )
    };
    let bench = Bench::new(&passive(5), 3);
    bench.fail(1, 4, 0.0);
    let latest = bench.changed(&passive(2), 2).expect("judged");
    bench.fail(1, 1, 0.0);
    assert_eq!(up(&latest), [true, true], "what other rules have counted is not counted here");
    bench.fail(1, 1, 0.0);
    bench.fail(2, 2, 0.0);
    assert_eq!((up(&latest), bench.up()), (vec![true, false], vec![true; 3]));
    // Nodes may stand in another order, and one more change in between.
    let turned = "checks: { active: {}, passive: { unhealthy: { http_failures: 1 } } }, \
                  nodes: { \"127.0.0.1:2\": 1, \"127.0.0.1:1\": 1 }";
    let config = config_of(turned);
    let turned = Health::new(&config, Some(&latest), &bench.metrics, bench.start).expect("judged");
    bench.fail(0, 1, 0.0);
    assert_eq!(up(&turned), [true, false]);
    // Without rules it speaks to nobody.
    assert!(bench.changed("retries: 0", 3).is_none());
    bench.fail(0, 5, 0.0);
    assert_eq!((up(&latest), bench.up()), (vec![true, false], vec![true; 3]));
    // As where the upstream is gone.
    let bench = Bench::new(&passive(5), 1);
    drop(bench.changed(&passive(2), 1));
    bench.fail(0, 5, 0.0);
    assert_eq!(bench.up(), [true]);
}

#[test]
fn an_ejection_ends_with_the_rules_that_made_it() {
    let bench = Bench::new(&format!("checks: {{ active: {{}} }}, {OUTLIERS}"), 1);
    bench.fail(0, 3, 0.0);
    assert_eq!(bench.up(), [false]);
    let without = bench.changed("checks: { active: {} }", 1).expect("judged");
    assert_eq!(up(&without), [true]);
}

/// The percentage of requests that `node` takes so many seconds after the start.
fn percent_taken(bench: &Bench, health: &Health, node: usize, seconds: f64) -> usize {
    let now = bench.start + Duration::from_secs_f64(seconds);
    let golden = 0x9e37_79b9_7f4a_7c15_u64;
    let drawn = (1..=1000_u64).map(|nth| nth.wrapping_mul(golden));
    drawn.filter(|random| health.is_warm(NodeIndex::at(node), *random, now)).count().div_ceil(10)
}

#[test]
fn who_comes_up_takes_more_and_more_and_who_was_there_everything() {
    let keys = "slow_start: { window: 100 }, outlier_detection: { consecutive_5xx: 1, \
                base_ejection_time: 10, max_ejection_percent: 100 }";
    let bench = Bench::new(keys, 1);
    assert_eq!(percent_taken(&bench, &bench.health, 0, 0.0), 100);
    let grown = bench.changed(keys, 2).expect("judged");
    assert_eq!(percent_taken(&bench, &grown, 0, 0.0), 100);
    for (seconds, percent) in [(0.0, 10), (5.0, 10), (50.0, 50), (99.0, 99), (100.0, 100)] {
        let taken = percent_taken(&bench, &grown, 1, seconds);
        assert!(taken.abs_diff(percent) <= 1, "{taken} after {seconds} s");
    }
    // One that was ejected comes up when it may come back.
    bench.fail(0, 1, 0.0);
    assert_eq!(bench.up(), [false]);
    bench.sweep(10.0);
    assert_eq!(bench.up(), [true]);
    let taken = percent_taken(&bench, &bench.health, 0, 60.0);
    assert!(taken.abs_diff(50) <= 1, "{taken}");
    // Without the key nobody asks.
    let bench = Bench::new("outlier_detection: {}", 1);
    let grown = bench.changed("outlier_detection: {}", 2).expect("judged");
    assert_eq!(percent_taken(&bench, &grown, 1, 0.0), 100);
}
