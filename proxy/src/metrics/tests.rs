use std::{
    collections::{BTreeSet, HashSet},
    io,
    time::Duration,
};

use super::{
    listener::AcceptError,
    route::{CLASSES, ENDS, class_index, end_index},
    *,
};
use crate::forward::{Fallback, Moved, Via};

fn page(metrics: &Metrics) -> String {
    let counters = vec![kernel::Counter { program: "ingress", reason: "blocked", packets: 7 }];
    let kernel = KernelSample { counters, ..KernelSample::of(&KernelPlane::off()) };
    let node = ([127, 0, 0, 1], 80).into();
    metrics.encode(&Sample {
        kernel,
        logs: LogSample { access_log: 3, process: 4, files: vec![("/a.log".to_owned(), 5)] },
        nodes: vec![NodeSample {
            upstream: "sampled".into(),
            node,
            host: Some("name".to_owned()),
            is_up: true,
        }],
        encodings_skipped: 2,
        filters_cut: 2,
    })
}

/// The value of one series, spelled as the page spells it.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let page = page(metrics);
    let line = page
        .lines()
        .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Moves each handle once, so that each family has a series.
fn exercised() -> Metrics {
    let metrics = Metrics::new();
    let listener = metrics.listener("web");
    drop(listener.connection());
    listener.refused(Fault::GuardDenied);
    listener.accept_error(&io::Error::from_raw_os_error(libc::EMFILE));
    let route = metrics.route("web", "api");
    route.finished(Some(200), NORMAL_END, Duration::from_millis(3));
    route.moved(Direction::Sent, Moved::default().and(Via::Splice, 10));
    let upstream = metrics.upstream("app");
    upstream.connect(ConnectResult::Connected);
    upstream.checkout(Checkout::New);
    upstream.retry();
    drop(upstream.pool_idle());
    metrics.health("app").check(CheckResult::Success);
    metrics.forward_fallback(Fallback::NoPipe);
    drop(metrics.pipes().busy());
    metrics.looked_up(Lookup::Answered);
    metrics.mirror_dropped(Dropped::TooMany);
    metrics.limit_error("limit-count", crate::plugin::Failure::TimedOut);
    metrics.logged_body_cut(crate::plugin::Cut::Memory);
    metrics.reloaded(Reload::Applied);
    metrics
}

#[test]
fn names_follow_the_rules() {
    let mut seen = HashSet::new();
    for metric in METRICS {
        let name = metric.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.starts_with("tandem_"), "{name}");
        let allowed = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(allowed) && !name.contains("__"), "{name}");
        assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert_eq!(metric.kind == Kind::Histogram, name.ends_with("_seconds"), "{name}");
        for unit in ["_ms", "_us", "_ns", "_kb", "_kib", "_mib"] {
            assert!(!name.contains(unit), "{name}: base units only");
        }
        assert!(metric.labels.iter().all(|label| label.chars().all(allowed)), "{name}");
        assert!(metric.help.len() > 10 && !metric.help.ends_with('.'), "{name}");
    }
}

