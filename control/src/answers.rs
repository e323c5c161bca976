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
/// How many bytes of them are kept at most.
const MOST_BYTES: usize = 100_000_000;
/// What one takes beside its texts: its rows in the map and in the queue.
const ROW_BYTES: usize = 300;

/// Kept answers, by the keys of their records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    kept: HashMap<Arc<str>, Arc<KeptAnswer>>,
    /// By their workspaces: where there are too many, whoever has most loses some.
    theirs: HashMap<Arc<str>, Theirs>,
    bytes: usize,
}

/// A workspace's.
#[derive(Debug, Default, PartialEq, Eq)]
struct Theirs {
    oldest: VecDeque<(Timestamp, Arc<str>)>,
    bytes: usize,
}

/// The key of the record of what a workspace's caller calls `key`. No workspace's
/// id has a slash, so no two of them read the same.
pub(crate) fn record_key(workspace: &WorkspaceId, key: &str) -> Arc<str> {
    format!("{workspace}/{key}").into()
}

fn bytes(key: &str, KeptAnswer { asked, answer, .. }: &KeptAnswer) -> usize {
    ROW_BYTES + key.len() + asked.len() + answer.key.len() + answer.nonce.len() + answer.sealed.len()
}

/// Whose record a key is.
fn workspace(key: &str) -> Arc<str> {
    key.split('/').next().unwrap_or_default().into()
}

impl Theirs {
    fn is_old(&self, now: Timestamp) -> bool {
        self.oldest.front().is_some_and(|(at, _)| now.as_millis() - at.as_millis() >= DAY_MS)
    }
}

impl Answers {
    /// What was answered under that key, less than a day before `now`.
    pub(crate) fn get(&self, key: &str, now: Timestamp) -> Option<Arc<KeptAnswer>> {
        self.kept.get(key).filter(|kept| now.as_millis() - kept.at.as_millis() < DAY_MS).cloned()
    }

    pub(crate) fn put(&mut self, key: Arc<str>, answer: Arc<KeptAnswer>) {
        let (workspace, at) = (workspace(&key), answer.at);
        self.forget(&key);
        let theirs = self.theirs.entry(Arc::clone(&workspace)).or_default();
        theirs.oldest.push_back((at, Arc::clone(&key)));
        theirs.bytes += bytes(&key, &answer);
        self.bytes += bytes(&key, &answer);
        self.kept.insert(key, answer);
        while self.theirs.get(&workspace).is_some_and(|theirs| theirs.is_old(at)) {
            self.forget_oldest(&workspace);
        }
        while self.bytes > MOST_BYTES
            && let Some((most, _)) = self.theirs.iter().max_by_key(|(_, theirs)| theirs.bytes)
        {
            let most = Arc::clone(most);
            self.forget_oldest(&most);
        }
    }

    fn forget_oldest(&mut self, workspace: &Arc<str>) {
        let Some(theirs) = self.theirs.get_mut(workspace) else { return };
        let oldest = theirs.oldest.pop_front();
        // Another may have come under the same key since.
        if let Some((at, key)) = oldest
            && self.kept.get(&key).is_some_and(|kept| kept.at == at)
        {
            self.forget(&key);
        }
        if self.theirs.get(workspace).is_some_and(|theirs| theirs.oldest.is_empty()) {
            self.theirs.remove(workspace);
        }
    }

    fn forget(&mut self, key: &str) {
        let Some(before) = self.kept.remove(key) else { return };
        self.bytes -= bytes(key, &before);
        if let Some(theirs) = self.theirs.get_mut(&workspace(key)) {
            theirs.bytes -= bytes(key, &before);
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
        sealed(at_ms, String::new())
    }

    fn sealed(at_ms: i64, sealed: String) -> Arc<KeptAnswer> {
        let sealed = SealedSecret { key: String::new(), nonce: String::new(), sealed };
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
        assert_eq!((answers.kept.len(), answers.theirs["a"].oldest.len()), (1, 1));
    }

    #[test]
    fn so_many_bytes_are_kept_and_the_oldest_of_who_has_most_go_first() {
        let mut answers = Answers::default();
        let tenth = "x".repeat(MOST_BYTES / 10);
        answers.put("b/1".into(), sealed(0, tenth.clone()));
        for number in 0..15 {
            answers.put(format!("a/{number}").into(), sealed(number, tenth.clone()));
            // A second answer under one key takes the place of the first.
            answers.put("a/again".into(), answer(number));
        }
        let at = Timestamp::from_millis(15);
        assert!(answers.bytes <= MOST_BYTES && answers.bytes > MOST_BYTES * 8 / 10, "{}", answers.bytes);
        assert_eq!(answers.bytes, answers.theirs.values().map(|theirs| theirs.bytes).sum::<usize>());
        for (key, is_kept) in [("a/6", false), ("a/7", true), ("a/again", true), ("b/1", true)] {
            assert_eq!(answers.get(key, at).is_some(), is_kept, "{key}");
        }
    }
}
