//! The answers that are kept for calls that are repeated under the same
//! `Idempotency-Key`: those of a day, and no more than memory is meant for.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bus::Change;
use schemas::{Timestamp, WorkspaceId, idempotency::KeptAnswer};

/// How long an answer is kept, in milliseconds.
const DAY_MS: i64 = 24 * 3600 * 1000;
/// How many are kept at most, about 100 MB; the oldest go first.
const MOST: usize = 100_000;

/// Kept answers, by the keys of their records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    kept: HashMap<Arc<str>, Arc<KeptAnswer>>,
    oldest: VecDeque<(Timestamp, Arc<str>)>,
}

/// The key of the record of what a workspace's caller calls `key`. No workspace's
/// id has a slash, so no two of them read the same.
pub(crate) fn record_key(workspace: &WorkspaceId, key: &str) -> Arc<str> {
    format!("{workspace}/{key}").into()
}

impl Answers {
    /// What was answered under that key, less than a day before `now`.
    pub(crate) fn get(&self, key: &str, now: Timestamp) -> Option<Arc<KeptAnswer>> {
        self.kept.get(key).filter(|kept| now.as_millis() - kept.at.as_millis() < DAY_MS).cloned()
    }

    pub(crate) fn put(&mut self, key: Arc<str>, answer: Arc<KeptAnswer>) {
        self.oldest.push_back((answer.at, Arc::clone(&key)));
        let now = answer.at.as_millis();
        self.kept.insert(key, answer);
        while let Some((at, key)) = self.oldest.front() {
            if self.oldest.len() <= MOST && now - at.as_millis() < DAY_MS {
                break;
            }
            if self.kept.get(key).is_some_and(|kept| kept.at == *at) {
                self.kept.remove(key);
            }
            self.oldest.pop_front();
        }
    }

    /// Applies a record. One that cannot be read answers nothing: the call is made
    /// anew, as after a day.
    pub(crate) fn read(&mut self, change: &Change<'_>) {
        if let Change::Put { key, value } = change
            && let (Ok(key), Ok(answer)) = (str::from_utf8(key), serde_json::from_slice(value))
        {
            self.put(key.into(), Arc::new(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::SealedSecret;

    use super::*;

    fn answer(at_ms: i64) -> Arc<KeptAnswer> {
        let sealed = SealedSecret { key: String::new(), nonce: String::new(), sealed: String::new() };
        Arc::new(KeptAnswer { v: 1, asked: String::new(), at: Timestamp::from_millis(at_ms), answer: sealed })
    }

    #[test]
    fn an_answer_is_kept_for_a_day() {
        let mut answers = Answers::default();
        answers.put("a/1".into(), answer(0));
        let at = Timestamp::from_millis;
        assert!(answers.get("a/1", at(DAY_MS - 1)).is_some() && answers.get("a/1", at(DAY_MS)).is_none());
        assert!(answers.get("b/1", at(0)).is_none());
        answers.put("a/2".into(), answer(DAY_MS));
        assert_eq!((answers.kept.len(), answers.oldest.len()), (1, 1));
    }

    #[test]
    fn so_many_are_kept_and_the_oldest_go_first() {
        let mut answers = Answers::default();
        for number in 0..MOST + 10 {
            answers.put(format!("a/{number}").into(), answer(number as i64));
        }
        let at = Timestamp::from_millis(MOST as i64);
        assert_eq!((answers.kept.len(), answers.oldest.len()), (MOST, MOST));
        assert!(answers.get("a/9", at).is_none() && answers.get("a/10", at).is_some());
    }
}
