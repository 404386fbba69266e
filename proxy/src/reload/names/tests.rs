use std::{iter, net::IpAddr, sync::mpsc, thread};

use super::*;
use crate::{
    dns::{Answer, Found},
    http::fields::Pseudonym,
    log_files::LogFiles,
    metrics::Metrics,
    pipeline::Pipeline,
    snapshot::Publisher,
};

const SOON: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);

/// One route to a name, with these plugins.
fn config(plugins: &str) -> Config {
    let yaml = format!(
        "listeners: [{{ name: web, address: \"127.0.0.1:0\" }}]\n\
         routes: [{{ id: r, uri: /, plugins: {{ {plugins} }}, upstream_id: u }}]\n\
         upstreams: [{{ id: u, nodes: {{ app.internal: 1 }} }}]\n"
    );
    Config::parse(&yaml, "t.yaml").unwrap()
}

fn reloader(config: &Config, files: &Arc<LogFiles>) -> Reloader {
    let (metrics, pseudonym) = (Arc::new(Metrics::new()), Pseudonym::new("tandem-test"));
    let rules = Pipeline::new(config, &config.upstreams, None, &metrics, files, pseudonym);
    let (rules, _retired) = Publisher::new(Arc::new(rules));
    Reloader::new(config, rules, metrics, Arc::clone(files))
}

fn node_count(reloader: &Reloader) -> usize {
    reloader.rules().upstreams().map(|upstream| upstream.config.nodes.len()).sum()
}

/// Making the rules stops where they open a file.
#[test]
fn an_answer_that_comes_while_rules_are_made_waits_for_nobody_and_is_published_next() {
    let directory = tempfile::tempdir().unwrap();
    let logging = format!("file-logger: {{ path: {}/x.log }}", directory.path().display());
    let (files, logging) = (Arc::<LogFiles>::default(), config(&logging));
    let reloader = reloader(&config(""), &files);
    let found = vec![Found { address: IpAddr::from([127, 0, 0, 1]), service: None }];
    let ttl = Duration::from_secs(60);
    let answer = Answer { found, ttl, is_partial: false, is_cut: false };
    thread::scope(|scope| {
        let held = files.hold();
        let applying = scope.spawn(|| reloader.apply(&logging));
        while reloader.running.try_lock().is_ok() {
            thread::park_timeout(Duration::from_millis(1));
        }
        thread::park_timeout(SOON);
        let (tell, told) = mpsc::channel();
        let reloader = &reloader;
        scope.spawn(move || {
            let (mut due, _) = reloader.take_due(Instant::now(), 1);
            reloader.answered(iter::once((due.remove(0), Ok(answer))));
            tell.send(())
        });
        let is_taken = told.recv_timeout(PATIENCE).is_ok();
        drop(held);
        assert!(is_taken, "it waits for the rules");
        applying.join().unwrap().unwrap();
    });
    assert_eq!(node_count(&reloader), 0, "the rules were made without it");
    let due = reloader.publication().expect("it is to be published");
    reloader.publish_answers();
    assert_eq!(node_count(&reloader), 0, "not before its time");
    while Instant::now() < due {
        thread::park_timeout(due.saturating_duration_since(Instant::now()));
    }
    reloader.publish_answers();
    assert_eq!((node_count(&reloader), reloader.publication()), (1, None));
}
