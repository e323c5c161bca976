//! The settings that clickhook relies on in each topic: those it makes topics with, and
//! the comparison with those of a topic that exists.
//!
//! A difference is an error where records are lost or stuck in normal operation, and a
//! warning where that takes a failure, or where a promise about retention is not kept.

use std::time::Duration;

use schemas::{Topic, topics::Cleanup};

/// The largest record that producers send, in bytes (`message.max.bytes`).
pub(crate) const LARGEST_RECORD: u32 = 4_000_000;
/// The shortest retention with which a restart of a reader loses nothing.
const SHORTEST_RETENTION: Duration = Duration::from_secs(3600);

const CLEANUP: &str = "cleanup.policy";
const RETENTION: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const MIN_IN_SYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";
const MAX_BYTES: &str = "max.message.bytes";
const TIMESTAMP: &str = "message.timestamp.type";

/// How bad a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Records are lost or stuck in normal operation.
    Error,
    /// Records may be lost when something fails, or are kept for longer than promised.
    Warning,
}

/// A setting of a topic that differs from the one that clickhook relies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) severity: Severity,
    pub(crate) setting: &'static str,
    pub(crate) found: String,
    pub(crate) wanted: String,
    /// The consequence, as a sentence without its full stop.
    pub(crate) consequence: &'static str,
}

/// Returns the settings that a topic with `replicas` is made with.
#[must_use]
pub fn wanted(topic: Topic, replicas: u16) -> Vec<(&'static str, String)> {
    // Tables are compacted early, so that a start reads few outdated records.
    let mut settings = match topic.cleanup() {
        Cleanup::After(retention) => vec![
            (CLEANUP, "delete".to_owned()),
            (RETENTION, retention.as_millis().to_string()),
            (RETENTION_BYTES, "-1".to_owned()),
        ],
        Cleanup::Compact => vec![
            (CLEANUP, "compact".to_owned()),
            // A table's snapshot may be half as old (`MAX_AGE_MS`).
            ("delete.retention.ms", "86400000".to_owned()),
            ("min.cleanable.dirty.ratio", "0.2".to_owned()),
        ],
        Cleanup::CompactFor(retention) => vec![
            (CLEANUP, "compact,delete".to_owned()),
            (RETENTION, retention.as_millis().to_string()),
            (RETENTION_BYTES, "-1".to_owned()),
        ],
    };
    settings.push(("segment.ms", topic.segment().as_millis().to_string()));
    settings.push((MAX_BYTES, "4194304".to_owned()));
    // A record counts as written once all but one of the replicas have it, so that one
    // broker may be away, and another lost for good.
    settings.push((MIN_IN_SYNC, replicas.saturating_sub(1).max(1).to_string()));
    // A replica that lacks acknowledged records never leads.
    settings.push((UNCLEAN, "false".to_owned()));
    // Retention must not depend on a producer's clock.
    if !matches!(topic.cleanup(), Cleanup::Compact) {
        settings.push((TIMESTAMP, "LogAppendTime".to_owned()));
    }
    settings
}

/// Compares the settings of a topic that exists with those that clickhook relies on.
/// `found` returns the value of a setting.
pub(crate) fn compare<'a>(topic: Topic, replicas: u16, found: impl Fn(&str) -> Option<&'a str>) -> Vec<Difference> {
    let differences = wanted(topic, replicas).into_iter().filter_map(|(setting, wanted)| {
        let found = found(setting)?;
        let (severity, consequence) = judge(topic, setting, found, &wanted, replicas)?;
        Some(Difference { severity, setting, found: found.to_owned(), wanted, consequence })
    });
    differences.collect()
}

fn judge(topic: Topic, setting: &str, found: &str, wanted: &str, replicas: u16) -> Option<(Severity, &'static str)> {
    use Severity::{Error, Warning};
    let (number, wanted_number): (Option<i64>, Option<i64>) = (found.parse().ok(), wanted.parse().ok());
    match setting {
        CLEANUP => judge_cleanup(topic, found),
        RETENTION => judge_retention(topic, number?, wanted_number?),
        RETENTION_BYTES if number? != -1 => {
            Some((Warning, "records are deleted by size, before a reader that was away has read them"))
        }
        MIN_IN_SYNC if number? > i64::from(replicas) => {
            Some((Error, "there are fewer replicas, so no record is taken"))
        }
        MIN_IN_SYNC if number? < wanted_number? => {
            Some((Warning, "a record counts as written while too few replicas have it, and is lost with them"))
        }
        MIN_IN_SYNC if number? == i64::from(replicas) && replicas > 1 => {
            Some((Warning, "nothing is written while one broker is away"))
        }
        UNCLEAN if found == "true" => {
            Some((Warning, "a replica that lacks acknowledged records may lead, and they are lost"))
        }
        MAX_BYTES if number? < i64::from(LARGEST_RECORD) => {
            Some((Error, "records that clickhook writes are refused, and their partition stands still"))
        }
        TIMESTAMP if found != wanted => Some((Warning, "retention depends on the clocks of the producers")),
        _ => None,
    }
}

