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
