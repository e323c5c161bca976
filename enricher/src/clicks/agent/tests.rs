//! Examples of user agents with what each says, and limits that hold for every text.

use proptest::prelude::*;
use schemas::hints::Hints;

use super::*;

const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)";
const WEBVIEW: &str = "Mozilla/5.0 (Linux; Android 15; SM-S911B Build/AP3A.240905.015; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/139.0.7258.143 Mobile Safari/537.36";
const WINDOWS: &str =
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36";

fn of(text: &str) -> Arc<Agent> {
    AgentCache::default().agent(&AgentReader::new().unwrap(), Some(text))
}

/// Device, browser with version, system with version.
fn facts(text: &str) -> String {
    let agent = of(text);
    assert_eq!(agent.bot_reason, None, "{text}");
    let or_none = |text: Option<&str>| text.unwrap_or("-").to_owned();
    [
        or_none(agent.device),
        or_none(agent.browser.as_deref()),
        or_none(agent.browser_version.as_deref()),
        or_none(agent.os.as_deref()),
        or_none(agent.os_version.as_deref()),
    ]
    .join("|")
}

#[test]
fn people_are_told_by_device_browser_and_system() {
    for (text, expected) in [
        (format!("{IPHONE} Version/18.7.5 Mobile/15E148 Safari/604.1"), "mobile|Safari|18.7.5|iOS|18.7"),
        (WINDOWS.to_owned(), "desktop|Chrome|138|Windows|10/11"),
        (format!("{WINDOWS} Edg/138.0.0.0"), "desktop|Edge|138|Windows|10/11"),
        (format!("{WINDOWS} OPR/121.0.0.0"), "desktop|Opera|121|Windows|10/11"),
        (format!("{WINDOWS} Whale/4.31.304.16"), "desktop|Whale|4.31.304.16|Windows|10/11"),
        ("Mozilla/5.0 (iPad; CPU OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.5 Mobile/15E148 Safari/604.1".to_owned(), "tablet|Safari|16.5|iOS|16.5"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/14.1 Safari/605.1.15".to_owned(), "desktop|Safari|14.1|macOS|10.14.6"),
        ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36".to_owned(), "desktop|Chrome|138|ChromeOS|-"),
        ("Mozilla/5.0 (Linux; Android 14; SM-X710) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36".to_owned(), "tablet|SamsungBrowser|28.0|Android|14"),
        ("Mozilla/5.0 (Mobile; Nokia_8110_4G; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5".to_owned(), "mobile|Firefox|48.0|KaiOS|2.5"),
        ("Opera/9.80 (J2ME/MIDP; Opera Mini/9.80 (S60; SymbOS; Opera Mobi/23.348; U; en) Presto/2.5.25 Version/10.54".to_owned(), "mobile|Opera Mini|9.80|-|-"),
        ("Mozilla/5.0 (Linux; Android 11; KFTRWI) AppleWebKit/537.36 (KHTML, like Gecko) Silk/138.4.8 like Chrome/138.0.7204.179 Safari/537.36".to_owned(), "tablet|Silk|138.4.8|Android|11"),
        ("Mozilla/5.0 (Linux; U; Android 13; zh-cn; 2201122C Build/TKQ1) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/112.0.5615.136 Mobile Safari/537.36 XiaoMi/MiuiBrowser/17.8.60307".to_owned(), "mobile|Mi Browser|17.8.60307|Android|13"),
        ("Mozilla/5.0 (Phone; OpenHarmony 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.0.0 Safari/537.36 ArkWeb/4.1.6.1 Mobile HuaweiBrowser/5.0.4.300".to_owned(), "mobile|Huawei Browser|5.0.4.300|HarmonyOS|5.0"),
        ("Mozilla/5.0 (PlayStation; PlayStation 5/7.61) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.4 Safari/605.1.15".to_owned(), "appliance|Safari|15.4|PlayStation|7.61"),
        ("Mozilla/5.0 (Linux; U; Android 4.0.3; de-ch; HTC Sensation Build/IML74K) AppleWebKit/534.30 (KHTML, like Gecko) Version/4.0 Mobile Safari/534.30".to_owned(), "mobile|Android Browser|4.0|Android|4.0.3"),
    ] {
        assert_eq!(facts(&text), expected, "{text}");
    }
}

#[test]
fn televisions_are_televisions() {
    for (text, expected) in [
        (
            "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/108.0.5359.211 Safari/537.36 WebAppManager",
            "tv|Chrome|108.0.5359.211|webOS|-",
        ),
        (
            "Mozilla/5.0 (SMART-TV; LINUX; Tizen 5.5) AppleWebKit/537.36 (KHTML, like Gecko) 69.0.3497.106/5.5 TV Safari/537.36",
            "tv|Safari|-|Tizen|5.5",
        ),
        (
            "Mozilla/5.0 (Linux; Android 9; SHIELD Android TV Build/PPR1.180610.011; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/91.0.4472.114 Mobile Safari/537.36",
            "tv|Webview|91.0.4472.114|Android|9",
        ),
        (
            "TV Bro/1.0 Mozilla/5.0 (Linux; Android 11; SHIELD Android TV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/110.0.0.0 Safari/537.36",
            "tv|TV Bro|1.0|Android|11",
        ),
        (
            "Mozilla/5.0 (Linux; Android 7.1.2; AFTMM Build/NS6271; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/70.0.3538.110 Mobile Safari/537.36",
            "tv|Webview|70.0.3538.110|Android|7.1.2",
        ),
    ] {
        assert_eq!(facts(text), expected, "{text}");
    }
}

#[test]
fn versions_that_every_device_tells_are_not_told() {
    for (text, expected) in [
        ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36".to_owned(), None),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Safari/605.1.15".to_owned(), None),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:140.0) Gecko/20100101 Firefox/140.0".to_owned(), None),
        (format!("{IPHONE} Version/26.6.1 Mobile/15E148 Safari/604.1"), Some("26.6.1")),
        (format!("{IPHONE} Mobile/15E148 Instagram 390.0.0.28.85 (iPhone14,5; iOS 26_1; en_US; en)"), Some("26.1")),
        (format!("{IPHONE} Mobile/15E148"), None),
        (WINDOWS.to_owned(), Some("10/11")),
    ] {
        assert_eq!(of(&text).os_version.as_deref(), expected, "{text}");
    }
}

