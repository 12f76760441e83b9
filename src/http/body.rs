//! Request bodies: bounded in size and time, and by one budget for all.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use super::Deadline;
use super::budget::{BodyBudget, Reservation, Use};
use super::error::Rejection;

/// A whole body, and its reservation for as long as anything is made of it.
#[derive(Debug, Clone)]
pub struct ReadBody {
    pub bytes: Bytes,
    _taken: Arc<Reservation>,
}

impl ReadBody {
    pub fn new(bytes: Bytes, taken: Reservation) -> Self {
        let _taken = Arc::new(taken);
        Self { bytes, _taken }
    }
}

/// The body of a request that is declared to be JSON.
pub async fn json(
    request: Request,
    limit: usize,
    budget: &Arc<BodyBudget>,
) -> Result<ReadBody, Rejection> {
    check_media_type(&request)?;
    let deadline = request.extensions().get::<Deadline>().copied();
    read(request, limit, budget, deadline.map(|Deadline(at)| at)).await
}

/// JSON by any of its names; a request that names no type is taken at its word too.
fn check_media_type(request: &Request) -> Result<(), Rejection> {
    // Nothing is unpacked here, so nothing can unpack to more than it was.
    let mut encodings = request.headers().get_all(CONTENT_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Rejection::Encoded);
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Rejection::TransferCoding);
    }
    let Some(declared) = request.headers().get(CONTENT_TYPE) else {
        return Ok(());
    };
    let declared = String::from_utf8_lossy(declared.as_bytes());
    let essence = declared
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_json = essence == "application/json"
        || essence == "text/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        Err(Rejection::MediaType)
    }
}

/// All of a body, unless it has been read already.
pub async fn read(
    request: Request,
    limit: usize,
    budget: &Arc<BodyBudget>,
    deadline: Option<Instant>,
) -> Result<ReadBody, Rejection> {
    if let Some(whole) = request.extensions().get::<ReadBody>() {
        return Ok(whole.clone());
    }
    let taken = Reservation::none(budget, Use::Body);
    let (bytes, taken) = read_into(taken, request, limit, budget, deadline, None).await?;
    Ok(ReadBody::new(bytes, taken))
}

/// The same for a body that may be nobody's caller's, hashed as it comes, with its reservation.
pub async fn read_into(
    taken: Reservation,
    request: Request,
    limit: usize,
    budget: &BodyBudget,
    deadline: Option<Instant>,
    hash: Option<&mut Sha256>,
) -> Result<(Bytes, Reservation), Rejection> {
    let announced = request
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(got) = announced
        && got > limit as u64
    {
        return Err(Rejection::BodyTooLarge {
            got: Some(got),
            limit,
        });
    }
    // At most the limit, which is a usize.
    let announced = announced.and_then(|length| usize::try_from(length).ok());
    // What does not fit now is not even begun.
    if announced.is_some_and(|length| !budget.fits(length, taken.what())) {
        return Err(budget.none());
    }
    let collect = collect(request.into_body(), announced, limit, taken, budget, hash);
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), collect)
            .await
            .map_err(|_| Rejection::BodyTooSlow)?,
        None => collect.await,
    }
}

