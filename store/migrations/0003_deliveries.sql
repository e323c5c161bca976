CREATE TABLE IF NOT EXISTS deliveries
(
    id String COMMENT 'Id of the attempt (att_…); sorts by time',
    timestamp DateTime64(3, 'UTC') COMMENT 'When it began',
    workspace LowCardinality(String) COMMENT 'The workspace that the event belongs to',
    endpoint_id String COMMENT 'Where it was sent (ep_…)',
    event_id String COMMENT 'What was sent (evt_…), also the webhook-id',
    event LowCardinality(String) COMMENT 'The event''s name',
    attempt UInt32 COMMENT 'Which attempt it was, from 1',
    duration_ms UInt32 COMMENT 'How long it took, in milliseconds',
    outcome LowCardinality(String) COMMENT 'delivered, retrying, dead or skipped',
    status UInt16 COMMENT 'The HTTP status of the answer; 0 if there was none',
    error String COMMENT 'Why it failed; empty if it did not' CODEC(ZSTD(1)),
    response String COMMENT 'The beginning of the answer' CODEC(ZSTD(1)),
    kafka_topic LowCardinality(String) COMMENT 'The topic that the row came from',
    kafka_partition UInt16 COMMENT 'Its partition',
    kafka_offset UInt64 COMMENT 'Its offset: one row for each'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (workspace, endpoint_id, timestamp, id)
SETTINGS non_replicated_deduplication_window = 50000
COMMENT 'Attempts to deliver webhooks, one row each';
