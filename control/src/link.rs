//! Links as callers write them: what a new one may say, what a patch may change,
//! and the rules that both are held to.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use schemas::{
    Link, LinkId, Timestamp, WorkspaceId,
    event::{Change, Changes},
    link::ReferrerPolicy,
    usermap::UserMap,
};
use serde::Deserialize;
use service::problem::{FieldError, Problem};
use url::Host;

use crate::{
    check::{Checker, Patch, merged},
    rules::LinkRules,
    slug,
};

const DESTINATION_BYTES: usize = 8192;
const TEXT_CHARS: usize = 128;
const EXTERNAL_ID_CHARS: usize = 255;
const TAGS: usize = 20;
const TAG_CHARS: usize = 64;
const METADATA_KEYS: usize = 50;
const METADATA_KEY_CHARS: usize = 64;
const METADATA_VALUE_CHARS: usize = 1024;
const STATUS_CODES: [u16; 4] = [301, 302, 307, 308];

/// A link that someone wants.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLink {
    /// Where it leads.
    #[schemars(length(min = 1, max = DESTINATION_BYTES), extend("format" = "uri"))]
    destination: String,
    /// The host that it answers on; without one, the workspace's default domain.
    #[schemars(length(min = 1, max = 253))]
    domain: Option<String>,
    /// The path of its short address; without one, one is made up.
    #[schemars(length(min = 1, max = slug::MAX_CHARS), regex(pattern = r"^[^\s/?#%\\]+$"))]
    slug: Option<String>,
    /// The campaign that it belongs to.
    #[schemars(length(min = 1, max = TEXT_CHARS))]
    campaign: Option<String>,
    /// The audience that it was made for.
    #[schemars(length(min = 1, max = TEXT_CHARS))]
    segment: Option<String>,
    /// Labels.
    #[serde(default)]
    #[schemars(length(max = TAGS), inner(length(min = 1, max = TAG_CHARS)), extend("uniqueItems" = true))]
    tags: Vec<String>,
    /// What the redirect answers; 302 unless told otherwise.
    #[schemars(extend("enum" = [301, 302, 307, 308, null]))]
    status_code: Option<u16>,
    /// Before this moment the link is unknown to visitors.
    starts_at: Option<Timestamp>,
    /// From this moment on it is expired.
    expires_at: Option<Timestamp>,
    /// Where visitors of the expired link are sent.
    #[schemars(length(min = 1, max = DESTINATION_BYTES), extend("format" = "uri"))]
    expired_url: Option<String>,
    /// After this many clicks and scans, and those of the next 2 s or so, it is expired.
    #[schemars(range(min = 1))]
    max_clicks: Option<u64>,
    /// Whether visitors are turned away as from an unknown link.
    #[serde(default)]
    disabled: bool,
    /// Whether the click's id is added to the destination's query.
    #[serde(default)]
    append_click_id: bool,
    /// Whether the visit's query is merged into the destination's; it is unless told otherwise.
    passthrough: Option<bool>,
    /// What the redirect tells the browser to tell the destination.
    referrer_policy: Option<ReferrerPolicy>,
    /// The customer's own facts.
    #[serde(default)]
    #[schemars(extend("maxProperties" = METADATA_KEYS))]
    metadata: UserMap,
    /// The customer's own id, unique in the workspace.
    #[schemars(length(min = 1, max = EXTERNAL_ID_CHARS))]
    external_id: Option<String>,
}

