//! The campaign and the ad in the queries of a visit and its destination. The
//! destination's own parameters win, as in the address that the visitor is
//! redirected to.

use std::borrow::Cow;

use schemas::{Attribution, Utm};
use url::{Url, form_urlencoded};

/// The length to which a value is cut, in characters.
const MAX_CHARS: usize = 512;

/// Returns the campaign and the ad of a visit.
pub(crate) fn campaign<'a>(query: Option<&'a str>, destination: &str) -> (Option<Utm<'a>>, Option<Attribution<'a>>) {
    let mut utm = Utm::default();
    let mut ad = Attribution::default();
    let own = Url::parse(destination).ok();
    let own = own.as_ref().and_then(Url::query).unwrap_or_default();
    for (key, value) in form_urlencoded::parse(own.as_bytes()) {
        note(&mut utm, &mut ad, &key, Cow::Owned(value.into_owned()));
    }
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        note(&mut utm, &mut ad, &key, value);
    }
    ((utm != Utm::default()).then_some(utm), (ad != Attribution::default()).then_some(ad))
}

/// Notes a parameter; the first of two with the same key wins.
fn note<'a>(utm: &mut Utm<'a>, ad: &mut Attribution<'a>, key: &str, value: Cow<'a, str>) {
    let slot = match key {
        "utm_source" => &mut utm.source,
        "utm_medium" => &mut utm.medium,
        "utm_campaign" => &mut utm.campaign,
        "utm_term" => &mut utm.term,
        "utm_content" => &mut utm.content,
        "ad_creative" | "creative" | "referrer_ad_creative" => &mut ad.referrer_ad_creative,
        "gclid" => &mut ad.gclid,
        "fbclid" => &mut ad.fbclid,
        _ => return,
    };
    if slot.is_none() && !value.is_empty() {
        *slot = Some(match value.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => Cow::Owned(value[..end].to_owned()),
            None => value,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destinations_own_keys_win_and_the_first_of_two() {
        let query = "utm_source=news+letter&utm_source=x&utm_medium=e%2Dmail&fbclid=abc&creative=story-7&other=1";
        let (utm, ad) = campaign(Some(query), "https://acme.com/?utm_medium=paid&utm_term=");
        let utm = utm.unwrap();
        assert_eq!(utm.source.as_deref(), Some("news letter"));
        assert_eq!(utm.medium.as_deref(), Some("paid"));
        assert_eq!(utm.term, None);
        let ad = ad.unwrap();
        assert_eq!(ad.fbclid.as_deref(), Some("abc"));
        assert_eq!(ad.referrer_ad_creative.as_deref(), Some("story-7"));
    }

    #[test]
    fn nothing_said_is_nothing_told_and_too_much_is_cut() {
        assert_eq!(campaign(None, "https://acme.com/"), (None, None));
        assert_eq!(campaign(Some("a=1"), "not a url"), (None, None));
        let long = format!("utm_term={}", "ä".repeat(2000));
        let (utm, _) = campaign(Some(&long), "");
        assert_eq!(utm.unwrap().term.unwrap().chars().count(), MAX_CHARS);
    }
}
