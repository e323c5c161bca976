//! `clickhook stats`.

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::resource::show;
use crate::api::{ApiArgs, ApiClient, Method};

/// The arguments of `clickhook stats`.
#[derive(Debug, Args)]
#[command(after_help = r"Examples:
  clickhook stats sale
  clickhook stats lnk_01JC… --json")]
pub(crate) struct StatsArgs {
    /// The link: its id (`lnk_…`) or its slug.
    link: String,
    #[command(flatten)]
    api: ApiArgs,
}

/// Runs `clickhook stats`.
pub(crate) fn run(args: StatsArgs) -> anyhow::Result<()> {
    let api = args.api.client()?;
    let id = if args.link.starts_with("lnk_") { args.link } else { by_slug(&api, &args.link)? };
    let stats: Value = api.call(Method::Get, &format!("/v1/stats/links/{id}"), None)?;
    show(
        &args.api,
        &stats,
        &[
            ("clicks", "/clicks/total"),
            ("by humans", "/clicks/human"),
            ("unique", "/clicks/unique"),
            ("conversions", "/conversions/total"),
            ("rate", "/conversions/rate"),
        ],
    );
    for revenue in stats["conversions"]["revenue"].as_array().filter(|_| !args.api.json).into_iter().flatten() {
        let currency = revenue["currency"].as_str().unwrap_or("?");
        say!(
            "revenue      {} {currency}, commission {} {currency} (minor units)",
            revenue["value"],
            revenue["commission"]
        );
    }
    Ok(())
}

fn by_slug(api: &ApiClient, slug: &str) -> anyhow::Result<String> {
    let links = api.list("/v1/links")?;
    let mut found = links.iter().filter(|link| link["slug"] == slug);
    let Some(link) = found.next() else { bail!("no link has the slug `{slug}`: see `clickhook links ls`") };
    if found.next().is_some() {
        bail!("several domains have a link with the slug `{slug}`: give the link's id, see `clickhook links ls`");
    }
    link["id"].as_str().map(str::to_owned).context("the link has no id")
}
