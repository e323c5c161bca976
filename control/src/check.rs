//! Checks that links and endpoints share. A [`Checker`] collects what is wrong
//! with every field, so that a caller hears of everything at once.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use schemas::{AppSchemes, usermap::UserMap};
use service::problem::{FieldError, Problem};
use url::Url;

/// How much that is wrong a caller is told at once.
const MOST_ERRORS: usize = 50;

/// Collects what is wrong.
#[derive(Default)]
pub(crate) struct Checker {
    errors: Vec<FieldError>,
}

impl Checker {
    /// Notes that `field` is wrong.
    pub(crate) fn wrong(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(FieldError::new(field, reason));
        }
    }

    /// What was checked, if nothing is wrong.
    pub(crate) fn finish<T>(self, checked: T) -> Result<T, Problem> {
        if self.errors.is_empty() { Ok(checked) } else { Err(Problem::invalid(self.errors)) }
    }

    /// A short text that people read.
    pub(crate) fn text(&mut self, field: &str, text: &str, max: usize) {
        if text.is_empty() || text.chars().count() > max || text.chars().any(char::is_control) {
            self.wrong(field, format!("must have 1 to {max} characters, none of them a control character"));
        }
    }

    /// An absolute http or https address as it was written.
    pub(crate) fn http_url(&mut self, field: &str, text: &str, max: usize) -> Option<Url> {
        self.destination(field, text, max, &AppSchemes::default())
    }

    /// An absolute address that a redirect may lead to, as it was written.
    pub(crate) fn destination(&mut self, field: &str, text: &str, max: usize, schemes: &AppSchemes) -> Option<Url> {
        if text.len() > max {
            self.wrong(field, format!("is longer than {max} bytes"));
            return None;
        }
        // The parser would quietly drop some of them.
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
}

/// How addresses begin that are allowed, for people to read.
fn beginnings(schemes: &AppSchemes) -> String {
    let apps: Vec<String> = schemes.names().map(|scheme| format!("{scheme}:")).collect();
    match apps.split_last() {
        None => "http:// or https://".to_owned(),
        Some((last, [])) => format!("http://, https:// or {last}"),
        Some((last, others)) => format!("http://, https://, {} or {last}", others.join(", ")),
    }
}

/// A customer's map after a merge patch (RFC 7396): null removes a key.
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
    /// It stays.
    #[default]
    Keep,
    /// It goes.
    Remove,
    /// It becomes this.
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
        // Absence is the field's default and never comes here.
        Ok(Option::deserialize(deserializer)?.map_or(Self::Remove, Self::Set))
    }
}

impl<T> Patch<T> {
    /// What is set.
    pub(crate) const fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Remove => None,
        }
    }

    /// What is set, of something that was not there.
    pub(crate) fn into_value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Remove => None,
        }
    }

    /// Applies it to something that may be absent.
    pub(crate) fn apply(self, to: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Remove => *to = None,
            Self::Set(value) => *to = Some(value),
        }
    }

    /// Applies it to something that becomes `default` when it is removed.
    pub(crate) fn apply_or(self, to: &mut T, default: T) {
        match self {
            Self::Keep => {}
            Self::Remove => *to = default,
            Self::Set(value) => *to = value,
        }
    }

    /// Applies it to something that must be there.
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
