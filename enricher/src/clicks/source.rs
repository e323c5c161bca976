//! The source of a visit: the campaign's source where one is given, else the
//! referrer's well-known name or its host, else `direct`.

use std::borrow::Cow;

use url::{Host, Url};

/// Hosts with a well-known name. A host also matches its subdomains.
const KNOWN: &[(&str, &str)] = &[
    ("bing.com", "bing"),
    ("discord.com", "discord"),
    ("duckduckgo.com", "duckduckgo"),
    ("ecosia.org", "ecosia"),
    ("facebook.com", "facebook"),
    ("fb.me", "facebook"),
    ("github.com", "github"),
    ("instagram.com", "instagram"),
    ("linkedin.com", "linkedin"),
    ("lnkd.in", "linkedin"),
    ("mail.google.com", "gmail"),
    ("messenger.com", "messenger"),
    ("news.ycombinator.com", "hackernews"),
    ("outlook.live.com", "outlook"),
    ("outlook.office.com", "outlook"),
    ("pinterest.com", "pinterest"),
    ("qwant.com", "qwant"),
    ("reddit.com", "reddit"),
    ("slack.com", "slack"),
    ("snapchat.com", "snapchat"),
    ("t.co", "twitter"),
    ("t.me", "telegram"),
    ("teams.microsoft.com", "teams"),
    ("telegram.org", "telegram"),
    ("threads.net", "threads"),
    ("tiktok.com", "tiktok"),
    ("twitch.tv", "twitch"),
    ("twitter.com", "twitter"),
    ("web.whatsapp.com", "whatsapp"),
    ("whatsapp.com", "whatsapp"),
    ("x.com", "twitter"),
    ("yahoo.com", "yahoo"),
    ("yandex.ru", "yandex"),
    ("youtu.be", "youtube"),
    ("youtube.com", "youtube"),
];

/// Returns the source of a visit.
pub(crate) fn source(utm_source: Option<&str>, referer: Option<&str>) -> Cow<'static, str> {
    if let Some(source) = utm_source {
        return source.to_lowercase().into();
    }
    let Some(url) = referer.and_then(|referer| Url::parse(referer).ok()) else { return "direct".into() };
    // Android apps send `android-app://com.slack/` and the like.
    if url.scheme() == "android-app" {
        return url.host_str().map_or("direct".into(), |app| app.to_owned().into());
    }
    match url.host() {
        Some(Host::Domain(host)) => known(host.trim_start_matches("www.")),
        Some(host) => host.to_string().into(),
        None => "direct".into(),
    }
}

fn known(host: &str) -> Cow<'static, str> {
    let is = |known: &str| host == known || host.strip_suffix(known).is_some_and(|subdomain| subdomain.ends_with('.'));
    // The most specific host wins: mail.google.com before google's countries.
    let best = KNOWN.iter().filter(|(known, _)| is(known)).max_by_key(|(known, _)| known.len());
    if let Some((_, name)) = best {
        return (*name).into();
    }
    // google.com, google.de, google.co.uk.
    let mut labels = host.split('.').rev().skip(1);
    if labels.next() == Some("google") || labels.next() == Some("google") {
        return "google".into();
    }
    host.to_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_campaign_then_the_referrer_then_direct() {
        for (utm, referer, expected) in [
            (Some("Instagram"), Some("https://t.co/x"), "instagram"),
            (None, Some("https://l.instagram.com/?u=1"), "instagram"),
            (None, Some("https://www.google.co.uk/"), "google"),
            (None, Some("https://google.de"), "google"),
            (None, Some("https://mail.google.com/mail"), "gmail"),
            (None, Some("https://t.co/abc"), "twitter"),
            (None, Some("https://www.acme.com/blog"), "acme.com"),
            (None, Some("https://notinstagram.com/"), "notinstagram.com"),
            (None, Some("android-app://com.slack/"), "com.slack"),
            (None, Some("http://192.0.2.1/"), "192.0.2.1"),
            (None, Some("garbage"), "direct"),
            (None, None, "direct"),
        ] {
            assert_eq!(source(utm, referer), expected, "{utm:?} {referer:?}");
        }
    }
}