fn judge_cleanup(topic: Topic, found: &str) -> Option<(Severity, &'static str)> {
    use Severity::{Error, Warning};
    let has = |policy: &str| found.split(',').any(|found| found.trim() == policy);
    match topic.cleanup() {
        Cleanup::After(_) if has("compact") => Some((
            Error,
            "records of the same key remove each other before they are read, and records without a key are refused",
        )),
        Cleanup::After(_) if !has("delete") => Some((Warning, "records are never deleted")),
        Cleanup::Compact if has("delete") || !has("compact") => {
            Some((Error, "what the control plane has stored is deleted after a while"))
        }
        Cleanup::CompactFor(_) if !has("delete") || !has("compact") => {
            Some((Warning, "the topic grows more than it needs to"))
        }
        Cleanup::After(_) | Cleanup::Compact | Cleanup::CompactFor(_) => None,
    }
}

fn judge_retention(topic: Topic, found: i64, wanted: i64) -> Option<(Severity, &'static str)> {
    use Severity::{Error, Warning};
    let shortest = i64::try_from(SHORTEST_RETENTION.as_millis()).unwrap_or(i64::MAX);
    match found {
        0.. if found < shortest => Some((Error, "a reader that is restarted may find its records deleted")),
        0.. if found < wanted => Some((Warning, "an outage may last for a shorter time than is promised")),
        _ if found == wanted => None,
        // Full addresses, and the keys that tell visitors apart.
        _ if matches!(topic, Topic::ClicksRaw | Topic::Daykeys) => {
            Some((Warning, "visitors can be told apart for longer than is promised"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severities(topic: Topic, replicas: u16, changed: &[(&str, &str)]) -> Vec<(Severity, &'static str)> {
        let wanted = wanted(topic, replicas);
        let value = |name: &str| {
            let changed = changed.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            changed.or_else(|| wanted.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str()))
        };
        compare(topic, replicas, value).into_iter().map(|found| (found.severity, found.setting)).collect()
    }

    #[test]
    fn topics_are_made_as_they_are_relied_on() {
        for topic in Topic::ALL {
            for replicas in 1..=4 {
                assert_eq!(severities(topic, replicas, &[]), [], "{topic:?}");
            }
        }
        let min =
            |replicas| wanted(Topic::Clicks, replicas).into_iter().find(|(key, _)| *key == MIN_IN_SYNC).unwrap().1;
        assert_eq!([1, 2, 3, 5].map(min), ["1", "1", "2", "4"]);
    }

    #[test]
    fn what_loses_records_in_normal_operation_is_an_error() {
        use Severity::Error;
        for (topic, setting, value) in [
            (Topic::Clicks, CLEANUP, "compact"),
            (Topic::Clicks, CLEANUP, "compact,delete"),
            (Topic::Links, CLEANUP, "delete"),
            (Topic::Links, CLEANUP, "compact,delete"),
            (Topic::Clicks, RETENTION, "60000"),
            (Topic::ClicksRaw, MAX_BYTES, "1048588"),
            (Topic::ClicksRaw, MIN_IN_SYNC, "4"),
        ] {
            assert_eq!(severities(topic, 3, &[(setting, value)]), [(Error, setting)], "{topic:?} {value}");
        }
    }

    #[test]
    fn what_takes_a_failure_is_a_warning() {
        use Severity::Warning;
        for (topic, setting, value) in [
            (Topic::Clicks, MIN_IN_SYNC, "1"),
            (Topic::Clicks, MIN_IN_SYNC, "3"),
            (Topic::Clicks, UNCLEAN, "true"),
            (Topic::Clicks, RETENTION, "86400000"),
            (Topic::Clicks, RETENTION_BYTES, "1000000000"),
            (Topic::ClicksRaw, RETENTION, "-1"),
            (Topic::Clicks, TIMESTAMP, "CreateTime"),
            (Topic::Replayed, CLEANUP, "compact"),
        ] {
            assert_eq!(severities(topic, 3, &[(setting, value)]), [(Warning, setting)], "{topic:?} {value}");
        }
        for (topic, setting, value) in [
            (Topic::Clicks, RETENTION, "-1"),
            (Topic::Clicks, MAX_BYTES, "8388608"),
            (Topic::Links, "segment.ms", "1000"),
        ] {
            assert_eq!(severities(topic, 3, &[(setting, value)]), [], "{topic:?} {value}");
        }
    }
}
