//! `clickhook stats`: the statistics of a link, a campaign, a product, a tag, a domain or the
//! workspace, as a summary, over time, or as a list of the values with the most visits.

mod sparkline;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;
use url::form_urlencoded;

use super::resource::show;
use crate::{
    api::{ApiArgs, ApiClient, Method},
    output,
};

/// The arguments of `clickhook stats`.
#[derive(Debug, Args)]
#[command(after_help = r"Examples:
  clickhook stats sale
  clickhook stats lnk_01JC… --window 24h --compare
  clickhook stats --campaign winter --series --interval day --window 30d --timezone Europe/Berlin
  clickhook stats --all --top countries --limit 20
  clickhook stats --product SKU-7 --json")]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Show the visits over time.
    #[arg(long, conflicts_with = "top")]
    series: bool,
    /// The length of the intervals of a series.
    #[arg(long, requires = "series")]
    interval: Option<SeriesInterval>,
    /// Show the values of a fact with the most visits: sources, countries, devices, creatives and others.
    #[arg(long, value_name = "FACT")]
    top: Option<String>,
    /// How many values to show.
    #[arg(long, value_name = "N", requires = "top")]
    limit: Option<u32>,
    /// Count only a time that ends now, such as 1h, 24h or 30d.
    #[arg(long, conflicts_with_all = ["since", "until"])]
    window: Option<String>,
    /// The first moment (RFC 3339, or a date or local time of the time zone).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// The moment before which the time ends.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The time zone of dates and days, such as Asia/Kolkata; UTC if none is given.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Show the time of the same length before, too.
    #[arg(long, conflicts_with = "top")]
    compare: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// The choice of the subject.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SubjectArgs {
    /// The link: its id (`lnk_…`) or its slug.
    link: Option<String>,
    /// A campaign, by its name or id (`cmp_…`).
    #[arg(long, value_name = "NAME")]
    campaign: Option<String>,
    /// A product, by its number (SKU) in the destinations.
    #[arg(long, value_name = "SKU")]
    product: Option<String>,
    /// The links with a tag.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// The links on a domain.
    #[arg(long, value_name = "HOST")]
    domain: Option<String>,
    /// All links of the workspace.
    #[arg(long)]
    all: bool,
}

/// The length of the intervals of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SeriesInterval {
    #[value(name = "15m")]
    Quarter,
    Hour,
    Day,
    Week,
    Month,
}

