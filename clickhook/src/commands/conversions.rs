//! `clickhook conversions`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{
    conversions_import::{self, ConversionsImportArgs},
    resource::{ResourceSpec, json_object},
};
use crate::{
    api::ApiArgs,
    output::{self, Columns},
};

const CONVERSIONS: ResourceSpec =
    ResourceSpec { path: "/v1/conversions", facts: &[("recorded as", "/id")], columns: COLUMNS };
const COLUMNS: Columns<'static> = &[
    ("id", "/id"),
    ("name", "/name"),
    ("order", "/order_id"),
    ("status", "/status"),
    ("value", "/amount/value"),
    ("currency", "/amount/currency"),
    ("commission", "/commission/value"),
    ("click", "/click_id"),
    ("time", "/timestamp"),
];

/// The subcommands of `clickhook conversions`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConversionsCommand {
    /// Report a conversion, or a new status of one, as a shop does.
    #[command(after_help = r"Examples:
  clickhook conversions send --click-id clk_… --name signup
  clickhook conversions send --click-id clk_… --name purchase --order-id 1001 --amount 4990 --currency EUR
  clickhook conversions send --name purchase --order-id 1001 --status refunded")]
    Send(Box<SendArgs>),
    /// List conversions in their current state, last reported first.
    #[command(after_help = r"Examples:
  clickhook conversions ls --order-id 1001
  clickhook conversions ls --status pending --json")]
    Ls {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Report many conversions from a file. Exits with 1 if lines were rejected. Lines with
    /// an `order_id` can be imported again: they are the same conversions.
    #[command(after_help = r#"Examples:
  clickhook conversions import sales.ndjson
  clickhook conversions import sales.csv --key import-2026-02
  zcat sales.csv.gz | clickhook conversions import - --format csv

A line of NDJSON is a body of POST /v1/conversions:
  {"click_id":"clk_…","name":"purchase","order_id":"1001","amount":{"value":4990,"currency":"EUR"}}

CSV has a header with the names of fields; amounts are minor units (cents):
  click_id,name,order_id,amount,currency,status
  clk_…,purchase,1001,4990,EUR,approved"#)]
    Import(ConversionsImportArgs),
}

/// The facts of a conversion.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The click that led to the conversion (`clk_…`), which a link with `--append-click-id` tells its destination.
    #[arg(long, required_unless_present_any = ["order_id", "customer_id"])]
    click_id: Option<String>,
    /// The kind of conversion: purchase, signup, ….
    #[arg(long)]
    name: String,
    /// The shop's number of the order; a second report with it is the same conversion.
    #[arg(long)]
    order_id: Option<String>,
    /// The status: pending, approved, reversed, refunded, ….
    #[arg(long)]
    status: Option<String>,
    /// The product that was bought.
    #[arg(long)]
    product: Option<String>,
    /// The worth of the conversion in the currency's minor unit: cents.
    #[arg(long, value_name = "N", requires = "currency", allow_negative_numbers = true)]
    amount: Option<i64>,
    /// The commission in the currency's minor unit.
    #[arg(long, value_name = "N", requires = "currency", allow_negative_numbers = true)]
    commission: Option<i64>,
    /// The currency of both, as ISO 4217 has it: EUR.
    #[arg(long)]
    currency: Option<String>,
    /// The affiliate that the commission is paid to.
    #[arg(long)]
    affiliate_id: Option<String>,
    /// The customer, as the shop knows them.
    #[arg(long)]
    customer_id: Option<String>,
    /// The time of the conversion (RFC 3339); now if none is given.
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

/// The choice of conversions to list.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only those of a link (`lnk_…`).
    #[arg(long)]
    link_id: Option<String>,
    /// Only those of a click (`clk_…`).
    #[arg(long)]
    click_id: Option<String>,
    /// Only those of an order.
    #[arg(long)]
    order_id: Option<String>,
    /// Only those of a customer.
    #[arg(long)]
    customer_id: Option<String>,
    /// Only those with this current status.
    #[arg(long)]
    status: Option<String>,
}

impl FilterArgs {
    /// Returns the query of the list, which begins with `?` and ends with `&`.
    fn query(&self) -> String {
        let fields = [
            ("link_id", &self.link_id),
            ("click_id", &self.click_id),
            ("order_id", &self.order_id),
            ("customer_id", &self.customer_id),
            ("status", &self.status),
        ];
        let mut query = form_urlencoded::Serializer::new(String::from("?"));
        for (name, value) in fields {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query == "?" { query } else { query + "&" }
    }
}

/// Runs `clickhook conversions …`.
pub(crate) fn run(command: ConversionsCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConversionsCommand::Send(args) => send(&args)?,
        ConversionsCommand::Ls { filter, api } => {
            let conversions = api.client()?.list_chosen(CONVERSIONS.path, &filter.query())?;
            if api.json {
                output::json(&json!(conversions));
            } else {
                output::table(&conversions, CONVERSIONS.columns);
            }
        }
        ConversionsCommand::Import(args) => return conversions_import::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}

fn send(args: &SendArgs) -> anyhow::Result<()> {
    let money =
        |value: Option<i64>| -> Option<Value> { Some(json!({"value": value?, "currency": args.currency.as_deref()?})) };
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let body = json_object([
        ("click_id", text(&args.click_id)),
        ("name", Some(args.name.clone().into())),
        ("order_id", text(&args.order_id)),
        ("status", text(&args.status)),
        ("product", text(&args.product)),
        ("amount", money(args.amount)),
        ("commission", money(args.commission)),
        ("affiliate_id", text(&args.affiliate_id)),
        ("customer_id", text(&args.customer_id)),
        ("timestamp", text(&args.timestamp)),
    ]);
    CONVERSIONS.create(&args.api, &body)
}
