//! Device, browser and operating system: what woothee says, mended where it does not
//! know the browser, and without versions that are frozen constants.

use std::borrow::Cow;

use woothee::parser::WootheeResult;

use super::{
    signs::{Platform, Signs},
    version,
};

/// The longest name or version that is taken from woothee, in bytes.
const TEXT_BYTES: usize = 32;
/// The versions of iOS that Safari tells since iOS 26, whatever it runs on.
const FROZEN_IOS: [&str; 2] = ["18.6", "18.7"];
/// The first version of Safari on a frozen iOS.
const SAFARI_OF_FROZEN_IOS: u32 = 26;

/// The facts of a browser.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BrowserFacts {
    pub(super) device: Option<&'static str>,
    pub(super) browser: Option<Cow<'static, str>>,
    pub(super) browser_version: Option<Box<str>>,
    pub(super) os: Option<Cow<'static, str>>,
    pub(super) os_version: Option<Box<str>>,
}

/// Reads the facts of a user agent.
pub(super) fn read(text: &str, signs: &Signs<'_>, woothee: &WootheeResult<'_>) -> BrowserFacts {
    let (os, os_version) = system(text, signs, woothee);
    let (browser, browser_version) = browser(text, signs, woothee);
    BrowserFacts { device: device(signs, woothee), browser, browser_version, os, os_version }
}

/// Whether the browser sends `Sec-Fetch-…` with every request over HTTPS: Chrome and
/// Firefox do since version 90 at the latest, Safari since 16.4.
pub(super) fn sends_fetch_headers(text: &str, signs: &Signs<'_>, woothee: &WootheeResult<'_>) -> bool {
    let major_at = |place: usize| version::leading(&text[place..]).and_then(version::major);
    if let Some(chrome) = signs.chrome {
        return major_at(chrome).is_some_and(|major| major >= 90);
    }
    match woothee.name {
        "Firefox" => version::major(woothee.version).is_some_and(|major| major >= 90),
        "Safari" => signs.safari.and_then(major_at).is_some_and(|major| major >= 17),
        _ => false,
    }
}

fn device(signs: &Signs<'_>, woothee: &WootheeResult<'_>) -> Option<&'static str> {
    if signs.television {
        return Some("tv");
    }
    if let Some(device) = signs.system.and_then(|found| found.name.device) {
        return Some(device);
    }
    match (signs.platform, woothee.category) {
        (Some(Platform::Ipad), _) => Some("tablet"),
        (Some(Platform::Iphone), _) => Some("mobile"),
        // Headsets have neither a phone's nor a tablet's screen.
        (Some(Platform::Android), _) if signs.browser.is_some_and(|found| found.name == "Oculus Browser") => {
            Some("appliance")
        }
        (Some(Platform::Android), _) => Some(if signs.tablet || !signs.mobile { "tablet" } else { "mobile" }),
        (_, "appliance") => Some("appliance"),
        (_, "smartphone" | "mobilephone") => Some("mobile"),
        // Phones and tablets whose browser was asked for the desktop's page.
        (Some(Platform::Mac), _) if signs.ios_browser => None,
        (Some(Platform::Windows | Platform::Mac | Platform::ChromeOs), _) => Some("desktop"),
        (Some(Platform::Linux), _) => Some(if signs.mobile { "mobile" } else { "desktop" }),
        (None, "pc") if !signs.mobile => Some("desktop"),
        (None, _) => {
            let of_phones =
                signs.browser.is_some_and(|found| matches!(found.name, "Opera Mini" | "UC Browser" | "Obigo"));
            (signs.mobile || of_phones).then_some("mobile")
        }
    }
}

