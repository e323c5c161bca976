//! The checks of single fields, and the fields of merge patches. A [`Checker`] collects the errors of all fields, so that a
//! caller gets them at once.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use schemas::{AppSchemes, usermap::UserMap};
use service::problem::{FieldError, Problem};
use url::{Host, Url};

/// The most bytes of an address's fragment, which no server sees: diagrams and the like are kept there.
pub(crate) const FRAGMENT_BYTES: usize = 32 << 10;
/// The longest host name: with `_clickhook.` before it, it is still a name in DNS, which has at most 253 bytes.
const HOST_NAME_BYTES: usize = 242;
/// The most errors that one answer lists.
const MAX_ERRORS: usize = 50;

/// A collector of the errors of a request.
#[derive(Default)]
pub(crate) struct Checker {
    errors: Vec<FieldError>,
}

impl Checker {
    /// Adds an error of a field.
    pub(crate) fn wrong(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError::new(field, reason));
        }
    }

    /// Returns the checked value if there are no errors.
    pub(crate) fn finish<T>(self, checked: T) -> Result<T, Problem> {
        if self.errors.is_empty() { Ok(checked) } else { Err(Problem::invalid(self.errors)) }
    }

    /// Checks a short text for people.
    pub(crate) fn text(&mut self, field: &str, text: &str, max: usize) {
        if text.is_empty() || text.chars().count() > max || text.chars().any(char::is_control) {
            self.wrong(field, format!("must have 1 to {max} characters, none of them a control character"));
        }
    }

    /// Checks an absolute http or https address and returns it parsed.
    pub(crate) fn http_url(&mut self, field: &str, text: &str, max: usize) -> Option<Url> {
        self.destination(field, text, max, &AppSchemes::default())
    }

    /// Checks an absolute address that a redirect may lead to and returns it parsed. It has at most `max` bytes before
    /// its fragment.
    pub(crate) fn destination(&mut self, field: &str, text: &str, max: usize, schemes: &AppSchemes) -> Option<Url> {
        let (main, fragment) = text.split_once('#').unwrap_or((text, ""));
        if main.len() > max {
            self.wrong(field, format!("is longer than {max} bytes"));
            return None;
        }
        if fragment.len() > FRAGMENT_BYTES {
            self.wrong(field, format!("has a fragment, behind its #, of more than {FRAGMENT_BYTES} bytes"));
            return None;
        }
        // The parser silently drops some of these characters.
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            self.wrong(field, "has a space or a control character: percent-encode it (a space is %20)");
            return None;
        }
        match Url::parse(text) {
            Ok(url) if schemes.allows(url.scheme()) => Some(url),
            Ok(url) => {
                let scheme: String = url.scheme().chars().take(32).collect();
                self.wrong(field, format!("begins with {scheme}:, must begin with {}", beginnings(schemes)));
                None
            }
            Err(error) => {
                self.wrong(field, format!("is no address ({error}): must be like https://example.com/page"));
                None
            }
        }
    }

    /// Checks a host name.
    pub(crate) fn host_name(&mut self, field: &str, domain: &str) {
        // The form of names in DNS; an international name is written in its ASCII form.
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let labels_ok = domain.split('.').all(|label| {
            let len_ok = (1..=63).contains(&label.len());
            len_ok && label.bytes().all(is_allowed) && !label.starts_with('-') && !label.ends_with('-')
        });
        match Host::parse(domain) {
            Ok(Host::Domain(name)) if name == domain && labels_ok => {
                if domain.len() > HOST_NAME_BYTES {
                    let reason = format!("has more than {HOST_NAME_BYTES} characters, so it cannot be proven by DNS");
                    self.wrong(field, reason);
                }
            }
            Ok(Host::Domain(name)) if name != domain && name.split('.').all(|label| label.bytes().all(is_allowed)) => {
                self.wrong(field, format!("must be a host name in lower case and ASCII: write it as `{name}`"));
            }
            _ => self.wrong(field, "must be a host name without scheme, port or path, such as go.example.com"),
        }
    }
}

/// Lists the allowed beginnings of addresses, for people to read.
fn beginnings(schemes: &AppSchemes) -> String {
    let apps: Vec<String> = schemes.names().map(|scheme| format!("{scheme}:")).collect();
    match apps.split_last() {
        None => "http:// or https://".to_owned(),
        Some((last, [])) => format!("http://, https:// or {last}"),
        Some((last, others)) => format!("http://, https://, {} or {last}", others.join(", ")),
    }
}

