CREATE TABLE IF NOT EXISTS clicks
(
    id String COMMENT 'Id of the click or scan (clk_…); sorts by time',
    event_id String COMMENT 'Id of the event that told of it (evt_…), as in webhooks',
    kind Enum8('click' = 1, 'scan' = 2) COMMENT 'Whether the link was followed or its QR code scanned',
    timestamp DateTime64(3, 'UTC') COMMENT 'When the redirect was asked for',
    workspace LowCardinality(String) COMMENT 'The workspace that owns the link',
    link_id String COMMENT 'Id of the link (lnk_…)',
    short_url String COMMENT 'The address that people share, as it was at that moment',
    destination String COMMENT 'Where the link led at that moment',
    slug String COMMENT 'The path of the short address',
    campaign LowCardinality(String) COMMENT 'The link''s campaign; empty if none',
    segment LowCardinality(String) COMMENT 'The audience that the link was made for; empty if none',
    tags Array(LowCardinality(String)) COMMENT 'The link''s labels',
    ip_address String COMMENT 'The visitor''s address, reduced as configured (ip_mode)',
    ip_key String COMMENT 'The address hashed under the day''s key: tells bursts, identifies nobody',
    user_agent String COMMENT 'User-Agent' CODEC(ZSTD(1)),
    referer String COMMENT 'Referer' CODEC(ZSTD(1)),
    country LowCardinality(String) COMMENT 'ISO 3166-1 alpha-2; empty if unknown',
    region LowCardinality(String) COMMENT 'ISO 3166-2 subdivision, or its name; empty if unknown',
    city LowCardinality(String) COMMENT 'City, in English; empty if unknown',
    device LowCardinality(String) COMMENT 'desktop, mobile, tablet, tv, appliance or crawler',
    browser LowCardinality(String) COMMENT 'Browser',
    browser_version LowCardinality(String) COMMENT 'Its version',
    os LowCardinality(String) COMMENT 'Operating system',
    os_version LowCardinality(String) COMMENT 'Its version',
    source LowCardinality(String) COMMENT 'Where the visit came from: utm_source, else the referrer''s name or host, else direct',
    bot Bool COMMENT 'Whether a program followed the link',
    bot_reason LowCardinality(String) COMMENT 'How we know; empty for people',
    session_id String COMMENT 'Tells visitors of one day apart (ses_…), identifies nobody',
    utm_source LowCardinality(String) COMMENT 'utm_source of the visit',
    utm_medium LowCardinality(String) COMMENT 'utm_medium of the visit',
    utm_campaign LowCardinality(String) COMMENT 'utm_campaign of the visit',
    utm_term String COMMENT 'utm_term of the visit',
    utm_content String COMMENT 'utm_content of the visit',
    ad_creative String COMMENT 'The ad that was clicked; empty if unknown',
    gclid String COMMENT 'Google''s click id',
    fbclid String COMMENT 'Meta''s click id',
    kafka_topic LowCardinality(String) COMMENT 'The topic that the row came from',
    kafka_partition UInt16 COMMENT 'Its partition',
    kafka_offset UInt64 COMMENT 'Its offset: one row for each',
    PROJECTION by_link
    (
        SELECT workspace, link_id, kind, toStartOfHour(timestamp), count(), countIf(NOT bot), uniqIf(session_id, NOT bot)
        GROUP BY workspace, link_id, kind, toStartOfHour(timestamp)
    ),
    PROJECTION by_id INDEX id TYPE basic
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (workspace, link_id, timestamp, id)
SETTINGS non_replicated_deduplication_window = 50000
COMMENT 'Clicks and QR scans, one row each';
