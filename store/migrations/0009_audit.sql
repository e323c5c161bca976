CREATE TABLE IF NOT EXISTS audit
(
    id String COMMENT 'Id of the event (evt_…), as in webhooks',
    timestamp DateTime64(3, 'UTC') COMMENT 'When it was changed',
    workspace LowCardinality(String) COMMENT 'The workspace that it belongs to; of a workspace itself, the one that the operator acted in',
    actor_type LowCardinality(String) COMMENT 'key, operator (a key of another workspace) or system',
    actor_id LowCardinality(String) COMMENT 'The key (key_…); empty for system',
    actor_name LowCardinality(String) COMMENT 'The name of the key at that time; empty if it is not the workspace''s own',
    action LowCardinality(String) COMMENT 'created, updated, deleted, rotated, verified, lapsed, disabled, expired or erased',
    resource LowCardinality(String) COMMENT 'The kind of what was changed: link, campaign, endpoint, replay, domain, key, workspace or person',
    resource_ids Array(String) COMMENT 'The ids of what was changed: several where one transaction of a call changed several',
    fields Array(LowCardinality(String)) COMMENT 'The names of the fields that an update changed in any of them',
    request_id String COMMENT 'The X-Request-Id of the call; empty if there was none',
    kafka_topic LowCardinality(String) COMMENT 'The topic that the row came from',
    kafka_partition UInt16 COMMENT 'Its partition',
    kafka_offset UInt64 COMMENT 'Its offset: one row for each',
    INDEX by_resource resource_ids TYPE bloom_filter GRANULARITY 1,
    PROJECTION by_row (SELECT _part_offset, id, kafka_topic, kafka_partition, kafka_offset ORDER BY id)
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (workspace, timestamp, id)
SETTINGS non_replicated_deduplication_window = 250000, lightweight_mutation_projection_mode = 'drop'
COMMENT 'Who changed what, one row a change';
