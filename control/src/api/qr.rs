//! `GET /v1/links/{id}/qr.svg` and `qr.png`: a link's QR code. What is encoded is
//! the form of its address that counts as a scan.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::Link;
use serde::Deserialize;
use service::problem::{FieldError, Kind, Problem};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::{
    api::{context::Api, resource::find},
    caller::Caller,
    qr::{Correction, Squares, Undrawn},
};

const SIZES: std::ops::RangeInclusive<u32> = 16..=4096;
const LARGEST_MARGIN: u32 = 64;

/// How a code is to look.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Look {
    /// Pixels from side to side.
    #[schemars(range(min = 16, max = 4096))]
    size: u32,
    /// White squares on each side; scanners want 4.
    #[schemars(range(max = 64))]
    margin: u32,
    /// How much may be damaged: L (7 %), M (15 %), Q (25 %) or H (30 %).
    ecc: Correction,
}

impl Default for Look {
    fn default() -> Self {
        Self { size: 512, margin: 4, ecc: Correction::default() }
    }
}

type Asked = Result<Query<Look>, QueryRejection>;

pub(crate) async fn svg(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    look: Asked,
) -> Result<Response, Problem> {
    draw(&api, &caller, &id, &headers, look, "image/svg+xml", |squares, look| {
        Ok(squares.svg(look.size, look.margin).into())
    })
    .await
}

pub(crate) async fn png(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    look: Asked,
) -> Result<Response, Problem> {
    draw(&api, &caller, &id, &headers, look, "image/png", |squares, look| {
        squares.png(look.size, look.margin).map(Bytes::from)
    })
    .await
}

async fn draw(
    api: &Api,
    caller: &Caller,
    id: &str,
    headers: &HeaderMap,
    look: Asked,
    media_type: &'static str,
    picture: impl FnOnce(&Squares, &Look) -> Result<Bytes, Undrawn> + Send + 'static,
) -> Result<Response, Problem> {
    let Query(look) = look.map_err(|rejection| Problem::new(Kind::Malformed, rejection.body_text()))?;
    let mut errors = Vec::new();
    if !SIZES.contains(&look.size) {
        errors.push(FieldError::new("size", format!("is {}, must be 16 to 4096", look.size)));
    }
    if look.margin > LARGEST_MARGIN {
        errors.push(FieldError::new("margin", format!("is {}, must be 0 to {LARGEST_MARGIN}", look.margin)));
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let link = find::<Link>(&*api.leader()?, caller, id)?;
    let address = scanned(&link.short_url);
    // What the picture follows from.
    let facts = format!("{address} {} {} {:?} {media_type}", look.size, look.margin, look.ecc);
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(facts)[..8]));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut response = if known.split(',').any(|known| known.trim().trim_start_matches("W/") == etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let drawn = spawn_blocking(move || picture(&Squares::new(&address, look.ecc)?, &look)).await;
        let picture = drawn
            .map_err(|_| Problem::unavailable("The QR code could not be drawn"))?
            .map_err(|reason| undrawn(&reason))?;
        ([(header::CONTENT_TYPE, media_type)], picture).into_response()
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    // The link's slug may change: a copy is to be asked for anew.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// The short address as a QR code has it.
fn scanned(short_url: &str) -> String {
    // The slug has no slash.
    short_url.rsplit_once('/').map_or_else(|| short_url.to_owned(), |(base, slug)| format!("{base}/q/{slug}"))
}

fn undrawn(reason: &Undrawn) -> Problem {
    match reason {
        Undrawn::TooLong => Problem::invalid(vec![FieldError::new("ecc", reason.to_string())]),
        Undrawn::TooSmall(_) => Problem::invalid(vec![FieldError::new("size", reason.to_string())]),
        Undrawn::Picture(_) => Problem::unavailable(reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_has_an_address_of_its_own() {
        assert_eq!(scanned("https://go.example/sale"), "https://go.example/q/sale");
        assert_eq!(scanned("https://go.example/s/%C3%BCber"), "https://go.example/s/q/%C3%BCber");
    }
}
