//! The links of clicks. The redirector writes the same link behind every click on it, so
//! a link that was read before is found by its text, and not read again.

use std::sync::Arc;

use memchr::memmem;
use schemas::LinkFacts;

use super::{
    query::{Parameters, QueryValues},
    recent::RecentCache,
};

/// The most links of a generation: both together have 4,096.
const GENERATION: usize = 2048;
/// The longest text of a link that is kept, in bytes.
const KEY_BYTES: usize = 2048;
/// The beginning of a link in a line.
const KEY: &[u8] = b",\"link\":{";

/// The facts of a link that all clicks on it share.
pub(crate) struct KnownLink {
    /// The link as events tell of it.
    pub(super) json: Box<str>,
    pub(super) short_url: Box<str>,
    pub(super) destination: Box<str>,
    /// The values of the destination's own query.
    pub(super) own: QueryValues<'static>,
}

impl KnownLink {
    /// Reads what a link's clicks share.
    pub(super) fn new(link: &LinkFacts<'_>, parameters: &Parameters) -> serde_json::Result<Self> {
        Ok(Self {
            json: serde_json::to_string(link)?.into(),
            short_url: (&*link.short_url).into(),
            destination: (&*link.destination).into(),
            own: parameters.of_destination(&link.destination),
        })
    }
}

/// The links that a thread has read before.
pub(super) struct LinkCache(RecentCache<[u8], KnownLink>);

impl Default for LinkCache {
    fn default() -> Self {
        Self(RecentCache::new(GENERATION))
    }
}

impl LinkCache {
    /// Returns the link that `json` is, or `None` where it is no link.
    pub(super) fn link(&mut self, json: &[u8], parameters: &Parameters) -> Option<Arc<KnownLink>> {
        if let Some(link) = self.0.get(json) {
            return Some(link);
        }
        let link = Arc::new(KnownLink::new(&serde_json::from_slice(json).ok()?, parameters).ok()?);
        if json.len() <= KEY_BYTES {
            self.0.put(json.into(), Arc::clone(&link));
        }
        Some(link)
    }
}

/// Splits a line that ends with its link: into all that stands before the link, and the
/// link. Where the first with a closing brace is a click and the second is a link, the
/// line is both together: within a text of JSON, the quotes of `,"link":{` are escaped.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"}")?;
    let at = memmem::rfind(line, KEY)?;
    let (before, behind) = line.split_at(at);
    Some((before, &behind[KEY.len() - 1..]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const LINK: &str = concat!(
        r#"{"id":"lnk_0000000000000000000000000Z","short_url":"https://go.acme.co/sale","#,
        r#""destination":"https://acme.com/?utm_source=own","slug":"sale","tags":["a"]}"#
    );

    #[test]
    fn a_line_is_split_before_its_link() {
        let before = r#"{"v":1,"query":",\"link\":{""#;
        let line = format!(r#"{before},"link":{LINK}}}"#);
        assert_eq!(split(line.as_bytes()), Some((before.as_bytes(), LINK.as_bytes())));
        for whole in ["", "}", r#"{"v":1}"#, r#"{"link":{}}"#] {
            assert_eq!(split(whole.as_bytes()), None, "{whole}");
        }
    }

    #[test]
    fn a_link_is_read_once_and_what_is_none_is_refused() {
        let parameters = Parameters::new(&BTreeMap::new());
        let mut links = LinkCache::default();
        let first = links.link(LINK.as_bytes(), &parameters).unwrap();
        assert_eq!((&*first.json, &*first.short_url), (LINK, "https://go.acme.co/sale"));
        assert!(Arc::ptr_eq(&first, &links.link(LINK.as_bytes(), &parameters).unwrap()));
        for wrong in [format!("{LINK}}}"), format!(r#"{LINK},"x":1"#), LINK.replace("slug", "x"), String::new()] {
            assert!(links.link(wrong.as_bytes(), &parameters).is_none(), "{wrong}");
        }
        // Fields that events do not know are left out, as ever.
        let more = LINK.replace(r#""slug""#, r#""x":{"y":1},"slug""#);
        assert_eq!(&*links.link(more.as_bytes(), &parameters).unwrap().json, LINK);
    }

    #[test]
    fn a_flood_of_new_links_is_bounded() {
        let parameters = Parameters::new(&BTreeMap::new());
        let mut links = LinkCache::default();
        for number in 0..3 * GENERATION {
            links.link(LINK.replace("sale", &number.to_string()).as_bytes(), &parameters).unwrap();
        }
        links.link(LINK.replace("sale", &"x".repeat(KEY_BYTES)).as_bytes(), &parameters).unwrap();
        assert!(links.0.len() <= 2 * GENERATION);
    }
}