/// Returns a customer's map after a merge patch (RFC 7396), in which null removes a key.
pub(crate) fn merged(map: &UserMap, patch: BTreeMap<String, Option<String>>) -> UserMap {
    let mut entries: BTreeMap<String, String> =
        map.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    for (key, value) in patch {
        match value {
            Some(value) => entries.insert(key, value),
            None => entries.remove(&key),
        };
    }
    entries.into_iter().collect()
}

/// A field of a patch: absent, null, or a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patch<T> {
    /// The field keeps its value.
    #[default]
    Keep,
    /// The field loses its value.
    Remove,
    /// The field gets this value.
    Set(T),
}

impl<T: JsonSchema> JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Option::<T>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<T>::json_schema(generator)
    }
}

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Patch<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An absent field takes the default and is never deserialised.
        Ok(Option::deserialize(deserializer)?.map_or(Self::Remove, Self::Set))
    }
}

impl<T> Patch<T> {
    /// Returns the value that is set.
    pub(crate) const fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Remove => None,
        }
    }

    /// Returns the value that is set, for an entity that does not exist yet.
    pub(crate) fn into_value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Remove => None,
        }
    }

    /// Applies the patch to a field that can be absent.
    pub(crate) fn apply(self, to: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Remove => *to = None,
            Self::Set(value) => *to = Some(value),
        }
    }

    /// Applies the patch to a field that gets `default` when it is removed.
    pub(crate) fn apply_or(self, to: &mut T, default: T) {
        match self {
            Self::Keep => {}
            Self::Remove => *to = default,
            Self::Set(value) => *to = value,
        }
    }

    /// Applies the patch to a field that must have a value.
    pub(crate) fn apply_required(self, to: &mut T, field: &str, checker: &mut Checker) {
        match self {
            Self::Keep => {}
            Self::Remove => checker.wrong(field, "cannot be removed: give a value, or leave it out to keep it"),
            Self::Set(value) => *to = value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_tells_absent_from_null() {
        #[derive(serde::Deserialize)]
        struct Given {
            #[serde(default)]
            a: Patch<String>,
        }
        let given = |json: &str| serde_json::from_str::<Given>(json).unwrap().a;
        assert_eq!(given("{}"), Patch::Keep);
        assert_eq!(given(r#"{"a":null}"#), Patch::Remove);
        assert_eq!(given(r#"{"a":"x"}"#), Patch::Set("x".to_owned()));
    }

    #[test]
    fn addresses_are_http_and_clean() {
        for (text, ok) in [
            ("https://a.example/b?c=d#e", true),
            ("http://a.example", true),
            ("HTTPS://a.example/\u{fc}", true),
            ("javascript:alert(1)", false),
            ("ftp://a.example/", false),
            ("//a.example", false),
            ("a.example", false),
            ("https://", false),
            ("https://a.example/\r\nSet-Cookie: a=b", false),
            ("https://a.example/a b", false),
            (" https://a.example/", false),
            ("https://a.example:99999/", false),
        ] {
            let mut checker = Checker::default();
            assert_eq!(checker.http_url("url", text, 100).is_some(), ok, "{text:?}");
            assert_eq!(checker.finish(()).is_ok(), ok, "{text:?}");
        }
    }

    #[test]
    fn an_app_is_a_destination_where_it_is_allowed() {
        let schemes = AppSchemes::try_from(vec!["myapp".to_owned()]).unwrap();
        for (text, ok) in
            [("myapp://open/1", true), ("MyApp:open", true), ("other://open", false), ("https://a.example", true)]
        {
            let mut checker = Checker::default();
            assert_eq!(checker.destination("destination", text, 100, &schemes).is_some(), ok, "{text}");
            assert_eq!(checker.finish(()).is_ok(), ok, "{text}");
        }
    }

    #[test]
    fn what_is_allowed_is_listed() {
        for (schemes, listed) in [
            (vec![], "http:// or https://"),
            (vec!["a"], "http://, https:// or a:"),
            (vec!["a", "b", "c"], "http://, https://, a:, b: or c:"),
        ] {
            let schemes: Vec<String> = schemes.into_iter().map(ToOwned::to_owned).collect();
            assert_eq!(beginnings(&AppSchemes::try_from(schemes).unwrap()), listed);
        }
    }

    #[test]
    fn null_removes_a_key() {
        let map: UserMap = [("a", "1"), ("b", "2")].into_iter().collect();
        let patch = BTreeMap::from([("a".to_owned(), None), ("c".to_owned(), Some("3".to_owned()))]);
        let expected: UserMap = [("b", "2"), ("c", "3")].into_iter().collect();
        assert_eq!(merged(&map, patch), expected);
    }
}
