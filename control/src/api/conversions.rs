//! `GET /v1/conversions`: the conversions of a workspace, each in its current state, from
//! ClickHouse.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
};
use schemars::JsonSchema;
use schemas::{ClickId, ConversionId, LinkId, Scope, Timestamp, conversion::Amount};
use serde::{Deserialize, Serialize};
use service::problem::{FieldError, Problem};
use store::{ConversionFilter, ConversionRow};
use tracing::warn;

use crate::{
    api::{
        context::Api,
        request::{page_limit, read_query},
        resource::Listed,
    },
    caller::{Caller, missing_scope},
};

/// The query of the list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConversionQuery {
    /// The link whose click led to the conversion (`lnk_…`).
    link_id: Option<String>,
    /// The click that led to the conversion (`clk_…`).
    click_id: Option<String>,
    /// The shop's number of the order.
    order_id: Option<String>,
    /// The customer, as the shop knows them.
    customer_id: Option<String>,
    /// The current status, such as `pending` or `approved`.
    status: Option<String>,
    /// The most entries of the page; 50 by default.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// A conversion in its current state.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Conversion")]
pub(crate) struct ConversionView {
    /// The id of the conversion.
    id: ConversionId,
    /// `purchase`, `signup`, ….
    name: String,
    /// The shop's number of the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    /// The latest status by its own time.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    /// The product that was bought.
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<String>,
    /// The value that was reported last.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Amount>,
    /// The commission that was reported last.
    #[serde(skip_serializing_if = "Option::is_none")]
    commission: Option<Amount>,
    /// The affiliate that the commission is paid to.
    #[serde(skip_serializing_if = "Option::is_none")]
    affiliate_id: Option<String>,
    /// The customer, as the shop knows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<String>,
    /// Whether the click is known that led to the conversion.
    attributed: bool,
    /// The time from the click to the conversion, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_since_click: Option<u64>,
    /// The link of the click.
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<String>,
    /// The click that led to the conversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    click_id: Option<String>,
    /// The campaign of the link.
    #[serde(skip_serializing_if = "Option::is_none")]
    campaign: Option<String>,
    /// The ad that was clicked.
    #[serde(skip_serializing_if = "Option::is_none")]
    referrer_ad_creative: Option<String>,
    /// The time of the conversion.
    timestamp: Timestamp,
    /// The time of the latest status.
    updated_at: Timestamp,
}

impl ConversionView {
    fn of(id: ConversionId, row: ConversionRow) -> Self {
        let (timestamp, updated_at) = (row.timestamp(), row.updated_at());
        let amount = |value, currency: String| (!currency.is_empty()).then_some(Amount { value, currency });
        let text = |text: String| (!text.is_empty()).then_some(text);
        Self {
            id,
            name: row.name,
            order_id: text(row.order_id),
            status: text(row.status),
            product: text(row.product),
            amount: amount(row.value, row.currency),
            commission: amount(row.commission, row.commission_currency),
            affiliate_id: text(row.affiliate_id),
            customer_id: text(row.customer_id),
            attributed: row.attributed,
            seconds_since_click: row.attributed.then_some(row.seconds_since_click),
            link_id: text(row.link_id),
            click_id: text(row.click_id),
            campaign: text(row.campaign),
            referrer_ad_creative: text(row.ad_creative),
            timestamp,
            updated_at,
        }
    }
}

/// Lists conversions, last reported first.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ConversionQuery>, QueryRejection>,
) -> Result<Json<Listed<ConversionView>>, Problem> {
    if !caller.key.may(Scope::Conversions) && !caller.key.may(Scope::Stats) {
        return Err(missing_scope(Scope::Conversions));
    }
    let query = read_query(query)?;
    let (filter, before, limit) = checked(&query)?;
    let found = api.store.conversions(&caller.workspace, &filter, before, limit + 1).await.map_err(|error| {
        warn!(%error, "reading conversions from ClickHouse failed");
        Problem::unavailable("The conversions cannot be read: ClickHouse does not answer")
    })?;
    let more = found.len() > limit;
    let mut data = Vec::with_capacity(limit);
    for row in found.into_iter().take(limit) {
        let id = row.conversion_id.parse().map_err(|error| {
            warn!(%error, "a row of the table conversions has no valid id");
            Problem::unavailable("The conversions cannot be read: a row of the table is damaged")
        })?;
        data.push(ConversionView::of(id, row));
    }
    let next = data.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(Listed { data, next }))
}

/// Checks the values of a query.
fn checked(query: &ConversionQuery) -> Result<(ConversionFilter<'_>, Option<ConversionId>, usize), Problem> {
    let mut errors = Vec::new();
    let link = parsed::<LinkId>("link_id", query.link_id.as_deref(), &mut errors);
    let click = parsed::<ClickId>("click_id", query.click_id.as_deref(), &mut errors);
    let before = parsed::<ConversionId>("cursor", query.cursor.as_deref(), &mut errors);
    let limit = page_limit(query.limit, &mut errors);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let filter = ConversionFilter {
        link,
        click,
        order: query.order_id.as_deref(),
        customer: query.customer_id.as_deref(),
        status: query.status.as_deref(),
    };
    Ok((filter, before, limit))
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &str,
    text: Option<&str>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    text?.parse().map_err(|error| errors.push(FieldError::new(field, format!("{error}")))).ok()
}
