//! The operations that Kafka allows its user, compared with those that clickhook needs. Asked before anything is
//! created, so that a missing permission is named at once and not found role by role.
//!
//! rdkafka has no safe call for requests with authorized operations (KIP-430), so this file
//! speaks to librdkafka itself.

#![allow(unsafe_code, reason = "librdkafka's own functions are called; every pointer stays in this file")]

use std::{
    ffi::{CStr, CString, c_char},
    fmt,
    time::Duration,
};

use rdkafka::{
    admin::AdminClient,
    bindings::{self as ffi, rd_kafka_AclOperation_t as AclOperation, rd_kafka_admin_op_t as AdminOperation},
    error::KafkaError,
    types::{RDKafka, RDKafkaErrorCode},
};
use schemas::{ConsumerGroup, Topic};

use crate::{Bus, BusError, client::QuietContext, config::CALL_TIMEOUT};

/// The transactional id that is tried. It has the prefix that all others have.
const TRIED_ID: &str = "permissions";

/// A thing of Kafka on which operations are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPermission {
    /// The thing, as Kafka's tools name it: `topic clickhook.clicks`.
    pub resource: String,
    /// The operations, as Kafka's tools name them.
    pub operations: Vec<&'static str>,
}

impl fmt::Display for MissingPermission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} on {}", self.operations.join(", "), self.resource)
    }
}

/// The kind of a thing that Kafka is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResourceKind {
    Topic,
    Group,
}

/// Kafka's answer for one thing.
#[derive(Debug, PartialEq, Eq)]
enum PermissionAnswer {
    Allowed(Vec<AclOperation>),
    /// Not even the question is allowed.
    Refused,
    /// The thing is not there, or this Kafka does not say what is allowed.
    Untold,
}

impl ResourceKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Group => "group",
        }
    }

    /// The operations that clickhook needs.
    const fn needed(self) -> &'static [(AclOperation, &'static str)] {
        use AclOperation::{
            RD_KAFKA_ACL_OPERATION_DESCRIBE as DESCRIBE, RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS as DESCRIBE_CONFIGS,
            RD_KAFKA_ACL_OPERATION_READ as READ, RD_KAFKA_ACL_OPERATION_WRITE as WRITE,
        };
        match self {
            Self::Topic => {
                &[(DESCRIBE, "Describe"), (DESCRIBE_CONFIGS, "DescribeConfigs"), (READ, "Read"), (WRITE, "Write")]
            }
            Self::Group => &[(DESCRIBE, "Describe"), (READ, "Read")],
        }
    }

    fn missing(self, name: &str, answer: &PermissionAnswer) -> Option<MissingPermission> {
        let is_missing = |operation: AclOperation| match answer {
            PermissionAnswer::Allowed(operations) => !operations.contains(&operation),
            PermissionAnswer::Refused => true,
            PermissionAnswer::Untold => false,
        };
        let needed = self.needed().iter().filter(|(operation, _)| is_missing(*operation));
        let operations: Vec<&'static str> = needed.map(|(_, name)| *name).collect();
        (!operations.is_empty()).then(|| MissingPermission { resource: format!("{} {name}", self.name()), operations })
    }
}

impl Bus {
    /// Returns the permissions that Kafka's user lacks. Topics that are not there yet, and a
    /// Kafka that does not say what it allows, count as permitted.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub async fn missing_permissions(&self) -> Result<Vec<MissingPermission>, BusError> {
        let bus = self.clone();
        let asked = tokio::task::spawn_blocking(move || bus.ask_for_permissions()).await;
        asked.unwrap_or(Err(BusError::Gone { what: "ask what Kafka allows" }))
    }

    fn ask_for_permissions(&self) -> Result<Vec<MissingPermission>, BusError> {
        let client = self.admin()?;
        // Says why Kafka is not reached, where it is not.
        self.standing(&client)?;
        let topics: Vec<String> = Topic::ALL.iter().map(|topic| self.topics().name(*topic)).collect();
        let groups: Vec<String> = ConsumerGroup::ALL.iter().map(|group| self.topics().group(group.name())).collect();
        let mut missing = Vec::new();
        for (kind, names) in [(ResourceKind::Topic, &topics), (ResourceKind::Group, &groups)] {
            let answers = ask(&client, kind, names).map_err(BusError::new("ask what Kafka allows its user"))?;
            missing.extend(answers.iter().filter_map(|(name, answer)| kind.missing(name, answer)));
        }
        missing.extend(self.try_transactions()?);
        Ok(missing)
    }

    /// Begins to use a transactional id, which is the only way to learn whether it is allowed.
    fn try_transactions(&self) -> Result<Option<MissingPermission>, BusError> {
        use RDKafkaErrorCode::{ClusterAuthorizationFailed, TransactionalIdAuthorizationFailed};
        let missing =
            |resource: String, operation| Ok(Some(MissingPermission { resource, operations: vec![operation] }));
        let Err(error) = self.transaction(TRIED_ID, Duration::ZERO) else { return Ok(None) };
        let BusError::Kafka { source, .. } = &error else { return Err(error) };
        match source.rdkafka_error_code() {
            Some(TransactionalIdAuthorizationFailed) => {
                missing(format!("transactional id {}", self.topics().group(TRIED_ID)), "Write")
            }
            Some(ClusterAuthorizationFailed) => missing("the cluster".to_owned(), "IdempotentWrite"),
            _ => Err(error),
        }
    }
}

/// A thing of librdkafka's that is destroyed with this.
struct LibrdkafkaOwned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for LibrdkafkaOwned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from the constructor that belongs to this function, is
            // not null, and nobody else has it.
            unsafe { self.1(self.0) }
        }
    }
}

