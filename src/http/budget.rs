//! The memory that requests may take together: a body from its first byte until it is answered, an answer until its last byte is taken.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;

use super::error::Rejection;

/// The memory budget for the bodies and answers of all requests.
///
/// Bytes are reserved as they arrive or are made, not as they are announced, so a client that announces much and sends little keeps
/// nobody out. If the budget is used up, the request is refused and its reservation is given back. An eighth is kept for small bodies
/// and answers, so large ones cannot keep them out. Bodies whose signature is not verified yet have a small share, and none of that eighth.
#[derive(Debug)]
pub struct BodyBudget {
    limit: usize,
    unproven_limit: usize,
    taken: AtomicUsize,
    /// The same by its use.
    bodies: AtomicUsize,
    unproven: AtomicUsize,
    answers: AtomicUsize,
}

/// A body or an answer up to this size is small.
const SMALL: usize = 64 << 10;
/// An answer's reservation grows by at least so much at a time.
const STEP: usize = 16 << 10;

/// What a reservation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The body of a caller.
    Body,
    /// A body that is read to find out whether it is a caller's.
    Unproven,
    Answer,
}

impl BodyBudget {
    /// `unproven_limit` is the share of bodies that prove themselves: it has to hold one of the largest size.
    pub fn new(limit: usize, unproven_limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            unproven_limit,
            taken: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            unproven: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
        })
    }

    /// Of the bodies.
    pub fn body_bytes(&self) -> usize {
        self.bodies.load(Ordering::Relaxed) + self.unproven.load(Ordering::Relaxed)
    }

    /// Of the answers.
    pub fn answer_bytes(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// The refusal of what does not fit.
    pub fn none(&self) -> Rejection {
        Rejection::NoRoom { limit: self.limit }
    }

    /// Whether a body of this size would fit now.
    pub fn fits(&self, size: usize, what: Use) -> bool {
        let fits = |taken: &AtomicUsize, limit| {
            let all = taken.load(Ordering::Relaxed).checked_add(size);
            all.is_some_and(|all| all <= limit)
        };
        fits(&self.taken, self.limit_for(size, what))
            && (what != Use::Unproven || fits(&self.unproven, self.unproven_limit))
    }

    /// What all together may take when a body or an answer has come to be of `size`.
    fn limit_for(&self, size: usize, what: Use) -> usize {
        if size <= SMALL && what != Use::Unproven {
            self.limit
        } else {
            self.limit - self.limit / 8
        }
    }

    fn of(&self, what: Use) -> &AtomicUsize {
        match what {
            Use::Body => &self.bodies,
            Use::Unproven => &self.unproven,
            Use::Answer => &self.answers,
        }
    }

    /// An answer as JSON, which reserves memory as it is written, and keeps it until its last byte is taken.
    pub fn json<T: Serialize>(self: &Arc<Self>, answer: &T) -> Result<Response, Rejection> {
        let mut written = Written {
            bytes: Vec::new(),
            taken: Reservation::none(self, Use::Answer),
        };
        if let Err(error) = serde_json::to_writer(&mut written, answer) {
            // Answers are made of plain strings, numbers, lists and maps with string keys: what fails is the reservation.
            debug_assert!(error.is_io(), "{error}");
            let size = written.bytes.len().saturating_add(STEP);
            let limit = self.limit_for(size, Use::Answer);
            return Err(if size > limit {
                Rejection::AnswerTooLarge { limit }
            } else {
                self.none()
            });
        }
        Ok(written.response("application/json"))
    }

    /// The same of a text that is there already.
    pub fn text(
        self: &Arc<Self>,
        text: String,
        media_type: &'static str,
    ) -> Result<Response, Rejection> {
        let mut taken = Reservation::none(self, Use::Answer);
        if !taken.take(text.capacity()) {
            return Err(self.none());
        }
        let bytes = text.into_bytes();
        Ok(Written { bytes, taken }.response(media_type))
    }
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<BodyBudget>,
    what: Use,
    bytes: usize,
}

impl Reservation {
    pub fn none(budget: &Arc<BodyBudget>, what: Use) -> Self {
        let budget = Arc::clone(budget);
        Self {
            budget,
            what,
            bytes: 0,
        }
    }

    pub fn what(&self) -> Use {
        self.what
    }

