//! The networks that visits come from, and what only looks like one.

use proptest::prelude::*;

use super::*;

fn of(referer: &str) -> (String, &'static str) {
    let traces = Traces {
        referer: Some(referer),
        short_url: "https://go.acme.example/sale",
        destination: "https://shop.acme.example/x?y",
        ..Traces::default()
    };
    let origin = traces.origin();
    (origin.source.into_owned(), origin.medium.as_str())
}

#[track_caller]
fn expect(rows: &[(&str, &str, &str)]) {
    for (hosts, name, medium) in rows {
        for host in hosts.split_whitespace() {
            let referer = if host.contains("://") { host.to_owned() } else { format!("https://{host}/") };
            assert_eq!(of(&referer), ((*name).to_owned(), *medium), "{referer}");
        }
    }
}

#[test]
fn searches_have_their_countries_and_no_other_services() {
    expect(&[
        (
            "google.com www.google.com google.de www.google.co.uk google.com.br google.cat images.google.fr",
            "google",
            "search",
        ),
        ("lens.google.com scholar.google.com m.google.com", "google", "search"),
        ("accounts.google.com translate.google.com maps.google.de myaccount.google.com", "google", "unknown"),
        ("news.google.com", "google", "news"),
        ("bing.com cn.bing.com", "bing", "search"),
        ("duckduckgo.com html.duckduckgo.com", "duckduckgo", "search"),
        ("search.brave.com", "brave", "search"),
        ("startpage.com", "startpage", "search"),
        ("kagi.com", "kagi", "search"),
        ("yandex.ru yandex.com yandex.kz yandex.com.tr ya.ru", "yandex", "search"),
        ("www.baidu.com m.baidu.com", "baidu", "search"),
        ("search.naver.com m.search.naver.com", "naver", "search"),
        ("daum.net search.daum.net", "daum", "search"),
        ("sogou.com", "sogou", "search"),
        ("so.com", "so", "search"),
        ("seznam.cz search.seznam.cz", "seznam", "search"),
        (
            "search.yahoo.co.jp yahoo.com uk.search.yahoo.com de.yahoo.com yahoo.co.jp r.search.yahoo.com",
            "yahoo",
            "search",
        ),
        ("presearch.com", "presearch", "search"),
        ("mojeek.com", "mojeek", "search"),
        ("swisscows.com", "swisscows", "search"),
        ("ecosia.org", "ecosia", "search"),
        ("qwant.com", "qwant", "search"),
        ("android-app://com.google.android.googlequicksearchbox/", "google", "search"),
    ]);
}

#[test]
fn assistants_are_no_searches() {
    expect(&[
        ("gemini.google.com", "gemini", "ai"),
        ("notebooklm.google.com", "notebooklm", "ai"),
        ("chatgpt.com chat.openai.com", "chatgpt", "ai"),
        ("perplexity.ai www.perplexity.ai", "perplexity", "ai"),
        ("copilot.microsoft.com", "copilot", "ai"),
        ("claude.ai", "claude", "ai"),
        ("chat.mistral.ai", "mistral", "ai"),
        ("chat.deepseek.com", "deepseek", "ai"),
        ("grok.com x.ai", "grok", "ai"),
        ("meta.ai www.meta.ai", "meta-ai", "ai"),
        ("you.com", "you", "ai"),
        ("poe.com", "poe", "ai"),
        ("duck.ai", "duckduckgo", "ai"),
        ("kimi.com", "kimi", "ai"),
        ("chat.qwen.ai", "qwen", "ai"),
        ("doubao.com", "doubao", "ai"),
    ]);
}

#[test]
fn tools_and_ads_of_google_are_no_searches() {
    expect(&[
        ("docs.google.com", "google-docs", "work"),
        ("drive.google.com", "google-drive", "work"),
        ("meet.google.com", "google-meet", "work"),
        ("chat.google.com", "google-chat", "work"),
        ("calendar.google.com", "google-calendar", "work"),
        ("classroom.google.com", "google-classroom", "work"),
        ("sites.google.com", "google-sites", "work"),
        ("groups.google.com", "google-groups", "work"),
        (
            "googleads.g.doubleclick.net www.googleadservices.com tpc.googlesyndication.com syndicatedsearch.goog",
            "google",
            "ads",
        ),
        ("slack-redir.net app.slack.com android-app://com.slack/ android-app://com.Slack", "slack", "work"),
        (
            "teams.live.com statics.teams.cdn.office.net teams.microsoft.com android-app://com.microsoft.teams",
            "teams",
            "work",
        ),
        ("www.notion.so", "notion", "work"),
        ("trello.com", "trello", "work"),
        ("app.asana.com", "asana", "work"),
        ("acme.atlassian.net", "atlassian", "work"),
    ]);
}

