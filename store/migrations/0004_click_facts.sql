ALTER TABLE clicks
    ADD COLUMN IF NOT EXISTS asn UInt32 COMMENT 'Number of the autonomous system of the address; 0 if unknown' AFTER city,
    ADD COLUMN IF NOT EXISTS organisation LowCardinality(String) COMMENT 'Organisation of the autonomous system; empty if unknown' AFTER asn,
    ADD COLUMN IF NOT EXISTS network LowCardinality(String) COMMENT 'Kind of network: hosting, cdn, vpn, tor or bot; empty for ordinary ones' AFTER organisation,
    ADD COLUMN IF NOT EXISTS app LowCardinality(String) COMMENT 'App whose built-in browser opened the link; empty if none' AFTER os_version,
    ADD COLUMN IF NOT EXISTS medium LowCardinality(String) COMMENT 'Kind of source: search, social, email, ads, direct and others' AFTER source,
    ADD COLUMN IF NOT EXISTS ad_set LowCardinality(String) COMMENT 'Set or group of the ad: its id or name; empty if unknown' AFTER ad_creative,
    ADD COLUMN IF NOT EXISTS ad_campaign LowCardinality(String) COMMENT 'Campaign of the ads platform: its id or name; empty if unknown' AFTER ad_set,
    ADD COLUMN IF NOT EXISTS click_ids Map(LowCardinality(String), String) COMMENT 'Click ids of other networks, by the name of their parameter' AFTER fbclid;