#[test]
fn the_page_holds_exactly_the_described_metrics() {
    let page = page(&exercised());
    let exported: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let described: BTreeSet<&str> = METRICS
        .iter()
        // OpenMetrics names a counter's family without its suffix.
        .map(|metric| metric.name.strip_suffix("_total").unwrap_or(metric.name))
        .collect();
    assert_eq!(exported, described);
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn series_have_exactly_the_described_labels() {
    let page = page(&exercised());
    for metric in METRICS {
        let suffix = if metric.kind == Kind::Histogram { "_count" } else { "" };
        let name = format!("{}{suffix}", metric.name);
        let series = page
            .lines()
            .find(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .unwrap_or_else(|| panic!("no series of {name} in\n{page}"));
        let labels: Vec<&str> = match series.split_once('{') {
            Some((_, rest)) => {
                let labels = rest.rsplit_once('}').expect("closed").0;
                labels.split(',').filter_map(|label| label.split('=').next()).collect()
            }
            None => Vec::new(),
        };
        assert_eq!(labels, metric.labels, "{series}");
    }
    assert!(page.contains(r#"tandem_kernel_packets_total{program="ingress",reason="blocked"} 7"#));
    assert!(page.contains("tandem_access_log_dropped_total 3\n"));
    assert!(page.contains("tandem_log_dropped_total 4\n"));
    assert!(page.contains("tandem_log_file_dropped_total{path=\"/a.log\"} 5\n"));
    assert!(page.contains("tandem_encodings_skipped_total 2\n"));
    assert!(page.contains("tandem_filters_cut_total 2\n"));
}

#[test]
fn every_fault_is_exported_once() {
    let metrics = Metrics::new();
    let page = page(&metrics);
    let labels: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.consequence().label).collect();
    assert_eq!(labels.len(), Fault::ALL.len());
    for label in labels {
        let series = format!("tandem_faults_total{{fault=\"{label}\"}} 0\n");
        assert_eq!(page.matches(&series).count(), 1, "{label}");
    }
}

#[test]
fn a_fault_moves_its_own_counter_and_no_other() {
    for moved in Fault::ALL {
        let metrics = Metrics::new();
        metrics.fault(moved);
        for fault in Fault::ALL {
            let series = format!("tandem_faults_total{{fault=\"{}\"}}", fault.consequence().label);
            let expected = if fault == moved { 1.0 } else { 0.0 };
            assert_eq!(value(&metrics, &series), Some(expected), "{series} after {moved:?}");
        }
    }
}

#[test]
fn indices_follow_the_order_of_declaration() {
    assert!(Via::ALL.iter().enumerate().all(|(index, via)| *via as usize == index));
    assert!(Direction::ALL.iter().enumerate().all(|(index, way)| *way as usize == index));
    assert!(AcceptError::ALL.iter().enumerate().all(|(index, kind)| *kind as usize == index));
    assert!(ConnectResult::ALL.iter().enumerate().all(|(index, r)| *r as usize == index));
    assert!(CheckResult::ALL.iter().enumerate().all(|(index, r)| *r as usize == index));
    assert!(Ejection::ALL.iter().enumerate().all(|(index, r)| *r as usize == index));
    assert!(Purpose::ALL.iter().enumerate().all(|(index, one)| *one as usize == index));
    assert!(Failure::ALL.iter().enumerate().all(|(index, one)| *one as usize == index));
    assert!(Checkout::ALL.iter().enumerate().all(|(index, r)| *r as usize == index));
}

#[test]
fn every_end_code_has_its_own_cell() {
    let codes = &ENDS.codes[..ENDS.count];
    let distinct: HashSet<&str> = codes.iter().copied().collect();
    assert_eq!(distinct.len(), codes.len());
    assert_eq!(codes[0], NORMAL_END);
    for fault in Fault::ALL {
        assert_eq!(codes[end_index(fault.consequence().end)], fault.consequence().end);
    }
}

#[test]
fn a_request_is_counted_by_class_and_end() {
    let metrics = Metrics::new();
    let route = metrics.route("web", "api");
    route.finished(Some(200), NORMAL_END, Duration::from_micros(400));
    route.finished(Some(504), "sH", Duration::from_secs(20));
    route.finished(None, "CD", Duration::ZERO);
    let requests = |class, end| {
        let labels = format!("listener=\"web\",route=\"api\",class=\"{class}\",end=\"{end}\"");
        value(&metrics, &format!("tandem_downstream_requests_total{{{labels}}}"))
    };
    assert_eq!(requests("2xx", "--"), Some(1.0));
    assert_eq!(requests("5xx", "sH"), Some(1.0));
    assert_eq!(requests("none", "CD"), Some(1.0));
    assert_eq!(requests("5xx", "--"), None, "only what happened has a series");
    let bucket = |le| {
        value(
            &metrics,
            &format!("tandem_request_duration_seconds_bucket{{le=\"{le}\",route=\"api\"}}"),
        )
    };
    assert_eq!(bucket("0.0005"), Some(2.0));
    assert_eq!(bucket("10.0"), Some(2.0));
    assert_eq!(bucket("+Inf"), Some(3.0));
}

#[test]
fn a_status_outside_the_classes_counts_as_none() {
    assert_eq!(CLASSES[class_index(Some(999))], "none");
    assert_eq!(CLASSES[class_index(Some(0))], "none");
    assert_eq!(CLASSES[class_index(Some(100))], "1xx");
    assert_eq!(CLASSES[class_index(Some(599))], "5xx");
}

#[test]
fn guards_give_back_what_they_took() {
    let metrics = Metrics::new();
    let (listener, upstream) = (metrics.listener("web"), metrics.upstream("app"));
    let active = "tandem_downstream_connections_active{listener=\"web\"}";
    let idle = "tandem_upstream_pool_idle{upstream=\"app\"}";
    let held = (listener.connection(), upstream.pool_idle());
    for series in [active, idle] {
        assert_eq!(value(&metrics, series), Some(1.0), "{series}");
    }
    drop(held);
    for series in [active, idle] {
        assert_eq!(value(&metrics, series), Some(0.0), "{series}");
    }
    assert_eq!(
        value(&metrics, "tandem_downstream_connections_total{listener=\"web\"}"),
        Some(1.0),
        "a closed connection was still accepted"
    );
}

#[test]
fn workers_share_the_handles_of_a_name() {
    let metrics = Metrics::new();
    assert!(Arc::ptr_eq(&metrics.listener("web"), &metrics.listener("web")));
    assert!(!Arc::ptr_eq(&metrics.route("web", "api"), &metrics.route("other", "api")));
}

#[test]
fn label_values_cannot_break_a_page() {
    let metrics = Metrics::new();
    metrics.upstream("a\"b\\c\nd").retry();
    let page = page(&metrics);
    assert!(page.contains(r#"tandem_upstream_retries_total{upstream="a\"b\\c\nd"} 1"#), "{page}");
}

#[test]
fn accept_errors_are_told_apart() {
    let kind = |errno| AcceptError::of(&io::Error::from_raw_os_error(errno)).label();
    assert_eq!(kind(libc::EMFILE), "process_files");
    assert_eq!(kind(libc::ENFILE), "system_files");
    assert_eq!(kind(libc::ENOMEM), "memory");
    assert_eq!(kind(libc::ECONNABORTED), "connection");
    assert_eq!(kind(libc::EINVAL), "other");
    assert_eq!(AcceptError::of(&io::Error::other("no errno")).label(), "other");
}

#[test]
fn what_a_configuration_does_not_have_is_forgotten() {
    let metrics = exercised();
    let nothing = Config::parse("listeners: [{ name: web, address: \"127.0.0.1:0\" }]", "t");
    let before = page(&metrics);
    for series in ["upstream=\"app\"", "route=\"api\""] {
        assert!(before.contains(series), "{before}");
    }
    metrics.forget_all_but(&nothing.expect("valid"));
    let after = page(&metrics);
    for series in ["upstream=\"app\"", "route=\"api\""] {
        assert!(!after.contains(series), "{after}");
    }
    assert_eq!(value(&metrics, "tandem_downstream_connections_total{listener=\"web\"}"), Some(1.0));
}