type Named = (Option<Cow<'static, str>>, Option<Box<str>>);

fn system(text: &str, signs: &Signs<'_>, woothee: &WootheeResult<'_>) -> Named {
    if let Some(found) = signs.system {
        return (Some(found.name.name.into()), version::leading(&text[found.end..]).map(Into::into));
    }
    let woothees = || told(&woothee.os_version);
    match signs.platform {
        Some(Platform::Iphone | Platform::Ipad) => (Some("iOS".into()), ios_version(text, signs, &woothee.os_version)),
        Some(Platform::Android) => {
            // Chrome and others tell the same Android and model on every device.
            let frozen = text.contains("Android 10; K)");
            (Some("Android".into()), woothees().filter(|_| !frozen))
        }
        Some(Platform::Windows) => (Some("Windows".into()), windows_version(woothee.os).map(Into::into)),
        Some(Platform::Mac) if signs.ios_browser => (Some("iOS".into()), None),
        Some(Platform::Mac) => {
            let version = text.split_once("Mac OS X ").and_then(|(_, rest)| version::leading_underscored(rest));
            // Every browser of every later macOS says 10.15 or 10.15.7.
            let version = version.filter(|version| !matches!(version.as_ref(), "10.15" | "10.15.7"));
            (Some("macOS".into()), version.map(Into::into))
        }
        // Chrome tells the same version on every device: 14541.0.0.
        Some(Platform::ChromeOs) => (Some("ChromeOS".into()), None),
        Some(Platform::Linux) => (Some("Linux".into()), None),
        None => (known(woothee.os).map(Cow::Owned), woothees()),
    }
}

/// Safari freezes the version of iOS since iOS 26 and tells it as its own version. An app
/// may tell the true one.
fn ios_version(text: &str, signs: &Signs<'_>, woothees: &str) -> Option<Box<str>> {
    let at = |place: Option<usize>| place.and_then(|place| version::leading_underscored(&text[place..]));
    let safari =
        at(signs.safari).filter(|safari| version::major(safari).is_some_and(|major| major >= SAFARI_OF_FROZEN_IOS));
    if let Some(version) = safari.or_else(|| at(signs.app_system)) {
        return Some(version.into());
    }
    let version = told(woothees)?;
    let may_be_frozen = FROZEN_IOS.contains(&version.as_ref()) && signs.safari.is_none();
    (!may_be_frozen).then_some(version)
}

/// Returns the version of Windows that people know. Browsers say 10 on Windows 11 too.
fn windows_version(name: &str) -> Option<&'static str> {
    Some(match name {
        "Windows 10" => "10/11",
        "Windows 8.1" => "8.1",
        "Windows 8" => "8",
        "Windows 7" => "7",
        "Windows Vista" => "Vista",
        "Windows XP" => "XP",
        "Windows 2000" => "2000",
        "Windows NT 4.0" => "NT 4.0",
        "Windows Me" => "Me",
        "Windows 98" => "98",
        "Windows 95" => "95",
        "Windows CE" => "CE",
        _ => return None,
    })
}

fn browser(text: &str, signs: &Signs<'_>, woothee: &WootheeResult<'_>) -> Named {
    if let Some(found) = signs.browser {
        return (Some(found.name.into()), version::leading(&text[found.end..]).map(Into::into));
    }
    let chrome = || signs.chrome.and_then(|at| version::leading(&text[at..])).map(Into::into);
    match woothee.name {
        // `Version/4.0` is the same in every WebView of Android, and Chrome itself has none.
        "Webview" => (Some("Webview".into()), chrome()),
        "Chrome" if signs.platform == Some(Platform::Android) && signs.safari.is_some() => {
            (Some("Webview".into()), chrome())
        }
        "Safari" if signs.platform == Some(Platform::Android) => {
            let version = signs.safari.and_then(|at| version::leading(&text[at..]));
            (Some("Android Browser".into()), version.map(Into::into))
        }
        name => (known(name).map(Cow::Owned), version::told(woothee.version).map(Into::into)),
    }
}

/// Returns a name of woothee's, where it is one.
fn known(name: &str) -> Option<String> {
    told(name).map(Into::into)
}

/// Returns a text of woothee's, bounded and without control characters.
fn told(text: &str) -> Option<Box<str>> {
    if text.is_empty() || text == "UNKNOWN" {
        return None;
    }
    let text = &text[..text.floor_char_boundary(TEXT_BYTES)];
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    (!text.is_empty()).then(|| text.into())
}
