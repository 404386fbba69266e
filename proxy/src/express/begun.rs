//! A response of which a part has gone past us, its head at least: it goes on without us, or we carry
//! what has not gone, or nobody does and the client is to see that.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use super::{
    Buffers, Carried, Forward, advance, bypass::Course, note_delivery, relay::Relay, upload::Upload,
};
use crate::{
    connection::ConnectionCx,
    deadlines::Wait,
    error::Fault,
    http::{
        answer::After,
        framing::{BodyLength, BodyReader, FramingError},
    },
    inlet,
    kernel::Passed,
    plugin::BodyFilters,
    upstream::plain::PlainConnection,
};

/// An exchange that is given up accounts for what has gone past us; no more does.
pub(super) struct Accounted<'a>(pub(super) &'a ConnectionCx);

impl Drop for Accounted<'_> {
    fn drop(&mut self) {
        if let Some(passed) = self.0.passage.abandon() {
            note_part(self.0, &passed);
        }
    }
}

fn note_part(cx: &ConnectionCx, passed: &Passed) {
    cx.record(|record| record.passed_in_part(passed));
    cx.count_sent(passed.passed);
}

/// What becomes of the response.
enum Ending {
    Over {
        passed: Passed,
        /// Whether the node has said nothing else.
        is_silent: bool,
    },
    /// All but this is ours to carry.
    HandedOver(Passed),
    /// Its rest will not come. What has gone, if that is known.
    CutOff(Fault, Option<Passed>),
}

impl Forward<'_> {
    /// Waits until all of the response has gone past us, or carries what has not.
    pub(super) async fn see_off(
        &self,
        mut connection: Box<PlainConnection>,
        upload: &mut Upload,
        buffers: &mut Buffers,
    ) -> Result<After, Fault> {
        let cx = self.cx;
        let ending = poll_fn(|task| self.poll_ending(&mut connection, upload, buffers, task)).await;
        cx.deadlines.stop(Wait::Upstream);
        cx.passage.disarm();
        note_delivery(cx, &mut connection);
        match ending {
            Ending::Over { passed, is_silent } => {
                Ok(self.passed(connection, &passed, is_silent && upload.is_complete()))
            }
            Ending::HandedOver(passed) => {
                note_part(cx, &passed);
                let mut carried = rest_of(&passed, buffers)?;
                self.carry(connection, &mut carried, After::KeepAlive, upload, buffers).await
            }
            Ending::CutOff(fault, passed) => {
                passed.iter().for_each(|passed| note_part(cx, passed));
                cx.broke_off(fault);
                Err(fault)
            }
        }
    }

    fn poll_ending(
        &self,
        connection: &mut PlainConnection,
        upload: &mut Upload,
        buffers: &mut Buffers,
        task: &mut Context<'_>,
    ) -> Poll<Ending> {
        let cx = self.cx;
        let Buffers { request, input, .. } = buffers;
        if let Err(fault) = advance(upload, cx, connection, request, task) {
            return Poll::Ready(self.cut_off(fault));
        }
        // First: whoever sends us something has said before that it is ours.
        let heard = inlet::poll_read_head(&mut connection.stream, task, input);
        let is_silent = heard.is_pending() && input.is_empty();
        let passed = match cx.passage.course(task) {
            Course::Gone(passed) => return Poll::Ready(Ending::Over { passed, is_silent }),
            Course::HandedOver(passed) => return Poll::Ready(Ending::HandedOver(passed)),
            Course::Broken(passed) => {
                return Poll::Ready(Ending::CutOff(Fault::BypassBroken, passed));
            }
            Course::Going(passed) => return self.poll_late(&passed),
            Course::Flowing(passed) => passed,
        };
        match heard {
            Poll::Ready(Ok(0)) => Poll::Ready(self.ended(Fault::ResponseTruncated)),
            Poll::Ready(Ok(_)) => Poll::Ready(self.cut_off(Fault::BypassBroken)),
            Poll::Ready(Err(_)) => Poll::Ready(self.ended(Fault::UpstreamReset)),
            Poll::Pending => self.poll_late(&passed),
        }
    }

    /// Whether nothing has come for too long. It is not the client that holds the node up by not reading:
    /// then the rest would have been handed over.
    fn poll_late(&self, passed: &Passed) -> Poll<Ending> {
        let deadlines = &self.cx.deadlines;
        let patience = self.cx.node_waits.get().response_body;
        let left = patience.saturating_sub(passed.at.elapsed());
        if left.is_zero() {
            return Poll::Ready(self.cut_off(Fault::ResponseBodyTimedOut));
        }
        if deadlines.has_expired(Wait::Upstream) {
            deadlines.stop(Wait::Upstream);
        }
        deadlines.start(Wait::Upstream, left);
        Poll::Pending
    }

    /// The node has ended the connection: on its own account, or because nobody takes its response.
    fn ended(&self, fault: Fault) -> Ending {
        self.cut_off(if self.cx.is_deserted() { Fault::DownstreamReset } else { fault })
    }

    /// Ends a response whose rest will not come, unless that has come meanwhile.
    fn cut_off(&self, fault: Fault) -> Ending {
        match self.cx.passage.stop() {
            Course::Flowing(passed) => Ending::CutOff(fault, Some(passed)),
            Course::Gone(passed) => Ending::Over { passed, is_silent: false },
            Course::HandedOver(passed) => Ending::HandedOver(passed),
            // Nobody knows how much more.
            Course::Going(passed) => Ending::CutOff(unless_deserted(fault), Some(passed)),
            Course::Broken(passed) => Ending::CutOff(unless_deserted(fault), passed),
        }
    }
}

/// The fault of a response that nobody can complete, if the downstream would still take it.
fn unless_deserted(fault: Fault) -> Fault {
    if fault == Fault::DownstreamReset { fault } else { Fault::BypassBroken }
}

/// What is left to carry of a response whose head has left.
fn rest_of(passed: &Passed, buffers: &mut Buffers) -> Result<Carried, Fault> {
    let Buffers { response: out, input, .. } = buffers;
    out.clear();
    let mut relay = Relay::new(false, BodyFilters::default());
    let mut reader = BodyReader::new(BodyLength::Fixed(passed.rest()));
    relay.frame(&mut reader, input, out).map_err(FramingError::response_fault)?;
    Ok(Carried { relay, reader, keeps_alive: true })
}
