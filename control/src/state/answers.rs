//! The answers that are kept for calls that are repeated under the same `Idempotency-Key`: those of a day, within a bound
//! of memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bus::Change;
use schemas::{KeyId, Timestamp, WorkspaceId, idempotency::KeptAnswer};

/// The time for which an answer is kept, in milliseconds.
const DAY_MS: i64 = 24 * 3600 * 1000;
/// The most bytes of all kept answers.
const MAX_BYTES: usize = 100_000_000;
/// The bytes of an answer beside its texts: its rows in the map and in the queue.
const ROW_BYTES: usize = 300;

/// The kept answers, by the keys of their records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct IdempotentAnswers {
    kept: HashMap<Arc<str>, Arc<KeptAnswer>>,
    /// The shares of the workspaces. Where there are too many answers, the workspace with the most bytes loses some.
    workspaces: HashMap<Arc<str>, WorkspaceAnswers>,
    bytes: usize,
    /// The age at which the last answer was forgotten for want of room, in milliseconds; nothing while there is room.
    forgotten_at_age: Option<i64>,
}

/// The answers of a workspace.
#[derive(Debug, Default, PartialEq, Eq)]
struct WorkspaceAnswers {
    /// The moments and keys, the oldest first.
    oldest: VecDeque<(Timestamp, Arc<str>)>,
    bytes: usize,
}

/// Returns the key of the record for a caller's `Idempotency-Key`. No id of a workspace or API key has a slash, so no two
/// callers share a record.
pub(crate) fn record_key(workspace: &WorkspaceId, caller: KeyId, key: &str) -> Arc<str> {
    format!("{workspace}/{caller}/{key}").into()
}

/// Returns the bytes that an answer takes.
fn bytes(key: &str, KeptAnswer { asked, answer, .. }: &KeptAnswer) -> usize {
    ROW_BYTES + key.len() + asked.len() + answer.key.len() + answer.nonce.len() + answer.sealed.len()
}

/// Returns the workspace of a record's key.
fn workspace(key: &str) -> Arc<str> {
    key.split('/').next().unwrap_or_default().into()
}

impl WorkspaceAnswers {
    fn is_old(&self, now: Timestamp) -> bool {
        self.oldest.front().is_some_and(|(at, _)| now.as_millis() - at.as_millis() >= DAY_MS)
    }
}

impl IdempotentAnswers {
    /// Returns the answer that was kept under the key less than a day before `now`.
    pub(crate) fn get(&self, key: &str, now: Timestamp) -> Option<Arc<KeptAnswer>> {
        self.kept.get(key).filter(|kept| now.as_millis() - kept.at.as_millis() < DAY_MS).cloned()
    }

    /// Keeps an answer, and forgets the answers that are older than a day or exceed the bound of memory.
    pub(crate) fn insert(&mut self, key: Arc<str>, answer: Arc<KeptAnswer>) {
        let workspace = workspace(&key);
        let at = answer.at;
        self.forget(&key);
        let theirs = self.workspaces.entry(Arc::clone(&workspace)).or_default();
        theirs.oldest.push_back((at, Arc::clone(&key)));
        theirs.bytes += bytes(&key, &answer);
        self.bytes += bytes(&key, &answer);
        self.kept.insert(key, answer);
        while self.workspaces.get(&workspace).is_some_and(|theirs| theirs.is_old(at)) {
            self.forget_oldest(&workspace);
            self.forgotten_at_age = None;
        }
        while self.bytes > MAX_BYTES
            && let Some((most, _)) = self.workspaces.iter().max_by_key(|(_, theirs)| theirs.bytes)
        {
            let most = Arc::clone(most);
            let oldest = self.workspaces.get(&most).and_then(|theirs| theirs.oldest.front());
            self.forgotten_at_age = oldest.map(|(since, _)| at.as_millis() - since.as_millis());
            self.forget_oldest(&most);
        }
    }

    /// Returns the time for which answers are kept, in seconds: a day, or less where they take too much memory.
    pub(crate) fn kept_seconds(&self) -> i64 {
        self.forgotten_at_age.unwrap_or(DAY_MS) / 1000
    }

    fn forget_oldest(&mut self, workspace: &Arc<str>) {
        let Some(theirs) = self.workspaces.get_mut(workspace) else { return };
        let oldest = theirs.oldest.pop_front();
        // A later answer may have the same key.
        if let Some((at, key)) = oldest
            && self.kept.get(&key).is_some_and(|kept| kept.at == at)
        {
            self.forget(&key);
        }
        if self.workspaces.get(workspace).is_some_and(|theirs| theirs.oldest.is_empty()) {
            self.workspaces.remove(workspace);
        }
    }

    fn forget(&mut self, key: &str) {
        let Some(before) = self.kept.remove(key) else { return };
        self.bytes -= bytes(key, &before);
        if let Some(theirs) = self.workspaces.get_mut(&workspace(key)) {
            theirs.bytes -= bytes(key, &before);
        }
    }

    /// Applies a record of the topic. A record that cannot be read is ignored: a repeated call is then carried out again, as
    /// after a day.
    pub(crate) fn apply_record(&mut self, change: &Change<'_>) {
        if let Change::Put { key, value } = change
            && let (Ok(key), Ok(answer)) = (str::from_utf8(key), serde_json::from_slice(value))
        {
            self.insert(key.into(), Arc::new(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::SealedSecret;

    use super::*;

    fn answer(at_ms: i64) -> Arc<KeptAnswer> {
        sealed(at_ms, String::new())
    }

    fn sealed(at_ms: i64, sealed: String) -> Arc<KeptAnswer> {
        let sealed = SealedSecret { key: String::new(), nonce: String::new(), sealed };
        Arc::new(KeptAnswer { v: 1, asked: String::new(), at: Timestamp::from_millis(at_ms), answer: sealed })
    }

    #[test]
    fn an_answer_is_kept_for_a_day() {
        let mut answers = IdempotentAnswers::default();
        answers.insert("a/1".into(), answer(0));
        let at = Timestamp::from_millis;
        assert!(answers.get("a/1", at(DAY_MS - 1)).is_some() && answers.get("a/1", at(DAY_MS)).is_none());
        assert!(answers.get("b/1", at(0)).is_none());
        assert_eq!(answers.kept_seconds(), 86_400);
        answers.insert("a/2".into(), answer(DAY_MS));
        assert_eq!((answers.kept.len(), answers.workspaces["a"].oldest.len()), (1, 1));
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_of_the_largest_workspace_go_first() {
        let mut answers = IdempotentAnswers::default();
        let tenth = "x".repeat(MAX_BYTES / 10);
        answers.insert("b/1".into(), sealed(0, tenth.clone()));
        for number in 0..15 {
            answers.insert(format!("a/{number}").into(), sealed(number, tenth.clone()));
            // A second answer under the same key replaces the first.
            answers.insert("a/again".into(), answer(number));
        }
        assert!(answers.kept_seconds() < 15, "{}", answers.kept_seconds());
        let at = Timestamp::from_millis(15);
        assert!(answers.bytes <= MAX_BYTES && answers.bytes > MAX_BYTES * 8 / 10, "{}", answers.bytes);
        assert_eq!(answers.bytes, answers.workspaces.values().map(|theirs| theirs.bytes).sum::<usize>());
        for (key, is_kept) in [("a/6", false), ("a/7", true), ("a/again", true), ("b/1", true)] {
            assert_eq!(answers.get(key, at).is_some(), is_kept, "{key}");
        }
    }
}