#[test]
fn apps_are_told_that_open_links_themselves() {
    for (text, app) in [
        (format!("{IPHONE} Mobile/15E148 Instagram 390.0.0.28.85 (iPhone14,5; iOS 18_5; en_US)"), "instagram"),
        (format!("{WEBVIEW} [FB_IAB/FB4A;FBAV/530.0.0.48.74;]"), "facebook"),
        (format!("{IPHONE} Mobile/15E148 [FBAN/FBIOS;FBAV/530.0.0.48.74;FBSV/18.5]"), "facebook"),
        (
            format!(
                "{WEBVIEW} trill_390802 JsSdk/1.0 NetType/WIFI Channel/googleplay AppName/musical_ly ByteLocale/en"
            ),
            "tiktok",
        ),
        (format!("{IPHONE} Mobile/15E148 [LinkedInApp]/9.30.4052"), "linkedin"),
        (format!("{IPHONE} Mobile/15E148 Twitter for iPhone/11.12"), "twitter"),
        (format!("{IPHONE} Mobile/15E148 MicroMessenger/8.0.60(0x18003c2f) NetType/WIFI Language/en"), "wechat"),
        (format!("{WEBVIEW} Line/15.11.1/IAB"), "line"),
        (format!("{IPHONE} Mobile/15E148 Snapchat/13.50.0.40 (like Safari/8621.2.5, panda)"), "snapchat"),
        (format!("{WEBVIEW} [Pinterest/Android]"), "pinterest"),
        (format!("{WEBVIEW} KAKAOTALK/25.6.0"), "kakaotalk"),
    ] {
        let agent = of(&text);
        assert_eq!((agent.app, agent.bot_reason.as_deref(), agent.device), (Some(app), None, Some("mobile")), "{text}");
    }
    assert_eq!(of(WINDOWS).app, None);
}

