//! The rows of `bench stats`: clicks of sixty days, a tenth of them of the last two hours.

use schemas::LinkId;

use crate::clickhouse::ClickHouse;

/// The number of links. The share of each falls with its number: the first has some 5 % of the clicks.
pub(super) const LINKS: u64 = 10_000;
/// The number of campaigns.
const CAMPAIGNS: u64 = 200;
/// The clicks that are made by one statement: more would exceed the memory of the product's ClickHouse.
const AT_ONCE: u64 = 100_000;
/// The statements after which the merges are waited for, which need memory, too.
const MERGED_AFTER: usize = 10;

/// Returns the id of a link by its number.
pub(super) fn link(number: u64) -> LinkId {
    LinkId::from_bits(u128::from(number))
}

/// Returns the name of the campaign of a link.
pub(super) fn campaign(link: u64) -> String {
    format!("campaign-{}", link % CAMPAIGNS)
}

/// Fills the tables of clicks and conversions.
pub(super) async fn fill(clickhouse: &ClickHouse, rows: u64) -> anyhow::Result<()> {
    for (number, first) in (0..rows).step_by(usize::try_from(AT_ONCE)?).enumerate() {
        let count = AT_ONCE.min(rows - first);
        clickhouse.run(clicks(first, count)).await?;
        if number % MERGED_AFTER == MERGED_AFTER - 1 {
            clickhouse.until_quiet().await?;
        }
    }
    clickhouse.run(conversions(rows / 100)).await?;
    Ok(())
}

/// Returns the digit of a link's id as ClickHouse counts it: Crockford's base32.
fn digit(power: u64) -> String {
    format!("substring('0123456789ABCDEFGHJKMNPQRSTVWXYZ', intDiv(link, {power}) % 32 + 1, 1)")
}

/// Returns the expression of a link's id. Ten thousand links have three digits.
fn link_id() -> String {
    format!("concat('{}', {}, {}, {})", link_prefix(), digit(1024), digit(32), digit(1))
}

fn link_prefix() -> String {
    let id = link(0).to_string();
    id[..id.len() - 3].to_owned()
}

fn clicks(first: u64, count: u64) -> String {
    format!(
        "INSERT INTO clicks (id, event_id, kind, timestamp, workspace, link_id, short_url, destination, slug, campaign, tags, \
         ip_address, ip_key, user_agent, referer, country, region, city, organisation, device, browser, os, source, medium, bot, \
         session_id, ad_creative, kafka_topic, kafka_partition, kafka_offset) \
         SELECT concat('clk_', hex(sipHash128(n))), concat('evt_', hex(sipHash128(n, 1))), if(n % 10 = 0, 'scan', 'click'), at, \
         'default', {link_id}, concat('https://go.acme.example/', toString(link)), \
         concat('https://acme.example/p/SKU-', toString(link % 3000)), toString(link), \
         concat('campaign-', toString(link % {CAMPAIGNS})), ['social'], '203.0.113.0', hex(sipHash64(visitor)), \
         concat('Mozilla/5.0 (', toString(visitor % 50), ')'), if(n % 3 = 0, '', concat('https://s', toString(n % 30), '.example/')), \
         concat(char(65 + visitor % 26), char(65 + visitor % 7)), toString(visitor % 400), concat('City ', toString(visitor % 1080)), \
         concat('Net ', toString(visitor % 500)), ['mobile', 'desktop', 'tablet'][1 + visitor % 3], \
         ['Safari', 'Chrome', 'Firefox', 'Edge'][1 + visitor % 4], ['iOS', 'Android', 'Windows'][1 + visitor % 3], \
         concat('source-', toString(n % 30)), ['social', 'email', 'ads'][1 + n % 3], n % 50 = 0, \
         concat('ses_', hex(sipHash64(visitor, toDate(at)))), concat('story-', toString(n % 20)), 'clickhook.clicks', n % 4, n \
         FROM (SELECT number AS n, toUInt64(pow(rand64(1) / 18446744073709551616., 3) * {LINKS}) AS link, rand64(2) % 700000 AS visitor, \
         now64(3, 'UTC') - toIntervalMillisecond(if(n % 10 = 0, rand64(3) % 7200000, rand64(3) % 5184000000)) AS at \
         FROM numbers({first}, {count}))",
        link_id = link_id(),
    )
}

fn conversions(count: u64) -> String {
    format!(
        "INSERT INTO conversions (id, conversion_id, timestamp, workspace, link_id, click_id, name, order_id, status, value, \
         currency, attributed, campaign, source, country, device, ad_creative) \
         SELECT concat('evt_', toString(n)), concat('cnv_', toString(n)), now64(3, 'UTC') - toIntervalSecond(n % 5184000), \
         'default', {link_id}, concat('clk_', toString(n)), 'purchase', toString(n), if(n % 20 = 0, 'refunded', 'approved'), 4200, \
         'EUR', true, concat('campaign-', toString(link % {CAMPAIGNS})), concat('source-', toString(n % 30)), 'DE', 'mobile', \
         concat('story-', toString(n % 20)) \
         FROM (SELECT number AS n, toUInt64(pow(rand64(1) / 18446744073709551616., 3) * {LINKS}) AS link FROM numbers({count}))",
        link_id = link_id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_links_have_the_digits_that_clickhouse_counts() {
        let alphabet = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        for number in [0, 31, 32, 1024, LINKS - 1] {
            let digits = [1024, 32, 1].map(|power| char::from(alphabet[(number / power % 32) as usize]));
            let expected = link_prefix() + &digits.iter().collect::<String>();
            assert_eq!(link(number).to_string(), expected);
        }
    }
}
