use std::{
    cell::Cell,
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use super::*;

const KEYS: u32 = 20_000;

/// Weights; all of one priority.
fn nodes(weights: &[u32]) -> Vec<Node> {
    let node = |(port, &weight)| Node {
        address: ([127, 0, 0, 1], port).into(),
        host: None,
        weight,
        priority: 0,
    };
    (1..).zip(weights).map(node).collect()
}

/// The same in steps, with as many priorities as there are slices, highest first.
fn by_priority(levels: &[&[u32]]) -> Vec<Node> {
    let mut nodes = nodes(&levels.concat());
    let priorities = (0..).zip(levels).flat_map(|(level, weights)| vec![-level; weights.len()]);
    nodes.iter_mut().zip(priorities).for_each(|(node, priority)| node.priority = priority);
    nodes
}

/// Picks with a clock and random numbers (splitmix64, Steele et al. 2014) of its own.
struct Bench {
    balancer: Balancer,
    now: Cell<Instant>,
    seed: Cell<u64>,
    down: Vec<u32>,
}

impl Bench {
    fn new(balancing: Balancing, nodes: &[Node]) -> Self {
        let (now, seed) = (Cell::new(Instant::now()), Cell::new(1));
        Self { balancer: Balancer::new(nodes, balancing, None), now, seed, down: Vec::new() }
    }

    fn with_down(mut self, down: &[u32]) -> Self {
        self.down = down.to_vec();
        self
    }

    fn random(&self) -> u64 {
        self.seed.set(self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mixed = (self.seed.get() ^ (self.seed.get() >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pick_of(&self, key: &[u8], tried: &[u32]) -> Option<Picked> {
        let mut all = Tried::default();
        tried.iter().for_each(|node| all.insert(NodeIndex(*node)));
        self.balancer.pick(&Pick {
            tried: &all,
            key,
            clock: &|| self.now.get(),
            random: self.random(),
            is_up: &|node| !self.down.contains(&node.0),
            is_warm: None,
        })
    }

    fn pick(&self) -> Picked {
        self.pick_of(b"", &[]).expect("there are nodes")
    }

    fn index_of(&self, key: u32) -> u32 {
        self.pick_of(&key.to_be_bytes(), &[]).expect("there are nodes").index.0
    }

    fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    /// How often each node is picked, nothing being under way, with a different key each time.
    fn counts(&self, picks: u32) -> Vec<u32> {
        let mut counts = vec![0; self.balancer.nodes.len()];
        (0..picks).for_each(|key| counts[self.index_of(key) as usize] += 1);
        counts
    }

    fn address_of(&self, key: u32) -> SocketAddr {
        self.balancer.node(NodeIndex(self.index_of(key))).address
    }
}

const ALL: [Balancing; 5] = [
    Balancing::RoundRobin,
    Balancing::Chash,
    Balancing::LeastConn,
    Balancing::Ewma,
    Balancing::Maglev,
];
const HASHING: [Balancing; 2] = [Balancing::Chash, Balancing::Maglev];

fn check_cycle(weights: &[u32], expected: &[u32]) {
    let bench = Bench::new(Balancing::RoundRobin, &nodes(weights));
    let picked: Vec<u32> = expected.iter().map(|_| bench.pick().index.0).collect();
    assert_eq!(picked, expected, "weights {weights:?}");
}

#[test]
fn round_robin_spreads_weights_smoothly() {
    check_cycle(&[1], &[0, 0]);
    check_cycle(&[1, 1, 1], &[0, 1, 2, 0, 1, 2]);
    check_cycle(&[5, 1, 1], &[0, 0, 1, 0, 2, 0, 0]);
    check_cycle(&[2, 4], &[1, 0, 1, 1, 0, 1]);
    check_cycle(&[0, 1], &[1, 1, 1]);
}

#[test]
fn a_retry_of_round_robin_takes_no_slot() {
    let bench = Bench::new(Balancing::RoundRobin, &nodes(&[1, 1, 1]));
    assert_eq!(bench.pick().index.0, 0);
    let retries =
        [&[0][..], &[0, 1]].map(|tried| bench.pick_of(b"", tried).expect("nodes").index.0);
    assert_eq!(retries, [1, 2]);
    assert_eq!(bench.pick().index.0, 1);
}

#[test]
fn round_robin_gives_the_share_of_a_down_node_to_all_others() {
    let bench = Bench::new(Balancing::RoundRobin, &nodes(&[1, 2, 3])).with_down(&[1]);
    assert_eq!(bench.counts(400), [100, 0, 300]);
}

#[test]
fn round_robin_is_exact_over_a_cycle_across_threads() {
    const CYCLES: u32 = 1000;
    let balancer = Arc::new(Balancer::new(&nodes(&[1, 2, 3]), Balancing::RoundRobin, None));
    let counts = on_four_threads(&balancer, |pick| {
        let mut counts = [0; 3];
        (0..6 * CYCLES).for_each(|_| counts[pick().index.0 as usize] += 1);
        counts
    });
    let total = counts.fold([0; 3], |sum, counts| std::array::from_fn(|at| sum[at] + counts[at]));
    assert_eq!(total, [4 * CYCLES, 8 * CYCLES, 12 * CYCLES]);
}

/// Runs `work` four times at once.
fn on_four_threads<T: Send + 'static>(
    balancer: &Arc<Balancer>,
    work: fn(&dyn Fn() -> Picked) -> T,
) -> impl Iterator<Item = T> {
    let barrier = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4)
        .map(|_| (Arc::clone(balancer), Arc::clone(&barrier)))
        .map(|(balancer, barrier)| {
            thread::spawn(move || {
                let tried = Tried::default();
                let (clock, is_up) = (&Instant::now, &|_| true);
                let pick = Pick { tried: &tried, key: b"", clock, random: 0, is_up, is_warm: None };
                barrier.wait();
                work(&|| balancer.pick(&pick).expect("there are nodes"))
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("no panic"))
}

#[test]
fn nodes_of_weight_zero_get_nothing() {
    for balancing in ALL {
        let bench = Bench::new(balancing, &nodes(&[0, 1, 1]));
        assert_eq!(bench.counts(100)[0], 0, "{balancing:?}");
        // Not even as the last one.
        assert!(bench.pick_of(b"", &[1, 2]).is_none(), "{balancing:?}");
        assert!(Bench::new(balancing, &nodes(&[0])).pick_of(b"", &[]).is_none(), "{balancing:?}");
    }
}

#[test]
fn no_nodes_is_no_pick() {
    for balancing in ALL {
        assert!(Bench::new(balancing, &[]).pick_of(b"", &[]).is_none(), "{balancing:?}");
    }
}

#[test]
fn a_request_tries_each_node_once_by_priority() {
    for balancing in ALL {
        let bench = Bench::new(balancing, &by_priority(&[&[1, 2], &[1], &[3, 1, 1]]));
        let mut tried = Vec::new();
        while let Some(picked) = bench.pick_of(b"some key", &tried) {
            tried.push(picked.index.0);
        }
        let mut sorted = tried.clone();
        for level in [0..2, 2..3, 3..6] {
            sorted[level].sort_unstable();
        }
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5], "{balancing:?}: {tried:?}");
    }
}

#[test]
fn what_was_tried_is_known_of_any_number_of_nodes() {
    let mut tried = Tried::default();
    assert!(tried.is_empty());
    for node in [4095, 0, 63, 64, 130] {
        assert!(!tried.contains(NodeIndex(node)), "{node}");
        tried.insert(NodeIndex(node));
        assert!(tried.contains(NodeIndex(node)), "{node}");
    }
    assert_eq!(tried.len(), 5);
    let all = (0..5000).filter(|node| tried.contains(NodeIndex(*node)));
    assert_eq!(all.collect::<Vec<_>>(), [0, 63, 64, 130, 4095]);
}

#[test]
fn a_lower_priority_is_for_when_all_of_the_higher_are_down() {
    let levels: [&[u32]; 3] = [&[1, 1], &[1, 1], &[1]];
    for balancing in ALL {
        for (down, expected) in [
            (&[][..], &[0, 1][..]),
            (&[1], &[0]),
            (&[0, 1], &[2, 3]),
            (&[0, 1, 2, 3], &[4]),
            // None is up: as if all were.
            (&[0, 1, 2, 3, 4], &[0, 1]),
        ] {
            let bench = Bench::new(balancing, &by_priority(&levels)).with_down(down);
            let counts = bench.counts(200);
            let used = (0..).zip(&counts).filter(|(_, count)| **count > 0);
            let used: Vec<u32> = used.map(|(node, _)| node).collect();
            assert_eq!(used, expected, "{balancing:?} without {down:?}: {counts:?}");
        }
    }
}

#[test]
fn a_retry_goes_to_a_node_that_is_down_only_if_none_that_is_up_is_left() {
    let levels: [&[u32]; 3] = [&[1, 1], &[1, 1], &[1]];
    for balancing in ALL {
        let bench = Bench::new(balancing, &by_priority(&levels)).with_down(&[1, 2]);
        let mut tried = Vec::new();
        while let Some(picked) = bench.pick_of(b"", &tried) {
            tried.push(picked.index.0);
        }
        assert_eq!(tried, [0, 3, 4, 1, 2], "{balancing:?}");
    }
}

/// A node goes down between two looks at it.
#[test]
fn a_node_is_picked_whatever_happens_meanwhile() {
    for balancing in ALL {
        let bench = Bench::new(balancing, &nodes(&[1, 1, 1]));
        let looks = Cell::new(0_u32);
        // Only at the second look, which asks whether any is.
        let is_up = |_| looks.replace(looks.get() + 1) == 1;
        let picked = bench.balancer.pick(&Pick {
            tried: &Tried::default(),
            key: b"",
            clock: &|| bench.now.get(),
            random: 1,
            is_up: &is_up,
            is_warm: None,
        });
        assert!(picked.is_some(), "{balancing:?}");
    }
}

/// Each node's part is within `tolerance` of what its weight says.
#[track_caller]
fn check_shares(bench: &Bench, weights: &[u32], tolerance: f64) {
    let counts = bench.counts(KEYS);
    let total: u32 = weights.iter().sum();
    for (count, weight) in counts.iter().zip(weights) {
        let due = f64::from(*weight) / f64::from(total) * f64::from(KEYS);
        let off = (f64::from(*count) - due).abs() / due;
        assert!(off <= tolerance, "{counts:?} by {weights:?}: {off:.3} off");
    }
}

#[test]
fn hashing_spreads_keys_by_weight() {
    // 160 points a node are that uneven; a table of 65537 entries is as even as the keys.
    for (balancing, tolerance) in [(Balancing::Chash, 0.25), (Balancing::Maglev, 0.05)] {
        for weights in [&[1; 10][..], &[1, 2, 4], &[100, 300]] {
            check_shares(&Bench::new(balancing, &nodes(weights)), weights, tolerance);
        }
    }
}

#[test]
fn hashing_is_the_same_in_every_process_and_order() {
    for balancing in HASHING {
        let forward = nodes(&[1, 2, 3, 1]);
        let backward: Vec<_> = forward.iter().rev().cloned().collect();
        let (one, other) = (Bench::new(balancing, &forward), Bench::new(balancing, &backward));
        for key in 0..KEYS {
            assert_eq!(one.address_of(key), other.address_of(key), "{balancing:?}, key {key}");
        }
    }
}

/// ketama's first points of a node and the place of a key, computed with Python's hashlib.
#[test]
fn a_ring_has_the_points_of_ketama() {
    assert_eq!(hash(b"10.0.1.1:11211-0"), [0x90ed_8713, 0xf5ce_3b03, 0x0603_86a6, 0xa22b_367d]);
    assert_eq!(hash(b"abc")[0], 0x9850_0190);
}

/// Keys that move from one open node to another when a node goes are disruption; all that a node
/// had has to move.
fn disrupted(balancing: Balancing, before: &[Node], after: &[Node]) -> f64 {
    let (before, after) = (Bench::new(balancing, before), Bench::new(balancing, after));
    let is_there =
        |bench: &Bench, address| bench.balancer.nodes.iter().any(|node| node.address == address);
    let moved = (0..KEYS).filter(|&key| {
        let (from, to) = (before.address_of(key), after.address_of(key));
        from != to && is_there(&after, from) && is_there(&before, to)
    });
    moved.count() as f64 / f64::from(KEYS)
}

#[test]
fn hashing_moves_few_keys_when_a_node_comes_or_goes() {
    let all = nodes(&[1; 10]);
    let [_, fewer @ ..] = &all[..] else { panic!("ten nodes") };
    for (balancing, most) in [(Balancing::Chash, 0.0), (Balancing::Maglev, 0.05)] {
        for (before, after) in [(&all[..], fewer), (fewer, &all[..])] {
            let disrupted = disrupted(balancing, before, after);
            assert!(disrupted <= most, "{balancing:?}: {disrupted}");
        }
    }
}

#[test]
fn hashing_moves_only_the_keys_of_a_node_that_is_down() {
    for balancing in HASHING {
        let up = Bench::new(balancing, &nodes(&[1; 5]));
        let down = Bench::new(balancing, &nodes(&[1; 5])).with_down(&[2]);
        let mut heirs = HashMap::new();
        for key in 0..KEYS {
            match (up.index_of(key), down.index_of(key)) {
                (2, heir) => *heirs.entry(heir).or_insert(0) += 1,
                (before, now) => assert_eq!(before, now, "{balancing:?}, key {key}"),
            }
        }
        assert_eq!(heirs.len(), 4, "{balancing:?}: {heirs:?}");
        assert!(heirs.values().all(|&keys| keys > KEYS / 100), "{balancing:?}: {heirs:?}");
    }
}

#[test]
fn least_conn_levels_what_is_under_way() {
    let bench = Bench::new(Balancing::LeastConn, &nodes(&[1, 1, 2]));
    let mut held: Vec<_> = (0..40).map(|_| bench.pick()).collect();
    let count = |held: &[Picked], node| held.iter().filter(|it| it.index.0 == node).count();
    assert_eq!([0, 1, 2].map(|node| count(&held, node)), [10, 10, 20]);
    // The node that has got rid of its requests gets the next ones.
    held.retain(|picked| picked.index.0 != 1);
    let next: Vec<_> = (0..9).map(|_| bench.pick()).collect();
    assert_eq!(count(&next, 1), 9);
}

#[test]
fn least_conn_takes_turns_between_equals() {
    let bench = Bench::new(Balancing::LeastConn, &nodes(&[1, 1, 1, 1]));
    assert_eq!(bench.counts(40), [10; 4]);
    let busy = bench.pick();
    let mut counts = bench.counts(30);
    assert_eq!(counts.remove(busy.index.0 as usize), 0);
    assert_eq!(counts, [10; 3]);
}

#[test]
fn least_conn_is_exact_across_threads() {
    const PICKS: usize = 3000;
    let balancer = Arc::new(Balancer::new(&nodes(&[1, 2, 3]), Balancing::LeastConn, None));
    let held = on_four_threads(&balancer, |pick| (0..PICKS).map(|_| pick()).collect::<Vec<_>>());
    let held: Vec<Picked> = held.flatten().collect();
    let active =
        |held: &[Picked]| [0, 1, 2].map(|at| held.iter().filter(|it| it.index.0 == at).count());
    assert_eq!(active(&held), [2 * PICKS / 3, 4 * PICKS / 3, 2 * PICKS]);
    drop(held);
    // Nothing is left of them.
    let held = on_four_threads(&balancer, |pick| (0..6).map(|_| pick()).collect::<Vec<_>>());
    assert_eq!(active(&held.flatten().collect::<Vec<_>>()), [4, 8, 12]);
}

/// Each node answers `rounds` times, in the time that `latencies` has for it.
fn warm_up(bench: &Bench, rounds: u32, latencies: &[Duration]) {
    for _ in 0..rounds * latencies.len() as u32 {
        let picked = bench.pick();
        let took = latencies[picked.index.0 as usize];
        picked.answered(|| bench.now.get() + took);
        bench.pass(Duration::from_millis(2));
    }
}

fn millis<const N: usize>(latencies: [u64; N]) -> [Duration; N] {
    latencies.map(Duration::from_millis)
}

#[test]
fn ewma_prefers_the_faster_of_two() {
    let bench = Bench::new(Balancing::Ewma, &nodes(&[1, 9, 1]));
    warm_up(&bench, 20, &millis([10, 30, 20]));
    let counts = bench.counts(900);
    // The slowest is never the better of two, the fastest always; the weight has no say.
    assert_eq!(counts[1], 0, "{counts:?}");
    assert!((540..660).contains(&counts[0]), "{counts:?}");
}

#[test]
fn ewma_counts_what_is_under_way() {
    let bench = Bench::new(Balancing::Ewma, &nodes(&[1, 1]));
    warm_up(&bench, 20, &millis([10, 30]));
    let held: Vec<_> = (0..40).map(|_| bench.pick()).collect();
    let fast = held.iter().filter(|picked| picked.index.0 == 0).count();
    assert!((29..=31).contains(&fast), "{fast}: it answers three in the same time");
}

#[test]
fn ewma_hears_of_a_slow_answer_at_once_and_forgets_it() {
    let bench = Bench::new(Balancing::Ewma, &nodes(&[1, 1]));
    warm_up(&bench, 20, &millis([10, 10]));
    let picked = bench.pick();
    let slow = picked.index.0 as usize;
    picked.answered(|| bench.now.get() + Duration::from_secs(2));
    drop(picked);
    for second in 1.. {
        bench.pass(Duration::from_secs(1));
        let picked = bench.pick();
        if picked.index.0 as usize == slow {
            assert!((50..60).contains(&second), "2 s are worth 10 ms after 53 s, not {second}");
            break;
        }
        picked.answered(|| bench.now.get() + Duration::from_millis(10));
    }
}

#[test]
fn ewma_avoids_a_node_that_fails() {
    let bench = Bench::new(Balancing::Ewma, &nodes(&[1, 1]));
    warm_up(&bench, 20, &millis([10, 30]));
    while bench.pick().index.0 != 0 {}
    bench.pick().failed(|| bench.now.get());
    assert_eq!(bench.counts(100), [0, 100]);
}

#[test]
fn ewma_begins_with_every_node() {
    let counts = Bench::new(Balancing::Ewma, &nodes(&[1; 4])).counts(4000);
    assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
}

#[test]
fn a_change_of_nodes_does_not_begin_with_the_first_again() {
    for balancing in [Balancing::RoundRobin, Balancing::LeastConn] {
        let mut bench = Bench::new(balancing, &nodes(&[1; 4]));
        let mut counts = [0; 4];
        for another in 100..140 {
            counts[bench.pick().index.position()] += 1;
            let mut after = by_priority(&[&[1; 4], &[1]]);
            after[4].address.set_port(another);
            bench.balancer = Balancer::new(&after, balancing, Some(&bench.balancer));
        }
        assert_eq!(counts, [10; 4], "{balancing:?}");
    }
}

#[test]
fn what_is_known_of_a_node_outlives_changes_of_others() {
    let before = Bench::new(Balancing::LeastConn, &nodes(&[1, 1]));
    let busy: Vec<_> = (0..4).map(|_| before.pick()).collect();
    // The second of two is the first of three: it has two requests under way, the new ones none.
    let three = &nodes(&[1, 1, 1, 1])[1..];
    let mut after = Bench::new(Balancing::LeastConn, three);
    after.balancer = Balancer::new(three, Balancing::LeastConn, Some(&before.balancer));
    let held: Vec<_> = (0..4).map(|_| after.pick()).collect();
    assert!(held.iter().all(|picked| picked.index.0 != 0));
    // What was begun before ends there too.
    drop((busy, held));
    assert_eq!(after.counts(30), [10; 3]);

    let otherwise = Balancer::new(three, Balancing::Ewma, Some(&after.balancer));
    assert!(
        otherwise.members().all(|member| member.load.expected_latency(Instant::now()).is_none())
    );
}

#[test]
fn a_cold_node_is_passed_over_for_its_equals_only() {
    for balancing in ALL {
        let mut nodes = nodes(&[1, 1, 1]);
        nodes[2].priority = -1;
        let bench = Bench::new(balancing, &nodes);
        let pick = |is_warm: &dyn Fn(NodeIndex) -> bool| {
            let picked = bench.balancer.pick(&Pick {
                tried: &Tried::default(),
                key: b"",
                clock: &Instant::now,
                random: bench.random(),
                is_up: &|_| true,
                is_warm: Some(is_warm),
            });
            picked.expect("there are nodes").index().0
        };
        for _ in 0..10 {
            assert_eq!(pick(&|node| node.0 != 0), 1, "{balancing:?}");
            // All of its priority are cold: better one of them than one of a lower one.
            assert!(pick(&|node| node.0 == 2) < 2, "{balancing:?}");
        }
    }
}

#[test]
fn a_node_that_is_claimed_counts_as_busy_if_that_is_asked_for() {
    for balancing in ALL {
        let bench = Bench::new(balancing, &nodes(&[1, 1, 0]));
        let claimed: Vec<_> =
            (0..20).map(|_| bench.balancer.claim(NodeIndex(0), Instant::now)).collect();
        assert!(claimed.iter().all(|picked| picked.index() == NodeIndex(0)), "{balancing:?}");
        if balancing == Balancing::LeastConn {
            assert_eq!(bench.pick().index(), NodeIndex(1));
        }
        drop(claimed);
        assert_eq!(bench.balancer.claim(NodeIndex(2), Instant::now).index(), NodeIndex(2));
    }
}
