//! The errors of ClickHouse, divided into those that a row causes and those that pass
//! with time.

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

/// The cause of a failed insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A row: the same block will never be taken.
    Row,
    /// The present state: memory, too many parts, the network, a missing table or
    /// right. The same block may be taken later.
    Moment,
}

/// The codes with which ClickHouse refuses a block for its content. All other errors
/// are retried, also `CANNOT_READ_ALL_DATA`, which a connection that broke
/// half-way through a block causes.
const ROW_CODES: &[u32] = &[
    6,   // CANNOT_PARSE_TEXT
    25,  // CANNOT_PARSE_ESCAPE_SEQUENCE
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    407, // DECIMAL_OVERFLOW
    469, // VIOLATED_CONSTRAINT
    676, // CANNOT_PARSE_IPV4 and its kin
    691, // UNKNOWN_ELEMENT_OF_ENUM
];

impl StoreError {
    pub(crate) fn new(url: &str, error: clickhouse::error::Error) -> Self {
        match error {
            clickhouse::error::Error::BadResponse(text) => {
                let code = code_of(&text);
                // The version and the stack say nothing to a person here.
                let reason: String = text.lines().next().unwrap_or_default().chars().take(1000).collect();
                Self::Refused { code, reason }
            }
            clickhouse::error::Error::TimedOut => {
                Self::Unreachable { url: url.to_owned(), reason: "timed out".to_owned() }
            }
            error => Self::Unreachable { url: url.to_owned(), reason: chain(&error) },
        }
    }

    /// Returns the cause of the error.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused { code, .. } if ROW_CODES.contains(code) => Fault::Row,
            _ => Fault::Moment,
        }
    }

    /// ClickHouse's code, where it refused.
    pub(crate) const fn code(&self) -> Option<u32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
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
    fn a_code_tells_a_bad_row_from_a_bad_moment() {
        let refused = |text: &str| StoreError::new("", clickhouse::error::Error::BadResponse(text.to_owned()));
        let row = refused("Code: 469. DB::Exception: Constraint `c` for table t is violated\nstack");
        assert_eq!((row.code(), row.fault()), (Some(469), Fault::Row));
        assert!(!row.to_string().contains("stack"));
        for text in ["Code: 241. DB::Exception: memory", "Code: 252. too many parts", "502 Bad Gateway"] {
            assert_eq!(refused(text).fault(), Fault::Moment, "{text}");
        }
    }
}
