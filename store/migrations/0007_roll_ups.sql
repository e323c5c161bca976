ALTER TABLE clicks
    DROP PROJECTION IF EXISTS by_link,
    MODIFY COLUMN IF EXISTS link_id LowCardinality(String),
    MODIFY COLUMN IF EXISTS destination LowCardinality(String),
    MODIFY COLUMN IF EXISTS referer LowCardinality(String) CODEC(LZ4),
    MODIFY COLUMN IF EXISTS ad_creative LowCardinality(String),
    MODIFY COLUMN IF EXISTS event_id CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS ip_address CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS ip_key CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS session_id CODEC(ZSTD(1))
    SETTINGS alter_sync = 0, mutations_sync = 0;
ALTER TABLE clicks MODIFY SETTING materialize_projections_on_insert = 0, materialize_projections_on_merge = 1;
ALTER TABLE clicks
    ADD PROJECTION IF NOT EXISTS link_quarters
    (
        SELECT workspace, link_id, kind, toStartOfFifteenMinutes(timestamp), count(), countIf(NOT bot)
        GROUP BY workspace, link_id, kind, toStartOfFifteenMinutes(timestamp)
    ) WITH SETTINGS (index_granularity = 1024),
    ADD PROJECTION IF NOT EXISTS campaign_quarters
    (
        SELECT workspace, campaign, kind, toStartOfFifteenMinutes(timestamp), count(), countIf(NOT bot)
        GROUP BY workspace, campaign, kind, toStartOfFifteenMinutes(timestamp)
    ) WITH SETTINGS (index_granularity = 1024),
    ADD PROJECTION IF NOT EXISTS destination_quarters
    (
        SELECT workspace, destination, kind, toStartOfFifteenMinutes(timestamp), count(), countIf(NOT bot)
        GROUP BY workspace, destination, kind, toStartOfFifteenMinutes(timestamp)
    ) WITH SETTINGS (index_granularity = 1024),
    ADD PROJECTION IF NOT EXISTS totals
    (
        SELECT workspace, link_id, campaign, destination, short_url, tags, kind, count(), countIf(NOT bot), min(timestamp), max(timestamp)
        GROUP BY workspace, link_id, campaign, destination, short_url, tags, kind
    ) WITH SETTINGS (index_granularity = 256),
    ADD PROJECTION IF NOT EXISTS by_time
    (
        SELECT toStartOfFiveMinutes(timestamp), workspace, link_id, campaign, destination, kind, count(), countIf(NOT bot)
        GROUP BY toStartOfFiveMinutes(timestamp), workspace, link_id, campaign, destination, kind
    ) WITH SETTINGS (index_granularity = 1024),
    ADD PROJECTION IF NOT EXISTS link_days
    (
        SELECT workspace, link_id, kind, toDate(timestamp), uniqCombinedIf(14)(session_id, NOT bot)
        GROUP BY workspace, link_id, kind, toDate(timestamp)
    ) WITH SETTINGS (index_granularity = 64),
    ADD PROJECTION IF NOT EXISTS campaign_days
    (
        SELECT workspace, campaign, kind, toDate(timestamp), uniqCombinedIf(12)(session_id, NOT bot)
        GROUP BY workspace, campaign, kind, toDate(timestamp)
    ) WITH SETTINGS (index_granularity = 64);
ALTER TABLE clicks APPLY DELETED MASK SETTINGS alter_sync = 0, mutations_sync = 0;
ALTER TABLE clicks
    MATERIALIZE PROJECTION IF EXISTS link_quarters,
    MATERIALIZE PROJECTION IF EXISTS campaign_quarters,
    MATERIALIZE PROJECTION IF EXISTS destination_quarters,
    MATERIALIZE PROJECTION IF EXISTS totals,
    MATERIALIZE PROJECTION IF EXISTS by_time,
    MATERIALIZE PROJECTION IF EXISTS link_days,
    MATERIALIZE PROJECTION IF EXISTS campaign_days
    SETTINGS alter_sync = 0, mutations_sync = 0;
