CREATE TABLE IF NOT EXISTS link_events
(
    id String COMMENT 'Id of the event (evt_…), as in webhooks',
    event LowCardinality(String) COMMENT 'Its name, such as link.created',
    timestamp DateTime64(3, 'UTC') COMMENT 'When it happened',
    workspace LowCardinality(String) COMMENT 'The workspace that it belongs to',
    link_id String COMMENT 'The link that it happened to (lnk_…); empty if to none',
    body String COMMENT 'The event''s JSON, byte for byte as in webhooks' CODEC(ZSTD(1)),
    kafka_topic LowCardinality(String) COMMENT 'The topic that the row came from',
    kafka_partition UInt16 COMMENT 'Its partition',
    kafka_offset UInt64 COMMENT 'Its offset: one row for each'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (workspace, link_id, timestamp, id)
SETTINGS non_replicated_deduplication_window = 50000
COMMENT 'What happened to links themselves, one row an event';
