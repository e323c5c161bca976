//! Ownership: workspaces, the domains that their links answer on, and the keys with
//! which their people and programs call the API. Records on `workspaces`, `domains`
//! and `keys`.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::{DomainId, KeyId, Timestamp, WorkspaceId, unseen::is_unseen};

/// A workspace: the installation's unit of ownership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Workspace {
    /// Its id, which people choose: a short name.
    pub id: WorkspaceId,
    /// The name for people.
    pub name: String,
    /// The limits that an operator has set for the workspace.
    #[serde(default, skip_serializing_if = "WorkspaceLimits::is_empty")]
    pub limits: WorkspaceLimits,
    /// The time at which the workspace was deleted. Its record stays, so that no later
    /// workspace has its id, under which rows are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub deleted_at: Option<Timestamp>,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}

/// The limits of a workspace that differ from those of the installation. An absent limit
/// is that of the installation (`control.quota_…`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkspaceLimits {
    /// The most links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<u64>,
    /// The most bytes of all links together, each as its JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_bytes: Option<u64>,
    /// The most endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<u64>,
    /// The most domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domains: Option<u64>,
    /// The most keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
    /// The most campaigns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaigns: Option<u64>,
    /// The average requests a second of all keys together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<u64>,
}

impl WorkspaceLimits {
    /// Returns whether all limits are those of the installation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The meaning of case in slugs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlugCase {
    /// `Sale` and `sale` are two slugs.
    #[default]
    Sensitive,
    /// `Sale` and `sale` are one slug: slugs are kept and looked up in lower case.
    Insensitive,
}

impl SlugCase {
    /// The one spelling under which a slug is kept and looked up: without characters that
    /// nobody sees, in Unicode NFC (UAX 15), and in lower case where case does not tell
    /// slugs apart.
    #[must_use]
    pub fn canonical(self, slug: Cow<'_, str>) -> Cow<'_, str> {
        if slug.bytes().all(|byte| byte.is_ascii_graphic()) {
            let is_kept = self == Self::Sensitive || !slug.bytes().any(|byte| byte.is_ascii_uppercase());
            return if is_kept { slug } else { Cow::Owned(slug.to_ascii_lowercase()) };
        }
        let slug =
            if slug.contains(is_unseen) { Cow::Owned(slug.chars().filter(|c| !is_unseen(*c)).collect()) } else { slug };
        let slug = if is_nfc(&slug) { slug } else { Cow::Owned(slug.nfc().collect()) };
        match self {
            Self::Sensitive => slug,
            // The two small sigmas are one letter. Lower-casing can give characters that
            // NFC composes again.
            Self::Insensitive => Cow::Owned(slug.to_lowercase().replace('\u{3c2}', "\u{3c3}").nfc().collect()),
        }
    }
}

/// The meaning of a slash behind a slug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrailingSlash {
    /// No link answers at `/sale/`.
    #[default]
    Refused,
    /// `/sale/` is `/sale`.
    Ignored,
}

/// A domain that links answer on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Domain {
    /// Its id.
    pub id: DomainId,
    /// The workspace that it belongs to.
    pub workspace: WorkspaceId,
    /// The host name: ASCII, lower case, without port.
    pub name: String,
    /// Whether links of the workspace that name no domain answer on it.
    #[serde(default)]
    pub is_default: bool,
    /// Whether case tells slugs apart. Fixed when the domain is created.
    #[serde(default)]
    pub slug_case: SlugCase,
    /// Whether a slash behind a slug is ignored.
    #[serde(default)]
    pub trailing_slash: TrailingSlash,
    /// The address that `/` leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_url: Option<String>,
    /// The address that paths without a link lead to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_url: Option<String>,
    /// The address that expired links lead to which have no `expired_url` of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_url: Option<String>,
    /// The page, in HTML, that is shown with 404 at paths without a link. In place of
    /// `fallback_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_html: Option<String>,
    /// The page, in HTML, that is shown with 410 at expired links. In place of
    /// `expired_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_html: Option<String>,
    /// The text that a DNS TXT record at `_clickhook.<name>` must have to prove the domain.
    pub verification: String,
    /// The time at which the domain was proven, or vouched for. Before, it serves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// The kind of the domain's proof, while it is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<DomainProof>,
    /// The time since which the TXT record of a verified domain is gone. The domain is
    /// no longer verified after some days of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof_missing_since: Option<Timestamp>,
    /// The time at which a verified domain lost its proof, and serves nothing since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapsed_at: Option<Timestamp>,
    /// The time at which a domain was deleted that was verified before. Only redirectors
    /// read such a record: the host of a former domain must not become a host without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub deleted_at: Option<Timestamp>,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}

/// A kind of proof of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DomainProof {
    /// The domain's TXT record says its text. It is looked at again every day.
    Dns,
    /// An operator vouches for the domain.
    Vouched,
}

/// A right of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Links and campaigns.
    Links,
    /// Endpoints and their deliveries.
    Endpoints,
    /// Reporting conversions.
    Conversions,
    /// Reading statistics.
    Stats,
    /// Everything in the workspace, its keys and domains included.
    Admin,
    /// Everything in the installation, and making workspaces.
    Operator,
    /// Being the token of a postback address, and nothing else.
    Postback,
}

impl Scope {
    /// Returns the name of the scope.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Endpoints => "endpoints",
            Self::Conversions => "conversions",
            Self::Stats => "stats",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Postback => "postback",
        }
    }
}