impl SeriesInterval {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Quarter => "15m",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

impl SubjectArgs {
    /// Returns the path of the subject's statistics.
    fn path(&self, api: &ApiClient) -> anyhow::Result<String> {
        let named = |kind: &str, name: &str| format!("/v1/stats/{kind}/{}", segment(name));
        Ok(match self {
            Self { link: Some(link), .. } if link.starts_with("lnk_") => named("links", link),
            Self { link: Some(slug), .. } => named("links", &by_slug(api, slug)?),
            Self { campaign: Some(name), .. } => named("campaigns", name),
            Self { product: Some(sku), .. } => named("products", sku),
            Self { tag: Some(tag), .. } => named("tags", tag),
            Self { domain: Some(host), .. } => named("domains", host),
            _ => "/v1/stats/workspace".to_owned(),
        })
    }
}

impl StatsArgs {
    /// Returns the query, which begins with `?` or is empty.
    fn query(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let fields = [
            ("window", self.window.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("timezone", self.timezone.as_deref()),
            ("interval", self.interval.map(SeriesInterval::as_str)),
            ("limit", limit.as_deref()),
            ("compare", self.compare.then_some("previous")),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in fields {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query.is_empty() { query } else { format!("?{query}") }
    }
}

/// Runs `clickhook stats`.
pub(crate) fn run(args: &StatsArgs) -> anyhow::Result<()> {
    let api = args.api.client()?;
    let path = args.subject.path(&api)?;
    let query = args.query();
    let ask = |below: &str| api.call::<Value>(Method::Get, &format!("{path}{below}{query}"), None);
    if args.series {
        let series = ask("/series")?;
        if args.api.json {
            output::json(&series);
        } else {
            print_series(&series);
        }
    } else if let Some(fact) = &args.top {
        let list = ask(&format!("/top/{}", segment(fact)))?;
        if args.api.json {
            output::json(&list);
        } else {
            print_top(&list);
        }
    } else {
        print_summary(&args.api, &ask("")?);
    }
    Ok(())
}

fn print_summary(api: &ApiArgs, stats: &Value) {
    show(
        api,
        stats,
        &[
            ("clicks", "/clicks/total"),
            ("by humans", "/clicks/human"),
            ("unique", "/clicks/unique"),
            ("scans", "/scans/total"),
            ("conversions", "/conversions/total"),
            ("rate", "/conversions/rate"),
            ("an hour", "/per_hour/average"),
            ("last hour", "/per_hour/last"),
            ("clicks before", "/previous/clicks/total"),
            ("by humans before", "/previous/clicks/human"),
            ("conversions before", "/previous/conversions/total"),
        ],
    );
    if api.json {
        return;
    }
    for revenue in stats["conversions"]["revenue"].as_array().into_iter().flatten() {
        let currency = revenue["currency"].as_str().unwrap_or("?");
        say!(
            "revenue      {} {currency}, commission {} {currency} (minor units)",
            revenue["value"],
            revenue["commission"]
        );
    }
    if let Some(ads) = stats["ads"].as_array().filter(|ads| !ads.is_empty()) {
        output::table(ads, &[("ad", "/ad_creative"), ("clicks", "/clicks"), ("conversions", "/conversions")]);
    }
}

fn print_series(series: &Value) {
    let none = Vec::new();
    let intervals = series["data"].as_array().unwrap_or(&none);
    for (title, intervals) in [("", Some(intervals)), ("before  ", series["previous"].as_array())] {
        let Some(intervals) = intervals.filter(|intervals| !intervals.is_empty()) else { continue };
        let people: Vec<u64> = intervals.iter().map(people).collect();
        let most = people.iter().max().copied().unwrap_or_default();
        let interval = series["interval"].as_str().unwrap_or("interval");
        say!("{title}{}  up to {most} visits by people in each interval ({interval})", sparkline::line(&people));
    }
    output::table(
        intervals,
        &[
            ("start", "/start"),
            ("clicks", "/clicks/total"),
            ("by humans", "/clicks/human"),
            ("unique", "/clicks/unique"),
            ("scans", "/scans/total"),
            ("conversions", "/conversions"),
        ],
    );
}

/// Returns the visits by people of an interval.
fn people(interval: &Value) -> u64 {
    ["/clicks/human", "/scans/human"].iter().filter_map(|field| interval.pointer(field)?.as_u64()).sum()
}

fn print_top(list: &Value) {
    let none = Vec::new();
    let values = list["data"].as_array().unwrap_or(&none);
    let has = |field: &str| values.iter().any(|value| value.get(field).is_some());
    let columns = [
        ("value", "/value"),
        ("region", "/region"),
        ("country", "/country"),
        ("visits", "/total"),
        ("by humans", "/human"),
        ("conversions", "/conversions"),
    ];
    let columns: Vec<_> = columns
        .into_iter()
        .filter(|(_, pointer)| matches!(*pointer, "/value" | "/total" | "/human") || has(&pointer[1..]))
        .collect();
    output::table(values, &columns);
}

/// Returns a text as a segment of a path.
fn segment(text: &str) -> String {
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    // A form writes a space as `+`, and a plus as `%2B`.
    encoded.replace('+', "%20")
}

fn by_slug(api: &ApiClient, slug: &str) -> anyhow::Result<String> {
    let query: String = form_urlencoded::Serializer::new(String::from("?")).append_pair("slug", slug).finish();
    let links = api.list_chosen("/v1/links", &format!("{query}&"))?;
    let mut found = links.iter().filter(|link| link["slug"] == slug);
    let Some(link) = found.next() else { bail!("no link has the slug `{slug}`: see `clickhook links ls`") };
    if found.next().is_some() {
        bail!("several domains have a link with the slug `{slug}`: give the link's id, see `clickhook links ls`");
    }
    link["id"].as_str().map(str::to_owned).context("the link has no id")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        stats: StatsArgs,
    }

    #[test]
    fn a_question_is_about_one_subject_and_its_time() {
        let parse = |line: &str| TestCli::try_parse_from(line.split(' ')).map(|cli| cli.stats);
        let args = parse("stats --campaign winter --series --interval day --window 30d --compare").unwrap();
        assert_eq!(args.query(), "?window=30d&interval=day&compare=previous");
        assert_eq!(parse("stats sale").unwrap().query(), "");
        let args = parse("stats --all --top countries --limit 5 --since 2026-01-01 --timezone Asia/Kolkata").unwrap();
        assert_eq!(args.query(), "?since=2026-01-01&timezone=Asia%2FKolkata&limit=5");
        for wrong in ["stats", "stats sale --all", "stats sale --limit 5", "stats sale --series --top os"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(segment("a b/c+d%"), "a%20b%2Fc%2Bd%25");
        assert_eq!(segment("winter-2026"), "winter-2026");
    }
}