async fn collect(
    mut body: axum::body::Body,
    announced: Option<usize>,
    limit: usize,
    mut taken: Reservation,
    budget: &BodyBudget,
    mut hash: Option<&mut Sha256>,
) -> Result<(Bytes, Reservation), Rejection> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Rejection::BodyUnreadable)?.into_data() else {
            // Trailers say nothing to us.
            continue;
        };
        if data.len() > limit - whole.len() {
            return Err(Rejection::BodyTooLarge { got: None, limit });
        }
        if !taken.take(data.len()) {
            return Err(budget.none());
        }
        if whole.is_empty() {
            // The pages are the kernel's until they are written to, so announcing alone takes no memory.
            whole.reserve_exact(announced.unwrap_or_default().max(data.len()));
        }
        whole.extend_from_slice(&data);
        if let Some(hash) = &mut hash {
            hash.update(&data);
        }
    }
    Ok((whole.into(), taken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(headers: &[(http::HeaderName, &str)], body: impl Into<Body>) -> Request {
        let mut request = Request::new(body.into());
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(name, value.parse().expect("a header value"));
        }
        request
    }

    #[test]
    fn json_goes_by_several_names() {
        for name in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/problem+json",
        ] {
            assert!(
                check_media_type(&request(&[(CONTENT_TYPE, name)], "")).is_ok(),
                "{name}"
            );
        }
        assert!(check_media_type(&request(&[], "")).is_ok());
        for name in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "json",
            "multipart/form-data; boundary=x",
        ] {
            assert!(
                check_media_type(&request(&[(CONTENT_TYPE, name)], "")).is_err(),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_is_refused_by_its_announced_or_its_true_length() {
        let announced = request(&[(CONTENT_LENGTH, "2000")], "x");
        assert!(matches!(
            read(announced, 1000, &BodyBudget::new(1 << 20, 1 << 20), None).await,
            Err(Rejection::BodyTooLarge {
                got: Some(2000),
                limit: 1000
            })
        ));
        assert!(matches!(
            read(
                request(&[], vec![b' '; 1001]),
                1000,
                &BodyBudget::new(1 << 20, 1 << 20),
                None
            )
            .await,
            Err(Rejection::BodyTooLarge { got: None, .. })
        ));
        let budget = BodyBudget::new(1 << 20, 1 << 20);
        let fits = read(request(&[], vec![b' '; 1000]), 1000, &budget, None).await;
        let fits = fits.expect("fits");
        assert_eq!((fits.bytes.len(), budget.body_bytes()), (1000, 1000));
        drop(fits);
        assert_eq!(budget.body_bytes(), 0);
    }

    #[tokio::test]
    async fn bodies_that_do_not_fit_together_are_refused_and_small_ones_have_a_part_of_their_own() {
        const KIB: usize = 1 << 10;
        let budget = BodyBudget::new(800 * KIB, 100 * KIB);
        let body = |kib: usize| request(&[], vec![b' '; kib * KIB]);
        let first = read(body(400), 1 << 20, &budget, None).await.expect("fits");
        // Only 700 are for large ones.
        let length = format!("{}", 301 * KIB);
        let announced = request(&[(CONTENT_LENGTH, &length)], "");
        for refused in [body(301), announced] {
            assert!(matches!(
                read(refused, 1 << 20, &budget, None).await,
                Err(Rejection::NoRoom { limit }) if limit == 800 * KIB
            ));
            assert_eq!(budget.body_bytes(), 400 * KIB);
        }
        let second = read(body(300), 1 << 20, &budget, None).await.expect("fits");
        let small = read(body(64), 1 << 20, &budget, None).await.expect("fits");
        let none = read(body(64), 1 << 20, &budget, None).await;
        assert!(matches!(none, Err(Rejection::NoRoom { .. })));
        drop((first, second, small));
        assert_eq!(budget.body_bytes(), 0);
    }

    #[tokio::test]
    async fn a_body_that_was_read_for_its_signature_is_not_read_again() {
        let budget = BodyBudget::new(1 << 20, 1 << 20);
        let whole = read(request(&[], "text"), 1000, &budget, None).await;
        let mut again = request(&[], "");
        again.extensions_mut().insert(whole.expect("fits"));
        let whole = read(again, 1000, &budget, None)
            .await
            .expect("there already");
        assert_eq!((&whole.bytes[..], budget.body_bytes()), (&b"text"[..], 4));
    }

    #[test]
    fn what_is_packed_is_refused() {
        for (encoding, fits) in [("identity", true), ("gzip", false), ("identity, br", false)] {
            let headers = [
                (CONTENT_TYPE, "application/json"),
                (CONTENT_ENCODING, encoding),
            ];
            let refused = check_media_type(&request(&headers, ""));
            assert_eq!(refused.is_ok(), fits, "{encoding}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_meets_the_deadline() {
        let endless = Body::new(http_body_util::StreamBody::new(tokio_stream::pending::<
            Result<http_body::Frame<Bytes>, std::io::Error>,
        >()));
        let deadline = Some(Instant::now() + std::time::Duration::from_secs(5));
        assert!(matches!(
            read(
                request(&[], endless),
                1000,
                &BodyBudget::new(1 << 20, 1 << 20),
                deadline
            )
            .await,
            Err(Rejection::BodyTooSlow)
        ));
    }
}