/// What someone wants changed of a link: a merge patch (RFC 7396).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LinkPatch {
    /// Where it leads.
    #[schemars(length(min = 1, max = DESTINATION_BYTES), extend("format" = "uri"))]
    destination: Patch<String>,
    /// The host that it answers on; without one, the workspace's default domain.
    #[schemars(length(min = 1, max = 253))]
    domain: Patch<String>,
    /// The path of its short address; without one, one is made up.
    #[schemars(length(min = 1, max = slug::MAX_CHARS), regex(pattern = r"^[^\s/?#%\\]+$"))]
    slug: Patch<String>,
    /// The campaign that it belongs to.
    #[schemars(length(min = 1, max = TEXT_CHARS))]
    campaign: Patch<String>,
    /// The audience that it was made for.
    #[schemars(length(min = 1, max = TEXT_CHARS))]
    segment: Patch<String>,
    /// Labels.
    #[schemars(length(max = TAGS), inner(length(min = 1, max = TAG_CHARS)), extend("uniqueItems" = true))]
    tags: Patch<Vec<String>>,
    /// What the redirect answers; 302 unless told otherwise.
    #[schemars(extend("enum" = [301, 302, 307, 308, null]))]
    status_code: Patch<u16>,
    /// Before this moment the link is unknown to visitors.
    starts_at: Patch<Timestamp>,
    /// From this moment on it is expired.
    expires_at: Patch<Timestamp>,
    /// Where visitors of the expired link are sent.
    #[schemars(length(min = 1, max = DESTINATION_BYTES), extend("format" = "uri"))]
    expired_url: Patch<String>,
    /// After this many clicks and scans, and those of the next 2 s or so, it is expired.
    #[schemars(range(min = 1))]
    max_clicks: Patch<u64>,
    /// Whether visitors are turned away as from an unknown link.
    disabled: Patch<bool>,
    /// Whether the click's id is added to the destination's query.
    append_click_id: Patch<bool>,
    /// Whether the visit's query is merged into the destination's; it is unless told otherwise.
    passthrough: Patch<bool>,
    /// What the redirect tells the browser to tell the destination.
    referrer_policy: Patch<ReferrerPolicy>,
    /// The customer's own facts.
    #[schemars(extend("maxProperties" = METADATA_KEYS))]
    metadata: Patch<BTreeMap<String, Option<String>>>,
    /// The customer's own id, unique in the workspace.
    #[schemars(length(min = 1, max = EXTERNAL_ID_CHARS))]
    external_id: Patch<String>,
}

impl NewLink {
    /// The link, checked. One without a slug has an empty one, to be made up
    /// where it is known which are free.
    pub(crate) fn check(self, workspace: &WorkspaceId, rules: &LinkRules, at: Timestamp) -> Result<Link, Problem> {
        let link = Link {
            id: LinkId::mint(),
            workspace: workspace.clone(),
            domain: self.domain,
            slug: self.slug.clone().unwrap_or_default(),
            destination: self.destination,
            short_url: String::new(),
            campaign: self.campaign,
            segment: self.segment,
            tags: self.tags,
            status_code: self.status_code.unwrap_or(302),
            starts_at: self.starts_at,
            expires_at: self.expires_at,
            expired_url: self.expired_url,
            max_clicks: self.max_clicks,
            exhausted_at: None,
            disabled: self.disabled,
            append_click_id: self.append_click_id,
            passthrough: self.passthrough.unwrap_or(true),
            referrer_policy: self.referrer_policy,
            metadata: self.metadata,
            external_id: self.external_id,
            created_at: at,
            updated_at: at,
            revision: 1,
        };
        let mut checker = Checker::default();
        if self.slug.is_some() {
            check_slug(&link.slug, &mut checker);
        }
        check(&link, rules, &mut checker);
        checker.finish(link)
    }
}

impl LinkPatch {
    /// Whether it gives more than a link can have, so that nobody need look at what.
    pub(crate) fn too_much(&self) -> Option<FieldError> {
        let tags = matches!(&self.tags, Patch::Set(tags) if tags.len() > TAGS);
        // As many again may take away what a link has.
        let metadata = matches!(&self.metadata, Patch::Set(patch) if patch.len() > 2 * METADATA_KEYS);
        match (tags, metadata) {
            (true, _) => Some(FieldError::new("tags", format!("has more than {TAGS} entries"))),
            (_, true) => Some(FieldError::new("metadata", format!("names more than {} keys", 2 * METADATA_KEYS))),
            _ => None,
        }
    }

    /// The slug that it gives.
    pub(crate) fn slug(&self) -> Option<&str> {
        self.slug.value().map(String::as_str)
    }

