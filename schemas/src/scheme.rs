//! The schemes that a redirect may lead to: `http`, `https`, and the schemes of
//! apps that the installation allows by name. One type for the API, which
//! refuses others, and the redirector, which never sends them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Schemes that run or read something on the visitor's machine, that open a browser's own
/// pages, or that a browser refuses to be redirected to. No installation can allow them.
const NEVER: [&str; 48] = [
    "about",
    "blob",
    "brave",
    "chrome",
    "chrome-extension",
    "chrome-search",
    "chrome-untrusted",
    "cid",
    "data",
    "devtools",
    "edge",
    "extension",
    "feed",
    "file",
    "filesystem",
    "hcp",
    "its",
    "jar",
    "javascript",
    "ldap",
    "ldaps",
    "livescript",
    "local",
    "mhtml",
    "mid",
    "mk",
    "mocha",
    "moz-extension",
    "moz-icon",
    "nfs",
    "opera",
    "res",
    "resource",
    "safari-extension",
    "safari-web-extension",
    "search",
    "search-ms",
    "shell",
    "smb",
    "telnet",
    "tn3270",
    "vbscript",
    "view-source",
    "vivaldi",
    "wyciwyg",
    "ws",
    "wss",
    "x-apple.systempreferences",
];
/// The beginning of schemes that open parts and settings of Windows.
const WINDOWS: &str = "ms-";
/// The scheme that begins so and opens an app's page in a store.
const STORE: &str = "ms-windows-store";

fn is_never(scheme: &str) -> bool {
    NEVER.contains(&scheme) || (scheme.starts_with(WINDOWS) && scheme != STORE)
}

/// The app schemes that an installation allows in destinations, such as `myapp`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct AppSchemes(Arc<[String]>);

/// A text that cannot be allowed as an app's scheme.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemeError {
    /// The text is no scheme.
    #[error("`{0}` is no scheme: a small letter, then small letters, digits, `+`, `-` and `.`, without the colon")]
    Form(String),
    /// The scheme must never be allowed, or always is.
    #[error(
        "`{0}` is no app's scheme: http and https are always allowed, and what runs or reads something on a visitor's machine never is"
    )]
    Never(String),
}

impl AppSchemes {
    /// Whether a redirect may lead to addresses of this scheme (lower case).
    #[must_use]
    pub fn allows(&self, scheme: &str) -> bool {
        matches!(scheme, "http" | "https") || self.names().any(|allowed| allowed == scheme)
    }

    /// Returns the schemes that are allowed besides `http` and `https`, without the colon.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl TryFrom<Vec<String>> for AppSchemes {
    type Error = SchemeError;

    fn try_from(schemes: Vec<String>) -> Result<Self, SchemeError> {
        for scheme in &schemes {
            // RFC 3986, section 3.1, in lower case.
            let rest = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.');
            if !scheme.starts_with(|first: char| first.is_ascii_lowercase()) || !scheme.bytes().all(rest) {
                return Err(SchemeError::Form(scheme.chars().take(64).collect()));
            }
            if is_never(scheme) || matches!(scheme.as_str(), "http" | "https") {
                return Err(SchemeError::Never(scheme.clone()));
            }
        }
        Ok(Self(schemes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_what_was_named() {
        let schemes = AppSchemes::try_from(vec!["myapp".to_owned(), "com.acme+x".to_owned()]).unwrap();
        for (scheme, allowed) in
            [("http", true), ("https", true), ("myapp", true), ("com.acme+x", true), ("ftp", false)]
        {
            assert_eq!(schemes.allows(scheme), allowed, "{scheme}");
        }
        for wrong in ["MyApp", "", "1a", "a:", "a b"] {
            assert!(matches!(AppSchemes::try_from(vec![wrong.to_owned()]), Err(SchemeError::Form(_))), "{wrong}");
        }
        for wrong in ["javascript", "data", "https", "ws", "search-ms", "ms-msdt", "chrome-extension", "mhtml", "feed"]
        {
            assert!(matches!(AppSchemes::try_from(vec![wrong.to_owned()]), Err(SchemeError::Never(_))), "{wrong}");
        }
    }
}