#[test]
fn networks_of_people_have_one_name_each() {
    expect(&[
        (
            "facebook.com l.facebook.com lm.facebook.com m.facebook.com web.facebook.com fb.com fb.me",
            "facebook",
            "social",
        ),
        (
            "android-app://com.facebook.katana/ android-app://com.facebook.lite android-app://m.facebook.com",
            "facebook",
            "social",
        ),
        ("android-app://com.facebook.orca", "messenger", "chat"),
        ("instagram.com l.instagram.com android-app://com.instagram.android", "instagram", "social"),
        ("threads.com l.threads.com www.threads.net android-app://com.instagram.barcelona", "threads", "social"),
        ("t.co x.com twitter.com mobile.twitter.com android-app://com.twitter.android", "twitter", "social"),
        ("linkedin.com lnkd.in android-app://com.linkedin.android", "linkedin", "social"),
        ("reddit.com out.reddit.com old.reddit.com android-app://com.reddit.frontpage", "reddit", "social"),
        (
            "pinterest.com www.pinterest.de pinterest.co.uk br.pinterest.com pin.it android-app://com.pinterest/",
            "pinterest",
            "social",
        ),
        ("tiktok.com android-app://com.zhiliaoapp.musically", "tiktok", "social"),
        ("android-app://com.snapchat.android", "snapchat", "social"),
        ("bsky.app go.bsky.app", "bluesky", "social"),
        ("mastodon.social fosstodon.org", "mastodon", "social"),
        ("vk.com away.vk.com", "vk", "social"),
        ("ok.ru", "ok", "social"),
        ("weibo.com t.cn", "weibo", "social"),
        ("tumblr.com", "tumblr", "social"),
        ("quora.com", "quora", "social"),
        ("flipboard.com", "flipboard", "social"),
        ("news.ycombinator.com", "hackernews", "social"),
        ("vimeo.com", "vimeo", "video"),
        ("youtube.com m.youtube.com youtu.be", "youtube", "video"),
        ("wa.me web.whatsapp.com android-app://com.whatsapp android-app://com.whatsapp.w4b", "whatsapp", "chat"),
        ("line.me", "line", "chat"),
        ("t.me android-app://org.telegram.messenger android-app://org.telegram.messenger.web", "telegram", "chat"),
        ("discord.com", "discord", "chat"),
        ("android-app://com.google.android.apps.messaging android-app://com.samsung.android.messaging", "sms", "sms"),
    ]);
}

#[test]
fn mailboxes_and_their_gateways_are_email() {
    expect(&[
        ("mail.google.com android-app://com.google.android.gm/", "gmail", "email"),
        ("mail.yahoo.com android-app://com.yahoo.mobile.client.android.mail", "yahoo-mail", "email"),
        ("mail.yandex.ru", "yandex-mail", "email"),
        (
            "outlook.office365.com outlook.cloud.microsoft eur01.safelinks.protection.outlook.com outlook.live.com \
             android-app://com.microsoft.office.outlook",
            "outlook",
            "email",
        ),
        ("linkprotect.cudasvc.com", "barracuda", "email"),
        ("urldefense.proofpoint.com urldefense.com", "proofpoint", "email"),
        ("protect-eu.mimecast.com", "mimecast", "email"),
        ("web.de", "web.de", "email"),
        ("navigator-lxa.gmx.net", "gmx", "email"),
        ("mail.proton.me", "proton", "email"),
        ("mail.aol.com", "aol", "email"),
        ("www.icloud.com", "icloud", "email"),
        ("mail.zoho.com", "zoho-mail", "email"),
        ("mail.ru e.mail.ru", "mailru", "email"),
        ("posta.libero.it", "libero", "email"),
        ("orange.fr", "orange", "email"),
        ("android-app://com.samsung.android.email.provider", "samsung-mail", "email"),
    ]);
}

#[test]
fn country_domains_of_shops_are_one_shop() {
    expect(&[
        ("amazon.com www.amazon.de smile.amazon.co.uk amazon.co.jp amzn.to", "amazon", "unknown"),
        ("ebay.com www.ebay.co.uk ebay.de", "ebay", "unknown"),
    ]);
}

#[test]
fn what_is_named_like_a_network_is_itself() {
    for host in [
        "google.acme.example",
        "google.evil.com",
        "com.google.example.org",
        "google.com.example.org",
        "mygoogle.com",
        "google.xyz",
        "google.co",
        "notinstagram.com",
        "facebook.com.login.example",
        "facebook.example",
        "xt.co",
        "amazon.example.de",
        "yahoo.example",
        "t.company",
        "mail.google.com.example",
        "pinterest.example",
    ] {
        assert_eq!(of(&format!("https://{host}/")), (host.to_owned(), "unknown"));
    }
}