    /// The domain that it names.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.domain.value().map(String::as_str)
    }

    /// The customer's own id.
    pub(crate) fn external_id(&self) -> Option<&str> {
        self.external_id.value().map(String::as_str)
    }

    /// A new link that has what is given, checked.
    pub(crate) fn into_new(self, workspace: &WorkspaceId, rules: &LinkRules, at: Timestamp) -> Result<Link, Problem> {
        let Some(destination) = self.destination.into_value() else {
            let reason = "is missing: there is no such link yet, and a new one must lead somewhere";
            return Err(Problem::invalid(vec![FieldError::new("destination", reason)]));
        };
        let new = NewLink {
            destination,
            domain: self.domain.into_value(),
            slug: self.slug.into_value(),
            campaign: self.campaign.into_value(),
            segment: self.segment.into_value(),
            tags: self.tags.into_value().unwrap_or_default(),
            status_code: self.status_code.into_value(),
            starts_at: self.starts_at.into_value(),
            expires_at: self.expires_at.into_value(),
            expired_url: self.expired_url.into_value(),
            max_clicks: self.max_clicks.into_value(),
            disabled: self.disabled.into_value().unwrap_or_default(),
            append_click_id: self.append_click_id.into_value().unwrap_or_default(),
            passthrough: self.passthrough.into_value(),
            referrer_policy: self.referrer_policy.into_value(),
            metadata: merged(&UserMap::default(), self.metadata.into_value().unwrap_or_default()),
            external_id: self.external_id.into_value(),
        };
        new.check(workspace, rules, at)
    }

    /// `link` with the patch applied, checked; its revision is the next one.
    pub(crate) fn apply(self, link: &Link, rules: &LinkRules, at: Timestamp) -> Result<Link, Problem> {
        let mut checker = Checker::default();
        if let Patch::Set(domain) = &self.domain
            && Some(domain) != link.domain.as_ref()
        {
            checker.wrong("domain", "cannot be changed: the address that people share would be another");
        }
        let mut new = link.clone();
        self.destination.apply_required(&mut new.destination, "destination", &mut checker);
        self.slug.apply_required(&mut new.slug, "slug", &mut checker);
        self.campaign.apply(&mut new.campaign);
        self.segment.apply(&mut new.segment);
        self.tags.apply_or(&mut new.tags, Vec::new());
        self.status_code.apply_required(&mut new.status_code, "status_code", &mut checker);
        self.starts_at.apply(&mut new.starts_at);
        self.expires_at.apply(&mut new.expires_at);
        self.expired_url.apply(&mut new.expired_url);
        self.max_clicks.apply(&mut new.max_clicks);
        self.disabled.apply_or(&mut new.disabled, false);
        self.append_click_id.apply_or(&mut new.append_click_id, false);
        self.passthrough.apply_or(&mut new.passthrough, true);
        self.referrer_policy.apply(&mut new.referrer_policy);
        self.external_id.apply(&mut new.external_id);
        if new.max_clicks != link.max_clicks {
            new.exhausted_at = None;
        }
        match self.metadata {
            Patch::Keep => {}
            Patch::Remove => new.metadata = UserMap::default(),
            Patch::Set(patch) => new.metadata = merged(&link.metadata, patch),
        }
        check_slug(&new.slug, &mut checker);
        check(&new, rules, &mut checker);
        if new != *link {
            new.updated_at = at;
            new.revision += 1;
        }
        checker.finish(new)
    }
}

fn check_slug(slug: &str, checker: &mut Checker) {
    if let Some(fault) = slug::fault(slug) {
        checker.wrong("slug", fault);
    }
}

fn check(link: &Link, rules: &LinkRules, checker: &mut Checker) {
    checker.destination("destination", &link.destination, DESTINATION_BYTES, &rules.schemes);
    if let Some(url) = &link.expired_url {
        checker.destination("expired_url", url, DESTINATION_BYTES, &rules.schemes);
    }
    if let (Some(start), Some(end)) = (link.starts_at, link.expires_at)
        && start >= end
    {
        checker.wrong("expires_at", "must be after starts_at");
    }
    if link.max_clicks == Some(0) {
        checker.wrong("max_clicks", "must be at least 1; leave it out for no limit");
    }
    if let Some(domain) = &link.domain {
        check_domain("domain", domain, checker);
    }
    for (field, text, max) in [
        ("campaign", &link.campaign, TEXT_CHARS),
        ("segment", &link.segment, TEXT_CHARS),
        ("external_id", &link.external_id, EXTERNAL_ID_CHARS),
    ] {
        if let Some(text) = text {
            checker.text(field, text, max);
        }
    }
    if link.tags.len() > TAGS {
        checker.wrong("tags", format!("has {}, at most {TAGS} are allowed", link.tags.len()));
    }
    let mut seen = HashSet::new();
    for (index, tag) in link.tags.iter().enumerate() {
        checker.text(&format!("tags[{index}]"), tag, TAG_CHARS);
        if !seen.insert(tag) {
            checker.wrong(format!("tags[{index}]"), format!("`{tag}` stands there twice"));
        }
    }
    if !STATUS_CODES.contains(&link.status_code) {
        checker.wrong("status_code", format!("is {}, must be 301, 302, 307 or 308", link.status_code));
    }
    if link.metadata.len() > METADATA_KEYS {
        checker.wrong("metadata", format!("has {} keys, at most {METADATA_KEYS} are allowed", link.metadata.len()));
    }
    for (key, value) in link.metadata.iter() {
        checker.text("metadata", key, METADATA_KEY_CHARS);
        if value.chars().count() > METADATA_VALUE_CHARS {
            checker.wrong(format!("metadata.{key}"), format!("is longer than {METADATA_VALUE_CHARS} characters"));
        }
    }
}