    /// Reserves `more` bytes; false if the budget does not have them.
    pub fn take(&mut self, more: usize) -> bool {
        let size = self.bytes.saturating_add(more);
        let limit = self.budget.limit_for(size, self.what);
        let add = |to: &AtomicUsize, limit| {
            let added = to.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(more).filter(|all| *all <= limit)
            });
            added.is_ok()
        };
        let own_limit = match self.what {
            Use::Unproven => self.budget.unproven_limit,
            Use::Body | Use::Answer => limit,
        };
        if !add(self.budget.of(self.what), own_limit) {
            return false;
        }
        if !add(&self.budget.taken, limit) {
            self.budget.of(self.what).fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes = size;
        true
    }

    /// It has turned out to be a caller's body.
    pub fn prove(&mut self) {
        let was = self.budget.of(self.what);
        was.fetch_sub(self.bytes, Ordering::Relaxed);
        self.what = Use::Body;
        self.budget.bodies.fetch_add(self.bytes, Ordering::Relaxed);
    }

    /// Gives back what exceeds `bytes`.
    fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.give(surplus);
    }

    fn give(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.budget
            .of(self.what)
            .fetch_sub(bytes, Ordering::Relaxed);
        self.budget.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

/// An answer that is being written, and the reservation of all that is allocated for it.
struct Written {
    bytes: Vec<u8>,
    taken: Reservation,
}

impl Written {
    fn response(mut self, media_type: &'static str) -> Response {
        self.bytes.shrink_to_fit();
        self.taken.shrink_to(self.bytes.capacity());
        // Whoever sends it drops it with its last byte, be it sent or given up.
        let mut response = Response::new(Body::from(Bytes::from_owner(self)));
        let media_type = HeaderValue::from_static(media_type);
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        response
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let free = self.bytes.capacity() - self.bytes.len();
        if bytes.len() > free {
            // Half as much again, so that a long answer is not copied often; less if the budget does not have that.
            let least = (bytes.len() - free).max(STEP);
            let more = [least.max(self.bytes.len() / 2), least]
                .into_iter()
                .find(|more| self.taken.take(*more))
                .ok_or(io::ErrorKind::OutOfMemory)?;
            let wanted = self.bytes.capacity() + more - self.bytes.len();
            self.bytes.reserve_exact(wanted);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    const KIB: usize = 1 << 10;

    #[tokio::test]
    async fn an_answer_holds_room_until_its_last_byte_is_taken() {
        let budget = BodyBudget::new(800 * KIB, 100 * KIB);
        let answer = vec!["x".repeat(1000); 100];
        let response = budget.json(&answer).expect("fits");
        let length = serde_json::to_vec(&answer).expect("JSON").len();
        assert_eq!(budget.answer_bytes(), length);
        let mut body = response.into_body();
        let frame = body.frame().await.expect("one").expect("whole");
        drop(body);
        let mut bytes = frame.into_data().expect("data");
        // A writer lets go of what it has sent piece by piece.
        let first = bytes.split_to(10);
        drop(first);
        assert_eq!(budget.answer_bytes(), length);
        drop(bytes);
        assert_eq!(
            (budget.answer_bytes(), budget.taken.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn an_answer_without_room_is_refused_before_it_is_made() {
        let budget = BodyBudget::new(800 * KIB, 100 * KIB);
        // One that can never fit is not told to come back.
        let refused = budget.json(&vec!["x".repeat(KIB); 1000]);
        assert!(matches!(refused, Err(Rejection::AnswerTooLarge { limit }) if limit == 700 * KIB));
        assert_eq!(budget.answer_bytes(), 0);
        let first = budget.json(&"x".repeat(400 * KIB)).expect("fits");
        let taken = budget.answer_bytes();
        let refused = budget.json(&vec!["x".repeat(KIB); 400]);
        assert!(matches!(refused, Err(Rejection::NoRoom { limit }) if limit == 800 * KIB));
        assert_eq!(budget.answer_bytes(), taken);
        // Small ones have a part of their own.
        let second = budget.json(&"x".repeat(250 * KIB)).expect("fits");
        let small = budget.json(&"x".repeat(40 * KIB)).expect("fits");
        assert!(budget.text("x".repeat(200 * KIB), "text/plain").is_err());
        drop((first, second, small));
        assert_eq!(budget.answer_bytes(), 0);
    }

    #[test]
    fn bodies_without_a_proof_have_a_share_of_their_own() {
        let budget = BodyBudget::new(800 * KIB, 100 * KIB);
        let mut unproven = Reservation::none(&budget, Use::Unproven);
        assert!(unproven.take(90 * KIB) && !unproven.take(11 * KIB));
        let mut another = Reservation::none(&budget, Use::Unproven);
        assert!(!another.take(11 * KIB) && another.take(10 * KIB));
        assert!(!budget.fits(KIB, Use::Unproven) && budget.fits(600 * KIB, Use::Body));
        // A proof frees budget for the next.
        unproven.prove();
        assert!(another.take(90 * KIB));
        assert_eq!(budget.body_bytes(), 190 * KIB);
        // The eighth for small ones is not theirs.
        let mut body = Reservation::none(&budget, Use::Body);
        assert!(body.take(510 * KIB));
        drop(another);
        let mut small = Reservation::none(&budget, Use::Body);
        let mut unproven = Reservation::none(&budget, Use::Unproven);
        assert!(small.take(50 * KIB) && unproven.take(KIB));
        assert!(small.take(10 * KIB) && body.take(KIB / 2));
        drop((unproven, body, small));
        assert_eq!(budget.body_bytes(), 90 * KIB);
    }
}