#[test]
fn hosts_are_read_as_browsers_and_people_write_them() {
    expect(&[
        (
            "HTTPS://WWW.Google.COM/search?q=1 https://google.com.:443/ https://a:b@google.com/ https://google.com?q",
            "google",
            "search",
        ),
        ("https://www.acme.com/blog acme.com. acme.com:8443 ACME.com", "acme.com", "unknown"),
        ("https://www.com/", "www.com", "unknown"),
        ("https://münchen.example/ https://xn--mnchen-3ya.example/", "xn--mnchen-3ya.example", "unknown"),
        ("http://192.0.2.1/ http://192.0.2.1:8080/x", "192.0.2.1", "unknown"),
        ("http://[2001:db8::1]:80/", "2001:db8::1", "unknown"),
        ("go.acme.example https://www.go.acme.example/x", "go.acme.example", "internal"),
        ("shop.acme.example", "shop.acme.example", "internal"),
        ("android-app://com.example.Reader/https/x", "com.example.reader", "unknown"),
    ]);
    for nobody in [
        "",
        "garbage",
        "/x",
        "https://",
        "http://localhost:3000/",
        "http://wiki/start",
        "http://nas.local/",
        "http://10.0.0.5/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[fd00::1]/",
        "about:blank",
        "chrome-extension://abcdef/",
        "file:///home/x",
        "https://.../",
        "https://a..b/",
        "android-app://",
        "android-app://a%20b",
    ] {
        assert_eq!(of(nobody), ("direct".to_owned(), "direct"), "{nobody:?}");
    }
    // A link that is shared on the network that it leads to.
    let traces = Traces {
        referer: Some("https://www.instagram.com/"),
        destination: "https://www.instagram.com/acme",
        ..Traces::default()
    };
    assert_eq!(traces.origin(), VisitOrigin { source: "instagram".into(), medium: Medium::Social });
}

#[test]
fn the_author_counts_then_the_ad_then_the_browser() {
    let ad = AdOrigin { source: Some("google"), medium: Medium::Ads };
    let nameless = AdOrigin { source: None, medium: Medium::Affiliate };
    let meta = AdOrigin { source: Some("facebook"), medium: Medium::Social };
    let traces = Traces::default();
    let t_co = Some("https://t.co/x");
    for (traces, expected) in [
        (
            Traces {
                utm_source: Some("News"),
                utm_medium: Some("E-Mail"),
                click_id: Some(ad),
                referer: t_co,
                ..traces
            },
            ("news", "email"),
        ),
        (
            Traces { utm_source: Some("google"), utm_medium: Some("flyer"), click_id: Some(ad), ..traces },
            ("google", "ads"),
        ),
        (Traces { utm_source: Some("instagram"), referer: t_co, ..traces }, ("instagram", "social")),
        (Traces { utm_source: Some("chatgpt.com"), ..traces }, ("chatgpt.com", "ai")),
        (Traces { utm_source: Some("flyer"), ..traces }, ("flyer", "unknown")),
        (Traces { utm_medium: Some("paid-social"), referer: t_co, ..traces }, ("twitter", "ads")),
        (Traces { click_id: Some(ad), referer: t_co, ..traces }, ("google", "ads")),
        (Traces { click_id: Some(nameless), referer: t_co, ..traces }, ("twitter", "affiliate")),
        (Traces { click_id: Some(meta), referer: t_co, app: Some("instagram"), ..traces }, ("facebook", "social")),
        (Traces { click_id: Some(meta), app: Some("Instagram"), ..traces }, ("instagram", "social")),
        (Traces { click_id: Some(meta), ..traces }, ("facebook", "social")),
        (Traces { referer: t_co, app: Some("instagram"), ..traces }, ("twitter", "social")),
        (Traces { referer: Some("garbage"), app: Some("TikTok"), ..traces }, ("tiktok", "social")),
        (Traces { app: Some("acme"), ..traces }, ("acme", "unknown")),
        (traces, ("direct", "direct")),
    ] {
        let origin = traces.origin();
        assert_eq!((&*origin.source, origin.medium.as_str()), expected, "{traces:?}");
    }
}

#[test]
fn no_host_or_package_is_listed_twice() {
    let mut seen = std::collections::HashSet::new();
    for (_, listed) in network_hosts::HOSTS.iter().chain(network_hosts::PACKAGES) {
        for (name, hosts) in *listed {
            for host in hosts.split(' ') {
                let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'=');
                assert!(!host.is_empty() && host.bytes().all(plain), "{name}: {host:?}");
                assert!(seen.insert(host), "{host} is listed twice");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_referrer_has_a_short_source(
        referer in "(https?|android-app|[a-z]{0,5})?(://)?[\\PC]{0,300}",
        utm in proptest::option::of("\\PC{0,300}"),
    ) {
        let traces = Traces { utm_source: utm.as_deref(), referer: Some(&referer), ..Traces::default() };
        let origin = traces.origin();
        prop_assert!(origin.source.len() <= MAX_NAME);
    }

    #[test]
    fn hosts_with_anything_before_them_are_found(sub in "[a-z0-9]{1,10}(\\.[a-z0-9]{1,10}){0,8}") {
        let referer = format!("https://{sub}.linkedin.com/");
        prop_assert_eq!(of(&referer), ("linkedin".to_owned(), "social"));
    }
}