/// The host name of a domain.
pub(crate) fn check_domain(field: &str, domain: &str, checker: &mut Checker) {
    // Names as DNS has them; an international one is written in its ASCII form.
    let labels_ok = domain
        .split('.')
        .all(|label| !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-'));
    match Host::parse(domain) {
        Ok(Host::Domain(name)) if name == domain && labels_ok && domain.len() <= 253 => {}
        Ok(Host::Domain(name)) if name != domain => {
            checker.wrong(field, format!("must be a host name in lower case and ASCII: write it as `{name}`"));
        }
        _ => checker.wrong(field, "must be a host name without scheme, port or path, such as go.example.com"),
    }
}

/// The address that people share.
pub(crate) fn short_url(link: &Link, base: &str) -> String {
    let slug = slug::in_address(&link.slug);
    match &link.domain {
        Some(domain) => format!("https://{domain}/{slug}"),
        None => format!("{base}/{slug}"),
    }
}

/// What differs between two versions of a link.
pub(crate) fn changes(old: &Link, new: &Link) -> Changes {
    fn optional<T: Clone + PartialEq>(old: Option<&T>, new: Option<&T>) -> Option<Change<T>> {
        (old != new).then(|| Change { from: old.cloned(), to: new.cloned() })
    }
    fn value<T: Clone + PartialEq>(old: &T, new: &T) -> Option<Change<T>> {
        (old != new).then(|| Change { from: Some(old.clone()), to: Some(new.clone()) })
    }
    Changes {
        destination: value(&old.destination, &new.destination),
        slug: value(&old.slug, &new.slug),
        campaign: optional(old.campaign.as_ref(), new.campaign.as_ref()),
        segment: optional(old.segment.as_ref(), new.segment.as_ref()),
        tags: value(&old.tags, &new.tags),
        domain: optional(old.domain.as_ref(), new.domain.as_ref()),
        status_code: value(&old.status_code, &new.status_code),
        starts_at: optional(old.starts_at.as_ref(), new.starts_at.as_ref()),
        expires_at: optional(old.expires_at.as_ref(), new.expires_at.as_ref()),
        expired_url: optional(old.expired_url.as_ref(), new.expired_url.as_ref()),
        max_clicks: optional(old.max_clicks.as_ref(), new.max_clicks.as_ref()),
        exhausted_at: optional(old.exhausted_at.as_ref(), new.exhausted_at.as_ref()),
        disabled: value(&old.disabled, &new.disabled),
        append_click_id: value(&old.append_click_id, &new.append_click_id),
        passthrough: value(&old.passthrough, &new.passthrough),
        referrer_policy: optional(old.referrer_policy.as_ref(), new.referrer_policy.as_ref()),
        external_id: optional(old.external_id.as_ref(), new.external_id.as_ref()),
        metadata: value(&old.metadata, &new.metadata),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(body: Value) -> Result<Link, Problem> {
        let link: NewLink = serde_json::from_value(body).unwrap();
        link.check(&WorkspaceId::default(), &LinkRules::default(), Timestamp::from_millis(0))
    }

    /// The fields that are refused when `field` has `value`.
    fn refused(field: &str, value: Value) -> Vec<String> {
        let mut body = json!({"destination": "https://a.example/"});
        body[field] = value;
        check(body).err().map_or_else(Vec::new, |problem| problem.errors.into_iter().map(|e| e.field).collect())
    }

    #[test]
    fn what_is_allowed_passes() {
        for (field, value) in [
            ("destination", json!(format!("https://a.example/{}", "a".repeat(8000)))),
            ("slug", json!("Winter-Sale_2026.v2~")),
            ("slug", json!("\u{fc}ber")),
            ("domain", json!("go.acme.co")),
            ("domain", json!("xn--bcher-kva.example")),
            ("tags", json!(vec!["a"; 1])),
            ("status_code", json!(308)),
            ("metadata", json!({"0": "", "color": "red\n"})),
            ("external_id", json!("order/1")),
        ] {
            assert_eq!(refused(field, value.clone()), Vec::<String>::new(), "{field} {value}");
        }
    }

    #[test]
    fn what_is_not_is_named() {
        let tags: Vec<String> = (0..21).map(|n| n.to_string()).collect();
        let keys: BTreeMap<String, String> = (0..51).map(|n| (n.to_string(), String::new())).collect();
        for (field, value, named) in [
            ("destination", json!(format!("https://a.example/{}", "a".repeat(9000))), "destination"),
            ("destination", json!("mailto:a@b.example"), "destination"),
            ("slug", json!(""), "slug"),
            ("slug", json!("a/b"), "slug"),
            ("slug", json!("a b"), "slug"),
            ("slug", json!("\u{202e}"), "slug"),
            ("slug", json!("a".repeat(65)), "slug"),
            ("slug", json!("Robots.txt"), "slug"),
            ("slug", json!("q"), "slug"),
            ("slug", json!(".."), "slug"),
            ("domain", json!("Go.acme.co"), "domain"),
            ("domain", json!("https://go.acme.co"), "domain"),
            ("domain", json!("go.acme.co:8080"), "domain"),
            ("domain", json!("b\u{fc}cher.example"), "domain"),
            ("domain", json!("10.0.0.1"), "domain"),
            ("domain", json!("-a.example"), "domain"),
            ("domain", json!(""), "domain"),
            ("campaign", json!(""), "campaign"),
            ("campaign", json!("a\u{0}b"), "campaign"),
            ("tags", json!(tags), "tags"),
            ("tags", json!(["a", "b", "a"]), "tags[2]"),
            ("tags", json!([""]), "tags[0]"),
            ("status_code", json!(303), "status_code"),
            ("metadata", json!(keys), "metadata"),
            ("metadata", json!({"a": "b".repeat(1025)}), "metadata.a"),
            ("external_id", json!("a".repeat(256)), "external_id"),
        ] {
            assert_eq!(refused(field, value.clone()), [named], "{field} {value}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let problem = check(json!({"destination": "x", "slug": "/", "status_code": 200})).unwrap_err();
        let fields: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["slug", "destination", "status_code"]);
    }

    #[test]
    fn a_patch_changes_what_it_names_and_says_so() {
        let body =
            json!({"destination": "https://a.example/", "slug": "sale", "campaign": "w", "metadata": {"a": "1"}});
        let link = check(body).unwrap();
        let apply = |patch: Value| {
            let patch: LinkPatch = serde_json::from_value(patch).unwrap();
            patch.apply(&link, &LinkRules::default(), Timestamp::from_millis(5))
        };
        assert_eq!(apply(json!({})).unwrap(), link);
        assert_eq!(apply(json!({"slug": "sale", "metadata": {"z": null}})).unwrap(), link);
        let new = apply(json!({"slug": "new", "campaign": null, "metadata": {"a": null, "b": "2"}})).unwrap();
        assert_eq!((new.revision, new.updated_at.as_millis(), new.created_at.as_millis()), (2, 5, 0));
        assert_eq!(
            serde_json::to_value(changes(&link, &new)).unwrap(),
            json!({
                "slug": {"from": "sale", "to": "new"},
                "campaign": {"from": "w"},
                "metadata": {"from": {"a": "1"}, "to": {"b": "2"}},
            })
        );
        let problem = apply(json!({"destination": null, "slug": "q", "domain": "go.acme.co"})).unwrap_err();
        assert_eq!(problem.errors.len(), 3);
    }
}
