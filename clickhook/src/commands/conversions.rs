//! `clickhook conversions`.

use clap::Subcommand;
use serde_json::json;

use super::resource::{ResourceSpec, json_object};
use crate::api::ApiArgs;

const CONVERSIONS: ResourceSpec =
    ResourceSpec { path: "/v1/conversions", facts: &[("recorded as", "/id")], columns: &[("recorded as", "/id")] };

/// The subcommands of `clickhook conversions`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConversionsCommand {
    /// Report a conversion, as a shop does.
    #[command(after_help = r"Examples:
  clickhook conversions send --click-id clk_… --name signup
  clickhook conversions send --click-id clk_… --name purchase --order-id 1001 --amount 4990 --currency EUR")]
    Send {
        /// The click that led to it (`clk_…`), which a link with `--append-click-id` tells its destination.
        #[arg(long)]
        click_id: String,
        /// The kind of conversion: purchase, signup, ….
        #[arg(long)]
        name: String,
        /// The shop's number of the order; a second report with it is the same conversion.
        #[arg(long)]
        order_id: Option<String>,
        /// The amount that it was worth, in the currency's minor unit: cents.
        #[arg(long, value_name = "N", requires = "currency", allow_negative_numbers = true)]
        amount: Option<i64>,
        /// The currency, as ISO 4217 has it: EUR.
        #[arg(long, requires = "amount")]
        currency: Option<String>,
        /// The customer, as the shop knows them.
        #[arg(long)]
        customer_id: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
}

/// Runs `clickhook conversions …`.
pub(crate) fn run(command: ConversionsCommand) -> anyhow::Result<()> {
    let ConversionsCommand::Send { click_id, name, order_id, amount, currency, customer_id, api } = command;
    let amount = amount.zip(currency).map(|(value, currency)| json!({"value": value, "currency": currency}));
    let body = json_object([
        ("click_id", Some(click_id.into())),
        ("name", Some(name.into())),
        ("order_id", order_id.map(Into::into)),
        ("amount", amount),
        ("customer_id", customer_id.map(Into::into)),
    ]);
    CONVERSIONS.create(&api, &body)
}
