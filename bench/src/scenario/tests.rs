use super::*;

#[test]
fn every_scenario_has_cases_and_every_case_its_own_label() {
    for (id, _) in SCENARIOS {
        for extent in [Extent::Full, Extent::Smoke] {
            let cases = cases(id, extent).unwrap();
            assert!(!cases.is_empty(), "{id}");
            let mut labels: Vec<&str> = cases.iter().map(|case| case.label.as_str()).collect();
            labels.sort_unstable();
            labels.dedup();
            assert_eq!(labels.len(), cases.len(), "{id}");
            assert!(cases.iter().all(|case| !case.contestants.is_empty()), "{id}");
        }
    }
}

#[test]
fn one_case_can_be_asked_for() {
    let cases = cases("b3/100", Extent::Full).unwrap();
    assert!(matches!(
        &cases[..],
        [Case { work: Work::Load(LoadWork { connections: 100, .. }), .. }]
    ));
    assert!(super::cases("B3/7", Extent::Full).is_err());
    assert!(super::cases("Z9", Extent::Full).is_err());
}

/// But for what compares Tandem with itself.
#[test]
fn every_peer_has_a_row_in_every_case() {
    for (scenario, _) in SCENARIOS {
        if ["A0", "C4", "E1", "W1", "X1"].contains(&scenario) {
            continue;
        }
        for case in cases(scenario, Extent::Full).unwrap() {
            for peer in Peer::PROGRAMS.map(Contestant::Peer) {
                assert!(case.contestants.contains(&peer), "{scenario} {}: {peer}", case.label);
            }
        }
    }
}

#[test]
fn what_is_slow_is_beside_the_same_load() {
    let works = |extent| -> Vec<_> {
        let cases = cases("E3", extent).unwrap().into_iter();
        let works = cases.filter_map(|case| match case.work {
            Work::Load(work) => Some((case.label, work)),
            Work::SlowTransfer { .. } | Work::OpenConnections { .. } | Work::StartUp => None,
        });
        works.map(|(label, work)| (label, work.connections, work.beside)).collect()
    };
    let beside = |direction, transfers| Some(Beside { direction, transfers });
    let expected = |transfers| {
        [
            (SLOW_READERS.to_owned(), beside(Direction::Download, transfers)),
            (SLOW_NODES.to_owned(), beside(Direction::Upload, transfers)),
        ]
    };
    let full = expected(16).map(|(label, beside)| (label, 50, beside));
    assert_eq!(works(Extent::Full), [&[(ALONE.to_owned(), 50, None)], &full[..]].concat());
    let smoke = expected(2).map(|(label, beside)| (label, 20, beside));
    assert_eq!(works(Extent::Smoke), smoke);
}

#[test]
fn disruptions_meet_both_lanes_with_and_without_the_kernel_half() {
    for extent in [Extent::Full, Extent::Smoke] {
        for id in ["C4", "E1"] {
            let case = &cases(id, extent).unwrap()[0];
            let names: Vec<String> = case.contestants.iter().map(ToString::to_string).collect();
            let kernels = ["tandem off", "tandem on", "tandem same-host"];
            let expected = kernels.map(|kernel| [kernel.to_owned(), format!("{kernel} hyper")]);
            assert_eq!(names, expected.concat(), "{id}");
        }
    }
}
