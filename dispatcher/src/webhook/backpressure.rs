//! Backpressure: whether a consumer must be paused or resumed, because Kafka or
//! all endpoints take records more slowly than the consumer reads. Decides only.

/// The state of a consumer's backpressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Backpressure {
    /// The consumer reads.
    #[default]
    Off,
    /// The consumer was paused after this many assignments. Each assignment resumes
    /// the partitions, so a later one needs another pause.
    Paused { assignments: u64 },
}

/// The change that a consumer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    Pause,
    Resume,
}

impl Backpressure {
    /// Returns the state that a consumer should be in.
    pub(super) const fn wanted(backlogged: bool, assignments: u64) -> Self {
        if backlogged { Self::Paused { assignments } } else { Self::Off }
    }

    /// Returns the change that leads to `wanted`, if one is needed.
    pub(super) fn switch_to(self, wanted: Self) -> Option<Switch> {
        match wanted {
            _ if self == wanted => None,
            Self::Paused { .. } => Some(Switch::Pause),
            Self::Off => Some(Switch::Resume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_pauses_once_and_again_after_each_assignment() {
        let first = Backpressure::wanted(true, 1);
        assert_eq!(Backpressure::Off.switch_to(first), Some(Switch::Pause));
        assert_eq!(first.switch_to(Backpressure::wanted(true, 1)), None);
        assert_eq!(first.switch_to(Backpressure::wanted(true, 2)), Some(Switch::Pause));
        assert_eq!(first.switch_to(Backpressure::wanted(false, 2)), Some(Switch::Resume));
        assert_eq!(Backpressure::Off.switch_to(Backpressure::wanted(false, 3)), None);
    }
}
