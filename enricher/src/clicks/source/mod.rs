//! The source of a visit and its medium. What the link's author wrote counts before
//! what an ad network added, then what the browser says: `utm_source`, click id,
//! referrer, in-app browser. Without any of them the visit is direct.

mod medium;
mod network_hosts;
mod networks;
mod referrer;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub(crate) use medium::Medium;
use networks::Network;
use referrer::Referrer;

/// The longest name of a source, in bytes. What is longer is cut.
const MAX_NAME: usize = 256;

/// The source that a click id names, as far as it names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdOrigin {
    /// The network, where the click id belongs to one.
    pub(crate) source: Option<&'static str>,
    /// The kind of source.
    pub(crate) medium: Medium,
}

/// The facts of a visit that tell its source.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traces<'u, 'a> {
    pub(crate) utm_source: Option<&'u str>,
    pub(crate) utm_medium: Option<&'u str>,
    pub(crate) click_id: Option<AdOrigin>,
    pub(crate) referer: Option<&'a str>,
    /// The app whose built-in browser opened the link.
    pub(crate) app: Option<&'a str>,
    pub(crate) short_url: &'a str,
    pub(crate) destination: &'a str,
}

/// The source of a visit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct VisitOrigin<'a> {
    pub(crate) source: Cow<'a, str>,
    pub(crate) medium: Medium,
}

/// Networks of one company whose click id is the same. Where the referrer or the app
/// names one of them, it knows better than the click id.
const META: [&str; 5] = ["facebook", "instagram", "threads", "messenger", "whatsapp"];

impl<'a> Traces<'_, 'a> {
    /// Returns the source of the visit and its medium.
    pub(crate) fn origin(&self) -> VisitOrigin<'a> {
        let said = self.utm_medium.and_then(Medium::of_utm);
        if let Some(source) = self.utm_source {
            let source = short(Cow::Owned(source.to_lowercase()));
            let medium = said
                .or_else(|| self.click_id.map(|click_id| click_id.medium))
                .or_else(|| networks::by_name(&source).map(|network| network.medium))
                .or_else(|| networks::by_host(&source).map(|network| network.medium));
            return VisitOrigin { medium: medium.unwrap_or(Medium::Unknown), source };
        }
        let found = self.by_click_id().unwrap_or_else(|| self.seen());
        VisitOrigin { medium: said.unwrap_or(found.medium), ..found }
    }

    fn by_click_id(&self) -> Option<VisitOrigin<'a>> {
        let AdOrigin { source, medium } = self.click_id?;
        let Some(source) = source else { return Some(VisitOrigin { medium, ..self.seen() }) };
        if META.contains(&source) {
            let seen = self.seen();
            if META.contains(&&*seen.source) {
                return Some(seen);
            }
        }
        Some(VisitOrigin { source: source.into(), medium })
    }

    /// Returns the source by what the browser says: referrer, then app.
    fn seen(&self) -> VisitOrigin<'a> {
        let by_app = || {
            let source = short(lower(self.app?));
            let medium = networks::by_name(&source).map_or(Medium::Unknown, |network| network.medium);
            Some(VisitOrigin { source, medium })
        };
        let direct = VisitOrigin { source: "direct".into(), medium: Medium::Direct };
        self.by_referrer().or_else(by_app).unwrap_or(direct)
    }

    fn by_referrer(&self) -> Option<VisitOrigin<'a>> {
        let known = |network: Network| VisitOrigin { source: network.name.into(), medium: network.medium };
        let (name, medium) = match referrer::parse(self.referer?)? {
            Referrer::App(package) => match networks::by_package(&package) {
                Some(network) => return Some(known(network)),
                None => (package, Medium::Unknown),
            },
            Referrer::Host(host) => {
                let is = |url| referrer::host_of(url).is_some_and(|other| other == host);
                if is(self.short_url) {
                    (host, Medium::Internal)
                } else if let Some(network) = networks::by_host(&host) {
                    // A profile that is shared on its own network comes from the network.
                    return Some(known(network));
                } else if is(self.destination) {
                    (host, Medium::Internal)
                } else {
                    (host, Medium::Unknown)
                }
            }
        };
        Some(VisitOrigin { source: name, medium })
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_uppercase) { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) }
}

fn short(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_NAME {
        return text;
    }
    Cow::Owned(text[..text.floor_char_boundary(MAX_NAME)].to_owned())
}
