//! How the API is set up: `[control]` in the configuration.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use schemas::AppSchemes;
use serde::{Deserialize, Serialize};
use service::ConfigError;
use url::Url;

/// The API's configuration. The defaults are what production starts from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// What the short address of a link without a domain begins with.
    pub short_url_base: String,
    /// The key that may do everything; at least 16 characters.
    pub admin_key: String,
    /// Whether endpoints may be plain HTTP.
    pub allow_http: bool,
    /// Whether endpoints may be in private networks or on this machine.
    pub allow_private: bool,
    /// `links.app_schemes`: the API's and the redirector's, so that no link is taken
    /// that is not served.
    #[serde(skip)]
    pub app_schemes: AppSchemes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            short_url_base: "http://localhost:8080".to_owned(),
            admin_key: String::new(),
            allow_http: false,
            allow_private: false,
            app_schemes: AppSchemes::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("short_url_base", &self.short_url_base)
            .field("allow_http", &self.allow_http)
            .field("allow_private", &self.allow_private)
            .field("app_schemes", &self.app_schemes)
            .finish_non_exhaustive()
    }
}

/// The shortest key that nobody guesses.
const KEY_CHARS: usize = 16;

impl Config {
    /// Checks what a type cannot. The admin key may still be missing: other
    /// roles do not need it.
    ///
    /// # Errors
    /// When a value is not allowed; the error names it, but for the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let base = Url::parse(&self.short_url_base).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
                && !self.short_url_base.ends_with('/')
        });
        if base.is_none() {
            let allowed = "an http or https address without a final slash, such as https://go.example.com";
            return Err(ConfigError::value("control.short_url_base", &self.short_url_base, allowed));
        }
        if !self.admin_key.is_empty() && self.admin_key.len() < KEY_CHARS {
            let allowed = format!("at least {KEY_CHARS} characters, such as the output of `openssl rand -hex 32`");
            return Err(ConfigError::value("control.admin_key", "(not shown)", allowed));
        }
        Ok(())
    }

    /// Like [`Config::validate`], for a process that serves the API.
    pub(crate) fn validate_for_serving(&self) -> Result<(), ConfigError> {
        self.validate()?;
        if self.admin_key.is_empty() {
            let allowed = "required: set it to a long random text, such as the output of `openssl rand -hex 32`";
            return Err(ConfigError::value("control.admin_key", "(none)", allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_but_do_not_serve() {
        Config::default().validate().unwrap();
        let error = Config::default().validate_for_serving().unwrap_err().to_string();
        assert!(error.contains("control.admin_key"), "{error}");
    }

    #[test]
    fn a_key_is_never_shown() {
        let config = Config { admin_key: "short-secret".to_owned(), ..Config::default() };
        assert!(!config.validate().unwrap_err().to_string().contains("short-secret"));
        assert!(!format!("{config:?}").contains("short-secret"));
    }

    #[test]
    fn a_base_is_an_address_without_a_final_slash() {
        for wrong in ["", "go.example.com", "https://go.example.com/", "ftp://a", "https://a/?b"] {
            let config = Config { short_url_base: wrong.to_owned(), ..Config::default() };
            assert!(config.validate().is_err(), "{wrong}");
        }
    }
}