/// Asks which operations are allowed on each of `names`.
fn ask(
    client: &AdminClient<QuietContext>,
    kind: ResourceKind,
    names: &[String],
) -> Result<Vec<(String, PermissionAnswer)>, KafkaError> {
    let names: Vec<CString> = names.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let rk: *mut RDKafka = client.inner().native_ptr();
    // SAFETY: `rk` is alive as long as `client`; `names` outlive the calls, which copy them;
    // the event outlives what is read out of it.
    unsafe {
        let queue = LibrdkafkaOwned(ffi::rd_kafka_queue_new(rk), ffi::rd_kafka_queue_destroy);
        let operation = match kind {
            ResourceKind::Topic => AdminOperation::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            ResourceKind::Group => AdminOperation::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
        };
        let options =
            LibrdkafkaOwned(ffi::rd_kafka_AdminOptions_new(rk, operation), ffi::rd_kafka_AdminOptions_destroy);
        drop(LibrdkafkaOwned(
            ffi::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1),
            ffi::rd_kafka_error_destroy,
        ));
        match kind {
            ResourceKind::Topic => {
                let topics = ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
                let topics = LibrdkafkaOwned(topics, ffi::rd_kafka_TopicCollection_destroy);
                ffi::rd_kafka_DescribeTopics(rk, topics.0, options.0, queue.0);
            }
            ResourceKind::Group => {
                let (groups, count) = (pointers.as_mut_ptr(), pointers.len());
                ffi::rd_kafka_DescribeConsumerGroups(rk, groups, count, options.0, queue.0);
            }
        }
        let event =
            LibrdkafkaOwned(ffi::rd_kafka_queue_poll(queue.0, millis(CALL_TIMEOUT)), ffi::rd_kafka_event_destroy);
        if event.0.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        let failed = RDKafkaErrorCode::from(ffi::rd_kafka_event_error(event.0));
        if failed != RDKafkaErrorCode::NoError {
            return Err(KafkaError::AdminOp(failed));
        }
        Ok(answers(kind, event.0))
    }
}

/// Reads the answers out of an event.
///
/// # Safety
/// `event` is the result of a question of this kind, without an error.
unsafe fn answers(kind: ResourceKind, event: *mut ffi::rd_kafka_event_t) -> Vec<(String, PermissionAnswer)> {
    let (mut count, mut operations) = (0, 0);
    // SAFETY: as the caller promises; librdkafka gives `count` pointers to descriptions, and
    // each has a name, an error and `operations` operations, which live as long as the event.
    unsafe {
        match kind {
            ResourceKind::Topic => {
                let result = ffi::rd_kafka_event_DescribeTopics_result(event);
                let topics = ffi::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
                let topics = elements(topics.cast_const(), count).iter();
                topics
                    .map(|topic| {
                        let name = ffi::rd_kafka_TopicDescription_name(*topic);
                        let error = ffi::rd_kafka_TopicDescription_error(*topic);
                        let allowed = ffi::rd_kafka_TopicDescription_authorized_operations(*topic, &raw mut operations);
                        (text(name), answer(error, elements(allowed, operations)))
                    })
                    .collect()
            }
            ResourceKind::Group => {
                let result = ffi::rd_kafka_event_DescribeConsumerGroups_result(event);
                let groups = ffi::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
                let groups = elements(groups.cast_const(), count).iter();
                groups
                    .map(|group| {
                        let name = ffi::rd_kafka_ConsumerGroupDescription_group_id(*group);
                        let error = ffi::rd_kafka_ConsumerGroupDescription_error(*group);
                        let allowed =
                            ffi::rd_kafka_ConsumerGroupDescription_authorized_operations(*group, &raw mut operations);
                        (text(name), answer(error, elements(allowed, operations)))
                    })
                    .collect()
            }
        }
    }
}

/// # Safety
/// `error` is null or an error of librdkafka's.
unsafe fn answer(error: *const ffi::rd_kafka_error_t, allowed: &[AclOperation]) -> PermissionAnswer {
    use RDKafkaErrorCode::{GroupAuthorizationFailed, NoError, TopicAuthorizationFailed};
    let code = if error.is_null() {
        NoError
    } else {
        // SAFETY: as the caller promises.
        RDKafkaErrorCode::from(unsafe { ffi::rd_kafka_error_code(error) })
    };
    match code {
        TopicAuthorizationFailed | GroupAuthorizationFailed => PermissionAnswer::Refused,
        NoError if !allowed.is_empty() => PermissionAnswer::Allowed(allowed.to_vec()),
        _ => PermissionAnswer::Untold,
    }
}

/// # Safety
/// `first` is null, or the first of `count` elements.
unsafe fn elements<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// # Safety
/// `text` is null, or ends with a zero byte.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_missing() {
        let read = PermissionAnswer::Allowed(vec![
            AclOperation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
            AclOperation::RD_KAFKA_ACL_OPERATION_READ,
        ]);
        let missing = ResourceKind::Topic.missing("clickhook.clicks", &read).unwrap();
        assert_eq!(missing.to_string(), "DescribeConfigs, Write on topic clickhook.clicks");
        assert_eq!(ResourceKind::Group.missing("clickhook.enricher", &read), None);
    }

    #[test]
    fn a_refused_question_means_that_nothing_is_allowed() {
        let missing = ResourceKind::Group.missing("clickhook.enricher", &PermissionAnswer::Refused).unwrap();
        assert_eq!(missing.to_string(), "Describe, Read on group clickhook.enricher");
    }

    #[test]
    fn what_is_not_told_is_not_held_against_anybody() {
        assert_eq!(ResourceKind::Topic.missing("clickhook.clicks", &PermissionAnswer::Untold), None);
    }
}
