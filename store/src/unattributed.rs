//! Conversions that were told without their click, as the join of conversions needs them
//! to tell them again with it. What was reported is kept nowhere else for that long, and
//! a person's erasure deletes it here.

use std::collections::HashMap;

use clickhouse::Row;
use schemas::{ConversionFacts, ConversionId, Timestamp, conversion::Amount};
use serde::Deserialize;

use crate::{Store, StoreError};

/// A status of a conversion that was told without its click.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnattributedConversion {
    /// The workspace that reported it.
    pub workspace: String,
    /// The time of the status, as it was reported.
    pub timestamp: Timestamp,
    /// The facts of the status.
    pub facts: ConversionFacts<'static>,
}

/// The columns of [`COLUMNS`], in their order.
#[derive(Row, Deserialize)]
struct UnattributedRow {
    conversion_id: ConversionId,
    workspace: String,
    at: i64,
    name: String,
    order_id: String,
    status: String,
    product: String,
    value: i64,
    currency: String,
    commission: i64,
    commission_currency: String,
    affiliate_id: String,
    customer_id: String,
    metadata: Vec<(String, String)>,
}

const COLUMNS: &str = "conversion_id, workspace, toUnixTimestamp64Milli(timestamp) AS at, name, order_id, status, product, \
     value, currency, commission, commission_currency, affiliate_id, customer_id, metadata";

/// An amount without a currency was not reported.
fn amount(value: i64, currency: String) -> Option<Amount> {
    (!currency.is_empty()).then_some(Amount { value, currency })
}

impl From<UnattributedRow> for UnattributedConversion {
    fn from(row: UnattributedRow) -> Self {
        let fact = |text: String| (!text.is_empty()).then(|| text.into());
        Self {
            workspace: row.workspace,
            timestamp: Timestamp::from_millis(row.at),
            facts: ConversionFacts {
                id: row.conversion_id,
                name: row.name.into(),
                order_id: fact(row.order_id),
                status: fact(row.status),
                product: fact(row.product),
                amount: amount(row.value, row.currency),
                commission: amount(row.commission, row.commission_currency),
                affiliate_id: fact(row.affiliate_id),
                customer_id: fact(row.customer_id),
                attributed: false,
                seconds_since_click: None,
                metadata: row.metadata.into_iter().collect(),
            },
        }
    }
}

impl Store {
    /// Returns of each of these conversions the status that was told without a click: of
    /// several, the latest by its own time.
    ///
    /// # Errors
    /// When ClickHouse does not answer.
    pub async fn unattributed_conversions(
        &self,
        ids: &[ConversionId],
    ) -> Result<HashMap<ConversionId, UnattributedConversion>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let sql = format!(
            "SELECT {COLUMNS} FROM conversions WHERE conversion_id IN {{ids:Array(String)}} AND NOT attributed \
             ORDER BY conversion_id, timestamp DESC, kafka_offset DESC LIMIT 1 BY conversion_id"
        );
        let rows: Vec<UnattributedRow> = self.timed(self.query(&sql).param("ids", ids).fetch_all()).await?;
        Ok(rows.into_iter().map(|row| (row.conversion_id, row.into())).collect())
    }
}
