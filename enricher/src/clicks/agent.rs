//! The user agent: device, browser and operating system by woothee's tables, and
//! whether the visitor is a person or a program.

use std::borrow::Cow;

use woothee::parser::{Parser, WootheeResult};

/// The facts in a user agent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent<'a> {
    pub(crate) device: Option<&'static str>,
    pub(crate) browser: Option<Cow<'a, str>>,
    pub(crate) browser_version: Option<Cow<'a, str>>,
    pub(crate) os: Option<Cow<'a, str>>,
    pub(crate) os_version: Option<Cow<'a, str>>,
    pub(crate) bot_reason: Option<Cow<'static, str>>,
}

/// Substrings, in lower case, of the user agents of programs that follow links
/// without a person, beyond the crawlers that woothee knows.
const PROGRAMS: &[&str] = &[
    "aiohttp/",
    "apache-httpclient",
    "axios/",
    "bitlybot",
    "bot/",
    "bot;",
    "crawler",
    "curl/",
    "embedly",
    "facebookexternalhit",
    "feedfetcher",
    "go-http-client",
    "google-safety",
    "googleimageproxy",
    "guzzlehttp",
    "headlesschrome",
    "httpie/",
    "httpx",
    "java/",
    "libwww-perl",
    "lighthouse",
    "mail.ru",
    "node-fetch",
    "okhttp/",
    "phantomjs",
    "pingdom",
    "postmanruntime",
    "preview",
    "python-requests",
    "python-urllib",
    "python/",
    "reqwest/",
    "scrapy",
    "spider",
    "uptime",
    "vkshare",
    "w3c_validator",
    "wget/",
    "whatsapp/",
    "yahoo! slurp",
];

/// Parses a user agent. A missing user agent counts as a program's.
pub(crate) fn parse<'a>(parser: &Parser, user_agent: Option<&'a str>) -> Agent<'a> {
    let Some(text) = user_agent.map(str::trim).filter(|text| !text.is_empty()) else {
        return Agent { bot_reason: Some("no_user_agent".into()), ..Agent::default() };
    };
    let lower = text.to_ascii_lowercase();
    let program = PROGRAMS.iter().find(|program| lower.contains(**program));
    let mut agent = parser.parse(text).map(|found| known(found, &lower)).unwrap_or_default();
    if agent.bot_reason.is_none()
        && let Some(program) = program
    {
        agent.bot_reason = Some(format!("user_agent:{}", program.trim_end_matches(['/', ';'])).into());
    }
    if agent.bot_reason.is_some() {
        agent.device = Some("crawler");
    }
    agent
}

fn known<'a>(found: WootheeResult<'a>, lower: &str) -> Agent<'a> {
    let present = |value: &'a str| (!value.is_empty() && value != "UNKNOWN").then_some(Cow::Borrowed(value));
    let tablet = found.os == "iPad"
        || lower.contains("tablet")
        || found.os == "Android" && !lower.contains("mobile") && found.category == "smartphone";
    let device = match found.category {
        "pc" => Some("desktop"),
        "smartphone" if tablet => Some("tablet"),
        "smartphone" | "mobilephone" => Some("mobile"),
        "crawler" => Some("crawler"),
        "appliance" => Some("appliance"),
        _ => None,
    };
    let (os, os_version) = match found.os {
        "iPhone" | "iPad" | "iPod" | "iOS" => (Some("iOS".into()), version(found.os_version)),
        "Mac OSX" => (Some("macOS".into()), version(found.os_version)),
        // The name contains the version that people know: 10, 8.1, XP.
        windows if windows.starts_with("Windows ") => {
            (Some("Windows".into()), present(&windows["Windows ".len()..]).or_else(|| version(found.os_version)))
        }
        other => (present(other), version(found.os_version)),
    };
    Agent {
        device,
        browser: present(found.name),
        browser_version: present(found.version),
        os,
        os_version,
        bot_reason: (found.category == "crawler").then(|| format!("crawler:{}", found.name).into()),
    }
}

fn version(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    (!text.is_empty() && text != "UNKNOWN").then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Agent<'_> {
        parse(&Parser::new(), Some(text))
    }

    #[test]
    fn people_are_told_by_device_browser_and_system() {
        let phone = of(
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1",
        );
        assert_eq!((phone.device, phone.bot_reason), (Some("mobile"), None));
        assert_eq!(phone.browser.as_deref(), Some("Safari"));
        assert_eq!((phone.os.as_deref(), phone.os_version.as_deref()), (Some("iOS"), Some("17.0")));
        let desktop = of(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
        );
        assert_eq!(desktop.device, Some("desktop"));
        assert_eq!((desktop.os.as_deref(), desktop.os_version.as_deref()), (Some("Windows"), Some("10")));
        assert_eq!(
            (desktop.browser.as_deref(), desktop.browser_version.as_deref()),
            (Some("Chrome"), Some("120.0.0.0"))
        );
        let tablet = of(
            "Mozilla/5.0 (iPad; CPU OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1",
        );
        assert_eq!((tablet.device, tablet.os.as_deref()), (Some("tablet"), Some("iOS")));
        let mac = of(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Safari/605.1.15",
        );
        assert_eq!((mac.device, mac.os.as_deref()), (Some("desktop"), Some("macOS")));
    }

    #[test]
    fn programs_are_told_from_people_with_the_reason() {
        for (text, reason) in [
            ("curl/8.5.0", "user_agent:curl"),
            ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", ""),
            ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", ""),
            ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawler:Googlebot"),
            ("python-requests/2.31.0", ""),
            ("WhatsApp/2.23.20.0", ""),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36",
                "",
            ),
        ] {
            let found = of(text).bot_reason.unwrap_or_else(|| panic!("{text} passed for a person"));
            assert!(found.contains(reason), "{text}: {found}");
        }
        assert_eq!(parse(&Parser::new(), None).bot_reason.as_deref(), Some("no_user_agent"));
        assert_eq!(of("  ").bot_reason.as_deref(), Some("no_user_agent"));
    }
}