#[test]
fn programs_are_told_from_people_with_the_reason() {
    for (text, reason) in [
        ("curl/8.5.0", "word:curl"),
        ("python-requests/2.31.0", "word:python"),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36",
            "word:headless",
        ),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawler:Googlebot"),
        (
            "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36 (compatible; GoogleOther)",
            "compatible",
        ),
        (
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko); compatible; GPTBot/1.3; +https://openai.com/gptbot",
            "crawler:GPTBot",
        ),
        (
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ChatGPT-User/1.0; +https://openai.com/bot",
            "ai_agent:ChatGPT-User",
        ),
        (
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Claude-User/1.0; +Claude-User@anthropic.com)",
            "ai_agent:Claude-User",
        ),
        ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Novel-User/1.0)", "ai_agent:Novel-User"),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "preview:Slackbot"),
        ("facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", "preview:facebookexternalhit"),
        ("WhatsApp/2.23.20.0", "preview:WhatsApp"),
        ("TelegramBot (like TwitterBot)", "preview:TelegramBot"),
        ("Mastodon/4.3.0 (http.rb/5.2.0; +https://mastodon.example/)", "preview:Mastodon"),
        ("Iframely/1.3.1 (+https://iframely.com/docs/about)", "preview:Iframely"),
        (
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Bluesky Cardyb/1.1; +mailto:support@bsky.app) Chrome/W.X.Y.Z Safari/537.36",
            "preview:Bluesky Cardyb",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
            "preview:facebookexternalhit",
        ),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36 (see example.com)", "link"),
        ("Mozilla/5.0 (compatible; NetcraftSurveyAgent/1.0)", "word:netcraft"),
        ("Mozilla/5.0 (compatible; Something/1.0)", "compatible"),
        ("Mozilla/5.0", "no_browser"),
        ("SomeApp/5.1 (Android 14)", "no_browser"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 16_0 like Mac OS X) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36",
            "impossible",
        ),
        (
            "Mozilla/5.0 (Linux; Android 8.0; Pixel 2) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/43.0.5215.1183 Mobile Safari/537.36",
            "impossible",
        ),
    ] {
        assert_eq!(of(text).bot_reason.as_deref(), Some(reason), "{text}");
        assert_eq!(of(text).device, Some("crawler"), "{text}");
    }
    for missing in [None, Some(""), Some("  ")] {
        let agent = AgentCache::default().agent(&AgentReader::new().unwrap(), missing);
        assert_eq!((agent.bot_reason.as_deref(), agent.device), (Some("no_user_agent"), Some("crawler")));
    }
}

#[test]
fn people_are_not_taken_for_programs() {
    for text in [
        // Models may be called anything.
        "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
        "Mozilla/5.0 (Linux; Android 6.0; M bot 60 Build/MRA58K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36",
        "Mozilla/5.0 (Linux; Android 5.1; Spider 8 Crawler) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36",
        "Mozilla/5.0 (Linux; Android 15; CPH2557 Build/AP3A.240617.008; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/142.0.7444.142 Mobile Safari/537.36",
        // Neither versions nor packages are hosts, and no version is a mail address.
        "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0; .NET CLR 2.0.50727; .NET4.0C)",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1 (Ecosia ios@9.5.0.1569)",
        "Mozilla/5.0 (Nintendo WiiU) AppleWebKit/536.30 (KHTML, like Gecko) NX/3.0.4.2.12 NintendoBrowser/4.3.1.11264.US",
        "Mozilla/5.0 (Linux; Android 7.0; VFD 1300; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/139.0.7258.143 Safari/537.36 [air.com.A888poker/1.0]",
        "Mozilla/5.0 (Linux; Android 13; V2 Build/TKQ1; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/125.0.6422.165 Mobile Safari/537.36 CamScanner/4.5.0",
        "Mozilla/5.0 (compatible; Konqueror/4.5; Linux) KHTML/4.5.4 (like Gecko)",
        "mozilla/5.0 (windows nt 10.0; win64; x64) applewebkit/537.36 (khtml, like gecko) chrome/138.0.0.0 safari/537.36",
        "Lynx/2.9.0dev.12 libwww-FM/2.14 SSL-MM/1.4.1 GNUTLS/3.7.8",
    ] {
        assert_eq!(of(text).bot_reason, None, "{text}");
    }
}

