//! The facts that the watch has told, as they are committed on `fired`.

use std::collections::{BTreeSet, HashMap};

use bus::Change;
use schemas::{
    LinkId, Timestamp,
    fired::{Alert, AlertKind, CompletionOccurrence, FiredFact, FiredRecord, FiredSubject, Milestone},
};

/// A drafted change of the facts.
#[derive(Clone, Debug)]
pub(crate) enum FiredChange {
    /// A fact was told.
    Told(FiredRecord),
    /// The subject was deleted.
    Forgotten(FiredSubject),
}

/// All facts that were told, by their subjects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FiredFacts {
    subjects: HashMap<FiredSubject, Vec<FiredFact>>,
    /// The alerts that have not ended.
    raised: BTreeSet<(LinkId, AlertKind)>,
}

impl FiredFacts {
    /// Returns the facts of a subject.
    pub(crate) fn of(&self, subject: FiredSubject) -> &[FiredFact] {
        self.subjects.get(&subject).map_or(&[], Vec::as_slice)
    }

    /// Returns the time at which the watch has begun.
    pub(crate) fn watching_since(&self) -> Option<Timestamp> {
        self.of(FiredSubject::Installation).iter().find_map(|fact| match fact {
            FiredFact::Watching(since) => Some(*since),
            _ => None,
        })
    }

    /// Tells whether a milestone of the subject was told, or is known not to be told.
    pub(crate) fn has_milestone(&self, subject: FiredSubject, wanted: &Milestone) -> bool {
        self.of(subject).iter().any(|fact| matches!(fact, FiredFact::Milestone(milestone) if milestone == wanted))
    }

    /// Returns the last alert of a kind about a link.
    pub(crate) fn alert(&self, link: LinkId, kind: AlertKind) -> Option<Alert> {
        self.of(FiredSubject::Link(link)).iter().find_map(|fact| match fact {
            FiredFact::Alert(found, alert) if *found == kind => Some(*alert),
            _ => None,
        })
    }

    /// Returns the alerts that have not ended.
    pub(crate) const fn raised(&self) -> &BTreeSet<(LinkId, AlertKind)> {
        &self.raised
    }

    /// Returns the deadline of a link that was told last.
    pub(crate) fn expired(&self, link: LinkId) -> Option<Timestamp> {
        self.of(FiredSubject::Link(link)).iter().find_map(|fact| match fact {
            FiredFact::Expired(deadline) => Some(*deadline),
            _ => None,
        })
    }

    /// Returns the completion of a campaign that was told last.
    pub(crate) fn completed(&self, subject: FiredSubject) -> Option<CompletionOccurrence> {
        self.of(subject).iter().find_map(|fact| match fact {
            FiredFact::Completed(occurrence) => Some(*occurrence),
            _ => None,
        })
    }

    /// Makes committed changes visible.
    pub(crate) fn apply(&mut self, changes: Vec<FiredChange>) {
        for change in changes {
            match change {
                FiredChange::Told(record) => self.insert(record),
                FiredChange::Forgotten(subject) => {
                    for fact in self.subjects.remove(&subject).unwrap_or_default() {
                        self.lower(subject, &fact);
                    }
                }
            }
        }
    }

    /// Applies a record of the topic. A record that cannot be read is an error: a leader without it would tell its fact
    /// again.
    pub(crate) fn apply_record(&mut self, change: &Change<'_>) -> Result<(), String> {
        match change {
            Change::Put { key, value } => {
                let record = serde_json::from_slice(value);
                self.insert(record.map_err(|error| format!("{}: {error}", String::from_utf8_lossy(key)))?);
            }
            Change::Delete { key } => {
                let key = String::from_utf8_lossy(key);
                let (subject, fact_key) = key.split_once('/').unwrap_or((&key, ""));
                let subject = subject.parse().map_err(|error| format!("{key}: {error}"))?;
                let Some(facts) = self.subjects.get_mut(&subject) else { return Ok(()) };
                let Some(at) = facts.iter().position(|fact| fact.key() == fact_key) else { return Ok(()) };
                let removed = facts.remove(at);
                if facts.is_empty() {
                    self.subjects.remove(&subject);
                }
                self.lower(subject, &removed);
            }
            Change::Coming { .. } | Change::CaughtUp => {}
        }
        Ok(())
    }

    fn insert(&mut self, FiredRecord { subject, fact, .. }: FiredRecord) {
        if let (FiredSubject::Link(link), FiredFact::Alert(kind, alert)) = (subject, &fact) {
            match alert.ended_at {
                None => self.raised.insert((link, *kind)),
                Some(_) => self.raised.remove(&(link, *kind)),
            };
        }
        let facts = self.subjects.entry(subject).or_default();
        match facts.iter_mut().find(|earlier| earlier.is_replaced_by(&fact)) {
            Some(earlier) => *earlier = fact,
            None => facts.push(fact),
        }
    }

    fn lower(&mut self, subject: FiredSubject, fact: &FiredFact) {
        if let (FiredSubject::Link(link), FiredFact::Alert(kind, _)) = (subject, fact) {
            self.raised.remove(&(link, *kind));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fact: FiredFact) -> FiredRecord {
        let subject = FiredSubject::Link(LinkId::from_bits(1));
        FiredRecord { v: 1, subject, fact, event: None, at: Timestamp::from_millis(0) }
    }

    #[test]
    fn records_are_read_as_they_were_written_and_deleted() {
        let (link, at) = (LinkId::from_bits(1), Timestamp::from_millis);
        let alert = |ended_at| FiredFact::Alert(AlertKind::Viral, Alert { since: at(5), ended_at });
        let mut told = FiredFacts::default();
        let mut read = FiredFacts::default();
        for fact in [alert(None), FiredFact::Milestone(Milestone::clicks(100)), FiredFact::Expired(at(9))] {
            let record = record(fact);
            let (key, value) = (record.key(), serde_json::to_vec(&record).unwrap());
            read.apply_record(&Change::Put { key: key.as_bytes(), value: &value }).unwrap();
            told.apply(vec![FiredChange::Told(record)]);
        }
        assert_eq!(told, read);
        assert!(told.has_milestone(FiredSubject::Link(link), &Milestone::clicks(100)));
        assert!(!told.has_milestone(FiredSubject::Link(link), &Milestone::clicks(500)));
        assert_eq!((told.expired(link), told.raised().len()), (Some(at(9)), 1));
        told.apply(vec![FiredChange::Told(record(alert(Some(at(7)))))]);
        assert_eq!((told.raised().len(), told.alert(link, AlertKind::Viral).unwrap().since), (0, at(5)));
        told.apply(vec![FiredChange::Forgotten(FiredSubject::Link(link))]);
        for fact in [alert(None), FiredFact::Milestone(Milestone::clicks(100)), FiredFact::Expired(at(9))] {
            read.apply_record(&Change::Delete { key: record(fact).key().as_bytes() }).unwrap();
        }
        assert_eq!((&told, &read), (&FiredFacts::default(), &FiredFacts::default()));
        assert!(read.apply_record(&Change::Put { key: b"a", value: b"{}" }).is_err());
    }
}
