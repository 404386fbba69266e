//! The task that asks, on the control runtime.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};

use super::{Failure, Outcome, Question, client::Clients};
use crate::{config::Resolver, reload::Reloader};

/// Lookups at a time.
const LOOKUPS_MAX: usize = 64;
/// What comes within this time after an answer is published together with it.
const TOGETHER: Duration = Duration::from_millis(10);

/// Asks about every name of the rules in force whenever it is due, until dropped.
pub(crate) async fn follow(reloader: Arc<Reloader>, settings: Resolver) {
    let mut clients = Clients::new(settings);
    let mut asked: JoinSet<(Question, Outcome)> = JoinSet::new();
    loop {
        let room = LOOKUPS_MAX - asked.len();
        let (due, next) = reloader.take_due(Instant::now().into_std(), room);
        if !due.is_empty() {
            let client = clients.now();
            for question in due {
                let client = client.clone();
                asked.spawn(async move {
                    let outcome = match client {
                        Some(client) => client.ask(&question).await,
                        None => Err(Failure::Refused),
                    };
                    (question, outcome)
                });
            }
        }
        tokio::select! {
            Some(first) = asked.join_next() => {
                let mut outcomes = vec![first];
                let end = Instant::now() + TOGETHER;
                while let Ok(Some(further)) = timeout_at(end, asked.join_next()).await {
                    outcomes.push(further);
                }
                let outcomes = outcomes.into_iter().filter_map(Result::ok).collect();
                let reloader = Arc::clone(&reloader);
                if let Err(error) = spawn_blocking(move || reloader.answered(outcomes)).await {
                    return tracing::error!(%error, "names are not followed any more");
                }
            }
            () = reloader.has_new_names() => {}
            () = at(next) => {}
        }
    }
}

async fn at(next: Option<std::time::Instant>) {
    match next {
        Some(next) => sleep_until(next.into()).await,
        None => pending().await,
    }
}