const ANDROID: &str =
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36";
const LINUX: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36";

#[test]
fn brands_name_browsers_that_no_agent_tells() {
    let phone = of(ANDROID);
    assert_eq!(phone.with_hints(Hints::default()).browser, Some("Chrome"));
    for (hints, browser) in
        [("b=Brave", "Brave"), ("b=Avast Secure Browser", "Avast Secure Browser"), ("b=x", "Chrome")]
    {
        assert_eq!(phone.with_hints(Hints::read(hints)).browser, Some(browser), "{hints}");
    }
    let edge = of(&format!("{LINUX} Edg/138.0.0.0"));
    assert_eq!(edge.with_hints(Hints::read("b=Brave")).browser, Some("Edge"));
}

#[test]
fn a_platform_corrects_a_linux_desktop_alone() {
    let linux = of(LINUX);
    let android = linux.with_hints(Hints::read("p=Android,m=0"));
    assert_eq!((android.os, android.device), (Some("Android"), Some("tablet")));
    assert_eq!(linux.with_hints(Hints::read("p=Android,m=1")).device, Some("mobile"));
    assert_eq!(linux.with_hints(Hints::read("p=ChromeOS")).os, Some("ChromeOS"));
    assert_eq!(of(ANDROID).with_hints(Hints::read("p=Windows")).os, Some("Android"));
}

#[test]
fn contradictions_are_told() {
    for (text, hints, expected) in [
        (ANDROID, "p=Android,m=1,f=nav", None),
        (ANDROID, "", None),
        (ANDROID, "p=Windows", Some(Contradiction::Platform)),
        (LINUX, "b=HeadlessChrome,p=Linux,f=nav", Some(Contradiction::Headless)),
        (LINUX, "f=none", Some(Contradiction::NoFetchHeaders)),
        ("Mozilla/5.0 (Windows NT 6.1; Trident/7.0; rv:11.0) like Gecko", "f=none", None),
        ("curl/8.5.0", "f=none", None),
    ] {
        assert_eq!(of(text).contradiction(Hints::read(hints)), expected, "{text} {hints}");
    }
}

/// Texts that are put together of what the rules look at, and of anything else.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[ -~]{0,40}",
        prop::sample::select(vec![
            "Mozilla/5.0 (",
            "Android",
            "Android 10; K)",
            "Build/",
            "iPhone; CPU iPhone OS 18_7 like Mac OS X",
            "Mac OS X ",
            "Version/",
            " Chrome/",
            "CriOS/",
            "bot",
            "@",
            ".com",
            "http://",
            "(compatible; ",
            "-user/",
            "preview",
            ")",
            "OPR/",
            "Windows NT 10.0",
            "Safari/",
            "KHTML",
            "; iOS ",
            "99999999999999999999.1.1.1",
            "\u{1f600}",
            "KDDI-",
            "DoCoMo/2.0 ",
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_breaks_it_and_what_it_says_is_bounded(text in texts()) {
        let agent = of(&text);
        let texts = [
            agent.browser.as_deref(),
            agent.browser_version.as_deref(),
            agent.os.as_deref(),
            agent.os_version.as_deref(),
            agent.bot_reason.as_deref(),
        ];
        for text in texts.into_iter().flatten() {
            prop_assert!(!text.is_empty() && text.len() <= 48, "{text}");
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
