//! `GET /v1/links/{id}/qr.svg` and `qr.png`: a link's QR code. It encodes the form of the link's address that counts as a
//! scan.

use std::sync::Arc;

use axum::{
    Extension,
    body::Bytes,
    extract::{FromRequestParts, Path, Query, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::Link;
use serde::Deserialize;
use service::problem::{FieldError, Problem};
use sha2::{Digest, Sha256};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    api::{context::Api, request::read_query, resource::find},
    caller::Caller,
    kinds::link::qr::{DrawError, ErrorCorrection, QrModules},
};

const SIZES: std::ops::RangeInclusive<u32> = 16..=4096;
const MAX_MARGIN: u32 = 64;
/// The turn of drawing: a large picture takes a processor for a while, and others need the rest.
static DRAWING: Semaphore = Semaphore::const_new(1);

/// The look of a QR code.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Look")]
pub(crate) struct QrQuery {
    /// The width and height, in pixels.
    #[schemars(range(min = 16, max = 4096))]
    size: u32,
    /// The white modules on each side; scanners need 4.
    #[schemars(range(max = 64))]
    margin: u32,
    /// The share of the code that can be damaged: L (7 %), M (15 %), Q (25 %) or H (30 %).
    ecc: ErrorCorrection,
}

impl Default for QrQuery {
    fn default() -> Self {
        Self { size: 512, margin: 4, ecc: ErrorCorrection::default() }
    }
}

impl QrQuery {
    fn check(&self) -> Result<(), Problem> {
        let mut errors = Vec::new();
        if !SIZES.contains(&self.size) {
            errors.push(FieldError::new("size", format!("is {}, must be 16 to 4096", self.size)));
        }
        if self.margin > MAX_MARGIN {
            errors.push(FieldError::new("margin", format!("is {}, must be 0 to {MAX_MARGIN}", self.margin)));
        }
        if errors.is_empty() { Ok(()) } else { Err(Problem::invalid(errors)) }
    }
}

/// The format of a picture.
#[derive(Clone, Copy, Debug)]
enum PictureFormat {
    Svg,
    Png,
}

impl PictureFormat {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Svg => "image/svg+xml",
            Self::Png => "image/png",
        }
    }

    /// Returns the requests as which a picture of this size counts besides its own.
    const fn cost(self, size: u32) -> u32 {
        match self {
            Self::Svg => 0,
            Self::Png => (size / 512).pow(2).saturating_sub(1),
        }
    }

    fn draw(self, address: &str, query: &QrQuery) -> Result<Bytes, DrawError> {
        let modules = QrModules::new(address, query.ecc)?;
        match self {
            Self::Svg => Ok(modules.svg(query.size, query.margin).into()),
            Self::Png => modules.png(query.size, query.margin).map(Bytes::from),
        }
    }
}

/// Returns the QR code as SVG.
pub(crate) async fn svg(api: State<Arc<Api>>, request: PictureRequest) -> Result<Response, Problem> {
    picture(&api, request, PictureFormat::Svg).await
}

/// Returns the QR code as PNG.
pub(crate) async fn png(api: State<Arc<Api>>, request: PictureRequest) -> Result<Response, Problem> {
    picture(&api, request, PictureFormat::Png).await
}

/// A request for a picture of a link's QR code.
pub(crate) struct PictureRequest {
    caller: Caller,
    /// The link's id, as the path has it.
    id: String,
    query: QrQuery,
    /// The value of `If-None-Match`, which names the pictures that the caller has already.
    known: String,
}

impl<S: Send + Sync> FromRequestParts<S> for PictureRequest {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Extension(caller) =
            Extension::<Caller>::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        let query = read_query(Query::<QrQuery>::from_request_parts(parts, state).await);
        let query = query.map_err(IntoResponse::into_response)?;
        let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        Ok(Self { caller, id, query, known: known.unwrap_or_default().to_owned() })
    }
}

async fn picture(api: &Api, request: PictureRequest, format: PictureFormat) -> Result<Response, Problem> {
    let PictureRequest { caller, id, query, known } = request;
    query.check()?;
    api.rates.charge(&caller.rated, format.cost(query.size));
    let link = find::<Link>(&*api.leader()?, &caller, &id)?;
    let address = scan_address(&link.short_url);
    let media_type = format.media_type();
    // The picture follows from these facts alone.
    let facts = format!("{address} {} {} {:?} {media_type}", query.size, query.margin, query.ecc);
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(facts)[..8]));
    let mut response = if known.split(',').any(|known| known.trim().trim_start_matches("W/") == etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let _turn = DRAWING.acquire().await.map_err(|_| Problem::unavailable("The QR code could not be drawn"))?;
        let drawn = spawn_blocking(move || format.draw(&address, &query)).await;
        let picture = drawn
            .map_err(|_| Problem::unavailable("The QR code could not be drawn"))?
            .map_err(|error| draw_problem(&error))?;
        ([(header::CONTENT_TYPE, media_type)], picture).into_response()
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    // The link's slug may change, so a copy must be revalidated.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// Returns the form of the short address that counts as a scan.
fn scan_address(short_url: &str) -> String {
    // A slug has no slash.
    short_url.rsplit_once('/').map_or_else(|| short_url.to_owned(), |(base, slug)| format!("{base}/q/{slug}"))
}

fn draw_problem(error: &DrawError) -> Problem {
    match error {
        DrawError::TooLong => Problem::invalid(vec![FieldError::new("ecc", error.to_string())]),
        DrawError::TooSmall(_) => Problem::invalid(vec![FieldError::new("size", error.to_string())]),
        DrawError::Picture(_) => Problem::unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_has_an_address_of_its_own() {
        assert_eq!(scan_address("https://go.example/sale"), "https://go.example/q/sale");
        assert_eq!(scan_address("https://go.example/s/%C3%BCber"), "https://go.example/s/q/%C3%BCber");
    }
}