/// A key to the API. Callers send its secret, of which only the hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// The workspace that it opens.
    pub workspace: WorkspaceId,
    /// The name of the key, for people.
    pub name: String,
    /// The rights of the key.
    pub scopes: Vec<Scope>,
    /// SHA-256 of the secret, in hexadecimal. The secret has 256 random bits, so
    /// that a slow hash would protect nothing.
    pub hash: String,
    /// The beginning of the secret, by which people tell keys apart.
    pub hint: String,
    /// The origins whose pages may use the key in a browser. A key without any is for
    /// programs alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// After a rotation: the secret before, which still opens until its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousSecret>,
    /// The time from which the secret opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time of the last change.
    pub updated_at: Timestamp,
    /// The number of the version, from 1.
    pub revision: u64,
}

/// A key's secret before it was rotated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    /// SHA-256, in hexadecimal.
    pub hash: String,
    /// The time from which the secret opens nothing.
    pub expires_at: Timestamp,
}

impl Key {
    /// Whether the key opens anything at `at` for a caller whose secret hashes to `hash`.
    #[must_use]
    pub fn opens(&self, hash: &str, at: Timestamp) -> bool {
        let open = self.expires_at.is_none_or(|end| at < end);
        let previous = self.previous.as_ref().is_some_and(|previous| previous.hash == hash && at < previous.expires_at);
        open && (self.hash == hash || previous)
    }

    /// Whether it has the right `scope`.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        let has = |scope| self.scopes.contains(&scope);
        match scope {
            Scope::Postback | Scope::Operator => has(scope),
            Scope::Admin => has(Scope::Admin) || has(Scope::Operator),
            _ => has(scope) || has(Scope::Admin) || has(Scope::Operator),
        }
    }
}

/// The time of a key's last use: a record on `key_uses`, written by the process that
/// was called, at most once a minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// Version of the format: 1.
    pub v: u8,
    /// The moment.
    pub last_used_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(scopes: &[Scope]) -> Key {
        let at = Timestamp::from_millis(1_000);
        Key {
            id: KeyId::from_bits(1),
            workspace: WorkspaceId::default(),
            name: "crm".to_owned(),
            scopes: scopes.to_vec(),
            hash: "new".to_owned(),
            hint: "chk_ab".to_owned(),
            origins: Vec::new(),
            previous: Some(PreviousSecret { hash: "old".to_owned(), expires_at: Timestamp::from_millis(2_000) }),
            expires_at: Some(Timestamp::from_millis(3_000)),
            created_at: at,
            updated_at: at,
            revision: 1,
        }
    }

    #[test]
    fn a_slug_has_one_spelling() {
        for (slug, sensitive, insensitive) in [
            ("sale", "sale", "sale"),
            ("Sale", "Sale", "sale"),
            ("caf\u{e9}", "caf\u{e9}", "caf\u{e9}"),
            ("cafe\u{301}", "caf\u{e9}", "caf\u{e9}"),
            ("CAFE\u{301}", "CAF\u{c9}", "caf\u{e9}"),
            ("\u{130}", "\u{130}", "i\u{307}"),
            ("\u{1c5}", "\u{1c5}", "\u{1c6}"),
            ("\u{3a3}\u{391}\u{3a3}", "\u{3a3}\u{391}\u{3a3}", "\u{3c3}\u{3b1}\u{3c3}"),
            ("\u{3c3}\u{3b1}\u{3c2}", "\u{3c3}\u{3b1}\u{3c2}", "\u{3c3}\u{3b1}\u{3c3}"),
            ("\u{2764}\u{fe0f}", "\u{2764}", "\u{2764}"),
            ("1\u{fe0f}\u{20e3}", "1\u{20e3}", "1\u{20e3}"),
            ("\u{1f468}\u{200d}\u{1f469}", "\u{1f468}\u{1f469}", "\u{1f468}\u{1f469}"),
            ("e\u{200d}\u{301}", "\u{e9}", "\u{e9}"),
            ("\u{feff} sa\r\n le\u{200b}\u{a0}", "sale", "sale"),
        ] {
            assert_eq!(SlugCase::Sensitive.canonical(slug.into()), sensitive);
            let canonical = SlugCase::Insensitive.canonical(slug.into());
            assert_eq!(canonical, insensitive);
            assert_eq!(SlugCase::Insensitive.canonical(canonical.clone()), canonical);
            assert_eq!(SlugCase::Sensitive.canonical(sensitive.into()), sensitive);
        }
    }

    #[test]
    fn a_secret_opens_until_it_ends() {
        let key = key(&[Scope::Links]);
        let at = Timestamp::from_millis;
        for (hash, at, opens) in [
            ("new", at(1_999), true),
            ("old", at(1_999), true),
            ("old", at(2_000), false),
            ("new", at(2_999), true),
            ("new", at(3_000), false),
            ("other", at(1_000), false),
        ] {
            assert_eq!(key.opens(hash, at), opens, "{hash} {at:?}");
        }
    }

    #[test]
    fn a_scope_is_written_as_it_is_read() {
        for scope in [Scope::Links, Scope::Endpoints, Scope::Conversions, Scope::Stats, Scope::Admin, Scope::Operator] {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        assert_eq!(serde_json::to_value(Scope::Postback).unwrap(), Scope::Postback.as_str());
    }

    #[test]
    fn a_scope_gives_what_it_says() {
        assert!(key(&[Scope::Links]).may(Scope::Links) && !key(&[Scope::Links]).may(Scope::Stats));
        assert!(key(&[Scope::Admin]).may(Scope::Stats) && !key(&[Scope::Admin]).may(Scope::Operator));
        assert!(key(&[Scope::Operator]).may(Scope::Admin));
        assert!(!key(&[Scope::Postback]).may(Scope::Conversions) && !key(&[Scope::Admin]).may(Scope::Postback));
    }
}
