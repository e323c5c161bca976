ALTER TABLE deliveries
    ADD COLUMN IF NOT EXISTS webhook_id String DEFAULT event_id COMMENT 'The webhook-id: the id of the batch (bat_…), or of the event (evt_…)' AFTER event,
    COMMENT COLUMN id 'Id of the attempt (att_…), of a batch''s event one of its own; sorts by time',
    COMMENT COLUMN event_id 'What was sent (evt_…)',
    COMMENT COLUMN kafka_offset 'Its offset: of a batch, all rows have the same';

ALTER TABLE deliveries MODIFY COMMENT 'Attempts to deliver webhooks, one row for each event of an attempt';
