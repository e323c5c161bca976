//! The errors of ClickHouse. None of them is a row's fault: rows are checked before they
//! are sent, and their format says the types of their columns. So whatever ClickHouse
//! objects to is the state of the server or of a table, and passes or is put right.

use std::time::Duration;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// ClickHouse cannot be reached, or the connection broke. The query may
    /// have been executed.
    #[error("ClickHouse at {url} cannot be reached: {reason}. Is it running, and is `clickhouse.url` right?")]
    Unreachable {
        /// The address of ClickHouse.
        url: String,
        /// The error of the client.
        reason: String,
    },
    /// ClickHouse did not answer in time. The query may have been executed.
    #[error("ClickHouse at {url} did not answer within {} ms", limit.as_millis())]
    Silent {
        /// The address of ClickHouse.
        url: String,
        /// The time limit of the request.
        limit: Duration,
    },
    /// ClickHouse refused the query.
    #[error("ClickHouse refuses (code {code}): {reason}")]
    Refused {
        /// ClickHouse's error code (`ErrorCodes.cpp`); 0 if it named none.
        code: u32,
        /// ClickHouse's words.
        reason: String,
    },
    /// A materialized view refused a block. The block may be in its table nevertheless.
    #[error("the view {view} fails, correct it or drop it: ClickHouse refuses (code {code}): {reason}")]
    View {
        /// The view, with its database.
        view: String,
        /// ClickHouse's error code.
        code: u32,
        /// ClickHouse's words.
        reason: String,
    },
    /// A table does not have the columns that its rows need.
    #[error("{what}. Run `{run}`: rows wait until then")]
    Altered {
        /// The difference.
        what: String,
        /// The statement that puts it right.
        run: String,
    },
    /// Rows were not written for their table: a fault of this program.
    #[error("the rows of {table} cannot be sent: {reason}")]
    NotRows {
        /// The table.
        table: &'static str,
        /// The difference.
        reason: String,
    },
    /// The database was made by a newer program.
    #[error(
        "database {database} is at version {found}, this program knows up to {known}: run a program at least as new as the \
         one that migrated it"
    )]
    Newer {
        /// The database.
        database: String,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
}

/// The codes with which ClickHouse ends a query that reads too much, or for too long.
const BOUND_CODES: &[u32] = &[
    158, // TOO_MANY_ROWS
    159, // TIMEOUT_EXCEEDED
    241, // MEMORY_LIMIT_EXCEEDED
    396, // TOO_MANY_ROWS_OR_BYTES
];

impl StoreError {
    pub(crate) fn new(url: &str, error: clickhouse::error::Error) -> Self {
        match error {
            clickhouse::error::Error::BadResponse(text) => {
                let code = code_of(&text);
                // The version and the stack say nothing to a person here.
                let line = text.lines().next().unwrap_or_default();
                let reason: String = line.chars().take(1000).collect();
                match view_of(line) {
                    Some(view) => Self::View { view, code, reason },
                    None => Self::Refused { code, reason },
                }
            }
            clickhouse::error::Error::TimedOut => {
                Self::Unreachable { url: url.to_owned(), reason: "timed out".to_owned() }
            }
            error => Self::Unreachable { url: url.to_owned(), reason: chain(&error) },
        }
    }

    /// Tells whether the query was beyond its limits of time, memory or rows.
    #[must_use]
    pub fn is_beyond_bounds(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if BOUND_CODES.contains(code))
    }

    /// ClickHouse's code, where it refused.
    pub(crate) const fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } | Self::View { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The number in `Code: 469. DB::Exception: …`.
fn code_of(text: &str) -> u32 {
    let Some((_, rest)) = text.split_once("Code: ") else { return 0 };
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Returns the view in `…: while pushing to view db.name (uuid)`.
fn view_of(line: &str) -> Option<String> {
    let (_, rest) = line.rsplit_once("while pushing to view ")?;
    let end = rest.find([' ', ',', ':']).unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.').to_owned())
}

/// An error with what caused it: hyper's own words are in its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_code_and_the_view_that_caused_it() {
        let refused = |text: &str| StoreError::new("", clickhouse::error::Error::BadResponse(text.to_owned()));
        let constraint = refused("Code: 469. DB::Exception: Constraint `c` for table t is violated\nstack");
        assert_eq!(constraint.code(), Some(469));
        assert!(!constraint.to_string().contains("stack"));
        let view =
            refused("Code: 6. DB::Exception: Cannot parse 'x': while pushing to view db.sizes. (CANNOT_PARSE_TEXT)");
        assert!(matches!(&view, StoreError::View { view, code: 6, .. } if view == "db.sizes"), "{view:?}");
        assert!(view.to_string().starts_with("the view db.sizes fails"));
        assert_eq!(refused("502 Bad Gateway").code(), Some(0));
    }
}
