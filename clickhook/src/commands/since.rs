//! A moment in the past on the command line: a time before now, or a date and time.

use std::{str::FromStr, time::Duration};

use schemas::Timestamp;

/// A moment in the past, from which on something is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// This time before now.
    Ago(Duration),
    /// This moment.
    At(Timestamp),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = text.chars().next_back().and_then(|unit| match unit {
            's' => Some(1),
            'm' => Some(60),
            'h' => Some(3_600),
            'd' => Some(86_400),
            _ => None,
        });
        let ago = unit.and_then(|unit: u64| text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(unit));
        match ago {
            Some(seconds) => Ok(Self::Ago(Duration::from_secs(seconds))),
            None => text.parse().map(Self::At).map_err(|_| {
                "must be a time before now, as in 90m, 24h or 7d, or a moment such as 2026-02-05T14:00:00Z".to_owned()
            }),
        }
    }
}

impl Since {
    /// Returns the moment.
    pub(crate) fn moment(self) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(ago).max(0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_time_before_now_or_a_moment() {
        assert_eq!("90m".parse(), Ok(Since::Ago(Duration::from_secs(5400))));
        assert_eq!("7d".parse(), Ok(Since::Ago(Duration::from_secs(7 * 86_400))));
        let moment = "2026-02-05T14:00:00.000Z";
        assert_eq!(moment.parse(), Ok(Since::At(moment.parse().unwrap())));
        for wrong in ["", "h", "-1h", "24", "yesterday", "99999999999999999999d", "é"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
